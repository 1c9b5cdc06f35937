"""The network: public reference numbers, key names, temporal layers, cameras, Gaussian decoding."""

import json

import pytest
import torch

from fourreal.cameras import matrix_to_quaternion, pixel_grid, project, unproject
from fourreal.reconstruction import (
    VGGT,
    VGGTConfig,
    cameras_to_pose_encoding,
    decode_anysplat,
    decode_gaussians,
    gaussians_from_depth,
    load_model,
    pose_encoding_to_cameras,
    replace_camera_tokens,
)
from fourreal.reconstruction.aggregator import IMAGE_MEAN, IMAGE_STD
from fourreal.reconstruction.camera_head import ANYSPLAT_TANGENT

from ..tiny import FIXTURES, assert_close, fixture, open_temporal_gates, tiny_config, tiny_model


def test_vggt_gives_the_reference_implementations_numbers():
    weights, inputs, outputs, config = fixture("vggt_tiny")
    model = VGGT(VGGTConfig.from_json(config, temporal="none", gaussian_head="none")).eval()
    model.load_state_dict(weights, strict=True)
    images = inputs["images"]
    with torch.no_grad():
        mean, std = (torch.tensor(v)[:, None, None] for v in (IMAGE_MEAN, IMAGE_STD))
        patches = model.aggregator.patch_embed((images[0] - mean) / std)
        tokens = model.aggregator(images)
        found = model(images)
    assert_close(patches, outputs["patch_tokens"])
    assert_close(tokens[-1], outputs["last_tokens"])
    assert_close(found.pose_encodings[0], outputs["pose_enc_first_iteration"])
    assert_close(found.pose_encodings[-1], outputs["pose_enc"])
    assert_close(found.depth, outputs["depth"][..., 0])
    assert_close(found.depth_confidence, outputs["depth_conf"])
    assert_close(found.points, outputs["world_points"])
    assert_close(found.points_confidence, outputs["world_points_conf"])
    extrinsics, intrinsics = pose_encoding_to_cameras(found.pose_encodings[-1], *images.shape[-2:])
    assert_close(extrinsics, outputs["extrinsics"])
    assert_close(intrinsics, outputs["intrinsics"])
    # The reference's pixel centres are integers; ours are half a pixel on.
    intrinsics[..., :2, 2] += 0.5
    assert_close(unproject(found.depth, extrinsics, intrinsics)[0], outputs["points_from_depth"])


def test_anysplat_gives_the_reference_implementations_numbers():
    weights, inputs, outputs, config = fixture("anysplat_tiny")
    weights = {
        k.removeprefix("encoder.").replace("gaussian_param_head", "gaussian_head"): v
        for k, v in weights.items()
    }
    config = VGGTConfig.from_json(
        config, temporal="none", gaussian_head="anysplat", point_head=False
    )
    model = VGGT(config).eval()
    model.load_state_dict(weights, strict=True)
    images = inputs["images"]
    with torch.no_grad():
        found = model(images)
    assert_close(found.raw_gaussians, outputs["raw"])
    assert_close(found.pose_encodings[-1], outputs["pose_enc"])
    assert_close(found.depth, outputs["depth"][..., 0])
    extrinsics, intrinsics = pose_encoding_to_cameras(
        found.pose_encodings[-1], *images.shape[-2:], ANYSPLAT_TANGENT
    )
    assert_close(extrinsics, outputs["extrinsics"])
    assert_close(intrinsics, outputs["intrinsics"])
    intrinsics[..., :2, 2] += 0.5  # see above
    gaussians = decode_anysplat(
        found.raw_gaussians[0], found.depth[0], extrinsics[0], intrinsics[0]
    )
    assert_close(gaussians.means, outputs["means"].reshape(-1, 3))
    assert_close(gaussians.opacities, outputs["opacities"].flatten())
    assert_close(gaussians.scales, outputs["scales"].reshape(-1, 3))
    assert_close(gaussians.quaternions, outputs["quaternions_xyzw"].reshape(-1, 4)[:, [3, 0, 1, 2]])
    reference = outputs["harmonics_rgb_by_coefficient"].reshape(-1, 3, 25).transpose(1, 2)
    assert_close(gaussians.harmonics, reference)


def test_a_full_size_model_has_exactly_the_public_files_keys_and_shapes():
    with torch.device("meta"):
        model = VGGT(VGGTConfig())
    ours = {key: list(value.shape) for key, value in model.state_dict().items()}
    public = json.loads((FIXTURES / "keys" / "vggt_1b.json").read_text())
    public = {k: v for k, v in public.items() if not k.startswith("track_head.")}
    assert {k: v for k, v in ours.items() if k in public} == public
    beyond = [k for k in ours if k not in public]
    assert beyond
    assert all(k.startswith(("aggregator.temporal_blocks.", "gaussian_head.")) for k in beyond)
    assert sum(k.endswith("ls1.gamma") for k in beyond) == 24
    assert ours["gaussian_head.scratch.output_conv2.2.weight"] == [14, 32, 1, 1]


@pytest.mark.parametrize("mode", ["token", "view"])
def test_untrained_temporal_layers_change_no_bit(mode):
    model = tiny_model(temporal=mode)
    images = torch.rand(3, 2, 3, 32, 40)
    with torch.no_grad():
        joined = model.aggregator(images, num_times=3)
        without = model.aggregator(images, num_times=3, temporal=False)
        alone = [model.aggregator(image[None], temporal=False) for image in images]
    for layer, tokens in enumerate(joined):
        assert torch.equal(tokens, without[layer])
        # Threads share a batch out differently than a single image, so to rounding only.
        single = torch.cat([times[layer] for times in alone])
        assert torch.allclose(tokens, single, atol=1e-5)
    assert not model.aggregator.temporal_is_trained()


@pytest.mark.parametrize("mode", ["token", "view"])
def test_trained_temporal_layers_join_times_of_one_scene_only_and_know_their_order(mode):
    model = open_temporal_gates(tiny_model(temporal=mode))
    assert model.aggregator.temporal_is_trained()
    images = torch.rand(6, 2, 3, 32, 32)  # two scenes of three times
    changed = images.clone()
    changed[2] = torch.rand(2, 3, 32, 32)  # the last time of the first scene
    with torch.no_grad():
        before, after, turned = (
            model.aggregator(x, num_times=3)[-1] for x in (images, changed, images.flip(0))
        )
    moved = (before - after).abs().flatten(1).amax(1)
    assert (moved[:3] > 1e-4).all()
    assert (moved[3:] < 1e-6).all()
    # Reversing scenes and times together would only permute the result if order did not count.
    assert (before - turned.flip(0)).abs().max() > 1e-4


def test_token_mode_is_view_mode_where_a_view_has_one_token_per_time():
    # 1-D rotary in time twice: once by its own table, once as the limit of the space-time one.
    from fourreal.reconstruction.layers import spacetime_rotary, temporal_rotary

    place = (torch.device("cpu"), torch.float32)
    short = temporal_rotary(5, 8, 100.0, *place)
    long = spacetime_rotary(5, 1, 0, 1, 8, 100.0, *place)
    assert all(torch.allclose(a, b) for a, b in zip(short, long))


def test_gradients_reach_the_closed_temporal_gates():
    model = tiny_model()
    images = torch.rand(2, 2, 3, 32, 32)
    found = model(images, num_times=2)
    (found.depth.mean() + found.raw_gaussians.square().mean()).backward()
    for block in model.aggregator.temporal_blocks:
        assert block.ls1.gamma.grad.abs().max() > 0
        assert block.ls2.gamma.grad.abs().max() > 0


def test_temporal_blocks_can_start_from_the_global_blocks():
    model = tiny_model()
    model.aggregator.start_temporal_from_global()
    for temporal, source in zip(model.aggregator.temporal_blocks, model.aggregator.global_blocks):
        assert torch.equal(temporal.attn.qkv.weight, source.attn.qkv.weight)
        assert not temporal.ls1.gamma.any() and not temporal.ls2.gamma.any()


def test_camera_replacement_gives_every_time_the_same_cameras():
    model = open_temporal_gates(tiny_model())
    images = torch.rand(3, 4, 3, 32, 32)
    with torch.no_grad():
        replaced = model(images, num_times=3).pose_encodings
        free = model(images, num_times=3, camera_replacement=False).pose_encodings
        tokens = model.aggregator(images, num_times=3)
        # Second source: the head on all V*T replaced tokens as one sequence.
        sequence = replace_camera_tokens(tokens, 3)[-1].flatten(0, 1)[None]
        literal = model.camera_head([sequence])[-1].unflatten(1, (3, 4))[0]
    assert all(torch.equal(p[0], p[t]) for p in replaced for t in (1, 2))
    assert torch.allclose(replaced[-1], literal, atol=1e-5)
    assert (free[-1][0] - free[-1][1]).abs().max() > 1e-3


def test_bfloat16_autocast_stays_near_float32():
    model = open_temporal_gates(tiny_model())
    images = torch.rand(2, 2, 3, 32, 32)
    with torch.no_grad():
        exact = model(images, num_times=2)
        with torch.autocast("cpu", torch.bfloat16):
            rough = model(images, num_times=2)
    assert rough.depth.dtype == torch.float32
    assert (rough.depth / exact.depth - 1).abs().max() < 0.1
    assert not torch.equal(rough.depth, exact.depth)


def test_pose_encodings_and_cameras_are_inverse_to_each_other():
    torch.manual_seed(0)
    encoding = torch.randn(5, 9)
    encoding[:, 3:7] = torch.nn.functional.normalize(encoding[:, 3:7], dim=-1)
    encoding[:, 6].abs_()
    encoding[:, 7:] = torch.rand(5, 2) + 0.5
    cameras = pose_encoding_to_cameras(encoding, 30, 50)
    assert torch.allclose(cameras_to_pose_encoding(*cameras, 30, 50), encoding, atol=1e-5)
    # Fields of view from the definition: the angle between rays through opposite edges.
    _, intrinsics = cameras
    assert torch.allclose(2 * torch.atan(15 / intrinsics[:, 1, 1]), encoding[:, 7], atol=1e-6)
    assert torch.allclose(2 * torch.atan(25 / intrinsics[:, 0, 0]), encoding[:, 8], atol=1e-6)


def two_cameras():
    encoding = torch.tensor([[0, 0, 0, 0, 0, 0, 1, 0.9, 1.1], [0.3, 0, 0.1, 0, 0.2, 0.1, 1, 1, 1]])
    return pose_encoding_to_cameras(encoding, 6, 8)


def test_the_papers_channels_follow_their_formulas():
    torch.manual_seed(1)
    raw = torch.randn(2, 14, 6, 8)
    raw[:, :3] *= 2
    images, depth = torch.rand(2, 3, 6, 8), torch.rand(2, 6, 8) + 1
    extrinsics, intrinsics = two_cameras()
    gaussians = decode_gaussians(raw, images, depth, extrinsics, intrinsics)
    view, y, x = 1, 4, 2
    n, p = (view * 6 + y) * 8 + x, raw[view, :, y, x].double()
    world = extrinsics[view].double()
    focal = intrinsics[view].double()
    z = depth[view, y, x].double()
    # Splatt3R: offset of length e^(n - 6) - e^(-6) along its direction; here n nears 4.5 at most.
    length = p[:3].norm()
    assert 1 < length < 6
    held = 4.5 * torch.tanh(length / 4.5)
    offset = p[:3] / length * ((held - 6).exp() - torch.tensor(-6.0).double().exp()) * z
    ray = torch.stack(
        [(x + 0.5 - focal[0, 2]) / focal[0, 0], (y + 0.5 - focal[1, 2]) / focal[1, 1], z / z]
    )
    camera = ray * z + offset
    mean = world[:, :3].T @ (camera - world[:, 3])
    assert torch.allclose(gaussians.means[n].double(), mean, atol=1e-5)
    assert torch.allclose(gaussians.opacities[n].double(), 1 / (1 + (-p[3]).exp()), atol=1e-6)
    # Log scale in pixels, which nears 3 at most: a smooth minimum, p - log(1 + e^(p - 3)).
    scales = p[4:7].exp() / (1 + (p[4:7] - 3).exp()) * z / focal[0, 0]
    assert torch.allclose(gaussians.scales[n].double(), scales, atol=1e-5)
    color = gaussians.harmonics[n, 0] * 0.28209479 + 0.5
    wanted = images[view, :, y, x] + 0.28209479 * p[11:].float()
    assert torch.allclose(color, wanted, atol=1e-5)
    # The rotation of a camera-aligned Gaussian is the camera's.
    raw[:, 7:11] = torch.tensor([1.0, 0, 0, 0])[:, None, None]
    turned = decode_gaussians(raw, images, depth, extrinsics, intrinsics).quaternions[n]
    assert torch.allclose(turned, matrix_to_quaternion(extrinsics[view, :, :3].T), atol=1e-6)


def test_the_papers_gaussians_have_finite_gradients_at_a_zero_offset():
    raw = torch.zeros(2, 14, 6, 8, requires_grad=True)
    gaussians = decode_gaussians(raw, torch.rand(2, 3, 6, 8), torch.ones(2, 6, 8), *two_cameras())
    sum(v.square().sum() for v in vars(gaussians).values()).backward()
    assert torch.isfinite(raw.grad).all()
    assert (raw.grad[:, :3].abs().sum() + raw.grad[:, 11:].abs().sum()) > 0


def test_no_head_throws_gaussians_far_or_blows_them_up_for_good():
    """Whatever a head says, a Gaussian stays near its pixel, and a gradient can lead it back."""
    images, depth = torch.rand(2, 3, 6, 8), torch.rand(2, 6, 8) + 1
    cameras = two_cameras()
    home = gaussians_from_depth(images, depth, torch.ones_like(depth), *cameras).means
    footprint = (depth / cameras[1][:, 0, 0, None, None]).flatten()
    wild = (20 * torch.randn(2, 14, 6, 8)).requires_grad_()
    gaussians = decode_gaussians(wild, images, depth, *cameras)
    assert ((gaussians.means - home).norm(dim=-1) < 0.23 * depth.flatten()).all()
    assert (gaussians.scales.amax(-1) < 20.1 * footprint).all()
    far = (3 * torch.randn(2, 14, 6, 8)).abs().add(6).requires_grad_()
    gaussians = decode_gaussians(far, images, depth, *cameras)
    (gaussians.means.square().sum() + gaussians.scales.sum()).backward()
    assert (far.grad[:, :3].abs().amax(1) > 0).all() and (far.grad[:, 4:7] > 0).all()


def test_gaussians_grow_and_move_with_the_unit_of_depth():
    raw = torch.randn(2, 14, 6, 8)
    images, depth = torch.rand(2, 3, 6, 8), torch.rand(2, 6, 8) + 1
    extrinsics, intrinsics = two_cameras()
    once = decode_gaussians(raw, images, depth, extrinsics, intrinsics)
    larger = torch.cat([extrinsics[..., :3], 3 * extrinsics[..., 3:]], dim=-1)
    thrice = decode_gaussians(raw, images, 3 * depth, larger, intrinsics)
    assert torch.allclose(thrice.means, 3 * once.means, atol=1e-4)
    assert torch.allclose(thrice.scales, 3 * once.scales, rtol=1e-4)
    assert torch.allclose(thrice.quaternions, once.quaternions)


def test_the_decoder_without_weights_puts_each_pixel_back_in_place():
    images, depth = torch.rand(2, 3, 6, 8), torch.rand(2, 6, 8) + 1
    confidence = torch.linspace(1, 9, 96).view(2, 6, 8)
    cameras = two_cameras()
    gaussians = gaussians_from_depth(images, depth, confidence, *cameras)
    pixels, distance = project(gaussians.means.view(2, 48, 3), *cameras)
    assert torch.allclose(
        pixels.view(2, 6, 8, 2), pixel_grid(6, 8).expand(2, -1, -1, -1), atol=1e-4
    )
    assert torch.allclose(distance.view(2, 6, 8), depth, atol=1e-5)
    assert torch.allclose(
        gaussians.harmonics[:, 0] * 0.28209479 + 0.5,
        images.movedim(1, -1).reshape(-1, 3),
        atol=1e-5,
    )
    order = gaussians.opacities
    assert order[0] < order[20] < order[47] <= order[60] == order[95] <= 1


@pytest.mark.parametrize("seed", range(4))
def test_the_small_model_is_small(seed):
    torch.manual_seed(seed)
    model = VGGT(VGGTConfig.small())
    assert sum(p.numel() for p in model.parameters()) < 12.5e6
    with torch.no_grad():
        found = model(torch.rand(1, 2, 3, 64, 64))
    assert found.raw_gaussians.shape == (1, 2, 14, 64, 64)
    # A fresh model starts with open cameras, half-pixel Gaussians and the pixels' own colours.
    assert (found.pose_encodings[-1][..., 7:] > 0.5).all()
    assert (found.raw_gaussians[:, :, 4:7] + 0.7).abs().max() < 0.05
    assert found.raw_gaussians[:, :, 11:].abs().max() < 0.2


def test_configs_reject_what_cannot_be_built():
    with pytest.raises(ValueError, match="must end with the last of 4 layers"):
        tiny_config(intermediate_layers=(0, 1, 2, 2))
    with pytest.raises(ValueError, match="embed_dim is 30"):
        tiny_config(embed_dim=30)
    with pytest.raises(ValueError, match="unknown names: bogus"):
        VGGTConfig.from_json('{"bogus": 1}')
    with pytest.raises(ValueError, match="temporal is 'often'"):
        tiny_config(temporal="often")
    config = tiny_config(temporal="view", sh_degree=2, gaussian_head="anysplat")
    assert VGGTConfig.from_json(config.to_json()) == config


def test_loading_adds_untrained_parts_for_training(tmp_path):
    from fourreal.reconstruction import save_model

    save_model(tiny_model(temporal="none", gaussian_head="none"), tmp_path / "m.safetensors")
    plain, _ = load_model(tmp_path / "m.safetensors")
    more, kind = load_model(tmp_path / "m.safetensors", temporal="view", gaussian_head="paper")
    assert kind == "fourreal"
    assert more.config.temporal == "view" and more.config.gaussian_head == "paper"
    images = torch.rand(2, 2, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(plain(images).depth, more(images, num_times=2).depth)


def test_tables_made_in_inference_mode_serve_training_too():
    model, images = open_temporal_gates(tiny_model()), torch.rand(2, 2, 3, 24, 40)
    with torch.inference_mode():
        model(images, 2)
    model(images, 2).depth.sum().backward()
