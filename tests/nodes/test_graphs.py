"""Bundled workflows executed node by node on the stand-in, and the stand-in beside the real thing.

Where COMFYUI_PATH is set, test_workflows.py executes all of them on a real server instead.
"""

import importlib
import inspect
import json
from types import SimpleNamespace

import pytest
import torch

from fourreal.files.media import read_video
from fourreal.reconstruction.options import ReconstructionOptions

from .. import comfy_stand_in
from ..comfy_stand_in import text_and_pixels
from ..comfyui import (
    COMFYUI,
    FRAMES,
    PATH_FRAMES,
    SIZE,
    WORKFLOWS,
    needs_comfyui,
    one_conditioning,
    smaller,
    to_api,
)

# Without downloads.
GRAPHS = (
    "Text to 4D",
    "Video to 4D",
    "Video to 4D with small VACE",
    "Photos to 4D",
    "Bullet time",
    "Synchronised videos to 4D",
)

ADJUSTED = "Synchronised videos to 4D"
SLOW = (ADJUSTED, "Video to 4D with small VACE")

# In place of *auto*, which stands for uni_pc with models of no noted training.
STAND_IN_SAMPLER = {"steps": 2, "sampler_name": "euler", "scheduler": "simple"}


@pytest.mark.skipif(bool(COMFYUI), reason="a real ComfyUI executes the workflows")
@one_conditioning
@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.slow) if n in SLOW else n for n in GRAPHS]
)
@torch.inference_mode()
def test_a_workflow_runs_to_all_its_outputs_on_the_stand_in(nodes, weights, monkeypatch, name):
    if name != ADJUSTED:  # for the sake of time
        monkeypatch.setattr(ReconstructionOptions, "adjusts", lambda *_: False)
    (path,) = (p for p in WORKFLOWS if p.stem == name)
    info = comfy_stand_in.object_info(nodes.NODES)
    prompt = smaller(to_api(json.loads(path.read_text(encoding="utf-8")), info))
    for node in prompt.values():
        if node["class_type"] == "FourReal_ViewTimeSampler":
            node["inputs"] |= STAND_IN_SAMPLER
    outputs = comfy_stand_in.execute(prompt, nodes.NODES)
    assert outputs.keys() == prompt.keys()

    def results(kind: str) -> list:
        return [outputs[key][0] for key in prompt if prompt[key]["class_type"] == kind]

    videos = [read_video(video)[0] for video in results("SaveVideo")]
    assert videos
    assert all(len(v) in (FRAMES, PATH_FRAMES, 3 * PATH_FRAMES) for v in videos)
    (scene,) = results("FourReal_Preview4D")
    assert (scene.num_frames, scene.width, scene.height) == (FRAMES, SIZE, SIZE)


def differences(ours, real, path: str) -> list[str]:
    """Where the stand-in has a name or a parameter that the real thing does not have."""
    if isinstance(ours, SimpleNamespace) or inspect.ismodule(ours):
        members = vars(ours)
    elif isinstance(ours, comfy_stand_in.Folders):  # for a module
        members = vars(ours) | vars(type(ours))
        members.pop("__init__")
    elif inspect.isclass(ours):
        members = {}
        for base in reversed(ours.__mro__):
            if base.__module__.startswith(comfy_stand_in.__name__) and hasattr(base, "__dict__"):
                members |= vars(base)
    else:
        members = {}
    found = []
    if members:
        for name, member in members.items():
            # ComfyUI fills `hidden` when it runs a node; transformers sets `config_class`.
            if (name.startswith("_") and name != "__init__") or name in ("hidden", "config_class"):
                continue
            if not hasattr(real, name):
                found.append(f"{path}.{name}")
            elif name == "__init__" and hasattr(ours, "_accepts"):
                taken = inspect.signature(real.__init__).parameters.keys()
                found += [f"{path}({p})" for p in ours._accepts if p not in taken]
            else:
                found += differences(member, getattr(real, name), f"{path}.{name}")
    elif inspect.isfunction(ours):
        taken = inspect.signature(real).parameters.values()
        if not any(p.kind == p.VAR_KEYWORD for p in taken):
            names = {p.name for p in taken} | {"self", "cls"}
            named = inspect.signature(ours).parameters.values()
            found += [
                f"{path}({p.name})"
                for p in named
                if p.name not in names and p.kind == p.POSITIONAL_OR_KEYWORD
            ]
    return found


@needs_comfyui
def test_the_stand_in_has_no_name_and_no_parameter_that_the_real_thing_lacks(pack, tmp_path):
    found = []
    for name, module in comfy_stand_in.stand_ins(tmp_path).items():
        found += differences(module, importlib.import_module(name), name)
    text_network = importlib.import_module("comfy.text_encoders.t5").T5
    found += differences(text_and_pixels.text_network(), text_network, "T5")
    assert not found
