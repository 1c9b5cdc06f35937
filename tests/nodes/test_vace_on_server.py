"""Grids with holes from ComfyUI's own loaders and sampler, on a real server.

The files have the names and the layouts of the downloads, and few weights.
"""

import re
import urllib.request

import pytest

from ..comfyui import needs_comfyui, prompt_of

GRID = {"num_views": 3, "num_frames": 5, "width": 64, "height": 64}
MODEL = "wan2.1_vace_1.3B_fp16.safetensors"
FILLED = {  # an example scene, of which the red channel says what is to be generated
    "scene": ("FourReal_ExampleScene", {"seed": 0, **GRID}),
    "mask": ("ImageToMask", {"image": ["scene", 0], "channel": "red"}),
    "model": ("UNETLoader", {"unet_name": MODEL, "weight_dtype": "default"}),
    "clip": (
        "CLIPLoader",
        {"clip_name": "umt5_xxl_fp8_e4m3fn_scaled.safetensors", "type": "wan", "device": "default"},
    ),
    "vae": ("VAELoader", {"vae_name": "wan_2.1_vae.safetensors"}),
    "text": ("CLIPTextEncode", {"clip": ["clip", 0], "text": "a corgi shakes off water"}),
    "control": (
        "FourReal_GridVACE",
        {
            "positive": ["text", 0],
            "negative": ["text", 0],
            "vae": ["vae", 0],
            "images": ["scene", 0],
            "num_views": 3,
            "mask": ["mask", 0],
            "strength": 1.0,
        },
    ),
    "patch": (
        "FourReal_ApplyViewTimeAttention",
        {"model": ["model", 0], "latent": ["control", 2], "view_strength": 1.0},
    ),
    "sample": (
        "KSampler",
        {
            "model": ["patch", 0],
            "positive": ["control", 0],
            "negative": ["control", 1],
            "latent_image": ["control", 2],
            "seed": 0,
            "steps": 2,
            "cfg": 2.0,
            "sampler_name": "euler",
            "scheduler": "simple",
            "denoise": 1.0,
        },
    ),
    "decode": ("VAEDecode", {"samples": ["sample", 0], "vae": ["vae", 0]}),
    "shown": ("PreviewImage", {"images": ["decode", 0]}),
}


def changed(node: str, **inputs) -> dict:
    kind, given = FILLED[node]
    return FILLED | {node: (kind, given | inputs)}


@needs_comfyui
@pytest.mark.parametrize("weight_dtype", ["default", "fp8_e4m3fn"])
def test_a_grid_with_holes_is_filled_by_stock_nodes(server, info, weight_dtype):
    outputs = server.run(prompt_of(changed("model", weight_dtype=weight_dtype)))
    assert len(outputs["shown"]["images"]) == 15


@needs_comfyui
@pytest.mark.parametrize(
    ("graph", "node", "words"),
    [
        (changed("control", num_views=4), "control", "15 images cannot be split into 4 views"),
        (
            changed("control", mask=["smaller", 0])
            | {"smaller": ("SolidMask", {"value": 1.0, "width": 32, "height": 64})},
            "control",
            "the mask is 1 x 64 x 32, but the 15 images of 64 x 64 pixels need",
        ),
        (changed("vae", vae_name="wan2.2_vae.safetensors"), "control", "this VAE has 48 channels"),
        (
            changed("patch", model=["grids", 0]) | {"grids": ("FourReal_LoadEmbeddedModels", {})},
            "patch",
            "this LATENT shows a video to a VACE model, which this MODEL is not",
        ),
    ],
    ids=["views", "mask", "VAE", "MODEL"],
)
def test_wrong_input_is_refused_by_the_node_that_gets_it(server, info, graph, node, words):
    status = server.finish(prompt_of(graph))["status"]
    assert status["status_str"] == "error"
    (said,) = (content for kind, content in status["messages"] if kind == "execution_error")
    assert said["node_id"] == node and words in said["exception_message"]
    assert said["exception_type"] == "ValueError"


EMBEDDED = FILLED | {  # the same with the embedded VACE, in one node
    "models": ("FourReal_LoadEmbeddedModels", {"video_model": "VACE"}),
    "text": ("CLIPTextEncode", {"clip": ["models", 1], "text": "a red ball"}),
    "control": ("FourReal_GridVACE", FILLED["control"][1] | {"vae": ["models", 2]}),
    "decode": ("VAEDecode", {"samples": ["sample", 0], "vae": ["models", 2]}),
}
for unused in ("model", "clip", "vae", "patch"):
    del EMBEDDED[unused]


def sampled(steps: int, seed: int) -> dict:
    return EMBEDDED | {
        "sample": (
            "FourReal_ViewTimeSampler",
            {
                **{"model": ["models", 0], "positive": ["control", 0], "negative": ["control", 1]},
                **{"latent": ["control", 2], "seed": seed, "steps": steps, "cfg": 1.0},
                **{"sampler_name": "euler", "scheduler": "simple", "view_strength": 1.0},
            },
        )
    }


@needs_comfyui
def test_a_cancelled_run_of_the_embedded_vace_leaves_nothing_and_the_next_one_works(server, info):
    def files() -> set:
        kept = (server.base / name for name in ("output", "temp"))
        return {path for folder in kept for path in folder.rglob("*") if path.is_file()}

    before, begun = files(), server.log.stat().st_size
    many = 1000
    name = server.ask("/prompt", {"prompt": prompt_of(sampled(many, 1))})["prompt_id"]

    def at_work() -> bool:
        with server.log.open(errors="replace") as log:
            log.seek(begun)
            return bool(re.search(rf"\b[1-9]\d*/{many} \[", log.read()))

    server.wait_for(at_work, 300)
    request = urllib.request.Request(f"{server.url}/interrupt", b"{}", method="POST")
    urllib.request.urlopen(request, timeout=60).close()
    told = server.wait_for(lambda: server.ask(f"/history/{name}"), 60)[name]
    assert told["status"]["status_str"] == "error" and not told["outputs"]
    ends = [kind for kind, _ in told["status"]["messages"]]
    assert ends[-1] == "execution_interrupted" and "execution_error" not in ends
    assert not any(server.ask("/queue").values()) and files() == before
    outputs = server.run(prompt_of(sampled(2, 2)))
    assert len(outputs["shown"]["images"]) == 15
