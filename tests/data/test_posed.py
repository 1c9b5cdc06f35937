"""Posed folders read back as the scenes they were written from, and what an input view saw."""

import json
import re

import pytest
import torch
from PIL import Image

from fourreal.cameras import relative_to_first, unproject
from fourreal.data.posed import MEAN_DEPTH, Sample, draw_sample, find_posed_scenes, visible_from
from fourreal.scenes import make_scene, scene_seed

from ..posed_folders import write_kubric, write_photos

SIZE = 32


@pytest.fixture(scope="module")
def scene():
    return make_scene(scene_seed("test", 0), num_views=6, num_frames=3, height=SIZE, width=SIZE)


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


def test_kubric_images_that_were_resized_have_cameras_of_their_size(scene, tmp_path):
    write_kubric(tmp_path / "scn1", scene, unit=1.0)
    for path in (tmp_path / "scn1").glob("frames_*/rgba_*.png"):
        with Image.open(path) as image:
            image.resize((SIZE // 2, SIZE // 2)).save(path)
    (found,) = find_posed_scenes(tmp_path)
    halved = scene.intrinsics * torch.tensor([[0.5], [0.5], [1.0]])
    assert torch.allclose(found.intrinsics, halved, rtol=1e-5)


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
    refused("transforms.json gives no photos: none of its 1 images")
    (tmp_path / "photos" / "transforms.json").unlink()
    write_kubric(tmp_path / "scn1", scene, 1.0)
    cameras = tmp_path / "scn1" / "scn1_p0_v3.json"
    right = cameras.read_text()
    cameras.unlink()
    refused("scn1_p0_v3.json is missing")
    content = json.loads(right)
    content["camera"]["positions"][2][1] += 1
    for wrong, words in (
        ("[]", "scn1_p0_v3.json has an empty list, but an object"),
        (right.replace("32, 32", "32, 0"), r"has 0 as scene.resolution.1., but a number from 1"),
        (right.replace("32, 32", "32, 64"), "scene.resolution, but the aspect of its images"),
        (json.dumps(content), r"camera.positions.2., but the same as in the first frame"),
        (right.replace('"K"', '"k"'), "has no K in camera"),
        (re.sub(r'"K": .*?\]\]', '"K": [[0, 0, 0], [0, 0, 0], [0, 0, 0]]', right), "focal lengths"),
        (
            re.sub(r'"quaternions": .*?\]\]', '"quaternions": [[0, 0, 0, 0]]', right),
            "but rotations",
        ),
    ):
        cameras.write_text(wrong)
        refused(words)
    cameras.write_text(right)
    (tmp_path / "scn1" / "frames_p0_v2" / "rgba_00001.png").unlink()
    refused("frames_p0_v2 has 2 images and 3 maps")


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


def test_scenes_with_and_without_depth_make_no_batch():
    known, other = (draw_sample([seed], [0, 1], [0], 8, 16) for seed in (5, 6))
    both = Sample.cat([known, other])
    assert torch.equal(both.frames[1:], other.frames) and torch.equal(both.depth[:1], known.depth)
    other.depth = None
    with pytest.raises(ValueError, match="some of these scenes have depth and some do not"):
        Sample.cat([known, other])
    assert Sample.cat([other, other]).depth is None
