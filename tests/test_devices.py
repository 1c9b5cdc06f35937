"""One rule for where heavy work runs."""

import pytest
import torch

from fourreal.devices import choose_device


def test_cuda_is_taken_where_there_is_one_and_else_the_cpu(monkeypatch):
    monkeypatch.setattr(torch, "empty", lambda *_, device: None)  # every device can be used
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert choose_device() == torch.device("cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device() == torch.device("cpu")


def test_a_named_device_is_taken(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert choose_device("cpu") == torch.device("cpu")


@pytest.mark.parametrize("name", ["gpu", "cuda:x", "cuda:99"])
def test_a_device_that_is_not_there_is_refused_in_one_sentence(name):
    with pytest.raises(ValueError, match=f"the device '{name}' is not here; give cpu"):
        choose_device(name)
