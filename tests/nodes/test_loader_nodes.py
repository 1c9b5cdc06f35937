"""Models, reconstructors and example scenes from their loaders."""

import os
from types import SimpleNamespace

import pytest
import torch

from fourreal.reconstruction import Reconstructor


@torch.inference_mode()
def test_a_reconstructor_file_is_loaded_with_its_licence_shown(
    nodes, tmp_path, monkeypatch, caplog
):
    import folder_paths
    from safetensors.torch import save_file

    from ..tiny import tiny_model

    place = ([str(tmp_path)], folder_paths.supported_pt_extensions)
    monkeypatch.setitem(folder_paths.folder_names_and_paths, "geometry_estimation", place)
    model = tiny_model(temporal="none", gaussian_head="none")
    save_file(model.state_dict(), tmp_path / "tiny.safetensors")
    (tmp_path / "damaged.safetensors").write_bytes(b"no")
    options = nodes.LoadReconstructor.define_schema().inputs[0].options
    assert sorted(options) == ["damaged.safetensors", "tiny.safetensors"]

    # What the executor would give: the node's id, to show the licence under it.
    monkeypatch.setattr(nodes.LoadReconstructor, "hidden", SimpleNamespace(unique_id=None))
    load = nodes.LoadReconstructor.execute
    reconstructor, licence = load(file="tiny.safetensors", precision="float32").args
    assert "non-commercial" in licence and licence in caplog.text
    frames = torch.rand(2, 1, 3, 56, 56)
    expected = Reconstructor(model)(frames)
    torch.testing.assert_close(reconstructor(frames).depth, expected.depth)
    with pytest.raises(ValueError, match="not a complete"):
        load(file="damaged.safetensors", precision="auto")
    before = nodes.LoadReconstructor.fingerprint_inputs(file="tiny.safetensors")
    os.utime(tmp_path / "tiny.safetensors", (1, 1))
    assert nodes.LoadReconstructor.fingerprint_inputs(file="tiny.safetensors") != before


@torch.inference_mode()
def test_the_example_scene_is_the_drawn_one_with_its_cameras(nodes):
    from fourreal.scenes import make_scene

    images, caption, extrinsics, intrinsics, *shape = nodes.ExampleScene.execute(
        0, 3, 5, 48, 32
    ).args
    assert shape == [3, 5, 48, 32]
    assert images.shape == (15, 32, 48, 3) and images.min() >= 0 and images.max() <= 1
    assert caption
    torch.testing.assert_close(extrinsics[0], torch.eye(4), atol=1e-5, rtol=0)
    assert intrinsics.shape == (3, 3, 3) and intrinsics[0, 0, 2] == 24
    # The test split, which begins at 2 * 2^32.
    exact = make_scene(2 * 2**32, 3, 5, 32, 48).frames
    assert torch.equal(images[1], exact[0, 1].movedim(0, -1))
