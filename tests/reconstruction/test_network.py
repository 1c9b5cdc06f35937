"""The network: public reference numbers, key names, camera token replacement, temporal layers."""

import pytest
import torch

from fourreal.cameras import unproject
from fourreal.reconstruction import (
    VGGT,
    Reconstructor,
    VGGTConfig,
    decode_anysplat,
    network,
    pose_encoding_to_cameras,
)
from fourreal.reconstruction.aggregator import IMAGE_MEAN, IMAGE_STD
from fourreal.reconstruction.camera_head import ANYSPLAT_TANGENT

from ..tiny import assert_close, fixture, key_list, open_temporal_gates, tiny_config, tiny_model


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
    assert_close(found.pose_iterations[:, :, 0], outputs["pose_enc_first_iteration"])
    assert_close(found.pose_encodings, outputs["pose_enc"])
    assert_close(found.depth, outputs["depth"][..., 0])
    assert_close(found.depth_confidence, outputs["depth_conf"])
    assert_close(found.points, outputs["world_points"])
    assert_close(found.points_confidence, outputs["world_points_conf"])
    extrinsics, intrinsics = pose_encoding_to_cameras(found.pose_encodings, *images.shape[-2:])
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
    assert_close(found.pose_encodings, outputs["pose_enc"])
    assert_close(found.depth, outputs["depth"][..., 0])
    extrinsics, intrinsics = pose_encoding_to_cameras(
        found.pose_encodings, *images.shape[-2:], ANYSPLAT_TANGENT
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
        model = VGGT(VGGTConfig(track_head=True))
    ours = {key: list(value.shape) for key, value in model.state_dict().items()}
    public = key_list("vggt_1b")
    assert len(public) == 1797 and sum(k.startswith("track_head.") for k in public) == 394
    assert {k: v for k, v in ours.items() if k in public} == public
    beyond = [k for k in ours if k not in public]
    assert beyond
    assert all(k.startswith(("aggregator.temporal_blocks.", "gaussian_head.")) for k in beyond)
    assert sum(k.endswith("ls1.gamma") for k in beyond) == 24
    assert ours["gaussian_head.scratch.output_conv2.2.weight"] == [14, 32, 1, 1]


def test_camera_token_replacement_gives_every_time_the_first_ones_cameras():
    model = open_temporal_gates(tiny_model())
    images = torch.rand(3, 4, 3, 32, 32)
    with torch.no_grad():
        replaced = model(images, num_times=3).pose_iterations
        free = model(images, num_times=3, camera_replacement=False).pose_iterations
        tokens = model.aggregator(images, num_times=3)
        # Second source: the head on all V * T replaced tokens as one sequence.
        first = tokens[-1][:1, :, 0]
        sequence = first.expand(3, -1, -1).flatten(0, 1)[None]
        literal = model.camera_head(sequence)[:, :, -1].unflatten(1, (3, 4))[0]
    assert torch.equal(replaced, replaced[:1].expand_as(replaced))
    assert torch.allclose(replaced[0], free[0], atol=1e-5)
    assert torch.allclose(replaced[:, :, -1], literal, atol=1e-5)
    assert (free[0, :, -1] - free[1, :, -1]).abs().max() > 1e-3


def test_a_later_windows_cameras_are_those_of_the_first_time():
    model = tiny_model()
    images = torch.rand(4, 2, 3, 32, 32)
    with torch.no_grad():
        whole = model(images, num_times=4)
        first = model(images[:2], num_times=2)
        later = model(images[2:], num_times=2, first_camera_tokens=first.camera_tokens[:1])
    assert torch.allclose(later.pose_iterations, whole.pose_iterations[2:], atol=1e-6)
    assert torch.allclose(later.depth, whole.depth[2:], rtol=1e-5)
    # What was kept on the host goes back to where the network runs, in its precision.
    running = torch.zeros(1, 2, 3, 4, device="meta", dtype=torch.bfloat16)
    found = network.replace_camera_tokens(running, torch.zeros(1, 3, 4))
    assert (found.device, found.dtype) == (running.device, running.dtype)


def test_inference_depends_on_camera_token_replacement(monkeypatch):
    reconstructor, frames = Reconstructor(tiny_model()), torch.rand(3, 4, 3, 32, 32)
    with_it, first = (reconstructor(f, adjust=False) for f in (frames, frames[:, :1]))
    assert torch.allclose(with_it.extrinsics, first.extrinsics, atol=1e-6)
    # Its body is deleted: tokens stay as they are.
    monkeypatch.setattr(network, "replace_camera_tokens", lambda tokens, first=None: tokens)
    found = reconstructor(frames, adjust=False)
    assert (found.extrinsics - with_it.extrinsics).abs().max() > 1e-3
    assert torch.equal(reconstructor(frames[:, :1], adjust=False).extrinsics, first.extrinsics)


def test_untrained_temporal_layers_change_no_bit():
    model = tiny_model()
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


def test_trained_temporal_layers_join_times_of_one_scene_only_and_know_their_order():
    model = open_temporal_gates(tiny_model())
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


def test_dense_heads_give_the_same_in_chunks():
    model = tiny_model()
    images = torch.rand(1, 5, 3, 32, 32)
    with torch.no_grad():
        tokens = model.aggregator(images)
        whole = model.gaussian_head(tokens, images)
        for chunk in (1, 2, 4):
            parts = model.gaussian_head(tokens, images, chunk)
            assert (whole - parts).abs().max() < 1e-5 * whole.abs().max()


def test_tables_made_in_inference_mode_serve_training_too():
    model, images = open_temporal_gates(tiny_model()), torch.rand(2, 2, 3, 24, 40)
    with torch.inference_mode():
        model(images, 2)
    model(images, 2).depth.sum().backward()


@pytest.mark.parametrize("seed", range(4))
def test_the_small_model_is_small(seed):
    torch.manual_seed(seed)
    model = VGGT(VGGTConfig.small())
    assert sum(p.numel() for p in model.parameters()) < 12.5e6
    with torch.no_grad():
        found = model(torch.rand(1, 2, 3, 64, 64))
    assert found.raw_gaussians.shape == (1, 2, 14, 64, 64)
    # A fresh model starts with open cameras, half-pixel Gaussians and the pixels' own colours.
    assert (found.pose_encodings[..., 7:] > 0.5).all()
    assert (found.raw_gaussians[:, :, 4:7] + 0.7).abs().max() < 0.05
    assert found.raw_gaussians[:, :, 11:].abs().max() < 0.2


def test_a_batch_that_is_not_whole_scenes_is_refused():
    with pytest.raises(ValueError, match="holds 5 times of 2 views, which are not whole scenes"):
        tiny_model()(torch.rand(5, 2, 3, 32, 32), 2)


def test_configs_reject_what_cannot_be_built():
    with pytest.raises(ValueError, match="must end with the last of 4 layers"):
        tiny_config(intermediate_layers=(0, 1, 2, 2))
    with pytest.raises(ValueError, match="embed_dim is 30"):
        tiny_config(embed_dim=30)
    with pytest.raises(ValueError, match="unknown names: bogus"):
        VGGTConfig.from_json('{"bogus": 1}')
    with pytest.raises(ValueError, match="temporal is 'often'"):
        tiny_config(temporal="often")
    with pytest.raises(ValueError, match="'anysplat', whose sh_degree must be given"):
        tiny_config(gaussian_head="anysplat")
    config = tiny_config(temporal="none", sh_degree=2, gaussian_head="anysplat")
    assert VGGTConfig.from_json(config.to_json()) == config
