"""One rule for where heavy work runs."""

import platform

import pytest
import torch

from fourreal.devices import choose_device, has_bfloat16, matrix_dtype
from fourreal.training import loop


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


def test_half_numbers_are_for_devices_that_are_fast_in_them(monkeypatch, tmp_path):
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    assert (matrix_dtype(cpu), matrix_dtype(cuda)) == (torch.float32, torch.bfloat16)
    assert has_bfloat16(cuda) and has_bfloat16(cpu) in (True, False)
    for fast, expected in ((True, "bf16"), (False, "no")):
        monkeypatch.setattr(loop, "has_bfloat16", lambda device, answer=fast: answer)
        assert loop.LoopConfig(tmp_path).mixed_precision == expected
        assert loop.LoopConfig(tmp_path, mixed_precision="bf16").mixed_precision == "bf16"


def test_a_cpu_without_instructions_for_bfloat16_is_told(monkeypatch):
    cpu = torch.device("cpu")
    if platform.machine() in ("x86_64", "AMD64"):
        assert has_bfloat16(cpu) == torch.backends.cpu.get_cpu_capability().startswith("AVX512")
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    assert not has_bfloat16(cpu)
