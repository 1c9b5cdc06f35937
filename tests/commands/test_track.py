"""`fourreal track` on synchronised videos, with an untrained network that has a track head."""

import json

import numpy as np
import pytest
import torch

from fourreal.cli import main
from fourreal.files.media import read_image, read_synchronised, read_video, write_video
from fourreal.reconstruction import Reconstructor, grid_of_points, save_model

from ..tiny import TRACKER, tiny_model


@pytest.fixture
def job(tmp_path):
    """A folder of two views of three frames of 64 x 48 pixels, and a model file."""
    generator = torch.Generator().manual_seed(0)
    for name in ("a", "b"):
        frames = torch.rand(3, 3, 48, 64, generator=generator)
        write_video(tmp_path / "in" / f"{name}.mp4", frames, 8)
    save_model(tiny_model(**TRACKER), tmp_path / "vggt.safetensors")
    return [str(tmp_path / "in"), "--reconstructor", str(tmp_path / "vggt.safetensors")]


def test_track_writes_what_the_reconstructor_found_and_pictures_of_it(job, tmp_path):
    out = tmp_path / "out"
    assert (
        main(["track", *job, "--rows", "3", "--view", "1", "--time", "2", "--out", str(out)]) == 0
    )
    assert {path.name for path in out.iterdir()} == {"tracks.npz", "tracks.mp4", "tracks.png"}
    frames, _ = read_synchronised([tmp_path / "in" / f"{name}.mp4" for name in ("a", "b")])
    reconstructor = Reconstructor.from_file(tmp_path / "vggt.safetensors")
    expected = reconstructor.track(frames, grid_of_points(3, 48, 64), 1, 2)
    with np.load(out / "tracks.npz") as found:
        assert (found["view"], found["time"]) == (1, 2)
        for name, values in expected._asdict().items():
            np.testing.assert_allclose(found[name], values, rtol=1e-4, atol=1e-4)
    video, rate = read_video(out / "tracks.mp4")
    assert rate == 8 and len(video) == 3
    assert read_image(out / "tracks.png").shape[0] == 3


def test_own_points_are_followed(job, tmp_path):
    (tmp_path / "points.json").write_text(json.dumps([{"x": 1, "y": 2.5}, {"x": 60, "y": 40}]))
    given = ["--points", str(tmp_path / "points.json"), "--out", str(tmp_path / "out")]
    assert main(["track", *job, *given]) == 0
    with np.load(tmp_path / "out" / "tracks.npz") as found:
        assert found["positions"].shape == (2, 3, 2, 2)
        assert found["positions"][0, 0].tolist() == [[1, 2.5], [60, 40]]


@pytest.mark.parametrize(
    "points,words",
    [
        ("[]", "an empty list, but a list of points"),
        ('{"x": 1}', "but a list is needed"),
        ('[{"x": 1}]', "has no y in [0], which is needed"),
        ('[{"x": 1, "y": "two"}]', "'two' as [0].y, but a number is needed"),
        ('[{"x": 1, "y": 50}]', "the point (1, 50) is not inside the frame of 64 x 48 pixels"),
        ("[1", "is not JSON"),
    ],
)
def test_points_that_are_none_are_refused_in_one_sentence(job, tmp_path, capsys, points, words):
    (tmp_path / "points.json").write_text(points)
    given = ["--points", str(tmp_path / "points.json"), "--out", str(tmp_path / "out")]
    assert main(["track", *job, *given]) == 2
    told = [line for line in capsys.readouterr().err.splitlines() if line.startswith("fourreal: ")]
    assert len(told) == 1 and words in told[0]
    assert not (tmp_path / "out").exists()


def test_a_model_without_a_track_head_and_a_view_that_is_not_there_are_refused(
    job, tmp_path, capsys
):
    save_model(tiny_model(), tmp_path / "plain.safetensors")
    plain = ["--reconstructor", str(tmp_path / "plain.safetensors"), "--out", str(tmp_path / "o")]
    assert main(["track", job[0], *plain]) == 2
    assert "has no track head; use VGGT-1B" in capsys.readouterr().err
    assert main(["track", *job, "--view", "2", "--out", str(tmp_path / "out")]) == 2
    assert "view is 2, but the grid has 2 views" in capsys.readouterr().err
