"""Clips on disk: the layouts that are known, their captions, what cannot be used."""

import json
import sys

import pytest
import torch

from fourreal.data.clips import find_clips, read_window
from fourreal.files.media import write_image, write_video

from .clip_files import grey_video, multiview, write_bad_clips


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
    clips, problems = find_clips("multiview", tmp_path / root, 4, 5, "something")
    assert clips == [] and len(problems) == 1  # one file is bad, not two clips
    assert "uid_info_dict.json is not JSON" in problems[0]


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
    with pytest.raises(ValueError, match=r"a\.mp4 .* it ends before frame 9"):
        read_window(path, 9, 1)


def test_windows_of_a_folder_of_frames_are_as_long_as_asked(tmp_path):
    for number in range(4):
        write_image(tmp_path / f"{number}.png", torch.full((3, 4, 4), 0.2 * number))
    levels = read_window(tmp_path, 1, 3).mean((1, 2, 3))
    assert torch.allclose(levels, torch.tensor([0.2, 0.4, 0.6]), atol=0.003)
    with pytest.raises(ValueError, match="ends at frame 4; 5 are needed"):
        read_window(tmp_path, 2, 3)


def test_bad_clips_are_reported_with_the_names_of_the_files(tmp_path):
    expected = write_bad_clips(tmp_path)
    clips, problems = find_clips("multiview", tmp_path, 3, 5)
    assert [c.caption for c in clips] == ["good"]
    assert len(problems) == len(expected)
    for text in expected:
        assert any(text in problem for problem in problems), (text, problems)


def test_a_metadata_line_without_path_or_caption_is_named(tmp_path):
    grey_video(tmp_path / "a.mp4")
    (tmp_path / "metadata.jsonl").write_text('{"path": "a.mp4"}\n{"caption": "x"}\nno json\n')
    clips, problems = find_clips("video", tmp_path, 1, 5)
    assert clips == []
    assert "metadata.jsonl has no path in line 2" in problems[0]
    assert "metadata.jsonl is not JSON" in problems[1] and "in line 3" in problems[1]
    assert problems[2].endswith("a.mp4 has no caption")


def test_views_of_other_rates_are_no_clip(tmp_path):
    for name, rate in (("a", 24), ("b", 25), ("c", 60)):
        write_video(tmp_path / "one" / f"{name}.mp4", torch.rand(6, 3, 16, 16), rate)
    write_video(tmp_path / "two" / "a.mp4", torch.rand(6, 3, 16, 16), 30)
    write_video(tmp_path / "two" / "b.mp4", torch.rand(6, 3, 16, 16), 29.97)
    clips, problems = find_clips("multiview", tmp_path, 2, 5, "x")
    assert [clip.path.name for clip in clips] == ["two"]
    assert len(problems) == 1
    assert "one/b.mp4 has 25 frames per second, but a.mp4 has 24" in problems[0]


def test_hidden_files_and_folders_are_never_inputs(tmp_path):
    multiview(tmp_path / "a")
    for name in ("._cam0.mp4", ".cam9.mp4"):
        (tmp_path / "a" / name).write_bytes(b"\0\5\26\7")
    for folder in (".Trash", "__MACOSX"):
        multiview(tmp_path / folder)
    for kind, count in (("multiview", 1), ("video", 3)):
        clips, problems = find_clips(kind, tmp_path, 3, 5, "x")
        assert len(clips) == count and problems == []
    for time in (0, 1):
        write_image(tmp_path / "n" / "mv_images" / f"{time}" / "cam0.jpg", torch.zeros(3, 8, 8))
    (tmp_path / "n" / "mv_images" / ".DS_Store").write_bytes(b"")
    (tmp_path / "n" / "mv_images" / ".AppleDouble").mkdir()
    clips, problems = find_clips("multiview", tmp_path / "n", 1, 2, "x")
    assert [c.num_frames for c in clips] == [2] and problems == []


def test_a_photo_of_a_kind_that_is_not_read_is_a_problem_by_name(tmp_path):
    for i in range(3):
        write_image(tmp_path / "a" / f"{i}.png", torch.zeros(3, 8, 8))
    (tmp_path / "a" / "4.psd").write_bytes(b"8BPS")
    clips, problems = find_clips("static", tmp_path, 2, 1, "x")
    assert clips == [] and "4.psd is a picture of a kind that is not read" in problems[0]


def test_captions_are_utf_8_with_or_without_a_mark_and_others_are_named(tmp_path):
    grey_video(tmp_path / "a.mp4")
    line = '{"path": "a.mp4", "caption": "caf\u00e9\u2028 b"}'.encode()
    for content in (line, b"\xef\xbb\xbf" + line, line + b"\r\n\r\n" + line + b"\r\n"):
        (tmp_path / "metadata.jsonl").write_bytes(content)
        clips, problems = find_clips("video", tmp_path, 1, 5)
        assert problems == [] and {c.caption for c in clips} == {"caf\u00e9\u2028 b"}
    (tmp_path / "metadata.jsonl").write_bytes("caf\u00e9".encode("latin-1"))
    assert "metadata.jsonl is not UTF-8" in find_clips("video", tmp_path, 1, 5)[1][0]
    (tmp_path / "metadata.jsonl").unlink()
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfred ball\r\n")
    assert find_clips("video", tmp_path, 1, 5)[0][0].caption == "red ball"
    for content, words in (
        ("caf\u00e9".encode("latin-1"), "a.txt is not UTF-8"),
        ("caf\u00e9".encode("utf-16"), "a.txt is UTF-16"),
        (b" \n", "a.txt is empty"),
    ):
        (tmp_path / "a.txt").write_bytes(content)
        clips, (problem,) = find_clips("video", tmp_path, 1, 5, "a default")
        assert clips == [] and words in problem


@pytest.mark.parametrize(
    "line, words",
    [
        ('{"path": "a.mp4", "caption": Infinity}', "it has Infinity"),
        ('{"path": "a.mp4", "caption": ["x"]}', "as line 1.caption, but a string"),
        ('{"path": 5, "caption": "x"}', "has 5 as line 1.path"),
        ('{"path": "a.mp4", "caption": "x", "views": 5}', "has 5 as line 1.views, but a list"),
        ('{"path": "a.mp4", "caption": "x", "views": [5]}', "has 5 as line 1.views[0]"),
        ('{"path": "' + "y" * 300 + '", "caption": "x"}', "cannot be read"),
        ('{"path": "a\\u0000", "caption": "x"}', "line 1.path"),
        ("[]", "but an object is needed"),
        ("", "metadata.jsonl lists no clips"),
        ('{"path": "a\\nb.mp4", "caption": "x"}', "without control characters"),
        ("[" * 100_000, "nested too deeply"),
    ],
)
def test_a_wrong_value_in_metadata_is_a_problem_with_file_and_line(tmp_path, line, words):
    grey_video(tmp_path / "a.mp4")
    (tmp_path / "metadata.jsonl").write_text(line)
    clips, (problem,) = find_clips("video", tmp_path, 1, 5)
    assert clips == [] and words in problem and "\n" not in problem


@pytest.mark.parametrize(
    "content, words",
    [
        ("{}", "has no frame0"),
        ('{"frame0": []}', "but an object"),
        ('{"frame0": {"cam0": 5}}', "frame0.cam0, but a matrix"),
        ('{"frame0": {"cam0": "1 2"}}', "frame0.cam0, but a matrix of 16"),
        ('{"frame0": {"cam0": "' + "nan " * 16 + '"}}', "16 finite"),
        ('{"frame0": {"cam0": "' + "x " * 16 + '"}}', "but a matrix of 16"),
    ],
)
def test_wrong_cameras_of_syncamvideo_are_a_problem_with_the_file(tmp_path, content, words):
    multiview(tmp_path / "bad" / "videos")
    (tmp_path / "bad" / "cameras").mkdir()
    (tmp_path / "bad" / "cameras" / "camera_extrinsics.json").write_text(content)
    multiview(tmp_path / "good")
    clips, problems = find_clips("multiview", tmp_path, 3, 5, "x")
    assert [c.path.name for c in clips] == ["good"]
    assert len(problems) == 1 and words in problems[0] and "camera_extrinsics.json" in problems[0]
    clips, problems = find_clips("multiview", tmp_path / "bad", 3, 5, "x")
    assert clips == [] and words in problems[0]


@pytest.mark.parametrize(
    "content, words",
    [
        ({"a1b2": {"anim": {"00": {"text_prompt": ["x"]}}}}, "a1b2.anim.'00'.text_prompt, but a"),
        ({"a1b2": {"anim": [1]}}, "as a1b2.anim, but an object"),
        ([], "but an object"),
    ],
)
def test_wrong_captions_of_mv_video_are_a_problem_with_the_file(tmp_path, content, words):
    multiview(tmp_path / "videos" / "a1b2" / "00")
    (tmp_path / "uid_info_dict.json").write_text(json.dumps(content))
    clips, (problem,) = find_clips("multiview", tmp_path / "videos", 3, 5, "x")
    assert clips == [] and words in problem and "uid_info_dict.json" in problem


def test_hidden_files_are_no_clips(tmp_path):
    """macOS leaves a ._NAME beside NAME on other file systems; its content is no video."""
    junk = b"\0\5\x16\7\0\2\0\0Mac OS X        "
    multiview(tmp_path / "clips")
    for path in [*(tmp_path / "clips").iterdir()]:
        path.with_name(f"._{path.name}").write_bytes(junk)
    (tmp_path / ".Trashes").mkdir()
    (tmp_path / ".Trashes" / "old.mp4").write_bytes(junk)
    (tmp_path / "._clips").write_bytes(junk)
    clips, problems = find_clips("multiview", tmp_path, 3, 5, "x")
    assert problems == [] and [len(c.views) for c in clips] == [3]
    clips, problems = find_clips("video", tmp_path, 1, 5, "x")
    assert problems == [] and len(clips) == 3
    times = tmp_path / "dynamic" / "mv_images"
    for time in range(5):
        for view in range(3):
            (times / f"{time}").mkdir(parents=True, exist_ok=True)
            write_image(times / f"{time}" / f"cam{view}.png", torch.rand(3, 8, 8))
    (times / "0" / "._cam0.png").write_bytes(junk)
    (times / ".DS_Store").write_bytes(junk)
    clips, problems = find_clips("multiview", tmp_path / "dynamic", 3, 5, "x")
    assert problems == [] and [len(c.views) for c in clips] == [3]


@pytest.mark.skipif(sys.platform == "win32", reason="links need a permission there")
def test_links_that_lead_back_to_their_own_folder_have_an_end(tmp_path):
    multiview(tmp_path / "a" / "clip")
    for number in range(3):
        (tmp_path / "a" / f"up{number}").symlink_to("..")
        (tmp_path / "a" / f"to_b{number}").symlink_to("../b")
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "to_a").symlink_to("../a")
    clips, problems = find_clips("multiview", tmp_path, 2, 5, "x")
    assert {clip.path.resolve() for clip in clips} == {(tmp_path / "a" / "clip").resolve()}
    assert all(problem.endswith("holds no videos") for problem in problems)
