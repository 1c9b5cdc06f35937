"""From a grid of frames to a scene: cameras, scale, windows, split, filters and bad input."""

import pytest
import torch

from fourreal.cameras import project, unproject
from fourreal.evaluation.evaluate_reconstruction import SplitEvaluation, evaluate_split
from fourreal.gaussians import Gaussians
from fourreal.reconstruction import (
    Filters,
    Reconstructor,
    StaticSplit,
    cameras_to_pose_encoding,
    pose_encoding_to_cameras,
)
from fourreal.reconstruction.alignment import (
    combine_pose_encodings,
    photometric_scale,
    scale_between,
)
from fourreal.reconstruction.emission import Maps
from fourreal.reconstruction.filters import (
    consistent,
    depth_jump,
    keep_pixels,
    merge_voxels,
    sharpen_depth,
)
from fourreal.reconstruction.image_fit import ImageFit
from fourreal.reconstruction.split import split_view
from fourreal.rendering import render
from fourreal.scenes import make_scene, scene_seed

from ..tiny import open_temporal_gates, tiny_model

SIZE = 32


class ExactGeometry(Reconstructor):
    """A reconstructor whose network knows a procedural scene, in a unit that changes with time."""

    def __init__(self, scene, factors=None, noise=0.0):
        super().__init__(tiny_model(temporal="none", gaussian_head="none"))
        self.scene, self.noise, self.time = scene, noise, 0
        times = scene.frames.shape[1]
        self.factors = torch.ones(times) if factors is None else factors

    def predict(self, images):
        times = slice(self.time, self.time + len(images))
        self.time += len(images)
        factors = self.factors[times]
        depth = self.scene.depth[:, times].transpose(0, 1) * factors[:, None, None, None]
        depth = depth * (1 + self.noise * torch.randn_like(depth))
        encoding = cameras_to_pose_encoding(
            self.scene.extrinsics, self.scene.intrinsics, *images.shape[-2:]
        ).repeat(len(images), 1, 1)
        encoding[..., :3] *= factors[:, None, None]
        return Maps(encoding, depth, torch.full_like(depth, 2.0), None)


@pytest.fixture(scope="module")
def scene():
    return make_scene(scene_seed("test", 0), num_views=4, num_frames=9, height=SIZE, width=SIZE)


def test_alignment_recovers_the_unit_of_every_time(scene):
    torch.manual_seed(0)
    factors = 1 + 0.4 * (torch.rand(9) - 0.5)
    factors[0] = 1
    found = ExactGeometry(scene, factors, noise=0.02)(scene.frames, filters=Filters.none())
    assert (found.depth_scales * factors - 1).abs().max() < 0.01
    # Per pixel, but for edges that the object's median over time leaves and enters.
    ratio = found.depth.median(-1).values / scene.depth.median(-1).values
    assert (ratio - 1).abs().quantile(0.99) < 0.05
    without = ExactGeometry(scene, factors)(scene.frames, align=False)
    assert torch.equal(without.depth_scales, torch.ones(9))
    # Cameras averaged over time are averaged in one unit.
    for mode in ("first", "mean", "median"):
        found = ExactGeometry(scene, factors)(scene.frames, cameras=mode)
        assert torch.allclose(found.extrinsics, scene.extrinsics, atol=0.03), mode
        assert torch.allclose(found.intrinsics, scene.intrinsics, rtol=1e-4)


def test_the_rendered_scene_shows_the_input_and_still_pixels_are_stored_once(scene):
    whole = ExactGeometry(scene)(scene.frames, split=None).scene
    found = ExactGeometry(scene)(scene.frames).scene
    every = sum(len(part) for part in whole.dynamic)
    parted = len(found.static) + sum(len(part) for part in found.dynamic)
    assert len(whole.static) == 0
    assert parted < 0.4 * every

    def error(reconstructed, mask=None):
        pictures = torch.stack(
            [
                render(
                    reconstructed.at(t), scene.extrinsics, scene.intrinsics, SIZE, SIZE
                ).color.permute(0, 3, 1, 2)
                for t in range(0, 9, 4)
            ],
            dim=1,
        )
        error = (pictures.clamp(0, 1) - scene.frames[:, ::4]).square().mean(2)
        return -10 * (error if mask is None else error[mask[:, ::4]]).mean().log10()

    assert error(whole) > 20
    assert error(found) > error(whole) - 0.3
    assert error(found, scene.moving) > error(whole, scene.moving) - 0.5


def test_a_view_whose_object_rests_and_then_leaves_has_no_ghost():
    torch.manual_seed(0)
    background = torch.rand(3, 16, 16) * 0.5
    frames = background.expand(10, -1, -1, -1).clone()
    depth = torch.full((10, 16, 16), 4.0)
    red = torch.tensor([0.9, 0.1, 0.1])[:, None, None]
    for t in range(8):  # rests at one place for most of the time
        frames[t, :, 4:9, 4:9], depth[t, 4:9, 4:9] = red, 2.0
    keep = torch.ones(10, 16, 16, dtype=torch.bool)
    masks = split_view(frames, depth, keep, StaticSplit())
    # The background is static everywhere, also where only the last two times show it ...
    assert masks.static.all()
    assert torch.allclose(masks.color, background)
    assert torch.allclose(masks.depth, torch.full((16, 16), 4.0))
    assert (masks.time[4:9, 4:9] >= 8).all()
    # ... and the object is stored at its own times only.
    assert masks.dynamic[:8, 4:9, 4:9].all()
    assert masks.dynamic.sum() == 8 * 25
    # Where the background never shows long enough, everything there is stored per time.
    masks = split_view(frames, depth, keep, StaticSplit(min_share=0.5))
    assert not masks.static[4:9, 4:9].any() and masks.dynamic[:, 4:9, 4:9].all()


def test_a_shadow_makes_its_pixels_dynamic_and_noise_does_not():
    torch.manual_seed(0)
    frames = torch.full((8, 3, 16, 16), 0.6) + 0.01 * torch.randn(8, 3, 16, 16).clamp(-2, 2)
    frames[3:5, :, 2:8, 2:8] *= 0.5  # darker, at the same depth
    frames[6, :, 12, 12] = 0.9  # one pixel at one time: noise
    depth = 3 * (1 + 0.01 * torch.randn(8, 16, 16).clamp(-2, 2))
    keep = torch.ones(8, 16, 16, dtype=torch.bool)
    masks = split_view(frames, depth, keep, StaticSplit())
    shadow = torch.zeros(16, 16, dtype=torch.bool)
    shadow[2:8, 2:8] = True
    assert torch.equal(~masks.static, shadow)
    assert torch.equal(masks.dynamic, shadow.expand(8, -1, -1))


@pytest.mark.parametrize("window", [2, 3, 5])
def test_windows_change_nothing_without_trained_temporal_layers(window):
    reconstructor = Reconstructor(tiny_model())
    frames = torch.rand(2, 5, 3, 32, 32)
    options = {"filters": Filters.none(), "split": None}
    one, many = (reconstructor(frames, window=w, **options) for w in (1, window))
    assert torch.allclose(one.depth, many.depth, rtol=1e-5)
    assert torch.allclose(one.depth_scales, many.depth_scales, rtol=1e-5)
    for a, b in zip(one.scene.dynamic, many.scene.dynamic):
        assert all(
            torch.allclose(x, y, rtol=1e-4, atol=1e-5)
            for x, y in zip(vars(a).values(), vars(b).values())
        )


def test_windows_of_trained_temporal_layers_overlap_and_share_one_unit():
    reconstructor = Reconstructor(open_temporal_gates(tiny_model()))
    frames = torch.rand(2, 6, 3, 32, 32)
    whole = reconstructor(frames, window=6)
    parts = reconstructor(frames, window=4)
    assert torch.equal(whole.depth_scales, torch.ones(6))
    assert torch.allclose(whole.depth[:, :4].mean(), parts.depth[:, :4].mean(), rtol=0.2)
    assert parts.depth_scales[:4].eq(1).all() and parts.depth_scales[4] == parts.depth_scales[5]
    # The second window starts one time early, so its first time is seen twice in one unit.
    tokens = reconstructor.predict(frames[:, 3:].transpose(0, 1))
    first = reconstructor.predict(frames[:, :4].transpose(0, 1))
    ratio = (first.depth[3] / tokens.depth[0]).log().median().exp()
    assert abs(parts.depth_scales[4] / ratio - 1) < 0.1
    # Each window is what the network says of its times alone.
    assert torch.allclose(parts.depth[:, :4], first.depth.transpose(0, 1), rtol=1e-5)
    later = (tokens.depth[1:] * parts.depth_scales[4]).transpose(0, 1)
    assert torch.allclose(parts.depth[:, 4:], later, rtol=1e-5)


def test_dense_heads_give_the_same_in_chunks():
    model = tiny_model()
    images = torch.rand(1, 5, 3, 32, 32)
    with torch.no_grad():
        tokens = model.aggregator(images)
        whole = model.gaussian_head(tokens, images)
        for chunk in (1, 2, 4):
            parts = model.gaussian_head(tokens, images, chunk)
            assert (whole - parts).abs().max() < 1e-5 * whole.abs().max()


def test_cameras_stand_still_and_the_first_is_the_world():
    reconstructor = Reconstructor(tiny_model())
    frames = torch.rand(3, 4, 3, 32, 32)
    found = reconstructor(frames, shared_intrinsics=True)
    assert torch.allclose(found.extrinsics[0], torch.eye(4)[:3], atol=1e-6)
    assert torch.allclose(found.intrinsics, found.intrinsics[:1].expand(3, -1, -1))
    # Another video with the same first column has the same cameras.
    other = frames.clone()
    other[:, 1:] = torch.rand(3, 3, 3, 32, 32)
    assert torch.equal(reconstructor(other).extrinsics, reconstructor(frames).extrinsics)


def test_given_cameras_are_used_and_set_the_unit(scene):
    moved = torch.tensor([[0.0, 0, 1, 5], [0, 1, 0, 2], [-1, 0, 0, 1], [0, 0, 0, 1]])
    extrinsics = torch.cat([scene.extrinsics[..., :3], 10 * scene.extrinsics[..., 3:]], -1) @ moved
    cameras = extrinsics, scene.intrinsics
    found = ExactGeometry(scene)(scene.frames, cameras=cameras, filters=Filters.none())
    assert torch.allclose(found.extrinsics[:, :, :3], scene.extrinsics[:, :, :3], atol=1e-5)
    assert torch.allclose(found.extrinsics[:, :, 3], 10 * scene.extrinsics[:, :, 3], atol=1e-4)
    assert torch.allclose(found.depth, 10 * scene.depth, rtol=1e-3)
    assert torch.allclose(found.intrinsics, scene.intrinsics, rtol=1e-5)


@pytest.mark.parametrize("height,width", [(32, 32), (30, 50), (97, 41), (288, 512)])
def test_images_of_any_size_are_mapped_there_and_back(height, width):
    fit = ImageFit.to(height, width, 64, 8)
    assert fit.height % 8 == 0 and fit.width % 8 == 0 and max(fit.height, fit.width) == 64
    y, x = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    ramp = torch.stack([x / width, y / height, x * 0])
    small = fit.images(ramp)
    assert small.shape == (3, fit.height, fit.width)
    # What a pixel of the small image shows is what its camera ray says.
    intrinsics = torch.tensor([[70.0, 0, width / 2], [0, 80, height / 2], [0, 0, 1]])
    fitted = fit.intrinsics(intrinsics)
    assert torch.allclose(fit.intrinsics_back(fitted), intrinsics, atol=1e-4)
    row, column = fit.height // 3, fit.width // 4
    ray = torch.linalg.inv(fitted) @ torch.tensor([column + 0.5, row + 0.5, 1.0])
    seen = (intrinsics @ ray)[:2] / torch.tensor([width, height])
    assert torch.allclose(small[:2, row, column], seen, atol=2e-3)
    # The centre stays the centre, and maps come back to where they were.
    assert torch.allclose(fitted[:2, 2], torch.tensor([fit.width / 2, fit.height / 2]))
    back = fit.maps_back(small[None])[0]
    edge = max(2, max(height, width) // 8)
    inner = (slice(edge, -edge), slice(edge, -edge))
    assert back.shape == ramp.shape
    assert (back[(slice(2), *inner)] - ramp[(slice(2), *inner)]).abs().max() < 0.01


def test_results_have_the_size_of_the_input():
    frames = torch.rand(2, 3, 3, 30, 50)
    found = Reconstructor(tiny_model())(frames, fps=12.0)
    assert found.depth.shape == found.depth_confidence.shape == (2, 3, 30, 50)
    assert found.scene.width == 50 and found.scene.height == 30 and found.scene.fps == 12
    assert torch.allclose(found.intrinsics[:, :2, 2], torch.tensor([25.0, 15.0]), atol=1e-3)
    assert found.scene.num_frames == 3 and found.scene.num_views == 2
    assert (found.depth > 0).all() and (found.depth_confidence >= 1).all()


@pytest.mark.parametrize("views,times", [(1, 3), (3, 1), (1, 1)])
def test_one_view_and_one_time_are_valid(views, times):
    found = Reconstructor(tiny_model())(torch.rand(views, times, 3, 32, 32))
    assert found.depth.shape == (views, times, 32, 32)
    assert found.scene.num_frames == times
    assert all(torch.isfinite(v).all() for v in vars(found.scene.at(0)).values())


def test_bad_input_gives_one_clear_sentence():
    reconstructor = Reconstructor(tiny_model())
    good = torch.rand(2, 2, 3, 32, 32)
    bad = good.clone()
    bad[0, 1, 2, 3, 4] = torch.nan
    for frames, words in (
        (bad, "NaN"),
        (good[0], r"\[V, T, 3, H, W\] is needed"),
        (good[:0], r"\[V, T, 3, H, W\] is needed"),
        (good[:, :, :1], "1 channels, but 3 .* repeat the grey channel"),
        (torch.cat([good, good[:, :, :1]], 2), "4 channels, but 3 .* alpha"),
        (good.permute(0, 1, 3, 4, 2), "order of the dimensions"),
        (good * 255, r"must be in \[0, 1\]"),
        ((good * 255).byte(), "uint8"),
    ):
        with pytest.raises(ValueError, match=words) as error:
            reconstructor(frames)
        assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match="cameras is 'last'"):
        reconstructor(good, cameras="last")
    with pytest.raises(ValueError, match=r"needed for 2 views"):
        reconstructor(good, cameras=(torch.zeros(3, 3, 4), torch.zeros(3, 3, 3)))
    with pytest.raises(ValueError, match=r"\[S, 3, H, W\] is needed"):
        reconstructor.predict_geometry(good)
    with pytest.raises(ValueError, match="confidence_percentile is 100"):
        Filters(confidence_percentile=100)
    with pytest.raises(ValueError, match="voxel_size is -1"):
        Filters(voxel_size=-1)


def test_progress_is_told_and_can_cancel():
    calls = []
    reconstructor = Reconstructor(tiny_model())
    frames = torch.rand(2, 4, 3, 32, 32)
    reconstructor(frames, progress=lambda done, total: calls.append((done, total)))
    assert calls == [(1, 4), (2, 4), (3, 4), (4, 4)]

    def cancel(done, total):
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        reconstructor(frames, progress=cancel)


def test_depth_edges_are_flying_pixels_not_slopes_nor_steps():
    row = torch.arange(16.0)
    plane = (1 / (0.05 + 0.02 * row)).expand(1, 16, 16)  # a floor seen at a low angle
    assert depth_jump(plane).max() < 1e-4
    step = torch.ones(1, 16, 16)
    step[..., 8:] = 3
    assert depth_jump(step).max() == 0
    flying = step.clone()
    flying[..., 8] = 1.8
    assert (depth_jump(flying)[0, :, 8] > 0.2).all()
    flying[..., 8] = 3
    assert depth_jump(flying).max() == 0


def test_depth_gets_its_edges_from_the_image():
    """A box before a wall whose depth is blurred, and shrunk by two pixels on one side."""
    inside = torch.zeros(1, 24, 24, dtype=torch.bool)
    inside[:, 8:18, 6:20] = True
    images = torch.where(inside[:, None], torch.tensor([0.1, 0.6, 0.1]).view(1, 3, 1, 1), 0.5)
    exact = torch.where(inside, 2.0, 4.0)
    blurred = torch.where(inside & (torch.arange(24)[:, None] >= 10), 2.0, 4.0)
    blurred = torch.nn.functional.avg_pool2d(blurred[:, None], 3, 1, 1, count_include_pad=False)
    blurred = blurred[:, 0]
    wrong = (blurred - exact).abs() > 0.2
    assert wrong.sum() > 60
    sharp = sharpen_depth(images, blurred, 0.3)
    assert ((sharp - exact).abs() > 0.2).sum() < wrong.sum() / 2
    assert torch.equal(sharp[:, :4], blurred[:, :4])  # far from any edge
    slope = 2 + torch.arange(24.0).expand(1, 24, 24) / 24
    assert torch.equal(sharpen_depth(images, slope, 0.3), slope)
    # A dense twin of a pixel at the edge, in float64.
    y, x = 9, 12
    rows, columns = slice(y - 3, y + 4), slice(x - 3, x + 4)
    color = images[0, :, y, x, None, None]
    unlike = (images[0, :, rows, columns] - color).double().square().sum(0).flatten()
    weight = torch.exp(-unlike / (2 * 0.1**2))
    depths, order = blurred[0, rows, columns].flatten().sort()
    middle = torch.searchsorted(weight[order].cumsum(0), weight.sum() / 2)
    assert sharp[0, y, x] == depths[middle]


def test_points_that_other_views_look_through_are_inconsistent():
    encoding = torch.tensor([[0.2 * v, 0, 0, 0, 0, 0, 1, 1, 1] for v in (-1, 0, 1)])
    extrinsics, intrinsics = pose_encoding_to_cameras(encoding, 24, 24)
    depth = torch.full((3, 24, 24), 4.0)
    assert consistent(depth, extrinsics, intrinsics, 0.05).all()
    depth[0, 10:14, 10:14] = 1.5  # floats before a wall that the others see
    kept = consistent(depth, extrinsics, intrinsics, 0.05)
    assert not kept[0, 10:14, 10:14].any()
    assert kept.sum() == kept.numel() - 16  # the wall behind it is hidden, not contradicted
    points = unproject(depth, extrinsics, intrinsics)[0, 12, 12].view(1, 1, 3).expand(3, 1, 3)
    assert (project(points, extrinsics, intrinsics)[1] < 3).all()


def test_doubtful_points_stay_where_nothing_else_would_be_drawn():
    encoding = torch.tensor([[0.2 * v, 0, 0, 0, 0, 0, 1, 1, 1] for v in (-1, 0, 1)])
    extrinsics, intrinsics = pose_encoding_to_cameras(encoding, 24, 24)
    depth, sure = torch.full((3, 24, 24), 4.0), torch.ones(3, 24, 24)
    depth[0, :, 10], depth[0, :, 11:14] = 2.5, 2.0  # a post, and points that fly beside it
    assert (depth_jump(depth)[0, :, 10] > 0.1).all()
    kept = keep_pixels(depth, sure, extrinsics, intrinsics, Filters(consistency=0))
    assert not kept[0, :, 10].any() and kept.sum() == kept.numel() - 24
    # The other views showed the wall there. Alone, the view would be left with a gap.
    alone = depth[:1], sure[:1], extrinsics[:1], intrinsics[:1]
    assert keep_pixels(*alone, Filters(consistency=0)).all()
    # What is left out on purpose stays out.
    assert not keep_pixels(*alone, Filters(border=0.1))[:, 0].any()


def test_voxels_merge_by_weight():
    means = torch.tensor([[0.1, 0.1, 0.1], [0.3, 0.1, 0.1], [1.5, 0.1, 0.1]])
    quaternions = torch.eye(4)[:3]
    gaussians = Gaussians(
        means, quaternions, torch.ones(3, 3), torch.tensor([0.2, 0.6, 0.9]), torch.zeros(3, 1, 3)
    )
    merged = merge_voxels(gaussians, 1.0, torch.tensor([1.0, 3.0, 1.0]))
    assert torch.allclose(merged.means, torch.tensor([[0.25, 0.1, 0.1], [1.5, 0.1, 0.1]]))
    assert torch.allclose(merged.opacities, torch.tensor([0.5, 0.9]))
    assert torch.equal(merged.quaternions, quaternions[1:])


def test_filters_drop_what_they_say():
    frames = torch.rand(2, 1, 3, 32, 32)
    reconstructor = Reconstructor(tiny_model(gaussian_head="none"))

    def count(**filters):
        off = vars(Filters.none()) | filters
        return len(reconstructor(frames, filters=Filters(**off)).scene.static)

    every = 2 * 32 * 32
    assert count() == every
    assert abs(count(confidence_percentile=25) - 0.75 * every) <= 2
    assert count(border=0.1) == 2 * (32 - 2 * 3) ** 2
    assert count(min_opacity=0.99) == 0
    assert 0 < count(voxel_size=8.0) < every


def test_scale_is_that_of_the_pixels_that_stand_still():
    reference, sure = torch.full((100,), 2.0), torch.ones(100)
    depth, change = reference * 0.8, torch.zeros(100)
    depth[:60], change[:60] = 0.7, 0.5  # most of the picture is an object that came closer
    depth[99] = 50.0
    assert abs(scale_between(reference, depth, (sure, sure), change) - 1.25) < 1e-6
    # Most still pixels are wrong here, but know it.
    depth, change, unsure = reference * 0.8, torch.zeros(100), torch.ones(100)
    depth[:25], change[45:] = 9.0, 0.5
    depth[45:], unsure[:25] = 0.7, 0.1
    for confidences in ((sure, unsure), (unsure, sure)):
        assert abs(scale_between(reference, depth, confidences, change) - 1.25) < 1e-6


def test_cameras_of_several_times_are_combined_whatever_their_quaternions_signs():
    encodings = torch.tensor([[0.0, 0, 0, 0, 0, 0, 1, 1, 1]]).repeat(3, 1)[:, None]
    encodings[1, :, 3:7] *= -1  # the same rotation
    encodings[2, :, 0] = 3
    mean, median = (combine_pose_encodings(encodings, how)[0] for how in ("mean", "median"))
    assert torch.allclose(mean, torch.tensor([1.0, 0, 0, 0, 0, 0, 1, 1, 1]))
    assert torch.allclose(median, torch.tensor([0.0, 0, 0, 0, 0, 0, 1, 1, 1]))


@pytest.mark.parametrize("size", [64, 160])
def test_the_unit_of_depth_is_the_one_in_which_views_agree(size):
    scene = make_scene(scene_seed("validation", 1), 4, 1, size, size)
    images, depth = scene.frames[:, 0], scene.depth[:, 0]
    cameras = scene.extrinsics, scene.intrinsics
    assert photometric_scale(images, depth, *cameras) == 1
    for wrong in (0.8, 1.1, 1.25):
        found = photometric_scale(images, wrong * depth, *cameras)
        assert found == pytest.approx(1 / wrong, rel=0.02)
    one = [v[:1] for v in (images, depth, *cameras)]
    assert photometric_scale(*one) == 1
    assert photometric_scale(torch.full_like(images, 0.5), depth, *cameras) == 1


def test_the_split_saves_most_and_costs_little(capsys):
    """`fourreal evaluate split` on two scenes; the figures of sixteen are in the model card."""
    scores = evaluate_split(SplitEvaluation(scenes=2, num_frames=5, height=32, width=32))["scores"]
    assert scores["fewer_gaussians"]["mean"] > 0.4  # of 5 times, not of 9
    assert -0.5 < scores["psnr_change"]["mean"] < 0.5
    assert "| moving_psnr_change |" in capsys.readouterr().out


def test_a_batch_that_is_not_whole_scenes_is_refused():
    with pytest.raises(ValueError, match="holds 5 times of 2 views, which are not whole scenes"):
        tiny_model()(torch.rand(5, 2, 3, SIZE, SIZE), 2)
