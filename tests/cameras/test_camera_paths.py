"""Camera paths: where the camera goes, which time each frame shows, and the user's keyframes."""

import json
import logging
import math

import pytest
import torch

from fourreal.cameras import (
    PATH_KINDS,
    Coverage,
    PathOptions,
    camera_centers,
    camera_path,
    interpolate_cameras,
    look_at,
    project,
    schedule,
)
from fourreal.formats.keyframes import load_keyframes

UP = torch.tensor([0.0, -1.0, 0.0])
TARGET = torch.tensor([0.2, 0.1, 3.0])
SPAN = 0.6  # half of the arc, radians


def ring(count=5, span=SPAN, radius=3.0):
    angle = torch.linspace(-span, span, count)
    offset = torch.stack([angle.sin(), torch.zeros(count), -angle.cos()], -1)
    return look_at(TARGET + radius * offset, TARGET, UP)


def intrinsics(count=5):
    return torch.tensor([[40.0, 0, 16], [0, 38, 12], [0, 0, 1]]).expand(count, 3, 3)


def path(kind="orbit", frames=21, views=None, **options):
    views = ring() if views is None else views
    options = PathOptions(kind, frames, **options)
    return camera_path(views, intrinsics(len(views)), 32, 24, 9, options)


def test_coverage_is_the_sphere_around_the_point_that_all_axes_meet():
    coverage = Coverage.of(ring())
    torch.testing.assert_close(coverage.target, TARGET, atol=1e-4, rtol=0)
    margin = math.radians(5)
    low, high = [-SPAN - margin, -margin, 1.5], [SPAN + margin, margin, 4.5]
    torch.testing.assert_close(coverage.low, torch.tensor(low), atol=1e-3, rtol=0)
    torch.testing.assert_close(coverage.high, torch.tensor(high), atol=1e-3, rtol=0)
    centers = TARGET + torch.randn(20, 3)
    torch.testing.assert_close(
        coverage.position(coverage.locate(centers)), centers, atol=1e-5, rtol=0
    )


@pytest.mark.parametrize(
    "views", [ring(1), torch.eye(3, 4).expand(3, 3, 4).contiguous()], ids=["one", "parallel"]
)
def test_axes_that_do_not_meet_are_given_a_distance(views):
    coverage = Coverage.of(views, distance=2.0)
    middle = views[len(views) // 2]
    expected = camera_centers(middle) + 2.0 * middle[2, :3]
    torch.testing.assert_close(coverage.target, expected, atol=1e-5, rtol=0)


def test_the_curve_through_the_cameras_has_no_corners():
    """The velocity before and after each camera agrees, in place and in orientation."""
    views = ring()
    views[2] = look_at(TARGET + torch.tensor([0.3, -0.8, -2.5]), TARGET + 0.2, UP)
    step = 1e-2
    for k in (1, 2, 3):
        near = interpolate_cameras(views.double(), torch.tensor([k - step, k, k + step]).double())
        before, after = near[1] - near[0], near[2] - near[1]
        assert (after - before).abs().max() < 0.05 * before.abs().max() + 1e-4
        torch.testing.assert_close(near[1], views[k].double(), atol=1e-6, rtol=0)


@pytest.mark.parametrize("kind", PATH_KINDS)
def test_every_path_is_of_cameras_and_stays_covered(kind, caplog):
    result = path(kind)
    rotation = result.extrinsics[:, :, :3]
    torch.testing.assert_close(
        rotation @ rotation.mT, torch.eye(3).expand(21, 3, 3), atol=1e-5, rtol=0
    )
    assert (torch.linalg.det(rotation) > 0.99).all()
    assert Coverage.of(ring()).excess(result.extrinsics).abs().max() < 1e-5
    assert not caplog.records
    assert result.extrinsics.shape[0] == len(result.times) == len(result.intrinsics) == 21


def test_replay_shows_the_inputs_as_they_are():
    result = path("replay", frames=10)
    assert [int((ring() == e).all((1, 2)).nonzero()) for e in result.extrinsics] == [
        *(0, 0, 1, 1, 2, 2, 3, 3, 4, 4)
    ]


def test_a_spiral_turns_around_the_middle_looking_at_the_target():
    result = path("spiral", frames=49)
    pixels, depth = project(TARGET[None], result.extrinsics, result.intrinsics)
    torch.testing.assert_close(pixels[:, 0], torch.tensor([[16.0, 12.0]]).expand(49, 2))
    torch.testing.assert_close(depth, torch.full((49, 1), 3.0), atol=1e-4, rtol=1e-4)
    places = Coverage.of(ring()).locate(camera_centers(result.extrinsics))[:, :2]
    wide, tall = places.abs().amax(0).tolist()
    assert wide > 0.85 * SPAN and tall > math.radians(4)
    turned = torch.atan2(places[1:, 1] / tall, places[1:, 0] / wide)
    steps = (turned.diff() + math.pi) % (2 * math.pi) - math.pi
    assert float(steps.sum()) / (2 * math.pi) == pytest.approx(2, abs=0.1)


def test_push_in_comes_nearer_and_a_dolly_zoom_recedes_keeping_the_target_size():
    near, zoom = path("push_in"), path("dolly_zoom")
    _, depth = project(TARGET[None], near.extrinsics, near.intrinsics)
    assert depth[0, 0] == pytest.approx(3.0, abs=1e-4)
    assert depth[-1, 0] == pytest.approx(1.8, abs=1e-4)
    assert (depth[:, 0].diff() < 0).all()
    assert torch.equal(near.intrinsics, intrinsics(21))
    _, depth = project(TARGET[None], zoom.extrinsics, zoom.intrinsics)
    assert depth[-1, 0] == pytest.approx(4.2, abs=1e-4)
    size = zoom.intrinsics[:, 0, 0] / depth[:, 0]
    torch.testing.assert_close(size, torch.full((21,), 40 / 3), atol=1e-3, rtol=0)
    assert torch.equal(zoom.intrinsics[:, :2, 2], intrinsics(21)[:, :2, 2])


def test_time_plays_freezes_ramps_and_goes_to_and_fro():
    assert schedule("play", 5, 9).tolist() == [0, 2, 4, 6, 8]
    assert schedule("freeze", 4, 9, 3).tolist() == [3] * 4
    assert schedule("ping_pong", 9, 5).tolist() == [0, 1, 2, 3, 4, 3, 2, 1, 0]
    ramp = schedule("ramp", 101, 41, 20)
    speed = ramp.diff()
    assert (ramp[0], ramp[50], ramp[-1]) == (0, 20, 40) and (speed >= 0).all()
    assert speed[40:60].sum() <= 1 < speed[:10].sum()
    assert schedule("ramp", 3, 9, 2).tolist() == [0, 2, 8]
    assert path("orbit", time="ping_pong", frames=3).times.tolist() == [0, 8, 0]
    with pytest.raises(ValueError, match="freeze_at is 99, but the scene has times 0 to 8"):
        path("freeze_time", frames=2, freeze_at=99)
    with pytest.raises(ValueError, match="play, freeze, ramp, ping_pong"):
        path(time="backwards")


def outside(tmp_path):
    """A camera 60 degrees to the side of the arc and twice as far as it should be."""
    far = math.radians(60) + SPAN
    position = TARGET + 6 * torch.tensor([math.sin(far), 0.0, -math.cos(far)])
    file = tmp_path / "keys.json"
    keys = [{"view": 2}, {"position": position.tolist(), "target": TARGET.tolist()}]
    file.write_text(json.dumps(keys))
    return load_keyframes(file, ring(), 9), position


def test_cameras_outside_are_brought_back_to_the_border(tmp_path, caplog):
    keys, position = outside(tmp_path)
    with caplog.at_level(logging.WARNING):
        bounded = path(frames=11, keyframes=keys)
    coverage = Coverage.of(ring())
    assert coverage.excess(bounded.extrinsics).abs().max() < 1e-4
    pixels, depth = project(TARGET[None], bounded.extrinsics[-1:], intrinsics(1))
    torch.testing.assert_close(pixels[0, 0], torch.tensor([16.0, 12.0]), atol=1e-3, rtol=0)
    assert depth[0, 0] == pytest.approx(4.5, abs=1e-3)
    torch.testing.assert_close(bounded.extrinsics[0], ring()[2], atol=1e-5, rtol=0)
    assert "brought back" in caplog.text and "by up to 55 degrees" in caplog.text
    caplog.clear()
    free = path(frames=11, keyframes=keys, beyond=True)
    torch.testing.assert_close(camera_centers(free.extrinsics[-1]), position, atol=1e-4, rtol=0)
    assert "no input saw" in caplog.text


def test_keyframes_set_place_lens_and_time(tmp_path):
    position = camera_centers(ring()[3]).tolist()
    keys = [
        {"view": 1, "time": 0},
        {"position": position, "target": TARGET.tolist(), "fov": 60, "time": 4.4},
        {"view": 4, "time": 2, "fov": 30},
    ]
    (tmp_path / "keys.json").write_text(json.dumps(keys))
    keyframes = load_keyframes(tmp_path / "keys.json", ring(), 9)
    result = path(frames=5, keyframes=keyframes, time="play")
    assert result.times[[0, 2, 4]].tolist() == [0, 4, 2]
    torch.testing.assert_close(result.extrinsics[[0, 2, 4]], ring()[[1, 3, 4]], atol=1e-4, rtol=0)
    focal = [38.0, 12 / math.tan(math.radians(30)), 12 / math.tan(math.radians(15))]
    assert result.intrinsics[[0, 2, 4], 1, 1].tolist() == pytest.approx(focal, rel=1e-4)
    assert result.intrinsics[2, 0, 0] == pytest.approx(focal[1] * 40 / 38, rel=1e-4)


BAD = {
    "not JSON": "{",
    "an empty object, but a list": "{}",
    "at least two keyframes, but has 1": '[{"view": 0}]',
    "'keys', but a list": '"keys"',
    "5 as .1..view, but a number from 0 to 4": '[{"view": 0}, {"view": 5}]',
    "True as .1..view": '[{"view": 0}, {"view": true}]',
    "has .1..place, but": '[{"view": 0}, {"place": 1}]',
    "has 7 as .0., but an object": "[7, 8]",
    "no position in .1.": '[{"view": 0}, {"target": [0, 0, 1]}]',
    ".1, 2. as .1..target": '[{"view": 0}, {"position": [0, 0, 1], "target": [1, 2]}]',
    "both a view": '[{"view": 0}, {"view": 1, "target": [0, 0, 0]}]',
    "cannot be a camera": '[{"view": 0}, {"position": [0, 0, 1], "target": [0, 0, 1]}]',
    "along up": '[{"view": 0}, {"position": [0, 0, 1], "target": [0, 5, 1]}]',
    "180 as .1..fov": '[{"view": 0}, {"view": 1, "fov": 180}]',
    "9 as .1..time": '[{"view": 0, "time": 0}, {"view": 1, "time": 9}]',
    "it has NaN": '[{"view": 0, "time": 0}, {"view": 1, "time": NaN}]',
    "1 of 2 keyframes": '[{"view": 0, "time": 0}, {"view": 1}]',
}


@pytest.mark.parametrize("message", BAD)
def test_bad_keyframes_are_refused_in_one_sentence(tmp_path, message):
    (tmp_path / "keys.json").write_text(BAD[message])
    with pytest.raises(ValueError, match=message) as error:
        load_keyframes(tmp_path / "keys.json", ring(), 9)
    assert "keys.json" in str(error.value) and "\n" not in str(error.value)


def test_missing_keyframes_are_named(tmp_path):
    with pytest.raises(ValueError, match=r"none\.json does not exist"):
        load_keyframes(tmp_path / "none.json", ring(), 9)
