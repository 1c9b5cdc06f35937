"""A stand-in for the part of ComfyUI that the nodes use, for where there is no checkout of it.

Names and parameters are ComfyUI's (a test compares them with the real ones), but for what begins
with an underscore. Behind them is the plainest code that gives the same numbers on the CPU: no
memory management, two samplers, one scheduler. `install()` puts it into sys.modules; `execute()`
runs a prompt as the server would.
"""

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

from . import models, node_api, sampling, text_and_pixels, wan
from .folders import Folders
from .graphs import KSampler, execute, object_info

__all__ = ["Folders", "execute", "install", "object_info", "stand_ins"]


def members_of(module: ModuleType, *names: str) -> dict:
    return {name: getattr(module, name) for name in names}


def management() -> dict:
    """comfy.model_management: everything is on the CPU."""
    devices = (
        "get_torch_device",
        "unet_offload_device",
        "intermediate_device",
        "vae_device",
        "vae_offload_device",
    )
    return dict.fromkeys(devices, lambda: models.CPU) | members_of(
        models,
        "load_models_gpu",
        "free_memory",
        "should_use_bf16",
        "InterruptProcessingException",
        "interrupt_current_processing",
        "throw_exception_if_processing_interrupted",
    )


def late_text_network(name: str) -> type:
    """T5 when it is asked for: it needs transformers, which takes seconds to import."""
    if name != "T5":
        raise AttributeError(name)
    return text_and_pixels.text_network()


def stand_ins(base: Path) -> dict:
    """The modules by name, with folders under `base`."""
    choices = SimpleNamespace(SAMPLERS=sampling.SAMPLERS, SCHEDULERS=["simple"])
    patcher = models.ModelPatcher
    video = {"VideoFromComponents": node_api.VideoFromComponents}
    modules = {
        "comfy": {},
        "comfy.model_management": management(),
        "comfy.utils": {"ProgressBar": models.ProgressBar, "PROGRESS_BAR_ENABLED": False},
        "comfy.latent_formats": {"LatentFormat": models.LatentFormat}
        | members_of(wan, "Wan21", "Wan22"),
        "comfy.model_patcher": {"ModelPatcher": patcher, "CoreModelPatcher": patcher},
        "comfy.patcher_extension": {
            "WrappersMP": SimpleNamespace(DIFFUSION_MODEL="diffusion_model")
        },
        "comfy.cli_args": {"args": SimpleNamespace(disable_metadata=False)},
        "comfy.model_base": members_of(wan, "WAN21", "WAN21_Vace", "WAN22"),
        "comfy.ldm": {},
        "comfy.ldm.wan": {},
        "comfy.ldm.wan.model": members_of(wan, "WanModel", "VaceWanModel"),
        "comfy.supported_models": members_of(wan, "WAN21_T2V", "WAN22_T2V")
        | {"WAN21_Vace": wan.VACE_WAN21},
        "comfy.supported_models_base": members_of(text_and_pixels, "ClipTarget"),
        "comfy.ops": members_of(text_and_pixels, "disable_weight_init"),
        "comfy.sd": members_of(text_and_pixels, "VAE", "CLIP"),
        "comfy.sd1_clip": members_of(text_and_pixels, "SDClipModel", "SD1ClipModel"),
        "comfy.text_encoders": {},
        "comfy.text_encoders.t5": {"__getattr__": late_text_network},
        "comfy.sample": members_of(
            sampling, "sample", "prepare_noise", "fix_empty_latent_channels"
        ),
        "comfy.samplers": {"KSampler": choices} | members_of(sampling, "calculate_sigmas"),
        "comfy_api": {},
        "comfy_api.latest": {
            "io": node_api.io,
            "ComfyExtension": node_api.ComfyExtension,
            "Types": SimpleNamespace(**members_of(node_api, "SPLAT", "VideoComponents")),
            "InputImpl": SimpleNamespace(**video),
        },
        "nodes": {"KSampler": KSampler},
        "node_helpers": members_of(sampling, "conditioning_set_values"),
        "server": {"PromptServer": SimpleNamespace()},
    }
    made = {name: ModuleType(name) for name in modules}
    for name, members in modules.items():
        vars(made[name]).update(members)
    return made | {"folder_paths": Folders(base)}


def install(base: Path) -> None:
    """Put the stand-in into sys.modules, with its folders under `base`."""
    made = stand_ins(base)
    sys.modules.update(made)
    for name, module in made.items():
        parent, _, child = name.rpartition(".")
        if parent:
            setattr(made[parent], child, module)
