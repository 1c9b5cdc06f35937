"""The workflow files: sound in themselves, and executed by a real ComfyUI server on the CPU.

The server runs where COMFYUI_PATH is set to a checkout. Sizes and steps are lowered, the graphs are
as they are.
"""

import json
import urllib.request
from pathlib import Path

import pytest
from PIL import Image

from ..comfyui import (
    BLUEPRINT,
    FRAMES,
    NOTES,
    PATH_FRAMES,
    ROOT,
    WORKFLOWS,
    needs_comfyui,
    prompt_of,
    smaller,
    to_api,
)


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_a_workflow_links_existing_slots_and_has_a_note_and_a_thumbnail(path):
    workflow = json.loads(path.read_text(encoding="utf-8"))
    source = "".join(p.read_text(encoding="utf-8") for p in (ROOT / "nodes").glob("*.py"))
    nodes = {node["id"]: node for node in workflow["nodes"]}
    assert len(nodes) == len(workflow["nodes"]) <= workflow["last_node_id"]
    for node in nodes.values():
        ours = node["type"].startswith("FourReal_")
        assert not ours or f'node_id="{node["type"]}"' in source, node["type"]
    assert any(node["type"] in NOTES for node in nodes.values())
    seen = set()
    for link, start, output, end, slot, kind in workflow["links"]:
        assert link not in seen
        seen.add(link)
        assert link in nodes[start]["outputs"][output]["links"]
        assert nodes[end]["inputs"][slot]["link"] == link
        assert nodes[start]["outputs"][output]["type"] == kind
        assert kind in nodes[end]["inputs"][slot]["type"].split(",")
    used = {i["link"] for node in nodes.values() for i in node["inputs"] if i["link"]}
    assert used == seen
    with Image.open(path.with_suffix(".jpg")) as picture:
        assert max(picture.size) <= 512


def test_models_that_a_workflow_names_can_be_downloaded_into_their_folder():
    found = 0
    for path in WORKFLOWS:
        for node in json.loads(path.read_text(encoding="utf-8"))["nodes"]:
            for model in node["properties"].get("models", []):
                found += 1
                assert model["name"] in node["widgets_values"]
                assert model["url"].startswith("https://huggingface.co/")
                assert model["url"].endswith(".safetensors")
                assert model["directory"] in (
                    "diffusion_models",
                    "text_encoders",
                    "vae",
                    "geometry_estimation",
                )
    assert found == 12


# ----- on a real server -----


@needs_comfyui
def test_the_server_loads_the_pack_without_a_warning_and_serves_its_files(server, info):
    """Workflows, help pages, translations and blueprints."""
    start, *_ = server.log.read_text().split("got prompt")  # what others refused comes after
    lines = [li for li in start.splitlines() if str(server.pack) in li]
    assert len(lines) == 1 and "seconds: " in lines[0] and "FAILED" not in lines[0], lines
    ours = {name for name in info if name.startswith("FourReal_")}
    assert set(server.ask("/workflow_templates")["4real"]) == {p.stem for p in WORKFLOWS}
    assert ours <= server.ask("/i18n")["en"]["nodeDefs"].keys()
    blueprints = server.ask("/global_subgraphs").values()
    assert BLUEPRINT.stem in {b["name"] for b in blueprints if "4real" in b["info"]["node_pack"]}
    for name in ours:
        page = urllib.request.urlopen(f"{server.url}/extensions/4real/docs/{name}.md").read()
        assert info[name]["display_name"] in page.decode()


@needs_comfyui
@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_a_workflow_runs_to_all_its_outputs(path, server, info):
    from fourreal.files.media import read_video

    prompt = smaller(to_api(json.loads(path.read_text(encoding="utf-8")), info))
    outputs = server.run(prompt)
    ends = {i for i, node in prompt.items() if info[node["class_type"]]["output_node"]}
    assert ends and ends <= outputs.keys()
    videos = [i for i, node in prompt.items() if node["class_type"] == "SaveVideo"]
    assert videos
    for i in videos:
        (saved,) = outputs[i]["images"]
        frames, _ = read_video(server.base / "output" / saved["subfolder"] / saved["filename"])
        assert len(frames) in (FRAMES, PATH_FRAMES, 3 * PATH_FRAMES)


@needs_comfyui
def test_the_blueprint_runs_as_its_editor_would_expand_it(server, info):
    workflow = json.loads(BLUEPRINT.read_text(encoding="utf-8"))
    (outer,), (inner,) = workflow["nodes"], workflow["definitions"]["subgraphs"]
    assert outer["type"] == inner["id"]
    for side in ("inputs", "outputs"):
        assert [s["name"] for s in outer[side]] == [s["name"] for s in inner[side]]
    links = {link["id"]: list(link.values()) for link in inner["links"]}
    for node in inner["nodes"]:
        for given in node["inputs"]:
            if given["link"] and links[given["link"]][1] == -10:
                given["link"] = None  # the node's own value is the default
    prompt = smaller(to_api({"nodes": inner["nodes"], "links": links.values()}, info))
    for slot, name in enumerate(s["name"] for s in inner["outputs"]):
        (origin,) = (k[1:3] for k in links.values() if k[3] == -20 and k[4] == slot)
        prompt[name] = {
            "class_type": "PreviewAny",
            "inputs": {"source": [str(origin[0]), origin[1]]},
        }
    assert server.run(prompt).keys() >= {"images", "SCENE", "video"}


GRID = {"num_views": 3, "num_frames": 5, "width": 64, "height": 64}
SAMPLED = {  # a grid with both references from the stock sampler
    "models": ("FourReal_LoadEmbeddedModels", {}),
    "scene": ("FourReal_ExampleScene", {"seed": 0, **GRID}),
    "text": (
        "FourReal_TextEncode",
        {"clip": ["models", 1], "prompt": ["scene", 1], "negative": ""},
    ),
    "row": ("FourReal_PickView", {"images": ["scene", 0], "num_views": 3, "view": 0}),
    "column": ("FourReal_PickTime", {"images": ["scene", 0], "num_views": 3, "time": 0}),
    "grid": (
        "FourReal_GridLatent",
        {"vae": ["models", 2], "fixed_view": ["row", 0], "freeze_time": ["column", 0], **GRID},
    ),
    "patch": (
        "FourReal_ApplyViewTimeAttention",
        {"model": ["models", 0], "latent": ["grid", 0], "view_strength": 1.0},
    ),
    "sample": (
        "KSampler",
        {
            "model": ["patch", 0],
            "positive": ["text", 0],
            "negative": ["text", 1],
            "latent_image": ["grid", 0],
            "seed": 0,
            "steps": 2,
            "cfg": 1.0,
            "sampler_name": "euler",
            "scheduler": "simple",
            "denoise": 1.0,
        },
    ),
}
COMPARED = {  # its first view beside the reference as it was coded, in one picture
    "decode": ("VAEDecode", {"samples": ["sample", 0], "vae": ["models", 2]}),
    "coded": ("VAEEncode", {"pixels": ["row", 0], "vae": ["models", 2]}),
    "again": ("VAEDecode", {"samples": ["coded", 0], "vae": ["models", 2]}),
    "first": ("FourReal_PickView", {"images": ["decode", 0], "num_views": 3, "view": 0}),
    "pair": (
        "FourReal_AssembleGrid",
        {"views.view0": ["again", 0], "views.view1": ["first", 0]},
    ),
    "sheet": (
        "FourReal_ContactSheet",
        {"images": ["pair", 0], "num_views": ["pair", 1], "max_times": 5},
    ),
    "saved": ("SaveImage", {"images": ["sheet", 0], "filename_prefix": "pair"}),
}


@needs_comfyui
def test_a_known_view_comes_back_from_the_stock_sampler_as_it_was_coded(server, info):
    from fourreal.files.media import read_image

    server.run(prompt_of(SAMPLED | COMPARED))
    pair = read_image(next((server.base / "output").glob("pair*.png")))
    assert (pair[:, :64] - pair[:, 66:]).abs().max() < 0.02


KEPT = {
    "models": ("FourReal_LoadEmbeddedModels", {}),
    "scene": ("FourReal_ExampleScene", {"seed": 0, **GRID}),
    "splats": (  # as an old workflow has it, without the later options
        "FourReal_Reconstruct",
        {
            "reconstructor": ["models", 3],
            "images": ["scene", 0],
            "num_views": 3,
            "fps": 8.0,
            "cameras": "first",
            "shared_intrinsics": True,
            "resolution": 0,
            "confidence_percentile": 10.0,
            "min_opacity": 0.0,
            "voxel_size": 1.0,
            "store_static_once": True,
            "extrinsics": ["scene", 2],
            "intrinsics": ["scene", 3],
        },
    ),
    "keep": (
        "FourReal_SaveScene",
        {"scene": ["splats", 0], "filename_prefix": "4real/scene", "format": "safetensors"},
    ),
    "frames": (
        "FourReal_SaveScene",
        {"scene": ["keep", 0], "filename_prefix": "4real/frames", "format": "ply"},
    ),
}


@needs_comfyui
def test_a_scene_is_saved_loaded_and_rendered(server, info):
    from fourreal.files.media import read_image
    from fourreal.formats import load_ply_sequence, load_scene

    output = server.base / "output"
    reported = server.run(prompt_of(KEPT))
    stored = sorted(output.glob("4real/scene_*_.safetensors"))[-1]
    kept = load_scene(stored)
    assert kept.num_frames == 5 and kept.num_views == 3
    told = [Path(file["subfolder"]) / file["filename"] for file in reported["frames"]["3d"]]
    assert [path.name for path in told] == [f"frame_000{i}.ply" for i in range(1, 6)]
    sequence = load_ply_sequence(output / told[0].parent)
    assert [len(g) for g in sequence] == [len(kept.at(t)) for t in range(5)]

    path = {"kind": "fixed_view", "frames": 2, "freeze_at": 0, "time": "auto"}
    size = {"width": 0, "height": 0, "background": "#ffffff", "fps": 0.0}
    loaded = {
        "load": ("FourReal_LoadScene", {"scene_file": f"4real/{stored.name} [output]"}),
        "path": ("FourReal_CameraPath", {"scene": ["load", 0], **path}),
        "render": (
            "FourReal_RenderSplats",
            {"scene": ["load", 0], "camera_path": ["path", 0], **size},
        ),
        "seen": ("SaveImage", {"images": ["render", 0], "filename_prefix": "loaded"}),
    }
    server.run(prompt_of(loaded))
    assert read_image(next(output.glob("loaded*.png"))).shape == (3, 64, 64)


@needs_comfyui
def test_wrong_values_are_refused_on_their_node_before_anything_runs(server, info):
    prompt = prompt_of(
        {
            "1": ("FourReal_GridLatent", GRID | {"num_frames": 28}),
            "2": ("PreviewAny", {"source": ["1", 0]}),
        }
    )
    with pytest.raises(AssertionError, match=r"num_frames is 28.*use 25 or 29"):
        server.run(prompt)


DEPTH = {
    **{"num_views": 1, "depth_image": "near is white", "depth_range": 10.0},
    **{"fov": 50.0, "fps": 8.0},
}
ARC = {
    **{"cameras": "arc", "num_views": 2, "degrees": 0.0, "elevation": 0.0, "distance": 1.0},
    **{"given": 0, "width": 0, "height": 0, "num_frames": 0, "repaint_all": False},
}
SOURCES = {
    "models": ("FourReal_LoadEmbeddedModels", {}),
    "scene": ("FourReal_ExampleScene", {"seed": 0, **GRID}),
    "row": ("FourReal_PickView", {"images": ["scene", 0], "num_views": 3, "view": 0}),
    "small": ("EmptyImage", {"width": 32, "height": 32, "batch_size": 5, "color": 0}),
    "plain": ("EmptyLatentImage", {"width": 64, "height": 64, "batch_size": 3}),
    "vae": ("VAELoader", {"vae_name": "wan2.2_vae.safetensors"}),
    "foreign": ("FourReal_GridLatent", {"vae": ["vae", 0], "fixed_view": ["row", 0], **GRID}),
    "hole": ("SolidMask", {"value": 1.0, "width": 32, "height": 32}),
    "surfaces": ("FourReal_SceneFromDepth", {"images": ["row", 0], "depth": ["row", 0], **DEPTH}),
}
WRONG = {
    "plain latent": (
        "FourReal_ApplyViewTimeAttention",
        {"model": ["models", 0], "latent": ["plain", 0], "view_strength": 1.0},
        "is not a grid of views and times",
    ),
    "latent of the other family": (
        "FourReal_ApplyViewTimeAttention",
        {"model": ["models", 0], "latent": ["foreign", 0], "view_strength": 1.0},
        "references have 48 latent channels, but this MODEL has 16",
    ),
    "views that do not divide": (
        "FourReal_PickView",
        {"images": ["scene", 0], "num_views": 4, "view": 0},
        "15 images cannot be split into 4 views",
    ),
    "mixed sizes": (
        "FourReal_AssembleGrid",
        {"views.view0": ["row", 0], "views.view1": ["small", 0]},
        "5 frames of 32 x 32, 5 frames of 64 x 64",
    ),
    "no arc": (
        "FourReal_WarpGrid",
        {"scene": ["surfaces", 0], **ARC},
        "the arc is 0.0 degrees, but must be more than 0 and less than 360",
    ),
    "depth of other images": (
        "FourReal_SceneFromDepth",
        {"images": ["row", 0], "depth": ["small", 0], **DEPTH},
        "the depth is of 5 images of 32 x 32 pixels, but there are 5 images of 64 x 64",
    ),
    "a mask of another size": (
        "FourReal_PasteKnown",
        {
            **{"images": ["scene", 0], "num_views": 3, "warped": ["scene", 0]},
            **{"missing": ["hole", 0], "feather": 15, "match_colors": True},
        },
        "the masks are 1 of 32 x 32 pixels, but all must be of one grid",
    ),
    "missing VAE": (
        "FourReal_GridLatent",
        {"fixed_view": ["row", 0], **GRID},
        "references need a VAE",
    ),
    "missing reference": (
        "FourReal_GridLatent",
        {"vae": ["models", 2], "freeze_time": ["row", 0], **GRID},
        "freeze_time has 5 images of 64 x 64 pixels, but this grid needs 3 views",
    ),
}


@needs_comfyui
@pytest.mark.parametrize("name", WRONG)
def test_wrong_wiring_gives_one_sentence_on_the_right_node(server, info, name):
    kind, inputs, words = WRONG[name]
    ends = {"wrong": (kind, inputs), "end": ("PreviewAny", {"source": ["wrong", 0]})}
    prompt = prompt_of(SOURCES | ends)
    status = server.finish(prompt)["status"]
    (error,) = (about for what, about in status["messages"] if what == "execution_error")
    message = error["exception_message"].strip()
    assert error["node_id"] == "wrong" and words in message
    assert message.endswith(".") and "\n" not in message
