"""Checkpoint files: recognised, refused, saved and read back."""

import logging

import pytest
import torch
from safetensors.torch import load_file, save_file

from fourreal.reconstruction import Reconstructor, VGGTConfig, load_model, save_model
from fourreal.reconstruction.checkpoint import config_from_shapes

from ..tiny import TRACKER, fixture, key_list, tiny_config, tiny_model


@pytest.fixture
def vggt_file(tmp_path):
    """A small model in VGGT's own layout: no metadata, a track head, no parts of ours."""
    model = tiny_model(temporal="none", gaussian_head="none", **TRACKER)
    tensors = {k: v.clone() for k, v in model.state_dict().items()}
    save_file(tensors, tmp_path / "vggt.safetensors")
    return tmp_path / "vggt.safetensors"


def test_vggts_layout_is_recognised_by_keys_and_built_from_shapes(vggt_file, caplog):
    with caplog.at_level(logging.INFO):
        found = Reconstructor.from_file(vggt_file)
    assert found.kind == "vggt"
    # What leaves no trace in shapes is VGGT's.
    wanted = {"temporal": "none", "gaussian_head": "none", "layer_scale_init": 0.01}
    wanted = tiny_config(**wanted, **TRACKER)
    assert found.model.config == wanted
    assert "unknown" not in caplog.text
    assert "CC BY-NC 4.0" in caplog.text and "non-commercial" in found.license_note
    for key, value in load_file(vggt_file).items():
        assert torch.equal(found.model.state_dict()[key], value)


def test_sizes_of_vggt_1b_are_read_from_its_shapes():
    tensors = {key: torch.empty(shape, device="meta") for key, shape in key_list("vggt_1b").items()}
    expected = VGGTConfig(track_head=True, temporal="none", gaussian_head="none")
    assert VGGTConfig(**config_from_shapes(tensors)) == expected
    del tensors["track_head.tracker.query_ref_token"]
    assert not config_from_shapes(tensors)["track_head"]


def test_a_pt_file_is_read_as_tensors_only(vggt_file, tmp_path):
    torch.save({"model": load_file(vggt_file)}, tmp_path / "vggt_1B_commercial.pt")
    found = Reconstructor.from_file(tmp_path / "vggt_1B_commercial.pt")
    assert found.kind == "vggt-commercial"
    torch.save({"a": print}, tmp_path / "code.pt")
    with pytest.raises(
        ValueError, match=r"code.pt is a PyTorch.*that is damaged or holds more than"
    ):
        Reconstructor.from_file(tmp_path / "code.pt")


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "model.", "vggt.module."])
def test_prefixes_of_training_programs_are_stripped(vggt_file, tmp_path, prefix):
    weights, _, _, config = fixture("anysplat_tiny")
    files = {"vggt": (load_file(vggt_file), None), "anysplat": (weights, {"config": config})}
    for kind, (tensors, metadata) in files.items():
        path = tmp_path / f"{kind}.safetensors"
        save_file({prefix + k: v.clone() for k, v in tensors.items()}, path, metadata)
        found = Reconstructor.from_file(path)
        assert found.kind == kind
        name = "aggregator.global_blocks.0.attn.qkv.weight"
        original = tensors["encoder." * (kind == "anysplat") + name]
        assert torch.equal(found.model.state_dict()[name], original)


def test_anysplats_layout_is_recognised_by_its_prefix(tmp_path):
    weights, inputs, outputs, config = fixture("anysplat_tiny")
    save_file(weights, tmp_path / "anysplat.safetensors", metadata={"config": config})
    found = Reconstructor.from_file(tmp_path / "anysplat.safetensors")
    assert found.kind == "anysplat" and "non-commercial" in found.license_note
    assert found.model.config.gaussian_channels == 84
    geometry = found.predict_geometry(inputs["images"][0], resolution=70)
    depth = outputs["depth"][0, ..., 0]
    assert (geometry.depth - depth).abs().max() / depth.max() < 1e-4


def test_geometry_of_a_vggt_file_is_the_references(tmp_path):
    weights, inputs, outputs, config = fixture("vggt_tiny")
    save_file(weights, tmp_path / "vggt.safetensors", metadata={"config": config})
    geometry = Reconstructor.from_file(tmp_path / "vggt.safetensors").predict_geometry(
        inputs["images"][0], resolution=98
    )
    for ours, name in (
        (geometry.depth, "depth"),
        (geometry.depth_confidence, "depth_conf"),
        (geometry.points, "world_points"),
        (geometry.points_confidence, "world_points_conf"),
        (geometry.extrinsics, "extrinsics"),
        (geometry.intrinsics, "intrinsics"),
    ):
        reference = outputs[name][0].reshape(ours.shape)
        assert (ours - reference).abs().max() / reference.abs().max() < 1e-4, name


def test_a_saved_reconstructor_reads_back_equal(tmp_path):
    model = tiny_model(image_shortcut=True, point_head=False)
    with torch.no_grad():
        model.aggregator.temporal_blocks[1].ls1.gamma.fill_(0.5)
    Reconstructor(model).save(tmp_path / "ours.safetensors")
    found = Reconstructor.from_file(tmp_path / "ours.safetensors")
    assert found.kind == "fourreal" and found.license_note == ""
    assert found.model.config == model.config
    for key, value in model.state_dict().items():
        assert torch.equal(found.model.state_dict()[key], value)
    Reconstructor(model).save(tmp_path / "half.safetensors", torch.float16)
    assert load_file(tmp_path / "half.safetensors")["depth_head.norm.weight"].dtype == torch.float16
    assert sorted(p.name for p in tmp_path.iterdir()) == ["half.safetensors", "ours.safetensors"]


def test_unusable_files_are_refused_in_one_sentence(vggt_file, tmp_path):
    tensors = load_file(vggt_file)
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(vggt_file.read_bytes()[:-1000])
    (tmp_path / "cut.pt").write_bytes(b"PK\x03\x04 not a whole archive")
    (tmp_path / "notes.txt").write_text("hello")
    save_file({"blocks.0.self_attn.q.weight": torch.zeros(2)}, tmp_path / "video.safetensors")
    save_file(
        tensors | {"aggregator.inter_frame_blocks.0.a": torch.zeros(1)},
        tmp_path / "omega.safetensors",
    )
    lacking = {k: v for k, v in tensors.items() if "camera_head.trunk.3" not in k}
    save_file(lacking, tmp_path / "lacking.safetensors")
    wrong = tensors | {"depth_head.norm.weight": torch.zeros(7)}
    save_file(wrong, tmp_path / "wrong.safetensors")
    for name, words in (
        ("cut.safetensors", r"not a complete \.safetensors file"),
        ("cut.pt", "damaged"),
        ("notes.txt", "notes.txt is not a complete"),
        ("video.safetensors", "not a reconstruction checkpoint"),
        ("omega.safetensors", "VGGT-Omega"),
        ("lacking.safetensors", "lacks 14 of the"),
        ("wrong.safetensors", r"depth_head.norm.weight has the shape \(7,\)"),
    ):
        with pytest.raises(ValueError, match=words) as error:
            Reconstructor.from_file(tmp_path / name)
        assert "\n" not in str(error.value)
    with pytest.raises(FileNotFoundError, match="no checkpoint file"):
        Reconstructor.from_file(tmp_path / "absent.safetensors")
    with pytest.raises(ValueError, match=r"must end with .safetensors"):
        Reconstructor(tiny_model()).save(tmp_path / "model.pt")


def test_a_failed_save_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "model.safetensors"
    path.write_text("old")

    def fail(tensors, filename, metadata):
        filename.write_text("half")
        assert filename.parent.parent == tmp_path  # in a hidden folder beside its place
        raise OSError("disk full")

    monkeypatch.setattr("fourreal.files.tensors.save_file", fail)
    with pytest.raises(OSError, match="disk full"):
        Reconstructor(tiny_model()).save(path)
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_loading_adds_untrained_parts_for_training(tmp_path):
    save_model(tiny_model(temporal="none", gaussian_head="none"), tmp_path / "m.safetensors")
    plain, _ = load_model(tmp_path / "m.safetensors")
    more, kind = load_model(tmp_path / "m.safetensors", temporal="token", gaussian_head="paper")
    assert kind == "fourreal"
    assert more.config.temporal == "token" and more.config.gaussian_head == "paper"
    images = torch.rand(2, 2, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(plain(images).depth, more(images, num_times=2).depth)


def test_the_given_model_is_neither_moved_nor_cast_but_the_files_is(tmp_path):
    model = tiny_model().train()
    dtypes = {name: value.dtype for name, value in model.state_dict().items()}
    reconstructor = Reconstructor(model, dtype=torch.bfloat16)
    assert reconstructor.model is model and model.training
    assert {name: value.dtype for name, value in model.state_dict().items()} == dtypes
    reconstructor.save(tmp_path / "model.safetensors")
    found = Reconstructor.from_file(tmp_path / "model.safetensors", dtype=torch.bfloat16)
    block, head = found.model.aggregator.global_blocks[0], found.model.depth_head
    assert block.attn.qkv.weight.dtype == torch.bfloat16 and not found.model.training
    assert block.norm1.weight.dtype == head.norm.weight.dtype == torch.float32
    # Cast once or at every call: the same numbers.
    frames = torch.rand(2, 2, 3, 32, 32)
    assert torch.equal(found(frames).depth, reconstructor(frames).depth)


def test_a_file_with_layers_that_do_not_exist_here_is_refused(vggt_file, tmp_path):
    config = tiny_config().to_json().replace('"token"', '"view"')
    metadata = {"format": "fourreal.reconstructor", "config": config}
    save_file(load_file(vggt_file), tmp_path / "view.safetensors", metadata=metadata)
    with pytest.raises(ValueError, match="temporal is 'view', but must be one of"):
        load_model(tmp_path / "view.safetensors")
