"""View-Time Sampler's widgets at 0 and auto: what suits the MODEL."""

import importlib
import json

import pytest
import torch

from fourreal.files.tensors import read_safetensors

from ..comfyui import ROOT, one_conditioning

WEIGHTS = ROOT / "fourreal" / "weights"


@pytest.fixture
def settings(nodes):
    conventions = importlib.import_module("fourreal_pack.nodes.view_time").wan_conventions

    def of(name: str | None, known: torch.Tensor):
        noted = conventions(16, False)
        if name:
            noted |= json.loads(read_safetensors(WEIGHTS / f"{name}.safetensors")[1]["fourreal"])
        found = nodes.sampler_nodes.settings_of(noted, known)
        return found.steps, found.cfg, found.sampler_name, found.scheduler

    return of


def test_the_embedded_models_and_wan_have_settings_of_their_own(settings):
    nothing, column, both = (torch.zeros(3, 2, dtype=torch.bool) for _ in range(3))
    column[:, 0] = both[:, 0] = both[0] = True
    for known in (nothing, column):
        assert settings("transformer", known) == (20, 3.0, "lcm", "simple")
        assert settings("vace", known) == (8, 1.0, "euler", "simple")
        assert settings(None, known) == (20, 5.0, "uni_pc", "simple")
    assert settings("transformer", both) == (4, 1.0, "lcm", "simple")
    assert settings(None, both) == (20, 1.0, "uni_pc", "simple")


@one_conditioning
def test_the_sampler_takes_what_suits_unless_it_is_told(nodes, embedded, monkeypatch):
    import comfy.sample

    positive, negative = embedded.text()
    latent = nodes.GridLatent.execute(2, 5, 32, 32).args[0]
    seen = []

    def sample(model, noise, steps, cfg, sampler_name, scheduler, *_, **__):
        seen.append((steps, cfg, sampler_name, scheduler))
        return noise

    monkeypatch.setattr(comfy.sample, "sample", sample)
    schema = nodes.ViewTimeSampler.define_schema()
    default = {i.id: i.default for i in schema.inputs if hasattr(i, "default")}
    asked = [default[name] for name in ("steps", "cfg", "sampler_name", "scheduler")]
    assert asked == [0, 0.0, "auto", "auto"]
    for given in (asked, [3, 0.0, "euler", "auto"], [7, 2.0, "lcm", "karras"]):
        nodes.ViewTimeSampler.execute(embedded.model, positive, negative, latent, 0, *given, 1.0)
    # These untrained models note no grid of their own, as Wan's files do not.
    assert seen == [
        (20, 5.0, "uni_pc", "simple"),
        (3, 5.0, "euler", "simple"),
        (7, 2.0, "lcm", "karras"),
    ]
