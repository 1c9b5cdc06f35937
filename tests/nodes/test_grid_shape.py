"""A wrong number of views is refused by the node that has it, as the graph says whose is right."""

from types import SimpleNamespace

import pytest
import torch

from ..comfyui import needs_comfyui, one_conditioning, prompt_of

IMAGES = torch.rand(
    20, 32, 32, 3, generator=torch.Generator().manual_seed(0)
)  # 4 views of 5 frames
GRID = {"num_frames": 5, "width": 32, "height": 32}
SAMPLED = {  # a grid of 4 views, sampled, decoded and resized by stock nodes
    "grid": ("FourReal_GridLatent", {"num_views": 4, **GRID}),
    "sample": ("KSampler", {"latent_image": ["grid", 0]}),
    "decode": ("VAEDecode", {"samples": ["sample", 0]}),
    "scale": ("ImageScale", {"image": ["decode", 0]}),
}
READERS = {  # nodes with a grid input: what else they need before they look at it
    "PickView": {"view": 0},
    "PickTime": {"time": 0},
    "ContactSheet": {"max_times": 8},
    "Reconstruct": {"reconstructor": None, "fps": 8.0},
    "SceneFromDepth": {"depth": None, "fps": 8.0},
    "CarryReferences": {"reconstructor": None},
    "GridVACE": {"positive": [], "negative": [], "vae": None, "mask": None, "strength": 1.0},
    "PasteKnown": {
        **{"warped": IMAGES, "missing": IMAGES[..., 0], "feather": 0, "match_colors": False}
    },
    "TrackPoints": {
        **{"reconstructor": None, "points": "", "rows": 2, "view": 0, "time": 0},
        **{"min_visibility": 0.5, "resolution": 0},
    },
}


def in_graph(nodes, name: str, graph: dict, source: str):
    """A node of the pack as ComfyUI runs it at the end of a graph; its images are of `source`."""
    here = {"here": (f"FourReal_{name}", {"images": [source, 0]})}
    hidden = SimpleNamespace(unique_id="here", prompt=prompt_of(graph | here), extra_pnginfo=None)
    return type(name, (getattr(nodes, name),), {"hidden": hidden})


@pytest.mark.parametrize("name", READERS)
def test_every_node_refuses_another_number_than_the_grid_was_made_with(nodes, name):
    assert {n.__name__ for n in nodes.NODES if has_grid_input(n)} == READERS.keys()
    node = in_graph(nodes, name, SAMPLED, "scale")
    told = "num_views is 2, but images come from Grid Latent with 4 views"
    with pytest.raises(ValueError, match=told) as caught:
        node.execute(images=IMAGES, num_views=2, **READERS[name])
    assert str(caught.value).endswith(".") and "\n" not in str(caught.value)


def has_grid_input(node) -> bool:
    names = {i.id for i in node.define_schema().inputs}
    return {"images", "num_views"} <= names


def test_the_right_number_and_a_grid_of_unknown_origin_are_accepted(nodes):
    def picks(graph: dict, source: str, num_views: int) -> int:
        node = in_graph(nodes, "PickView", graph, source)
        return len(node.execute(IMAGES, num_views, 0).args[0])

    assert picks(SAMPLED, "scale", 4) == 5
    loaded = {"video": ("LoadImage", {"image": "x.png"})}
    assert picks(loaded, "video", 2) == 10
    part = SAMPLED | {"part": ("ImageFromBatch", {"image": ["decode", 0]})}  # another grid
    assert picks(part, "part", 2) == 10
    assert len(nodes.PickView.execute(IMAGES, 2, 0).args[0]) == 10  # outside of any graph


def test_a_column_may_be_read_as_one_clip(nodes):
    """As the first time that Grid VACE makes before the rest."""
    column = {"warp": ("FourReal_WarpGrid", {"cameras": "arc", "num_views": 20})}
    assert len(in_graph(nodes, "PickView", column, "warp").execute(IMAGES, 1, 0).args[0]) == 20
    grid = {"warp": ("FourReal_WarpGrid", {"cameras": "arc", "num_views": 10})}
    with pytest.raises(ValueError, match="Warp Grid with 10 views"):
        in_graph(nodes, "PickView", grid, "warp").execute(IMAGES, 1, 0)


VIEWS = {  # graphs whose "made" gives a grid, and its number of views where that can be known
    "a number": ({"made": ("FourReal_ExampleScene", {"num_views": 4})}, 4),
    "a number node": (
        {
            "four": ("PrimitiveInt", {"value": 4}),
            "made": ("FourReal_GridLatent", {"num_views": ["four", 0]}),
        },
        4,
    ),
    "another grid's number": (
        {
            "first": ("FourReal_AssembleGrid", {f"views.view{i}": ["x", 0] for i in range(4)}),
            "made": ("FourReal_GridLatent", {"num_views": ["first", 1]}),
        },
        4,
    ),
    "another slot of a grid": (
        {
            "first": ("FourReal_ExampleScene", {"num_views": 2}),
            "made": ("FourReal_GridLatent", {"num_views": ["first", 5]}),
        },
        None,
    ),
    "given cameras": (
        {"made": ("FourReal_WarpGrid", {"cameras": "arc", "num_views": 8, "camera": ["x", 0]})},
        None,
    ),
    "a node of others": ({"made": ("SomeOtherPack", {"num_views": 8})}, None),
}


@pytest.mark.parametrize("name", VIEWS)
def test_the_number_is_followed_through_the_graph(nodes, name):
    graph, views = VIEWS[name]
    node = in_graph(nodes, "PickView", graph, "made")
    assert nodes.grid_shape.made_by(node.hidden, "images")[1] == views


def test_slots_that_tell_the_number_of_views_are_where_the_graph_is_read(nodes):
    schemas = {node.define_schema().node_id: node.define_schema() for node in nodes.NODES}
    for kind, (name, slot) in nodes.grid_shape.MAKERS.items():
        assert schemas[kind].display_name == name
        if slot is not None:
            assert schemas[kind].outputs[slot].display_name == "num_views"


@one_conditioning
@torch.inference_mode()
@pytest.mark.parametrize("size", [(4, 5), (2, 9), (1, 5)])
def test_a_sampler_refuses_another_latent_than_the_models(nodes, embedded, size):
    """Also where the other number of views is a multiple of the right one."""
    import comfy.sample

    positive, negative = embedded.text()
    latent = nodes.GridLatent.execute(2, 5, 32, 32).args[0]
    model = nodes.ApplyViewTimeAttention.execute(embedded.model, latent, 1.0).args[0]
    other = nodes.GridLatent.execute(*size, 32, 32).args[0]["samples"]
    noise = comfy.sample.prepare_noise(other, 0)
    with pytest.raises(ValueError, match="set up for a grid of 2 views x 2 latent frames"):
        comfy.sample.sample(
            model, noise, 1, 2.0, "euler", "simple", positive, negative, other, seed=0
        )


@one_conditioning
@torch.inference_mode()
def test_a_text_of_another_encoder_is_refused_in_one_sentence(nodes, embedded):
    text = [[torch.zeros(1, 77, 768), {}]]
    latent = nodes.GridLatent.execute(2, 5, 32, 32).args[0]
    asked = latent, 0, 1, 1.0, "euler", "simple", 1.0
    words = "768 numbers per word, but this MODEL reads 128; encode the text with the CLIP"
    with pytest.raises(ValueError, match=words) as caught:
        nodes.ViewTimeSampler.execute(embedded.model, text, text, *asked)
    assert str(caught.value).endswith(".") and "\n" not in str(caught.value)


# ----- on a real server -----

KSAMPLER = {
    **{"seed": 0, "steps": 1, "cfg": 2.0, "sampler_name": "euler", "scheduler": "simple"},
    **{"denoise": 1.0, "positive": ["text", 0], "negative": ["text", 1]},
}
RUN = {
    "models": ("FourReal_LoadEmbeddedModels", {}),
    "text": ("FourReal_TextEncode", {"clip": ["models", 1], "prompt": "a ball", "negative": ""}),
    "grid": ("FourReal_GridLatent", {"num_views": 4, **GRID}),
    "small": ("FourReal_GridLatent", {"num_views": 2, **GRID}),
    "patch": (
        "FourReal_ApplyViewTimeAttention",
        {"model": ["models", 0], "latent": ["grid", 0], "view_strength": 1.0},
    ),
    "sample": ("KSampler", {"model": ["patch", 0], "latent_image": ["grid", 0], **KSAMPLER}),
    "decode": ("VAEDecode", {"samples": ["sample", 0], "vae": ["models", 2]}),
    "other_clip": (
        "CLIPLoader",
        {"clip_name": "umt5_xxl_fp8_e4m3fn_scaled.safetensors", "type": "wan", "device": "default"},
    ),
    "other_text": ("CLIPTextEncode", {"clip": ["other_clip", 0], "text": "a corgi"}),
}
WRONG = {
    "a grid of other views": (
        ("FourReal_PickView", {"images": ["decode", 0], "num_views": 2, "view": 0}),
        "num_views is 2, but images come from Grid Latent with 4 views",
    ),
    "a LATENT of other views": (
        ("KSampler", {"model": ["patch", 0], "latent_image": ["small", 0], **KSAMPLER}),
        "set up for a grid of 4 views x 2 latent frames, but is given one of 2 x 2",
    ),
    "a text of another encoder": (
        (
            "KSampler",
            {"model": ["patch", 0], "latent_image": ["grid", 0], **KSAMPLER}
            | {"positive": ["other_text", 0], "negative": ["other_text", 0]},
        ),
        "this CONDITIONING has 4096 numbers per word, but this MODEL reads 128",
    ),
}


@needs_comfyui
@pytest.mark.parametrize("name", WRONG)
def test_it_is_refused_on_the_right_node_of_a_server(server, info, name):
    node, words = WRONG[name]
    ends = {"wrong": node, "end": ("PreviewAny", {"source": ["wrong", 0]})}
    status = server.finish(prompt_of(RUN | ends))["status"]
    (error,) = (about for what, about in status["messages"] if what == "execution_error")
    assert error["node_id"] == "wrong" and words in error["exception_message"]
    assert error["exception_type"] == "ValueError"
