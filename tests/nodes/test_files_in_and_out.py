"""Files of others in, files of ours out, on a real server: a film as it was taken, and what the API
tells of everything that is written."""

import urllib.request
from urllib.parse import urlencode

import pytest
import torch

from ..comfyui import needs_comfyui, one_conditioning, prompt_of

VIDEO = torch.rand(9, 720, 1280, 3, generator=torch.Generator().manual_seed(0))
GRID = {"num_views": 2, "num_frames": 5, "width": 64, "height": 32}
SAMPLER = {
    **{"seed": 0, "steps": 2, "cfg": 1.0, "sampler_name": "euler", "scheduler": "simple"},
    "view_strength": 1.0,
}


@one_conditioning
@torch.inference_mode()
def test_a_film_of_another_size_and_length_goes_through_to_a_rendering(nodes, embedded):
    """1280 x 720 pixels and more frames than the grid has; without fitting it is refused."""
    positive, negative = embedded.text()
    given = embedded.vae, VIDEO
    latent, *shape = nodes.GridLatent.execute(*GRID.values(), *given).args
    assert shape == [2, 5, 64, 32]
    sampled = nodes.ViewTimeSampler.execute(
        embedded.model, positive, negative, latent, *SAMPLER.values()
    ).args[0]
    images = embedded.vae.decode(sampled["samples"]).flatten(0, 1)
    assert images.shape == (10, 32, 64, 3)
    scene = nodes.Reconstruct.execute(embedded.reconstructor, images, 2, 30.0).args[0]
    path = nodes.CameraPathNode.execute(scene, "orbit", 3, 0).args[0]
    seen, *_, video = nodes.RenderSplats.execute(scene, path, 0, 0, "#000000").args
    assert seen.shape == (3, 32, 64, 3) and float(video.get_components().frame_rate) == 30
    with pytest.raises(ValueError, match="9 images of 1280 x 720 pixels, but this grid needs 5"):
        nodes.GridLatent.execute(*GRID.values(), *given, fit_references=False)


# ----- on a real server -----

FILM = {
    "load": ("LoadVideo", {"file": "film.mp4"}),
    "film": ("GetVideoComponents", {"video": ["load", 0]}),
    "models": ("FourReal_LoadEmbeddedModels", {}),
    "text": ("FourReal_TextEncode", {"clip": ["models", 1], "prompt": "a ball", "negative": ""}),
    "grid": ("FourReal_GridLatent", {"vae": ["models", 2], "fixed_view": ["film", 0], **GRID}),
    "sample": (
        "FourReal_ViewTimeSampler",
        {
            **{"model": ["models", 0], "positive": ["text", 0], "negative": ["text", 1]},
            **{"latent": ["grid", 0], **SAMPLER},
        },
    ),
    "decode": ("VAEDecode", {"samples": ["sample", 0], "vae": ["models", 2]}),
    "rebuilt": (
        "FourReal_Reconstruct",
        {
            **{"reconstructor": ["models", 3], "images": ["decode", 0], "num_views": ["grid", 1]},
            **{"fps": ["film", 2], "cameras": "first", "shared_intrinsics": False, "resolution": 0},
            **{"confidence_percentile": 0.0, "min_opacity": 0.02, "voxel_size": 0.0},
            "store_static_once": True,
        },
    ),
    "path": (
        "FourReal_CameraPath",
        {"scene": ["rebuilt", 0], "kind": "orbit", "frames": 3, "freeze_at": 0, "time": "auto"},
    ),
    "render": (
        "FourReal_RenderSplats",
        {
            **{"scene": ["rebuilt", 0], "camera_path": ["path", 0], "background": "#000000"},
            **{"width": 33, "height": 21, "fps": 0.0},
        },
    ),
    "saved": (
        "SaveVideo",
        {"video": ["render", 3], "filename_prefix": "film", "format": "auto", "codec": "auto"},
    ),
}


@needs_comfyui
def test_a_film_becomes_a_video_of_odd_size_at_its_own_rate(server, info):
    from fourreal.files.media import read_video, write_video

    write_video(server.base / "input" / "film.mp4", VIDEO.movedim(-1, 1), 30.0)
    (saved,) = server.run(prompt_of(FILM))["saved"]["images"]
    frames, fps = read_video(server.base / "output" / saved["subfolder"] / saved["filename"])
    assert tuple(frames.shape) == (3, 3, 22, 34) and fps == 30


@needs_comfyui
def test_the_api_tells_every_file_that_is_written(server, info):
    """Of all formats and of the page; nothing else lies in the output folder afterwards."""
    scene = {
        "example": ("FourReal_ExampleScene", {"seed": 0, **GRID}),
        "scene": (
            "FourReal_SceneFromDepth",
            {
                **{"images": ["example", 0], "num_views": ["example", 4], "depth": ["example", 0]},
                **{"depth_image": "near is white", "depth_range": 10.0, "fov": 50.0, "fps": 8.0},
                **{"extrinsics": ["example", 2], "intrinsics": ["example", 3]},
            },
        ),
    }
    for needed in ("fourdgs", "pxr.Usd"):
        pytest.importorskip(needed, reason=f"{needed} is not installed (extra `test`)")
    formats = info["FourReal_SaveScene"]["input"]["required"]["format"][1]["options"]
    savers = {
        kind: (
            "FourReal_SaveScene",
            {"scene": ["scene", 0], "filename_prefix": f"told/{kind}", "format": kind},
        )
        for kind in formats
    }
    told = server.run(prompt_of(scene | savers))
    output = server.base / "output"
    files = [file for kind in savers for file in told[kind]["3d"]]
    named = [output / file["subfolder"] / file["filename"] for file in files]
    written = [path for path in (output / "told").rglob("*") if path.is_file()]
    assert sorted(named) == sorted(written) and len(named) > len(savers)
    for file, path in zip(files, named):
        with urllib.request.urlopen(f"{server.url}/view?{urlencode(file)}") as answer:
            assert answer.read() == path.read_bytes()
