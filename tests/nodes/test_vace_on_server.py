"""Grids with holes from ComfyUI's own loaders and sampler, on a real server.

The files have the names and the layouts of the downloads, and few weights.
"""

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
