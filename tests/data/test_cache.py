"""What is drawn or encoded once and kept on disk."""

import pytest
import torch

from fourreal.data.cache import SceneCache, TensorCache, fingerprint
from fourreal.embedded.autoencoder import BlockAutoencoder
from fourreal.scenes import make_scene, scene_seed


def test_tensors_are_computed_once(tmp_path):
    cache, calls = TensorCache(tmp_path), []

    def compute():
        calls.append(1)
        return torch.tensor([0.1])

    assert cache.read("key") is None
    first, second = (cache.get("key", compute) for _ in range(2))
    assert len(calls) == 1 and torch.equal(first, second) and first.dtype == torch.float16
    assert torch.equal(cache.read("key"), first) and cache.read("another") is None


def test_a_fingerprint_changes_with_the_weights():
    first, second = BlockAutoencoder(4), BlockAutoencoder(4)
    assert fingerprint(first) == fingerprint(second)
    second.rest_scale[1] = 2
    assert fingerprint(first) != fingerprint(second)


def test_scenes_are_drawn_once_and_read_in_parts(tmp_path, monkeypatch):
    cache = SceneCache(tmp_path, "train", 3, 5, 16, 24)
    cache.fill(range(2))
    monkeypatch.delattr("fourreal.data.cache.SceneBatch")  # nothing is drawn any more
    exact = make_scene(scene_seed("train", 1), 3, 5, 16, 24).frames
    assert torch.allclose(cache.frames(1), exact, atol=0.5 / 255 + 1e-6)
    part = cache.frames(1, [2, 0], slice(1, 4))
    assert torch.equal(part, cache.frames(1)[[2, 0], 1:4])
    with pytest.raises(NameError):
        cache.frames(2)
