"""`fourreal generate --arc`: geometry, a warp, a VACE's fill and its reconstruction, untrained."""

import json

import pytest
import torch

from fourreal.cli import main
from fourreal.commands import filling, generate
from fourreal.files.media import read_video, write_image, write_video
from fourreal.formats import load_scene
from fourreal.metrics.pixels import psnr
from fourreal.scenes import make_scene, scene_seed
from fourreal.video import ViewTimePipeline

from .small_job import FILES, SMALL
from .stage_messages import announced_and_done

TRUTH = make_scene(scene_seed("validation", 0), 3, 5, 32, 32)
STAGES = ["load", "geometry", "warp", "video", "reconstruct", "render", "write"]


@pytest.fixture(autouse=True)
def stages_are_those_that_were_announced(caplog):
    yield
    starts = [i for i, said in enumerate(caplog.messages) if said.startswith("load: ")]
    for start, stop in zip(starts, [*starts[1:], None]):
        planned, ended = announced_and_done(caplog.messages[start:stop])
        assert ended == ["load", *planned]


@pytest.fixture
def row(tmp_path):
    write_video(tmp_path / "row.mp4", TRUTH.frames[0], 8)
    return str(tmp_path / "row.mp4")


@pytest.fixture
def photos(tmp_path):
    for view, photo in enumerate(TRUTH.frames[:, 0]):
        write_image(tmp_path / "photos" / f"{view}.png", photo)
    return str(tmp_path / "photos")


@pytest.fixture
def filled(monkeypatch):
    """The grids that were filled, in turn."""
    found, stock = [], filling.fill_grid

    def fill(*given):
        found.append(stock(*given))
        return found[-1]

    monkeypatch.setattr(generate, "fill_grid", fill)
    return found


def run(tmp_path, *arguments):
    """Generate, and give the folder and the report."""
    out = tmp_path / "out"
    assert main(["generate", "a red ball", "--out", str(out), *SMALL, *arguments]) == 0
    return out, json.loads((out / "report.json").read_text())


def test_a_fixed_view_becomes_a_grid_on_an_arc(tmp_path, row, filled):
    out, report = run(tmp_path, "--fixed-view", row, "--arc", "30", "--elevation", "5")
    assert {p.name for p in out.iterdir()} == FILES | {"warped.png"}
    assert list(report["stages"]) == STAGES
    (grid,) = filled
    assert grid.frames.shape == (2, 5, 3, 32, 32)
    assert report["known_share"][0] == 1 > report["known_share"][1] > 0.3
    # What is known is kept, the given view whole.
    given, _ = read_video(row)
    assert torch.equal(grid.frames[0], given)
    known = grid.warped.missing[1, :, 0] == 0
    assert psnr(grid.frames[1], grid.warped.frames[1], known) > 40
    scene = load_scene(out / "scene.safetensors")
    torch.testing.assert_close(scene.extrinsics, grid.cameras[0])
    torch.testing.assert_close(scene.intrinsics, grid.cameras[1])
    assert (report["settings"]["arc"], scene.metadata["prompt"]) == (30, "a red ball")


def test_photos_on_an_arc_are_known_at_the_first_time(tmp_path, photos, filled):
    run(tmp_path, "--freeze-time", photos, "--arc", "-20")  # three photos for two views
    missing = filled[0].warped.missing
    assert missing.shape[:2] == (2, 5)
    assert not missing[0, 0].any() and 0 < missing[1, 0].mean() < 1
    assert missing[:, 1:].all()


@pytest.mark.slow
def test_a_video_and_photos_are_seen_by_the_cameras_of_the_photos(tmp_path, row, photos, filled):
    _, report = run(tmp_path, "--fixed-view", row, "--freeze-time", photos, "--views", "3")
    assert "known_share" not in report  # the embedded model takes references as they are
    vace = ["--model", saved_vace(tmp_path)]
    _, report = run(
        tmp_path, "--fixed-view", row, "--freeze-time", photos, "--views", "3", "--fit", *vace
    )
    missing = filled[0].warped.missing
    assert not missing[0].any() and not missing[:, 0].any()
    assert 0 < missing[1:, 1:].mean() < 1


@pytest.fixture
def asked(monkeypatch):
    """The options of every call of the pipeline."""
    calls, stock = [], ViewTimePipeline.__call__

    def call(self, **options):
        calls.append(options)
        return stock(self, **options)

    monkeypatch.setattr(ViewTimePipeline, "__call__", call)
    return calls


def test_wide_arcs_are_filled_in_rounds_each_from_the_views_before(tmp_path, row, filled, asked):
    arguments = ["--fixed-view", row, "--arc", "80", "--views", "3", "--rounds", "2"]
    _, report = run(tmp_path, *arguments)
    stages = ["load", "geometry", "warp", "video 1", "warp 1", *STAGES[3:]]
    assert list(report["stages"]) == stages
    first, second = asked
    assert (first["num_views"], second["num_views"]) == (2, 3)
    (grid,) = filled
    assert torch.equal(first["mask"], grid.warped.missing[:2])
    assert not second["mask"][:2].any()  # what the first round made is known to the second
    assert torch.equal(second["video"][:2], grid.frames[:2])
    assert not torch.equal(second["mask"][2], grid.warped.missing[2])
    # What is trusted in the reconstruction is what the video showed.
    assert torch.equal(grid.for_reconstruction()["filled"], grid.warped.missing[:, :, 0])


@pytest.mark.parametrize(
    ("views", "rounds", "sizes"),
    [(8, 1, [8]), (8, 3, [3, 6, 8]), (3, 2, [2, 3]), (4, 9, [2, 3, 4]), (2, 2, [2])],
)
def test_rounds_share_the_views(views, rounds, sizes):
    assert filling.round_sizes(views, rounds) == sizes


def test_the_first_column_is_filled_as_a_clip_that_leads_through_the_views(
    tmp_path, row, filled, asked
):
    arguments = ["--fixed-view", row, "--arc", "30", "--views", "3", "--column-clip", "True"]
    _, report = run(tmp_path, *arguments)
    assert list(report["stages"]) == ["load", "geometry", "warp", "column", *STAGES[3:]]
    clip, grid = asked
    warped = filled[0].warped
    assert clip["video"].shape == (1, 9, 3, 32, 32) and clip["num_views"] == 1
    assert torch.equal(clip["video"][0, ::4], warped.frames[:, 0])
    assert torch.equal(clip["mask"][0, ::4], warped.missing[:, 0])
    assert 0 < clip["mask"][0, 2].mean() < 1  # between two views
    assert not grid["mask"][:, 0].any()
    assert torch.equal(grid["mask"][:, 1:], warped.missing[:, 1:])
    # The whole column is what the clip made of it, and still counts as made up.
    assert torch.equal(filled[0].frames[:, 0], grid["video"][:, 0])
    assert warped.missing[1:, 0].any()


def saved_vace(tmp_path):
    from fourreal import weights
    from fourreal.video import load_embedded_pipeline

    pipeline = load_embedded_pipeline(transformer=weights.folder() / "vace.safetensors")
    pipeline.save_pretrained(tmp_path / "vace")
    return str(tmp_path / "vace")


def test_from_text_alone_the_first_view_is_made_first(tmp_path, filled):
    _, report = run(tmp_path, "--arc", "30")
    assert list(report["stages"]) == ["load", "first view", *STAGES[1:]]
    assert report["known_share"][0] == 1
    assert filled[0].frames.shape == (2, 5, 3, 32, 32)


def test_an_arc_without_a_vace_is_refused_in_one_sentence(tmp_path, row, model_files, capsys):
    names = {"transformer": "transformer", "vae": "autoencoder", "text-encoder": "text_encoder"}
    pairs = ((f"--{k}", str(model_files / f"{v}.safetensors")) for k, v in names.items())
    files = [argument for pair in pairs for argument in pair]
    line = ["generate", "a ball", "--out", str(tmp_path / "out"), *SMALL, *files]
    assert main([*line, "--fixed-view", row, "--arc", "30"]) == 2
    assert "--arc needs a VACE" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
