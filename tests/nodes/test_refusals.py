"""Wrong input is refused by the node that gets it, in one sentence that says what to do."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from ..comfyui import one_conditioning

IMAGES = torch.rand(5, 32, 32, 3, generator=torch.Generator().manual_seed(0))
IMAGE_VAE = SimpleNamespace(latent_dim=2)
_PARTS = {"latent_format": SimpleNamespace(latent_channels=16), "diffusion_model": None}
STABLE_DIFFUSION = SimpleNamespace(
    get_model_object=_PARTS.get, get_attachment=lambda _: None, model=type("SD15", (), {})()
)
_CONTROLLED = _PARTS | {"diffusion_model": SimpleNamespace(in_dim=36)}
IMAGE_TO_VIDEO = SimpleNamespace(get_model_object=_CONTROLLED.get)


class Graph:
    """The nodes with the embedded models connected, and a grid LATENT of 2 views of 5 frames."""

    def __init__(self, embedded):
        self.embedded, self.nodes = embedded, embedded.nodes
        self.latent = self.grid(2, 5, 32, 32, embedded.vae, fixed_view=IMAGES).args[0]
        self.foreign = {**self.latent, "samples": torch.ones(2, 48, 2, 4, 4)}

    def grid(self, *given, **references):
        return self.nodes.GridLatent.execute(*given, **references)

    def patch(self, latent: dict, model: Any = None):
        model = model or self.embedded.model
        return self.nodes.ApplyViewTimeAttention.execute(model, latent, 1.0)

    def sample(self, latent: dict, model: Any = None):
        return self.nodes.ViewTimeSampler.execute(
            model or self.embedded.model, [], [], latent, 0, 1, 1.0, "euler", "simple", 1.0
        )

    def reconstruct(self, num_views: int, **options):
        return self.nodes.Reconstruct.execute(
            self.embedded.reconstructor, IMAGES, num_views, 8.0, **options
        )

    def assemble(self, *videos):
        return self.nodes.AssembleGrid.execute({f"view{i}": v for i, v in enumerate(videos)})


@pytest.fixture
def graph(embedded) -> Graph:
    return Graph(embedded)


WRONG = {
    "an empty prompt": (
        lambda g: g.nodes.TextEncode.execute(g.embedded.clip, "  ", ""),
        "prompt is empty",
    ),
    "no CLIP": (lambda g: g.nodes.TextEncode.execute(None, "a ball", ""), "CLIP input is empty"),
    "frames that are not 4k + 1": (lambda g: g.grid(2, 28, 32, 32), "use 25 or 29"),
    "a height of half blocks": (lambda g: g.grid(2, 5, 32, 100), "height is 100"),
    "a fixed view that is too short": (
        lambda g: g.grid(2, 9, 32, 32, g.embedded.vae, fixed_view=IMAGES),
        "fixed_view has 5 images of 32 x 32 pixels, but this grid needs 9 frames",
    ),
    "a freeze time of other views": (
        lambda g: g.grid(2, 5, 32, 32, g.embedded.vae, freeze_time=IMAGES),
        "needs 2 views",
    ),
    "references that contradict each other": (
        lambda g: g.grid(2, 5, 32, 32, g.embedded.vae, fixed_view=IMAGES, freeze_time=IMAGES[1:3]),
        "are one cell of the grid",
    ),
    "a reference without a VAE": (
        lambda g: g.grid(2, 5, 32, 32, fixed_view=IMAGES),
        "connect the VAE",
    ),
    "a VAE for images": (lambda g: g.grid(2, 5, 32, 32, IMAGE_VAE), "VAE is for images"),
    "a LATENT of an image": (lambda g: g.patch({"samples": torch.zeros(1, 4, 8, 8)}), "not a grid"),
    "a LATENT that lost a view": (
        lambda g: g.patch({**g.latent, "samples": g.latent["samples"][:1]}),
        "made with 2 x 2",
    ),
    "another kind of MODEL": (lambda g: g.patch(g.latent, STABLE_DIFFUSION), "this MODEL is SD15"),
    "another kind of MODEL in the sampler": (
        lambda g: g.sample(g.latent, STABLE_DIFFUSION),
        "this MODEL is SD15",
    ),
    "an image-to-video MODEL": (
        lambda g: g.patch(g.latent, IMAGE_TO_VIDEO),
        "takes 36 channels, 16 of them latents",
    ),
    "references of another VAE": (lambda g: g.patch(g.foreign), "references have 48 latent"),
    "references of another VAE in the sampler": (
        lambda g: g.sample({**g.foreign, "noise_mask": None}),
        "references have 48 latent",
    ),
    "images that are no grid": (
        lambda g: g.nodes.PickView.execute(IMAGES, 2, 0),
        "5 images cannot be split into 2 views",
    ),
    "a view that is not there": (lambda g: g.nodes.PickView.execute(IMAGES, 5, 5), "views 0 to 4"),
    "a time that is not there": (lambda g: g.nodes.PickTime.execute(IMAGES, 5, 1), "times 0 to 0"),
    "images that are no grid to reconstruct": (lambda g: g.reconstruct(2), "cannot be split"),
    "half a camera": (
        lambda g: g.reconstruct(5, extrinsics=torch.eye(4)[None]),
        "connect both",
    ),
    "views of two sizes": (
        lambda g: g.assemble(IMAGES, IMAGES[:, :16]),
        "5 frames of 32 x 16, 5 frames of 32 x 32",
    ),
    "views of two lengths": (lambda g: g.assemble(IMAGES, IMAGES[:3]), "3 frames of 32 x 32"),
}


@torch.inference_mode()
@one_conditioning
@pytest.mark.parametrize("name", WRONG)
def test_a_node_refuses_wrong_input_in_one_sentence(graph, name):
    call, words = WRONG[name]
    with pytest.raises(ValueError, match=words) as caught:
        call(graph)
    assert str(caught.value).endswith(".") and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("node", "value", "words"),
    [
        ("GridLatent", 28, "use 25 or 29"),
        ("TextEncode", " ", "prompt is empty"),
        ("RenderSplats", "blue", "'blue'"),
    ],
)
def test_a_wrong_value_is_refused_before_anything_runs(nodes, node, value, words):
    assert words in getattr(nodes, node).validate_inputs(value)


@pytest.mark.parametrize("value", [29, None], ids=["right", "linked"])
def test_a_right_or_linked_number_of_frames_is_accepted_before_anything_runs(nodes, value):
    assert nodes.GridLatent.validate_inputs(value) is True


@one_conditioning
def test_embedded_models_that_are_missing_are_named(nodes, weights):
    (weights / "reconstructor.safetensors").unlink()
    with pytest.raises(ValueError, match=r"lacks reconstructor\.safetensors; install the pack"):
        nodes.LoadEmbeddedModels.execute()
