"""From a grid of frames to a scene: cameras, units of length, windows, options and bad input."""

import pytest
import torch

from fourreal import weights
from fourreal.metrics.pixels import gradient_energy, psnr
from fourreal.reconstruction import (
    VGGT,
    Filters,
    Maps,
    ReconstructionOptions,
    Reconstructor,
    VGGTConfig,
)
from fourreal.rendering import render
from fourreal.scenes import make_scene, scene_seed

from ..tiny import fixture, open_temporal_gates, tiny_model

SIZE = 32


class ExactGeometry(Reconstructor):
    """A reconstructor whose network knows a procedural scene, in a unit that changes with time."""

    def __init__(self, scene, factors=None, noise=0.0):
        super().__init__(tiny_model(temporal="none", gaussian_head="none"))
        self.scene, self.noise, self.time = scene, noise, 0
        times = scene.frames.shape[1]
        self.factors = torch.ones(times) if factors is None else factors

    def predict(self, images, *, camera_replacement=True, **_):
        times = slice(self.time, self.time + len(images))
        self.time += len(images)
        factors = self.factors[times]
        maps = Maps.known(
            self.scene.depth[:, times].transpose(0, 1), self.scene.extrinsics, self.scene.intrinsics
        )
        noise = 1 + self.noise * torch.randn_like(maps.depth)
        maps.depth = maps.depth * noise * factors[:, None, None, None]
        if not camera_replacement:
            maps.pose_iterations = maps.pose_iterations.clone()
            maps.pose_iterations[..., :3] *= factors[:, None, None, None]
        return maps


@pytest.fixture(scope="module")
def scene():
    return make_scene(scene_seed("test", 0), num_views=4, num_frames=9, height=SIZE, width=SIZE)


@pytest.mark.slow
def test_alignment_recovers_the_unit_of_every_time(scene):
    torch.manual_seed(0)
    factors = 1 + 0.4 * (torch.rand(9) - 0.5)
    factors[0] = 1
    found = ExactGeometry(scene, factors, noise=0.02)(
        scene.frames, filters=Filters.none(), adjust=False
    )
    assert (found.depth_scales * factors - 1).abs().max() < 0.01
    # Per pixel, but for edges that the object's median over time leaves and enters.
    ratio = found.depth.median(-1).values / scene.depth.median(-1).values
    assert (ratio - 1).abs().quantile(0.99) < 0.05
    without = ExactGeometry(scene, factors)(scene.frames, align=False)
    assert torch.equal(without.depth_scales, torch.ones(9))
    # Cameras averaged over time are averaged in one unit.
    for mode in ("first", "mean", "median", "even"):
        found = ExactGeometry(scene, factors)(scene.frames, cameras=mode, adjust=False)
        assert torch.allclose(found.extrinsics, scene.extrinsics, atol=0.03), mode
        assert torch.allclose(found.intrinsics, scene.intrinsics, rtol=1e-4)


def test_without_gaussians_depth_and_cameras_are_the_same(scene):
    whole, bare = (ExactGeometry(scene, noise=0.02) for _ in range(2))
    torch.manual_seed(0)
    whole = whole(scene.frames[:, :3])
    torch.manual_seed(0)
    bare = bare(scene.frames[:, :3], gaussians=False)
    assert torch.equal(bare.depth, whole.depth) and torch.equal(bare.extrinsics, whole.extrinsics)
    assert whole.scene.num_gaussians > 0 and bare.scene.num_gaussians == 0
    assert bare.scene.num_frames == 3
    with pytest.raises(ValueError, match="refine is 5, but no Gaussians are made"):
        ReconstructionOptions(refine=5, gaussians=False)


def test_several_cores_make_the_same_scene(scene):
    """Times go to cores of their own, whose sums may be in another order."""
    scenes, cores = [], torch.get_num_threads()
    for count in (1, 3):
        torch.set_num_threads(count)
        try:
            torch.manual_seed(0)
            scenes.append(ExactGeometry(scene, noise=0.02)(scene.frames[:, :5]))
        finally:
            torch.set_num_threads(cores)
    one, several = scenes
    torch.testing.assert_close(one.depth, several.depth, rtol=1e-4, atol=1e-5)
    counts = [len(found.scene.at(2)) for found in scenes]
    assert counts[0] > 0 and abs(counts[0] - counts[1]) <= 2


def test_the_rendered_scene_shows_the_input_and_still_pixels_are_stored_once(scene):
    whole = ExactGeometry(scene)(scene.frames, split=None, adjust=False).scene
    found = ExactGeometry(scene)(scene.frames, adjust=False).scene
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


@pytest.mark.parametrize("window", [2, 3, 5])
def test_windows_change_nothing_without_trained_temporal_layers(window):
    reconstructor = Reconstructor(tiny_model())
    frames = torch.rand(2, 5, 3, 32, 32)
    options = {"filters": Filters.none(), "split": None, "adjust": False}
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
    whole = reconstructor(frames, window=6, adjust=False)
    parts = reconstructor(frames, window=4, adjust=False)
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


def test_cameras_stand_still_and_the_first_is_the_world():
    reconstructor = Reconstructor(tiny_model())
    frames = torch.rand(3, 4, 3, 32, 32)
    found = reconstructor(frames, shared_intrinsics=True)
    assert torch.allclose(found.extrinsics[0], torch.eye(4)[:3], atol=1e-6)
    assert torch.allclose(found.intrinsics, found.intrinsics[:1].expand(3, -1, -1))
    # Another video with the same first column has the same cameras.
    other = frames.clone()
    other[:, 1:] = torch.rand(3, 3, 3, 32, 32)
    first, again = (reconstructor(f, adjust=False).extrinsics for f in (frames, other))
    assert torch.equal(first, again)


def test_given_cameras_are_used_and_set_the_unit(scene):
    moved = torch.tensor([[0.0, 0, 1, 5], [0, 1, 0, 2], [-1, 0, 0, 1], [0, 0, 0, 1]])
    extrinsics = torch.cat([scene.extrinsics[..., :3], 10 * scene.extrinsics[..., 3:]], -1) @ moved
    cameras = extrinsics, scene.intrinsics
    plain = {"filters": Filters.none(), "adjust": False}
    found = ExactGeometry(scene)(scene.frames, cameras=cameras, **plain)
    assert torch.allclose(found.extrinsics[:, :, :3], scene.extrinsics[:, :, :3], atol=1e-5)
    assert torch.allclose(found.extrinsics[:, :, 3], 10 * scene.extrinsics[:, :, 3], atol=1e-4)
    assert torch.allclose(found.depth, 10 * scene.depth, rtol=1e-3)
    assert torch.allclose(found.intrinsics, scene.intrinsics, rtol=1e-5)


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


def test_progress_is_told_and_can_cancel():
    calls = []
    reconstructor = Reconstructor(tiny_model())
    frames = torch.rand(2, 4, 3, 32, 32)
    reconstructor(frames, progress=lambda done, total: calls.append((done, total)))
    assert calls == [(done, 8) for done in range(1, 9)]  # each time predicted, then adjusted
    calls.clear()
    reconstructor(frames[:1], progress=lambda done, total: calls.append((done, total)))
    assert calls == [(1, 4), (2, 4), (3, 4), (4, 4)]

    def cancel_at(wanted):
        def cancel(done, total):
            if done == wanted:
                raise KeyboardInterrupt

        return cancel

    for wanted in (2, 6):
        with pytest.raises(KeyboardInterrupt):
            reconstructor(frames, progress=cancel_at(wanted))


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
    with pytest.raises(ValueError, match="window is 0, but must be at least 1"):
        reconstructor(good, window=0)
    with pytest.raises(TypeError, match="unexpected keyword argument 'windows'"):
        reconstructor(good, windows=2)
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


def test_a_window_of_one_time_cannot_share_a_unit_so_times_are_aligned():
    reconstructor = Reconstructor(open_temporal_gates(tiny_model()))
    frames = torch.rand(2, 3, 3, 32, 32)
    scales = reconstructor(frames, window=1).depth_scales
    assert torch.equal(scales, reconstructor(frames, window=1, align=True).depth_scales)
    assert scales[0] == 1 and (scales[1:] != 1).all()


@pytest.mark.slow
def test_as_many_of_anysplats_harmonics_are_kept_as_asked_for():
    weights, inputs, _, config = fixture("anysplat_tiny")
    prefix = {"encoder.": "", "gaussian_param_head": "gaussian_head"}
    for old, new in prefix.items():
        weights = {key.replace(old, new, 1): value for key, value in weights.items()}
    sizes = {"temporal": "none", "gaussian_head": "anysplat", "point_head": False}
    model = VGGT(VGGTConfig.from_json(config, **sizes)).eval()
    model.load_state_dict(weights)
    frames = inputs["images"][0][:, None]
    options = {"filters": Filters.none(), "split": None, "resolution": 70}
    found = {n: Reconstructor(model)(frames, sh_degree=n, **options).scene for n in (0, 2, 4, 9)}
    whole = found[4].dynamic[0].harmonics
    assert whole.shape[1] == 25 and whole[:, 1:].abs().max() > 0
    for degree, count in ((0, 1), (2, 9), (9, 25)):
        assert torch.equal(found[degree].dynamic[0].harmonics, whole[:, :count])


def test_maps_are_cut_joined_and_scaled_by_time():
    maps = tiny_model()(torch.rand(3, 2, 3, 32, 32), 3).map(torch.Tensor.detach)
    again = Maps.cat([maps[:1], maps[1:]])
    assert all(torch.equal(a, b) for a, b in zip(vars(again).values(), vars(maps).values()))
    factors = torch.tensor([1.0, 2.0, 4.0])
    twice = maps.scaled(factors).scaled(torch.tensor(0.5))
    assert torch.equal(twice.scales, factors / 2)
    assert torch.equal(twice.depth[2], 2 * maps.depth[2])
    assert torch.equal(maps.scales, torch.ones(3)) and twice.points is maps.points


@pytest.mark.slow
def test_detail_gives_more_gaussians_where_the_frames_have_the_pixels():
    reconstructor = Reconstructor(tiny_model())
    seen = reconstructor.model.config.img_size
    every = {"filters": Filters.none(), "split": None}

    def count(size, **options):
        frames = torch.rand(2, 1, 3, size, size)
        found = reconstructor(frames, **every, **options)
        assert found.depth.shape == (2, 1, size, size) and found.scene.width == size
        assert torch.allclose(found.intrinsics[:, 0, 2], torch.tensor(size / 2), atol=1e-3)
        return found.scene.num_gaussians

    assert count(seen) == count(seen, detail=4) == 2 * seen**2
    assert count(2 * seen) == count(2 * seen, detail=2) == 2 * (2 * seen) ** 2
    assert count(2 * seen, detail=1) == 2 * seen**2
    assert count(3 * seen, detail=3) == 2 * (3 * seen) ** 2
    assert count(3 * seen) == 2 * (2 * seen) ** 2  # twice by default, of a small network
    fit = reconstructor.fit(torch.rand(1, 3, 4 * seen, 4 * seen))
    assert ReconstructionOptions().detail_of(fit, 128) == 2
    assert ReconstructionOptions().detail_of(fit, 518) == 1
    with pytest.raises(ValueError, match="detail is 0, but must be at least 1"):
        reconstructor(torch.rand(1, 1, 3, seen, seen), detail=0)


@pytest.mark.slow
def test_finer_gaussians_show_more_of_the_input():
    reconstructor = Reconstructor.from_file(weights.folder() / "reconstructor.safetensors")
    scene = make_scene(scene_seed("validation", 3), 8, 1, 128, 128)
    frames = scene.frames[::2]

    def shown(**options):
        found = reconstructor(frames, **options)
        cameras = found.extrinsics, found.intrinsics
        color = render(found.scene.at(0), *cameras, 128, 128).color.movedim(-1, 1).clamp(0, 1)
        sharp = gradient_energy(color[:, None]) / gradient_energy(frames)
        return sharp, psnr(color[:, None], frames)

    (blurred, before), (sharp, after) = shown(detail=1), shown()
    assert sharp > 1.4 * blurred and after > before + 0.8
