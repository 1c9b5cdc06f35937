"""Checkpoints of the reconstruction network: recognised by their keys, never unpickled.

Known layouts: VGGT-1B and VGGT-1B-Commercial (facebookresearch/vggt), AnySplat
(InternRobotics/AnySplat, `encoder.` prefix, 84-channel head) and this project's own files, which
carry their config in the safetensors metadata.
"""

import logging
import os
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fourreal.files.tensors import save_tensors
from fourreal.files.weights_files import read_weights, strip_prefix
from fourreal.reconstruction.config import GaussianHeadKind, TemporalMode, VGGTConfig
from fourreal.reconstruction.network import VGGT

logger = logging.getLogger(__name__)

OPTIONAL_PARTS = ("aggregator.temporal_blocks.", "gaussian_head.")  # what this method adds
NEEDED = ("aggregator.global_blocks.0.attn.qkv.weight", "depth_head.norm.weight")

ACCEPTED = "use VGGT-1B, VGGT-1B-Commercial, AnySplat or a file saved by this project"
LICENSES = {
    "vggt": "VGGT-1B's weights are under CC BY-NC 4.0: non-commercial use only",
    "vggt-commercial": "VGGT-1B-Commercial's weights are under Meta's VGGT acceptable use licence",
    "anysplat": "AnySplat's weights derive from VGGT-1B (CC BY-NC 4.0): non-commercial use only",
    "fourreal": "",
}


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """All tensors of a checkpoint and its metadata, without the prefixes of training programs.

    path is what read_weights takes. Raises ValueError for any file that is not one of these or is
    damaged, FileNotFoundError when there is none.
    """
    if not path.exists():
        raise FileNotFoundError(f"there is no checkpoint file at {path}.")
    tensors, metadata = read_weights(path)
    for layout in (tuple(f"encoder.{key}" for key in NEEDED), NEEDED):
        part = strip_prefix(tensors, layout, path)
        if set(layout) <= part.keys():
            return part, metadata
    return tensors, metadata


def recognise_reconstructor(tensors: dict[str, Tensor], metadata: dict[str, str], name: str) -> str:
    """ "vggt", "vggt-commercial", "anysplat" or "fourreal"; ValueError for anything else."""
    if any("inter_frame_blocks" in key for key in tensors):
        raise ValueError(
            f"{name} is a VGGT-Omega checkpoint, whose layout (patch 16, register attention) this "
            f"reconstructor does not have; {ACCEPTED}."
        )
    prefix = "encoder." if any(key.startswith("encoder.aggregator.") for key in tensors) else ""
    if not all(prefix + key in tensors for key in NEEDED):
        found = ", ".join(sorted(tensors)[:2]) or "no tensors"
        raise ValueError(f"{name} is not a reconstruction checkpoint (it has {found}); {ACCEPTED}.")
    if prefix:
        return "anysplat"
    if "config" in metadata and "fourreal" in metadata.get("format", ""):
        return "fourreal"
    return "vggt-commercial" if "commercial" in name.lower() else "vggt"


def config_from_shapes(tensors: dict[str, Tensor]) -> dict[str, Any]:
    """The config's values that key names and shapes of a state dict (without prefix) tell.

    Head counts of the patch embedding and the camera trunk leave no trace; they are taken to equal
    the aggregator's, as in VGGT-1B. So are the intermediate layers of a 24-layer model. The track
    head compares levels * (2 * radius + 1)^2 values, of which the largest window is taken.
    """

    def count(pattern: str) -> int:
        found = [re.match(pattern, key) for key in tensors]
        return 1 + max((int(m[1]) for m in found if m), default=-1)

    def shape(key: str) -> tuple[int, ...]:
        if key not in tensors:
            raise ValueError(f"the checkpoint lacks {key}; it is incomplete, download it again.")
        return tuple(tensors[key].shape)

    dim, _, _, patch = shape("aggregator.patch_embed.patch_embed.proj.weight")
    depth = count(r"aggregator\.global_blocks\.(\d+)\.")
    heads = dim // shape("aggregator.global_blocks.0.attn.q_norm.weight")[0]
    camera_dim = shape("camera_head.embed_pose.weight")[0]
    grid = round((shape("aggregator.patch_embed.pos_embed")[1] - 1) ** 0.5)
    values: dict[str, Any] = {
        "img_size": grid * patch,
        "patch_size": patch,
        "embed_dim": dim,
        "depth": depth,
        "num_heads": heads,
        "mlp_ratio": shape("aggregator.global_blocks.0.mlp.fc1.weight")[0] / dim,
        "num_register_tokens": shape("aggregator.register_token")[2],
        "dino_depth": count(r"aggregator\.patch_embed\.blocks\.(\d+)\."),
        "dino_num_heads": heads,
        "dpt_features": shape("depth_head.scratch.layer1_rn.weight")[0],
        "dpt_out_channels": tuple(shape(f"depth_head.projects.{i}.weight")[0] for i in range(4)),
        "intermediate_layers": (4, 11, 17, 23)
        if depth == 24
        else tuple(round(depth * (i + 1) / 4) - 1 for i in range(4)),
        "camera_head_num_heads": heads,
        "camera_head_dim": None if camera_dim == 2 * dim else camera_dim,
        "point_head": "point_head.norm.weight" in tensors,
        "track_head": "track_head.tracker.query_ref_token" in tensors,
        "temporal": "token" if count(r"aggregator\.temporal_blocks\.(\d+)\.") else "none",
        "gaussian_head": "none",
    }
    if values["track_head"]:
        hidden, compared = shape("track_head.tracker.corr_mlp.fc1.weight")
        side = max(n for n in range(1, round(compared**0.5) + 1, 2) if compared % n**2 == 0)
        values |= {
            "track_features": shape("track_head.tracker.fmap_norm.weight")[0],
            "track_hidden": hidden,
            "track_levels": compared // side**2,
            "track_radius": side // 2,
        }
    last = tensors.get("gaussian_head.scratch.output_conv2.2.weight")
    if last is not None and len(last) == 14:
        values["gaussian_head"] = "paper"
        values["image_shortcut"] = "gaussian_head.input_merger.0.weight" in tensors
    elif last is not None:
        degree = round(((len(last) - 9) / 3) ** 0.5) - 1
        values |= {"gaussian_head": "anysplat", "sh_degree": degree}
    return values


def load_model(
    path: str | os.PathLike,
    *,
    temporal: TemporalMode | None = None,
    gaussian_head: GaussianHeadKind | None = None,
) -> tuple[VGGT, str]:
    """The network of a checkpoint file (float32, CPU) and the kind of file it was.

    `temporal` ("token") and `gaussian_head` ("paper") add freshly initialised parts where the file
    has none, to train them. Raises ValueError in one sentence for files that are damaged, foreign
    or incomplete, FileNotFoundError when there is none.
    """
    path = Path(path)
    tensors, metadata = read_tensors(path)
    kind = recognise_reconstructor(tensors, metadata, path.name)
    if kind == "anysplat":
        tensors = {k.removeprefix("encoder."): v for k, v in tensors.items()}
        tensors = {
            k.replace("gaussian_param_head.", "gaussian_head.", 1): v for k, v in tensors.items()
        }
    values = config_from_shapes(tensors)
    if temporal:
        values["temporal"] = temporal
    if gaussian_head and values["gaussian_head"] == "none":
        values["gaussian_head"] = gaussian_head
    if "config" in metadata:
        stored = VGGTConfig.from_json(metadata["config"], **values)
        # Which parts there are follows the file's keys and the caller.
        names = ("temporal", "gaussian_head", "point_head", "track_head")
        parts = {name: values[name] for name in names}
        config = replace(stored, **parts)
    else:
        config = VGGTConfig(**values)

    fill_network(model := _empty_model(config), tensors, path.name)
    if LICENSES[kind]:
        logger.info("%s: %s.", path.name, LICENSES[kind])
    return model.eval(), kind


def _empty_model(config: VGGTConfig) -> VGGT:
    with torch.device("meta"):
        return VGGT(config)


def fill_network(model: VGGT, tensors: dict[str, Tensor], name: str) -> None:
    """Put a state dict into a model on the meta device; parts it may lack are initialised."""
    wanted = model.state_dict()
    missing = [key for key in wanted if key not in tensors]
    lost = [key for key in missing if not key.startswith(OPTIONAL_PARTS)]
    if lost:
        raise ValueError(
            f"{name} lacks {len(lost)} of the {len(wanted)} tensors this model needs, "
            f"{', '.join(lost[:3])} among them; it is incomplete, download it again."
        )
    wrong = [key for key in wanted if key in tensors and tensors[key].shape != wanted[key].shape]
    if wrong:
        raise ValueError(
            f"{name}: {wrong[0]} has the shape {tuple(tensors[wrong[0]].shape)}, but the model "
            f"described by its config needs {tuple(wanted[wrong[0]].shape)}; use a matching file."
        )
    unknown = [key for key in tensors if key not in wanted]
    if unknown:
        logger.warning(
            "%s: %d unknown tensors are ignored, %s first.", name, len(unknown), unknown[0]
        )
    known = {k: v.to(torch.float32) for k, v in tensors.items() if k in wanted}
    model.load_state_dict(known, strict=False, assign=True)
    if not missing:
        return
    fresh = VGGT(model.config).state_dict()
    model.load_state_dict({key: fresh[key] for key in missing}, strict=False, assign=True)
    logger.info("%s: %d tensors of untrained parts were initialised.", name, len(missing))


def save_model(
    model: VGGT,
    path: str | os.PathLike,
    dtype: torch.dtype | None = None,
    metadata: dict[str, str] | None = None,
) -> None:
    """Write a safetensors file with the config in its metadata; nothing half-written is left.

    dtype: of the stored numbers (the model's own by default). metadata: more strings to store.
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        raise ValueError(
            f"{path.name} must end with .safetensors; models are saved in no other way."
        )
    tensors = {
        key: value.detach().to("cpu", dtype or value.dtype).contiguous()
        for key, value in model.state_dict().items()
    }
    header = {"format": "fourreal.reconstructor", "config": model.config.to_json()}
    save_tensors(tensors, path, header | (metadata or {}))
