"""What trainers read: clips on disk, pseudo-4D, mixtures, caches."""

import itertools
import json

import pytest
import torch

from fourreal.data.cache import TensorCache, fingerprint
from fourreal.data.clips import find_clips, read_window
from fourreal.data.grids import DataConfig, GridData, Pick, pick_views
from fourreal.data.pseudo4d import CORNERS, homographies, random_quads, warp_views
from fourreal.files.media import write_image, write_video


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def grey_video(path, level=0.5, frames=5, height=16, width=24):
    """A video of one grey that becomes brighter by 0.02 a frame."""
    path.parent.mkdir(parents=True, exist_ok=True)
    levels = level + 0.02 * torch.arange(frames).view(-1, 1, 1, 1)
    write_video(path, levels.expand(-1, 3, height, width), 8)
    return path


def multiview(folder, views=3, **options):
    for v in range(views):
        grey_video(folder / f"cam{v}.mp4", 0.2 + 0.2 * v, **options)


def config(tmp_path, **options):
    options = {"height": 16, "width": 16, "scenes": 0, "cache": tmp_path / "cache"} | options
    return DataConfig(**options)


# Pseudo-4D


def test_a_homography_takes_the_corners_to_the_quad():
    quads = random_quads(8, 16 / 9, generator())
    corners = torch.cat([CORNERS, torch.ones(4, 1)], 1)
    mapped = torch.einsum("vij,kj->vki", homographies(quads).double(), corners.double())
    assert torch.allclose((mapped[..., :2] / mapped[..., 2:]).float(), quads, atol=1e-5)


def test_views_stay_inside_the_frame_and_move_smoothly():
    for seed in range(200):
        quads = random_quads(8, (4 / 3, 16 / 9, 0.6)[seed % 3], generator(seed))
        assert float(quads.abs().max()) <= 1 + 1e-5
        assert float(quads.abs().amax((0, 1)).max()) > 1 - 1e-5  # and use all there is of it
        edges = quads.roll(-1, 1) - quads
        following = edges.roll(-1, 1)
        turns = edges[..., 0] * following[..., 1] - edges[..., 1] * following[..., 0]
        assert bool((turns > 0).all())  # convex, clockwise: never mirrored
        steps = (quads[1:] - quads[:-1]).norm(dim=-1)
        path = (quads[-1] - quads[0]).norm(dim=-1)
        # A parabola's steps change by a constant, so neighbouring steps are alike.
        assert float((steps[1:] - steps[:-1]).abs().max()) < 0.25 * max(float(path.max()), 0.5)


def test_warped_views_show_the_frame_where_the_quad_lies_and_have_no_border():
    # Colour is position, so a warped pixel says where it came from.
    y, x = torch.meshgrid(torch.arange(90) + 0.5, torch.arange(160) + 0.5, indexing="ij")
    frame = torch.stack([x / 160, y / 90, torch.ones_like(x)])
    quads = random_quads(8, 16 / 9, generator(5))
    views = warp_views(frame.expand(2, -1, -1, -1), quads, 45, 45)
    assert views.shape == (8, 2, 3, 45, 45)
    assert float(views[:, :, 2].min()) > 0.95  # blue is 1 everywhere inside; black is 0
    centre = torch.tensor([0.0, 0.0, 1.0])
    for view, matrix in zip(views, homographies(quads)):
        where = matrix @ centre
        expected = (where[:2] / where[2] + 1) / 2
        assert torch.allclose(view[0, :2, 22, 22], expected, atol=0.01)
    assert torch.equal(views[:, 0], views[:, 1])  # the same warp at all times


# Clips on disk


def test_plain_folders_of_clips_take_their_captions_from_metadata(tmp_path):
    multiview(tmp_path / "a")
    multiview(tmp_path / "b")
    lines = [
        {"path": "a", "caption": "first", "views": ["cam2.mp4", "cam0.mp4"]},
        {"path": "b", "caption": "second"},
    ]
    (tmp_path / "metadata.jsonl").write_text("\n".join(map(json.dumps, lines)))
    clips, problems = find_clips("multiview", tmp_path, 2, 5)
    assert problems == []
    assert [c.caption for c in clips] == ["first", "second"]
    assert [v.name for v in clips[0].views] == ["cam2.mp4", "cam0.mp4"]
    assert [v.name for v in clips[1].views] == ["cam0.mp4", "cam1.mp4", "cam2.mp4"]
    assert clips[0].num_frames == 5


def test_syncamvideo_cameras_are_put_in_the_order_of_their_arc(tmp_path):
    scene = tmp_path / "train" / "f24_aperture5" / "scene1"
    azimuths = {"cam01": 100, "cam02": 20, "cam03": 60, "cam04": 140}
    cameras = {}
    for name, azimuth in azimuths.items():
        grey_video(scene / "videos" / f"{name}.mp4")
        angle = torch.deg2rad(torch.tensor(float(azimuth)))
        x, y = 300 * angle.cos(), 300 * angle.sin()
        cameras[name] = f"[1 0 0 0] [0 1 0 0] [0 0 1 0] [{x} {y} 120 1] "
    (scene / "cameras").mkdir()
    (scene / "cameras" / "camera_extrinsics.json").write_text(json.dumps({"frame0": cameras}))
    clips, problems = find_clips("multiview", tmp_path, 4, 5, "animals")
    assert problems == []
    order = [v.stem for v in clips[0].views]
    assert order in (["cam02", "cam03", "cam01", "cam04"], ["cam04", "cam01", "cam03", "cam02"])


@pytest.mark.parametrize("root", ["", "videos"])
def test_mv_video_has_its_captions_in_one_file(tmp_path, root):
    for animation in ("00", "01"):
        for view in (0, 1, 10, 2):
            grey_video(tmp_path / "videos" / "a1b2" / animation / f"view_{view}.mp4")
    listed = {"a1b2": {"url": "", "anim": {"00": {"text_prompt": "a dog runs"}, "01": {}}}}
    (tmp_path / "uid_info_dict.json").write_text(json.dumps(listed))
    clips, problems = find_clips("multiview", tmp_path / root, 4, 5, "something")
    assert problems == []
    assert [c.caption for c in clips] == ["a dog runs", "something"]
    assert [v.stem for v in clips[0].views] == ["view_0", "view_1", "view_2", "view_10"]
    (tmp_path / "uid_info_dict.json").write_text("{")
    with pytest.raises(ValueError, match="is not JSON"):
        find_clips("multiview", tmp_path / root, 4, 5, "something")


def test_kubric_4d_gives_the_ring_of_low_cameras_and_colour_frames_only(tmp_path):
    scene = tmp_path / "scn00000"
    for v in range(16):
        (scene / f"frames_p0_v{v}").mkdir(parents=True)
        for t in range(2):
            image = torch.full((3, 8, 8), v / 16)
            write_image(scene / f"frames_p0_v{v}" / f"rgba_{t:05d}.png", image)
            write_image(scene / f"frames_p0_v{v}" / f"segmentation_{t:05d}.png", 1 - image)
    clips, problems = find_clips("multiview", tmp_path, 8, 1, "things fall")
    assert problems == [] and clips[0].num_frames == 2
    assert [v.name for v in clips[0].views] == [f"frames_p0_v{v}" for v in range(4, 16)]
    frames = read_window(clips[0].views[4], 1, 1)
    assert frames.shape == (1, 3, 8, 8)
    assert float(frames.mean()) == pytest.approx(8 / 16, abs=0.003)


def test_windows_of_a_video_start_where_they_should(tmp_path):
    path = grey_video(tmp_path / "a.mp4", 0.3, frames=9)
    window = read_window(path, 4, 3)
    expected = 0.3 + 0.02 * torch.tensor([4.0, 5.0, 6.0])
    assert torch.allclose(window.mean((1, 2, 3)), expected, atol=0.006)
    with pytest.raises(ValueError, match=r"a\.mp4 ends at frame 9; 10 are needed"):
        read_window(path, 7, 3)


def test_bad_data_is_reported_with_the_names_of_the_files(tmp_path):
    multiview(tmp_path / "good")
    multiview(tmp_path / "short")
    grey_video(tmp_path / "short" / "cam1.mp4", frames=4)
    multiview(tmp_path / "small")
    grey_video(tmp_path / "small" / "cam2.mp4", width=16)
    multiview(tmp_path / "broken")
    (tmp_path / "broken" / "cam0.mp4").write_bytes(b"this is no video")
    multiview(tmp_path / "few", views=1)
    multiview(tmp_path / "silent")
    (tmp_path / "empty").mkdir()
    for name in ("good", "short", "small", "broken", "few", "empty"):
        (tmp_path / f"{name}.txt").write_text(name)
    clips, problems = find_clips("multiview", tmp_path, 3, 5)
    assert [c.caption for c in clips] == ["good"]
    expected = {
        "short/cam1.mp4 has 4 frames of 16 x 24, but cam0.mp4 has 5 of 16 x 24",
        "small/cam2.mp4 has 5 frames of 16 x 16, but cam0.mp4 has 5 of 16 x 24",
        "broken/cam0.mp4 cannot be decoded as video",
        "few has 1 views, but 3 are needed",
        "silent has no caption",
        "empty holds no videos",
    }
    assert len(problems) == len(expected)
    for text in expected:
        assert any(text in problem for problem in problems), (text, problems)

    options = config(tmp_path, multiview=(tmp_path,))
    with pytest.raises(ValueError) as raised:
        GridData(options, 3, 5)
    assert all(text in str(raised.value) for text in expected)
    options.skip_bad = True
    data = GridData(options, 3, 5)
    assert data.size("multiview") == 1
    assert data.report().count("left out") == len(expected)


def test_a_metadata_line_without_path_or_caption_is_named(tmp_path):
    grey_video(tmp_path / "a.mp4")
    (tmp_path / "metadata.jsonl").write_text('{"path": "a.mp4"}\n{"caption": "x"}\nno json\n')
    clips, problems = find_clips("video", tmp_path, 1, 5)
    assert clips == []
    assert "metadata.jsonl line 2" in problems[0] and "metadata.jsonl line 3" in problems[1]
    assert problems[2].endswith("a.mp4 has no caption")


def test_nothing_to_train_on_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="nothing to train on"):
        GridData(config(tmp_path), 2, 5)


# Examples


def test_views_are_evenly_spaced_and_all_spacings_occur():
    picks = {tuple(pick_views(generator(s), 12, 4)) for s in range(300)}
    assert {b - a for a, b, *_ in picks} == {1, 2, 3}
    for views in picks:
        assert len({b - a for a, b in itertools.pairwise(views)}) == 1
        assert views[0] >= 0 and views[-1] < 12
    assert {v[-1] for v in picks} >= {3, 11}


def test_kinds_are_mixed_by_their_shares_and_draws_repeat(tmp_path):
    multiview(tmp_path / "many" / "scene")
    grey_video(tmp_path / "ordinary" / "clip.mp4", height=32, width=32)
    options = config(
        tmp_path,
        multiview=(tmp_path / "many",),
        video=(tmp_path / "ordinary",),
        caption="grey",
        weights=(30.0, 20.0, 10.0, 20.0),
        draws=4,
    )
    data = GridData(options, 2, 5)
    picks = [data.pick(generator(s)) for s in range(800)]
    share = sum(p.kind == "multiview" for p in picks) / len(picks)
    assert share == pytest.approx(30 / 40, abs=0.06)  # 4 standard errors
    assert {p.seed for p in picks} == {0, 1, 2, 3}
    assert data.pick(generator(7)) == data.pick(generator(7))
    for kind in ("multiview", "video"):
        grid = data.draw(Pick(kind, 0, 1), 2, 5)
        assert grid.frames.shape == (2, 5, 3, 16, 16)
        assert torch.equal(grid.frames, data.draw(Pick(kind, 0, 1), 2, 5).frames)
        assert grid.caption == "grey" and not grid.static
    # Synchronised: every view of the warped video has the brightness of its time.
    levels = data.draw(Pick("video", 0, 1), 2, 5).frames.mean((2, 3, 4))
    assert torch.allclose(levels, (0.5 + 0.02 * torch.arange(5)).expand(2, 5), atol=0.01)
    assert data.sheet(2, 5).shape[0] == 3


def test_photos_of_a_static_scene_are_copied_over_time(tmp_path):
    for v in range(3):
        write_image(tmp_path / f"view_{v}.png", torch.full((3, 20, 30), 0.25 * v))
    data = GridData(config(tmp_path, static=(tmp_path,), caption="still"), 3, 5)
    grid = data.draw(Pick("static", 0, 0), 3, 5)
    assert grid.static
    expected = torch.tensor([0.0, 0.25, 0.5]).view(3, 1, 1, 1, 1).expand(3, 5, 3, 16, 16)
    assert torch.allclose(grid.frames, expected, atol=0.003)


def test_the_last_of_several_clips_is_kept_for_validation(tmp_path):
    for name in "abc":
        grey_video(tmp_path / f"{name}.mp4")
    data = GridData(config(tmp_path, video=(tmp_path,), caption="x"), 2, 5)
    assert {data.pick(generator(s)).index for s in range(60)} == {0, 1}
    assert {p.index for p in data.validation(4)} == {2}


def test_tensors_are_computed_once(tmp_path):
    cache, calls = TensorCache(tmp_path), []

    def compute():
        calls.append(1)
        return torch.tensor([0.1])

    first, second = (cache.get("key", compute) for _ in range(2))
    assert len(calls) == 1 and torch.equal(first, second) and first.dtype == torch.float16


def test_a_fingerprint_changes_with_the_weights():
    from fourreal.embedded.autoencoder import BlockAutoencoder

    first, second = BlockAutoencoder(4), BlockAutoencoder(4)
    assert fingerprint(first) == fingerprint(second)
    second.rest_scale[1] = 2
    assert fingerprint(first) != fingerprint(second)
