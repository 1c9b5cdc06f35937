"""Track Points: its tracks in core's form, its picture, where its head lies, and bad input."""

import json
import sys
from types import SimpleNamespace

import pytest
import torch

from fourreal.grid import images_to_frames
from fourreal.reconstruction import Reconstructor, grid_of_points
from fourreal.reconstruction.track_drawing import draw_tracks

from ..comfyui import COMFYUI, needs_comfyui
from ..tiny import TRACKER, tiny_model

IMAGES = torch.rand(2 * 3, 32, 48, 3, generator=torch.Generator().manual_seed(0))
POINTS = json.dumps([{"x": 5, "y": 7.5}, {"x": 40, "y": 20}])


@pytest.fixture
def reconstructor(nodes):
    from fourreal_pack.nodes.offloading import ComfyReconstructor

    return ComfyReconstructor(Reconstructor(tiny_model(**TRACKER)))


def run(nodes, reconstructor, images=IMAGES, num_views=2, **options):
    given = {"points": POINTS, "rows": 2, "view": 0, "time": 0, "min_visibility": 0.5}
    given |= {"resolution": 0} | options
    return nodes.TrackPoints.execute(reconstructor, images, num_views, **given).args


@torch.inference_mode()
def test_there_is_one_tracks_in_cores_form_for_each_view_and_a_picture(nodes, reconstructor):
    tracks, picture = run(nodes, reconstructor, view=1, time=2, min_visibility=0.45)
    frames = images_to_frames(IMAGES, 2)
    points = torch.tensor([[5, 7.5], [40, 20]])
    expected = Reconstructor(tiny_model(**TRACKER)).track(frames, points, 1, 2)
    assert len(tracks) == 2
    for view, found in enumerate(tracks):
        assert found.keys() == {"track_path", "track_visibility"}
        torch.testing.assert_close(found["track_path"], expected.positions[view])
        assert found["track_visibility"].dtype == torch.bool
        assert torch.equal(found["track_visibility"], expected.visibility[view] >= 0.45)
    assert picture.shape == IMAGES.shape
    drawn = draw_tracks(frames, expected, 1, 2)
    torch.testing.assert_close(images_to_frames(picture, 2), drawn, atol=0.02, rtol=0)
    assert (picture - IMAGES).abs().max() > 0.2


@torch.inference_mode()
def test_without_points_they_are_spread_evenly(nodes, reconstructor):
    tracks, _ = run(nodes, reconstructor, points="  ", rows=2)
    torch.testing.assert_close(tracks[0]["track_path"][0], grid_of_points(2, 32, 48))


@torch.inference_mode()
def test_the_head_is_not_among_what_comfyui_holds_on_the_device(nodes, reconstructor):
    assert not hasattr(reconstructor.patcher.model, "track_head")
    assert reconstructor.reconstructor.track_head is not None
    frames = images_to_frames(IMAGES, 2)
    assert len(reconstructor(frames).extrinsics) == 2  # the other heads work without it


WRONG = {
    "text that is no JSON": ({"points": "5, 7"}, "the input points is not JSON"),
    "points without y": ({"points": '[{"x": 1}]'}, r"has no y in \[0\]"),
    "no points": ({"points": "[]"}, "has an empty list, but a list of points"),
    "a point outside": ({"points": '[{"x": 1, "y": 33}]'}, r"\(1, 33\) is not inside .* 48 x 32"),
    "a view that is not there": ({"view": 2}, "view is 2, but the grid has 2 views"),
    "a time that is not there": ({"time": 3}, "time is 3, but the grid has 3 times"),
    "images that are no grid": ({"num_views": 4}, "6 images cannot be split into 4 views"),
}


@torch.inference_mode()
@pytest.mark.parametrize("name", WRONG)
def test_wrong_input_is_refused_in_one_sentence(nodes, reconstructor, name):
    options, words = WRONG[name]
    with pytest.raises(ValueError, match=words) as caught:
        run(nodes, reconstructor, **options)
    assert str(caught.value).endswith(".") and "\n" not in str(caught.value)


@torch.inference_mode()
def test_a_reconstructor_without_the_head_is_refused_before_it_is_loaded(nodes, monkeypatch):
    from fourreal_pack.nodes.offloading import ComfyReconstructor

    plain = ComfyReconstructor(Reconstructor(tiny_model()))
    monkeypatch.setattr(plain, "load", lambda needed: pytest.fail("it was loaded"))
    with pytest.raises(ValueError, match="has no track head; use VGGT-1B"):
        run(nodes, plain)


@torch.inference_mode()
def test_cancel_stops_it(nodes, reconstructor):
    import comfy.model_management as management

    management.interrupt_current_processing(True)
    with pytest.raises(management.InterruptProcessingException):
        run(nodes, reconstructor)


@needs_comfyui
@torch.inference_mode()
def test_cores_wan_move_nodes_take_the_tracks(nodes, reconstructor):
    sys.path.insert(0, COMFYUI)
    from comfy_extras.nodes_wanmove import WanMoveTrackToVideo, WanMoveVisualizeTracks

    tracks, _ = run(nodes, reconstructor)
    shown = WanMoveVisualizeTracks.execute(IMAGES[:3], 24, 2, 0.75, 2, tracks[0]).args[0]
    assert shown.shape == (3, 32, 48, 3)
    vae = SimpleNamespace(encode=lambda images: torch.rand(1, 16, 2, 4, 6))
    positive, _, latent = WanMoveTrackToVideo.execute(
        [["", {}]], [["", {}]], vae, 48, 32, 5, 1, 1.0, tracks[0], IMAGES[:1]
    ).args
    assert latent["samples"].shape == (1, 16, 2, 4, 6)
    assert positive[0][1]["concat_latent_image"].shape == (1, 16, 2, 4, 6)


@needs_comfyui
def test_a_server_follows_points_and_runs_core_once_per_view(server, info):
    images = {"images": ["scene", 0], "num_views": 3}
    grid = {"num_views": 3, "num_frames": 5, "width": 64, "height": 64}
    options = {"points": "", "rows": 4, "view": 1, "time": 2}
    options |= {"min_visibility": 0.5, "resolution": 0}
    drawing = {"line_resolution": 8, "circle_size": 2, "opacity": 0.75, "line_width": 2}
    nodes = {
        "scene": ("FourReal_ExampleScene", {"seed": 0, **grid}),
        "vggt": (
            "FourReal_LoadReconstructor",
            {"file": "vggt_1b.safetensors", "precision": "auto"},
        ),
        "track": ("FourReal_TrackPoints", {"reconstructor": ["vggt", 0], **images, **options}),
        "row": ("FourReal_PickView", {**images, "view": 0}),
        "move": (
            "WanMoveVisualizeTracks",
            {"images": ["row", 0], "tracks": ["track", 0], **drawing},
        ),
        "core": ("PreviewImage", {"images": ["move", 0]}),
        "own": ("PreviewImage", {"images": ["track", 1]}),
    }
    prompt = {key: {"class_type": kind, "inputs": given} for key, (kind, given) in nodes.items()}
    shown = server.run(prompt)
    assert len(shown["own"]["images"]) == len(shown["core"]["images"]) == 15
