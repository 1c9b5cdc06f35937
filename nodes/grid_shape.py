"""How many views the images of a grid have, as far as the graph says.

An IMAGE [V*T, H, W, 3] does not say how it is split, and a wrong number of views that divides the
batch gives frames that look like a grid. The prompt, which ComfyUI gives to nodes that ask for it,
does say it: from `images` back to the node that made the grid, through nodes that keep it whole.
Where the way is not known (a loaded video, another pack's node) nothing can be told.
"""

from comfy_api.latest import io
from torch import Tensor

from fourreal.grid import images_to_frames

HIDDEN = [io.Hidden.unique_id, io.Hidden.prompt]  # that a node with a grid input needs
KEEPING = {  # nodes whose output is the same grid: the input that they pass on
    **{"VAEDecode": "samples", "VAEDecodeTiled": "samples", "LatentUpscale": "samples"},
    **{"KSampler": "latent_image", "KSamplerAdvanced": "latent_image"},
    **{"SamplerCustom": "latent_image", "SamplerCustomAdvanced": "latent_image"},
    **{"ImageScale": "image", "ImageScaleBy": "image", "ImageScaleToTotalPixels": "image"},
    **{"ImageUpscaleWithModel": "image", "ImageInvert": "image", "ImageCrop": "image"},
    **{"TrimVideoLatent": "samples", "FourReal_ViewTimeSampler": "latent"},
}
MAKERS = {  # nodes that make a grid of `num_views` views: their name, the slot that tells it
    "FourReal_GridLatent": ("Grid Latent", 1),
    "FourReal_ExampleScene": ("Example Scene", 4),
    "FourReal_AssembleGrid": ("Assemble Grid", 1),
    "FourReal_WarpGrid": ("Warp Grid", 4),
    "FourReal_GridVACE": ("Grid VACE", None),
    "FourReal_PasteKnown": ("Paste Known", None),
    "FourReal_CarryReferences": ("Carry References", None),
}


def frames_of_grid(images: Tensor, num_views: int, hidden, name: str = "images") -> Tensor:
    """Grid frames [V, T, 3, H, W] of an IMAGE, the input `name` of a node with these hidden values.

    Raises ValueError where the batch cannot be split so, and where the graph says that the images
    have another number of views. A grid of one time may be read as one view, a clip.
    """
    frames = images_to_frames(images, num_views)
    maker, made = made_by(hidden, name)
    clip = num_views == 1 and made == len(images)
    if made is not None and made != num_views and not clip:
        raise ValueError(
            f"num_views is {num_views}, but {name} come from {maker} with {made} views; link that "
            "node's num_views to this one, or set it to the same number."
        )
    return frames


def made_by(hidden, name: str) -> tuple[str, int | None]:
    """The name of the node that made the grid which comes in by an input, and its number of views;
    None where the graph does not say."""
    prompt = getattr(hidden, "prompt", None) or {}
    node = prompt.get(hidden.unique_id) if prompt else None  # none for what a node unfolded into
    source = node and linked(prompt, node, name)
    while source and source["class_type"] in KEEPING:
        source = linked(prompt, source, KEEPING[source["class_type"]])
    if not source or source["class_type"] not in MAKERS:
        return "", None
    return MAKERS[source["class_type"]][0], views_of(prompt, source)


def linked(prompt: dict, node: dict, name: str) -> dict | None:
    """The node that is linked to an input."""
    value = node["inputs"].get(name)
    return prompt.get(value[0]) if isinstance(value, list) else None


def views_of(prompt: dict, maker: dict) -> int | None:
    """The number of views of a node of MAKERS, where it is in the prompt."""
    kind, inputs = maker["class_type"], maker["inputs"]
    if kind == "FourReal_AssembleGrid":
        return sum(name.startswith("views.") for name in inputs)
    if kind == "FourReal_WarpGrid" and (inputs.get("cameras") != "arc" or "camera" in inputs):
        return None  # as many as there are cameras
    return number(prompt, inputs.get("num_views"))


def number(prompt: dict, value: int | list | None) -> int | None:
    """A widget's value, or what is known of a link in its place."""
    if not isinstance(value, list):
        return value
    source = prompt.get(value[0])
    if source and source["class_type"] == "PrimitiveInt":
        return number(prompt, source["inputs"]["value"])
    if source and MAKERS.get(source["class_type"], ("", None))[1] == value[1]:
        return views_of(prompt, source)
    return None
