"""Training data with known cameras, what a target may be judged on, and the losses."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn.functional import normalize

from fourreal.cameras import invert, pixel_grid, relative_to_first, unproject
from fourreal.data.posed import MEAN_DEPTH, Sample, draw_sample, find_posed_scenes, visible_from
from fourreal.files.media import write_image
from fourreal.metrics import lpips as perceptual
from fourreal.reconstruction import load_model, save_model
from fourreal.reconstruction.network import Prediction
from fourreal.scenes import make_scene, scene_seed
from fourreal.training.loop import LoopConfig
from fourreal.training.train_reconstructor import (
    ReconstructorConfig,
    Source,
    drawn_size,
    fitted_unit,
    geometry_loss,
    image_loss,
    novel_view_loss,
    render_targets,
    start_model,
    train_reconstructor,
)

from ..tiny import open_temporal_gates, tiny_model

SIZE = 32


@pytest.fixture(scope="module")
def scene():
    return make_scene(scene_seed("test", 0), num_views=6, num_frames=3, height=SIZE, width=SIZE)


def opengl_to_world(extrinsics):
    """Camera-to-world [4, 4] with OpenGL's axes, by its definition: y up, z backward."""
    matrix = torch.eye(4, dtype=torch.float64)
    matrix[:3] = invert(extrinsics.double())
    return matrix @ torch.diag(torch.tensor([1.0, -1, -1, 1], dtype=torch.float64))


def write_kubric(folder, scene, unit):
    """The scene in Kubric-4D's layout, in another world and unit."""
    angle = torch.tensor(0.5).double()
    quaternion = torch.tensor([angle.cos(), 0, angle.sin(), 0])  # of the world's turn about y
    turn = torch.eye(4, dtype=torch.float64)
    turn[0, 0] = turn[2, 2] = (2 * angle).cos()
    turn[0, 2], turn[2, 0] = (2 * angle).sin(), -(2 * angle).sin()
    for v, (extrinsics, intrinsics) in enumerate(zip(scene.extrinsics, scene.intrinsics)):
        pose = turn @ opengl_to_world(extrinsics)
        # Quaternion product by matrices: w from the trace, the axis from the antisymmetric part.
        r = pose[:3, :3]
        w = (1 + r.trace()).sqrt() / 2
        axis = torch.stack([r[2, 1] - r[1, 2], r[0, 2] - r[2, 0], r[1, 0] - r[0, 1]]) / (4 * w)
        frames = scene.frames.shape[1]
        camera = {
            "quaternions": [[w.item(), *axis.tolist()]] * frames,
            "positions": [(unit * pose[:3, 3]).tolist()] * frames,
            # Kubric's matrix is of a 1 x 1 image and has negative entries.
            "K": (intrinsics / SIZE * torch.tensor([[1.0], [-1], [SIZE]])).tolist(),
        }
        resolution = {"resolution": [SIZE, SIZE], "num_frames": frames}
        view = folder / f"frames_p0_v{v}"
        view.mkdir(parents=True)
        (folder / f"{folder.name}_p0_v{v}.json").write_text(
            json.dumps({"camera": camera, "scene": resolution})
        )
        rays = (pixel_grid(SIZE, SIZE) - intrinsics[:2, 2]) / intrinsics[[0, 1], [0, 1]]
        distance = scene.depth[v] * (1 + rays.square().sum(-1)).sqrt() * unit
        for t in range(frames):
            write_image(view / f"rgba_{t:05d}.png", scene.frames[v, t])
            Image.fromarray(distance[t].numpy()).save(view / f"depth_{t:05d}.tiff")
    assert quaternion.norm() == pytest.approx(1)


def test_kubric_4d_reads_back_as_the_scene_it_was_written_from(scene, tmp_path):
    write_kubric(tmp_path / "scn00007", scene, unit=4.0)
    (found,) = find_posed_scenes(tmp_path)
    assert (found.num_views, found.num_times) == (6, 3)
    views, times = [1, 2, 5], [0, 2]
    sample = found.read(views, times, SIZE)
    wanted = scene.depth[views][:, times].transpose(0, 1)
    unit = MEAN_DEPTH / wanted.mean()
    assert torch.allclose(sample.depth[0], wanted * unit, rtol=1e-4)
    exact = relative_to_first(scene.extrinsics[views])
    assert torch.allclose(sample.extrinsics[0, :, :, :3], exact[..., :3], atol=1e-5)
    assert torch.allclose(sample.extrinsics[0, :, :, 3], exact[..., 3] * unit, atol=1e-4)
    assert torch.allclose(sample.intrinsics[0], scene.intrinsics[views], rtol=1e-5)
    frames = scene.frames[views][:, times].transpose(0, 1)
    assert (sample.frames[0] - frames).abs().max() < 1 / 255
    # At another size the same points are seen through the same pixels.
    small = found.read(views, times, SIZE // 2)
    assert torch.allclose(small.intrinsics[0, :, :2], sample.intrinsics[0, :, :2] / 2, rtol=1e-5)


def write_photos(folder, scene, **changes):
    folder.mkdir()
    frames = []
    for v, extrinsics in enumerate(scene.extrinsics):
        wide = torch.nn.functional.pad(scene.frames[v, 0], (8, 8, 0, 0))
        write_image(folder / f"{v}.png", wide)
        pose = opengl_to_world(extrinsics).tolist()
        frames.append({"file_path": f"{v}.png", "transform_matrix": pose})
    k = scene.intrinsics[0]
    content = {
        "fl_x": k[0, 0].item(),
        "fl_y": k[1, 1].item(),
        "cx": k[0, 2].item() + 8,
        "cy": k[1, 2].item(),
        "frames": frames,
    }
    (folder / "transforms.json").write_text(json.dumps(content | changes))


def test_posed_photos_read_as_their_central_square(scene, tmp_path):
    write_photos(tmp_path / "photos", scene)
    (found,) = find_posed_scenes(tmp_path / "photos")
    sample = found.read([0, 3], [0, 0], SIZE)
    assert sample.depth is None and sample.frames.shape == (1, 2, 2, 3, SIZE, SIZE)
    assert (sample.frames[0, 0] - scene.frames[[0, 3], 0]).abs().max() < 1 / 255
    assert torch.allclose(sample.intrinsics[0], scene.intrinsics[[0, 3]], rtol=1e-5)
    assert torch.allclose(sample.extrinsics[0], scene.extrinsics[[0, 3]], atol=1e-5)


def test_unusable_posed_folders_are_named_in_one_sentence(scene, tmp_path):
    def refused(words, path=tmp_path):
        with pytest.raises(ValueError, match=words) as error:
            find_posed_scenes(path)
        assert "\n" not in str(error.value)

    refused("holds no posed scenes")
    refused("is not a folder", tmp_path / "absent")
    write_photos(tmp_path / "photos", scene, frames=[{"file_path": "9.png"}])
    refused("transforms.json does not hold the cameras it should .KeyError: 'transform_matrix'")
    (tmp_path / "photos" / "transforms.json").unlink()
    write_kubric(tmp_path / "scn1", scene, 1.0)
    (tmp_path / "scn1" / "frames_p0_v2" / "rgba_00001.png").unlink()
    refused("frames_p0_v2 has 2 images and 3 maps")
    (tmp_path / "scn1" / "scn1_p0_v3.json").unlink()
    refused("scn1_p0_v3.json is missing")


def test_a_pixel_is_visible_where_an_input_camera_has_an_open_line_to_it(scene):
    depth = scene.depth.transpose(0, 1)[None]
    sample = Sample(
        scene.frames.transpose(0, 1)[None], depth, scene.extrinsics[None], scene.intrinsics[None]
    )
    inputs, target, time = [0, 2], 5, 1
    visible = visible_from(sample, inputs)
    assert visible[:, :, inputs].all()
    assert 0.3 < visible[:, :, target].float().mean() < 0.999
    # Second source, pixel by pixel in float64.
    points = unproject(
        scene.depth[target, time].double(),
        scene.extrinsics[target].double(),
        scene.intrinsics[target].double(),
    )
    for y, x in ((3, 4), (16, 16), (28, 5), (20, 30), (10, 22), (31, 31)):
        seen = False
        for view in inputs:
            camera = scene.extrinsics[view].double() @ torch.cat(
                [points[y, x], torch.ones(1).double()]
            )
            u, v, w = scene.intrinsics[view].double() @ camera
            column, row = int((u / w).floor()), int((v / w).floor())
            if 0 <= column < SIZE and 0 <= row < SIZE:
                surface = scene.depth[view, time, row, column]
                seen |= bool((surface / w - 1).abs() < 0.05)
        assert visible[0, time, target, y, x] == seen
    sample.depth = None
    assert visible_from(sample, inputs).all()


def test_what_no_input_saw_costs_nothing():
    torch.manual_seed(0)
    wanted, rendered = torch.rand(2, 2, 3, 16, 16)
    visible = torch.zeros(2, 16, 16, dtype=torch.bool)
    visible[:, 4:12, 4:12] = True
    loss = image_loss(rendered, wanted, visible, 0.0, None)["loss"]
    part = (slice(None), slice(None), slice(4, 12), slice(4, 12))
    assert torch.allclose(loss, (rendered - wanted)[part].square().mean())
    other = torch.where(visible[:, None], rendered, torch.rand_like(rendered))
    for share in (0.0, 1.0):
        a, b = (image_loss(x, wanted, visible, share, None)["loss"] for x in (rendered, other))
        assert torch.equal(a, b)
    # The second term is 0.02 (1 - SSIM): for equal images 0, and larger than the MSE alone.
    assert image_loss(wanted, wanted, visible, 1.0, None)["loss"] < 1e-6
    assert image_loss(rendered, wanted, visible, 1.0, None)["loss"] > loss + 0.002


def test_the_unit_of_length_is_fitted_from_depth_or_else_from_cameras(scene):
    from fourreal.reconstruction import cameras_to_pose_encoding

    inputs = [0, 2, 5]
    depth = scene.depth.transpose(0, 1)[None]
    sample = Sample(
        scene.frames.transpose(0, 1)[None], depth, scene.extrinsics[None], scene.intrinsics[None]
    )
    encoding = cameras_to_pose_encoding(
        scene.extrinsics[inputs], scene.intrinsics[inputs], SIZE, SIZE
    ).repeat(3, 1, 1)
    encoding[..., :3] /= 2.5
    predicted = Prediction([encoding], depth[0, :, inputs] / 2.5, depth[0, :, inputs])
    assert fitted_unit(predicted, sample, inputs).item() == pytest.approx(2.5, rel=1e-4)
    sample.depth = None
    assert fitted_unit(predicted, sample, inputs).item() == pytest.approx(2.5, rel=1e-4)


def test_lpips_is_the_published_formula_on_a_vgg16_file(tmp_path, monkeypatch):
    widths = ((4, 2), (4, 2), (4, 3), (4, 3), (4, 3))
    monkeypatch.setattr(perceptual, "WIDTHS", widths)
    torch.manual_seed(0)
    places, weights, before = [0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28], {}, 3
    for place in places:
        weights[f"features.{place}.weight"] = torch.randn(4, before, 3, 3) * 0.4
        weights[f"features.{place}.bias"] = torch.randn(4) * 0.1
        before = 4
    torch.save(weights, tmp_path / "vgg16.pth")
    heads = {f"lin{i}.model.1.weight": torch.rand(1, 4, 1, 1) for i in range(5)}
    load = torch.load
    monkeypatch.setattr(
        perceptual.torch,
        "load",
        lambda path, **options: heads if path.name == "vgg.pth" else load(path, **options),
    )
    model = perceptual.Lpips(tmp_path / "vgg16.pth")
    a, b = torch.rand(2, 1, 3, 32, 32)
    # Second source: torchvision's layer list as plain modules, in float64.
    layers, total = [], 0.0
    for place in range(30):
        if place in places:
            conv = torch.nn.Conv2d(1, 1, 3, padding=1).double()
            conv.weight.data = weights[f"features.{place}.weight"].double()
            conv.bias.data = weights[f"features.{place}.bias"].double()
            layers.append(conv)
        else:
            layers.append(torch.nn.MaxPool2d(2) if place in (4, 9, 16, 23) else torch.nn.ReLU())
    shift = torch.tensor([-0.030, -0.088, -0.188]).double()[:, None, None]
    scale = torch.tensor([0.458, 0.448, 0.450]).double()[:, None, None]
    x, y = (((2 * image.double() - 1) - shift) / scale for image in (a, b))
    for place, layer in enumerate(layers):
        x, y = layer(x), layer(y)
        if place in (3, 8, 15, 22, 29):
            head = heads[f"lin{(3, 8, 15, 22, 29).index(place)}.model.1.weight"].double()
            difference = (normalize(x, eps=1e-10) - normalize(y, eps=1e-10)).square()
            total = total + (difference * head).sum(1).mean()
    assert float(model(a, b)) == pytest.approx(total.item(), rel=1e-4)
    assert float(model(a, a)) == 0
    torch.save({"a": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(ValueError, match="is not torchvision's VGG16"):
        perceptual.Lpips(tmp_path / "other.pth")


def config_of(tmp_path, **changes):
    loop = LoopConfig(tmp_path / "run", steps=2, batch_size=1, save_every=10, mixed_precision="no")
    return ReconstructorConfig(loop, **({"size": SIZE, "num_times": 2} | changes))


def test_the_dynamic_stage_learns_from_posed_folders(scene, tmp_path):
    write_photos(tmp_path / "photos", scene)
    save_model(tiny_model(temporal="none", gaussian_head="none"), tmp_path / "plain.safetensors")
    config = config_of(
        tmp_path,
        stage="dynamic",
        start_from=tmp_path / "plain.safetensors",
        posed=(tmp_path / "photos",),
        posed_share=1.0,
        temporal="view",
        temporal_from_global=True,
    )
    before = start_model(config)
    blocks = before.aggregator
    assert before.config.temporal == "view" and before.config.gaussian_head == "paper"
    source, copy = blocks.global_blocks[1].attn.qkv.weight, blocks.temporal_blocks[1].attn.qkv
    assert torch.equal(source, copy.weight)
    train_reconstructor(config)
    after, _ = load_model(tmp_path / "run" / "reconstructor.safetensors")
    assert after.config.temporal == "view" and after.aggregator.temporal_is_trained()
    frozen = after.aggregator.frame_blocks[0].attn.qkv.weight
    assert torch.allclose(frozen, blocks.frame_blocks[0].attn.qkv.weight, atol=1e-3)
    log = json.loads((tmp_path / "run" / "log.json").read_text())["log"]
    assert np.isfinite(log[-1]["validation_psnr"])
    assert (tmp_path / "run" / "views.png").is_file()


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


def test_stages_refuse_what_they_cannot_start_from(scene, tmp_path):
    save_model(tiny_model(temporal="none"), tmp_path / "plain.safetensors")
    plain = tmp_path / "plain.safetensors"
    for changes, words in (
        ({"stage": "warmup"}, "stage is 'warmup'"),
        ({"stage": "static"}, "needs --start-from"),
        ({"stage": "dynamic", "start_from": plain}, "has no temporal layers; add --temporal"),
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


def test_targets_can_be_larger_than_what_the_network_sees():
    large = draw_sample([5], [0, 1, 2], [4], 8, 32)
    small = large.resized(16)
    drawn = draw_sample([5], [0, 1, 2], [4], 8, 16)
    assert (small.frames - drawn.frames).square().mean() < 1e-3
    torch.testing.assert_close(small.intrinsics, drawn.intrinsics)
    assert ((small.depth / drawn.depth - 1).abs() < 0.02).float().mean() > 0.9

    model = tiny_model()
    images = small.frames[:, :, :2].flatten(0, 1)
    prediction = model(images, 1, points=False)
    rendered, wanted = render_targets(prediction, large, small, [0, 1])
    assert rendered.shape == wanted.shape == (3, 3, 32, 32)
    assert torch.equal(wanted, large.frames[0, 0])


def test_targets_smaller_than_what_the_network_sees_are_refused():
    with pytest.raises(ValueError, match="render_size is 32, but must be size \\(64\\) or more"):
        drawn_size(ReconstructorConfig(stage="static", render_size=32))
