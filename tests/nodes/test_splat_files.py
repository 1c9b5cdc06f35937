"""A splat file of another program, through core's loader into this pack, without a SCENE."""

import json

import pytest

from fourreal.formats import save_ply

from ..comfyui import needs_comfyui, prompt_of
from ..formats.test_other_programs import splat_transform  # noqa: F401 (a fixture)
from ..tiny import cloud, pixels

pytestmark = needs_comfyui


@pytest.mark.parametrize("suffix", ["ply", "spz"])
def test_another_programs_file_is_rendered_along_a_path_saved_and_shown(
    server,
    info,
    tmp_path,
    splat_transform,  # noqa: F811
    suffix,
):
    given = cloud(60, degree=0)
    given.means[:, 2] += 6
    save_ply(given, tmp_path / "ours.ply")
    folder = server.base / "input" / "3d"
    folder.mkdir(exist_ok=True)
    options = ["--spz-version", "3"] if suffix == "spz" else []
    splat_transform(tmp_path / "ours.ply", folder / f"theirs.{suffix}", *options)

    file = {"model_file": f"3d/theirs.{suffix}", "viewport_state": {}, "width": 64, "height": 64}
    path = {"scene": ["2", 0], "kind": "orbit", "frames": 6, "freeze_at": 0, "time": "auto"}
    view = {"scene": ["2", 0], "camera_path": ["3", 0], "width": 64, "height": 48}
    video = {"filename_prefix": "splat", "format": "auto", "codec": "auto"}
    outputs = server.run(
        prompt_of(
            {
                "1": ("Load3DAdvanced", file),
                "2": ("File3DToSplat", {"model_3d": ["1", 0]}),
                "3": ("FourReal_CameraPath", path),
                "4": ("FourReal_RenderSplats", view | {"background": "#000000", "fps": 0.0}),
                "5": ("SaveVideo", {"video": ["4", 3]} | video),
                "6": ("FourReal_Preview4D", {"scene": ["2", 0]}),
                "7": ("SaveImage", {"images": ["6", 2], "filename_prefix": "seen"}),
            }
        )
    )
    assert saved(server, outputs["5"]["images"]).stat().st_size > 0
    (kept,) = outputs["6"]["fourreal_scene"]
    about = json.loads((server.base / "output" / kept["folder"] / "scene.json").read_text())
    assert (about["static"], about["dynamic"]) == (len(given), [0])
    seen = pixels(saved(server, outputs["7"]["images"]).read_bytes())
    assert seen.shape == (about["height"], about["width"], 3) and seen.std() > 0.02


def saved(server, entries: list):
    """The first file of a node's entry in the history."""
    folder = server.base / entries[0]["type"] / entries[0]["subfolder"]
    return folder / entries[0]["filename"]
