"""The stages of the reconstructor's training."""

import json

import numpy as np
import pytest
import torch

from fourreal.cameras import camera_centers
from fourreal.data.posed import PosedScene, draw_sample, shrunk_depth
from fourreal.reconstruction import load_model, save_model
from fourreal.scenes import make_scene, scene_seed
from fourreal.training import train_reconstructor as train
from fourreal.training.loop import LoopConfig
from fourreal.training.reconstruction_losses import geometry_loss, novel_view_loss
from fourreal.training.train_reconstructor import (
    ReconstructorConfig,
    Source,
    drawn_size,
    start_model,
    train_reconstructor,
)

from ..posed_folders import write_kubric, write_photos
from ..tiny import open_temporal_gates, tiny_model

SIZE = 32


@pytest.fixture(scope="module")
def scene():
    return make_scene(scene_seed("test", 0), num_views=6, num_frames=3, height=SIZE, width=SIZE)


def config_of(tmp_path, **changes):
    loop = LoopConfig(tmp_path / "run", steps=2, batch_size=1, save_every=10, mixed_precision="no")
    return ReconstructorConfig(loop, **({"size": (SIZE,), "num_times": 2} | changes))


@pytest.mark.slow
def test_the_dynamic_stage_learns_from_posed_folders(scene, tmp_path):
    write_photos(tmp_path / "photos", scene)
    save_model(tiny_model(temporal="none", gaussian_head="none"), tmp_path / "plain.safetensors")
    config = config_of(
        tmp_path,
        stage="dynamic",
        start_from=tmp_path / "plain.safetensors",
        posed=(tmp_path / "photos",),
        posed_share=1.0,
        temporal="token",
        temporal_from_global=True,
    )
    before = start_model(config)
    blocks = before.aggregator
    assert before.config.temporal == "token" and before.config.gaussian_head == "paper"
    source, copy = blocks.global_blocks[1].attn.qkv.weight, blocks.temporal_blocks[1].attn.qkv
    assert torch.equal(source, copy.weight)
    train_reconstructor(config)
    after, _ = load_model(tmp_path / "run" / "reconstructor.safetensors")
    assert after.config.temporal == "token" and after.aggregator.temporal_is_trained()
    frozen = after.aggregator.frame_blocks[0].attn.qkv.weight
    assert torch.allclose(frozen, blocks.frame_blocks[0].attn.qkv.weight, atol=1e-3)
    log = json.loads((tmp_path / "run" / "log.json").read_text())["log"]
    assert np.isfinite(log[-1]["validation_psnr"])
    assert (tmp_path / "run" / "views.png").is_file()


@pytest.mark.slow
def test_geometry_counts_where_depth_is_known_and_temporal_layers_can_be_left_out(tmp_path):
    start = tmp_path / "start.safetensors"
    save_model(open_temporal_gates(tiny_model(gaussian_head="paper")), start)
    logs, weights = {}, {}
    for temporal in ("token", "none"):
        config = config_of(tmp_path, stage="dynamic", start_from=start, temporal=temporal)
        config.loop.out, config.loop.warmup_steps = tmp_path / temporal, 0
        config.loop.learning_rate, config.loop.ema_decay = 0.05, 0.0
        before = start_model(config).state_dict()
        train_reconstructor(config)
        after, _ = load_model(tmp_path / temporal / "reconstructor.safetensors")
        weights[temporal] = {
            name
            for name, value in after.state_dict().items()
            if not torch.allclose(value, before[name], atol=2e-3, rtol=2e-3)
        }
        logs[temporal] = json.loads((tmp_path / temporal / "log.json").read_text())["log"][-1]
    assert all(name.startswith("gaussian_head.") for name in weights["none"])
    assert any(name.startswith("aggregator.temporal_blocks.") for name in weights["token"])
    assert logs["token"]["depth_error"] != logs["none"]["depth_error"]
    # The loss holds a tenth of geometry's, and without known depth none of it.
    generator = torch.Generator().manual_seed(0)
    sample = Source(config).draw("train", generator, 6, 1)
    model, inputs = start_model(config).eval(), [0, 2, 4, 5]
    with torch.no_grad():
        image, both = (novel_view_loss(model, sample, inputs, geometry=g) for g in (0.0, 0.1))
        images = sample.frames[:, :, inputs].flatten(0, 1)
        found = geometry_loss(model(images, 2, points=False), sample.of_views(inputs))
        assert float(both["loss"]) == pytest.approx(float(image["loss"] + 0.1 * found["loss"]))


def test_views_can_change_from_time_to_time(tmp_path):
    start = tmp_path / "start.safetensors"
    save_model(open_temporal_gates(tiny_model(gaussian_head="paper")), start)
    config = config_of(
        tmp_path,
        stage="dynamic",
        start_from=start,
        fewest_views=2,
        most_views=2,
        changing_views=1.0,
    )
    drawn = Source(config).examples(torch.Generator().manual_seed(0), 0.0)
    assert drawn.inputs == [0, 1] and drawn.joined == 2
    assert drawn.drawn_on("cpu").frames.shape[:3] == (2, 1, 6)
    # All of it is one scene: each time's views are the scene's, in another order.
    sample = draw_sample([5], [0, 2, 4], [3, 7], 8, 16)
    turned = sample.by_time([[2, 0, 1], [1, 2, 0]])
    assert torch.equal(turned.frames[1, 0], sample.frames[0, 1, [1, 2, 0]])
    assert torch.equal(turned.depth[0, 0], sample.depth[0, 0, [2, 0, 1]])
    assert torch.equal(turned.intrinsics[1], sample.intrinsics[0, [1, 2, 0]])
    torch.testing.assert_close(turned.extrinsics[:, 0], torch.eye(4)[:3].expand(2, -1, -1))
    own = camera_centers(turned.extrinsics[1])
    distances = torch.cdist(
        camera_centers(sample.extrinsics[0]), camera_centers(sample.extrinsics[0])
    )
    torch.testing.assert_close(
        torch.cdist(own, own), distances[[1, 2, 0]][:, [1, 2, 0]], atol=1e-4, rtol=1e-4
    )
    # The model sees the times together, each with cameras of its own.
    model = start_model(config).eval()
    seen = []
    model.register_forward_pre_hook(
        lambda _, args, options: seen.append((args[1], options)), with_kwargs=True
    )
    losses = train.stage_loss(model, drawn, config, 0.0, None)
    assert torch.isfinite(losses["loss"]) and "camera_error" in losses
    ((times, options),) = seen
    assert times == 2 and not options["camera_replacement"] and options["temporal"]


@pytest.mark.slow
def test_the_joint_stage_trains_all_parts_on_videos_of_one_view_and_on_several(
    scene, tmp_path, monkeypatch
):
    monkeypatch.setattr(train, "FRAMES", 12)
    start = tmp_path / "start.safetensors"
    save_model(open_temporal_gates(tiny_model(gaussian_head="paper")), start)
    config = config_of(tmp_path, stage="joint", start_from=start, num_times=3)
    config.render_size, config.geometry_share, config.geometry_scenes = 2 * SIZE, 0.7, 2
    source, kinds, shapes = Source(config), set(), set()
    for seed in range(30):
        drawn = source.examples(torch.Generator().manual_seed(seed), 0.0)
        scenes, times, views, _, _, size = drawn.sample.frames.shape
        kinds.add((drawn.geometry, views, size))
        shapes.add((times, views))
        assert drawn.inputs[0] == 0 and drawn.size == SIZE
        several = drawn.geometry and views > 1
        assert times * views <= 12 if several else times == 3
        assert scenes == (1 if not drawn.geometry else 8 if views == 1 else 2)
        assert len(drawn.inputs) == (views if drawn.geometry else 4)
    # Eight videos of one view or two scenes of more, drawn small or shrunk, or views of one to be
    # rendered; the more views, the fewer times.
    assert {kind for kind in kinds if not kind[0]} == {(False, 6, 2 * SIZE)}
    assert {(True, 1, SIZE), (True, 1, 2 * SIZE)} <= kinds
    assert len({views for geometry, views, _ in kinds if geometry}) > 3
    assert max(t for t, views in shapes if views < 4) == 3
    assert max(t for t, views in shapes if views == 8) == 1

    model = start_model(config)
    train.train_stage_parts(model, config)
    trained = {name.split(".")[0] for name, p in model.named_parameters() if p.requires_grad}
    assert trained == {"aggregator", "camera_head", "depth_head", "gaussian_head"}
    config.temporal = "none"
    alone = start_model(config)
    train.train_stage_parts(alone, config)
    for name, parameter in alone.named_parameters():
        assert not (parameter.requires_grad and name.startswith(train.TEMPORAL))
    config.temporal = None
    for share in (0.0, 1.0):
        config.geometry_share = share
        drawn = Source(config).examples(torch.Generator().manual_seed(0), 0.0)
        losses = train.stage_loss(model, drawn, config, 0.0, None)
        assert ("psnr" in losses) == (share == 0) and "depth_error" in losses
        if share:  # as the network sees videos: with its temporal layers
            seen = drawn.sample.resized(SIZE)
            maps = model(seen.frames.flatten(0, 1), seen.frames.shape[1], points=False)
            wanted = geometry_loss(maps, seen)["loss"]
            torch.testing.assert_close(losses["loss"], wanted)

    scores, _ = train.score_validation(model, config, torch.device("cpu"))
    assert 0 < scores["validation_single_view_depth_error"] < 10
    write_photos(tmp_path / "photos", scene)
    config.posed = (tmp_path / "photos",)
    with pytest.raises(ValueError, match="has no depth, which the joint stage needs"):
        Source(config)


@pytest.mark.slow
def test_a_share_of_the_starting_weights_stays_in_the_result(tmp_path):
    start = tmp_path / "start.safetensors"
    save_model(open_temporal_gates(tiny_model(gaussian_head="paper")), start)
    files = {}
    for share in (0.0, 0.75):
        out = tmp_path / f"{share}"
        config = config_of(tmp_path, stage="joint", start_from=start, start_share=share)
        config.loop.out, config.loop.learning_rate, config.loop.warmup_steps = out, 0.01, 0
        config.geometry_share = 1.0
        train_reconstructor(config)
        files[share] = load_model(out / "reconstructor.safetensors")[0].state_dict()
    before = load_model(start)[0].state_dict()
    moved = 0
    for name, first in before.items():
        change = files[0.0][name] - first
        torch.testing.assert_close(files[0.75][name] - first, change / 4, atol=2e-3, rtol=2e-3)
        moved += int(change.abs().max() > 0.01)
    assert moved > 20


def test_parts_that_the_starting_file_lacks_are_averaged_with_what_they_began_as(tmp_path):
    start = tmp_path / "start.safetensors"
    save_model(tiny_model(gaussian_head="none"), start)
    config = config_of(tmp_path, stage="static", start_from=start, start_share=1.0)
    config.loop.learning_rate = 0.01
    torch.manual_seed(config.loop.seed)
    wanted = start_model(config).state_dict()
    train_reconstructor(config)
    found = load_model(tmp_path / "run" / "reconstructor.safetensors")[0].state_dict()
    assert any(name.startswith("gaussian_head.") for name in found)
    for name, value in found.items():
        torch.testing.assert_close(value, wanted[name], atol=1e-3, rtol=1e-3)


def test_stages_refuse_what_they_cannot_start_from(scene, tmp_path):
    save_model(tiny_model(temporal="none"), tmp_path / "plain.safetensors")
    plain = tmp_path / "plain.safetensors"
    for changes, words in (
        ({"stage": "static"}, "needs --start-from"),
        ({"stage": "dynamic", "start_from": plain}, "has no temporal layers; add --temporal"),
        ({"stage": "joint", "start_from": plain}, "has no temporal layers; add --temporal"),
    ):
        with pytest.raises(ValueError, match=words):
            start_model(config_of(tmp_path, **changes))
    write_photos(tmp_path / "photos", scene)
    with pytest.raises(ValueError, match="has no depth, which the geometry stage needs"):
        Source(config_of(tmp_path, posed=(tmp_path / "photos",)))


def test_samples_follow_from_the_generator_and_dynamic_ones_move_or_stand_still(tmp_path):
    source = Source(config_of(tmp_path, stage="dynamic", num_times=3))
    for seed in range(6):
        a, b = (source.draw("train", torch.Generator().manual_seed(seed), 2, 1) for _ in range(2))
        assert torch.equal(a.frames, b.frames) and a.frames.shape == (1, 3, 2, 3, SIZE, SIZE)
    assert draw_sample([5], [0, 1], [4, 4], 8, 16).frames.diff(dim=1).abs().max() == 0


def test_a_batch_of_mixed_folders_holds_different_scenes_of_one_kind(scene, tmp_path, monkeypatch):
    """Photos without depth beside scenes with depth: the first scene of a batch decides."""
    for name in ("photos1", "photos2"):
        write_photos(tmp_path / name, scene)
    for name in ("scn1", "scn2"):
        write_kubric(tmp_path / name, scene, 1.0)
    config = config_of(tmp_path, stage="static", posed=(tmp_path,), posed_share=1.0)
    source, read, seen = Source(config), PosedScene.read, []
    monkeypatch.setattr(PosedScene, "read", lambda self, *a: seen.append(self) or read(self, *a))
    batches = set()
    for seed in range(16):
        seen.clear()
        sample = source.draw("train", torch.Generator().manual_seed(seed), 6, 2)
        assert len(sample.frames) == len(seen) == 2
        assert {s.has_depth for s in seen} == {sample.depth is not None}
        batches.add(tuple(sorted({s.path.name for s in seen})))
    assert {("photos1", "photos2"), ("scn1", "scn2")} <= batches


def test_targets_smaller_than_what_the_network_sees_are_refused():
    with pytest.raises(ValueError, match="render_size is 32, but must be size \\(64\\) or more"):
        drawn_size(ReconstructorConfig(stage="static", render_size=32))


def test_steps_have_every_size_and_every_number_of_views(tmp_path, monkeypatch):
    config, shown = config_of(tmp_path, size=(16, 32), fewest_views=1, num_views=4), set()

    def model(images, **_):
        shown.add((images.shape[1], images.shape[-1]))

    def loss(_, sample):
        assert sample.depth is not None and sample.depth.shape[-1] == sample.frames.shape[-1]
        return {}

    monkeypatch.setattr(train, "geometry_loss", loss)

    source, generator = Source(config), torch.Generator().manual_seed(0)
    for _ in range(40):
        train.stage_loss(model, source.examples(generator, 0.0), config, 0.0, None)
    assert shown == {(views, size) for views in (1, 2, 3, 4) for size in (16, 32)}


def test_depth_is_averaged_but_where_it_jumps():
    depth = torch.full((1, 1, 4, 4), 2.0)
    depth[..., 1:] = 2.02  # the first pixel is even, and so is what is below it
    depth[..., :2, 3] = 6  # the second has a jump
    small = shrunk_depth(depth, 2)[0, 0]
    assert small[0, 0] == small[1, 0] == pytest.approx(2.01) and small[1, 1] == pytest.approx(2.02)
    assert small[0, 1] in (pytest.approx(2.02), pytest.approx(6))
