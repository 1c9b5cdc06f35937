"""Folders in diffusers' layout: checked whole, in one sentence, before anything is loaded.

Only the classes of a Wan text-to-video or VACE pipeline are loaded, from .safetensors files: a
folder names the classes itself (model_index.json), and diffusers imports what it names.
"""

from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from fourreal.files.json_files import read_json
from fourreal.files.weights_files import INDEX, VARIANT, list_parts, weights_format
from fourreal.video.pipeline import ViewTimePipeline

INDEX_FILE = "model_index.json"
WEIGHTS = ("transformer", "vae", "text_encoder")
# Classes that may be in a folder, by part; None stands for all of the library.
CLASSES: dict[str, tuple[tuple[str, str | None], ...]] = {
    "transformer": (
        ("diffusers", "WanTransformer3DModel"),
        ("diffusers", "WanVACETransformer3DModel"),
    ),
    "vae": (
        ("diffusers", "AutoencoderKLWan"),
        ("fourreal.embedded.autoencoder", "BlockAutoencoder"),
    ),
    "text_encoder": (("transformers", "UMT5EncoderModel"),),
    "tokenizer": (("transformers", None),),
    "scheduler": (("diffusers", None),),
}
SINGLE_FILES = "or the single files with --transformer, --vae and --text-encoder"


def load_pipeline_folder(folder: Path, dtype: torch.dtype | None = None) -> ViewTimePipeline:
    """The pipeline of a folder of Wan 2.1 T2V or VACE or Wan 2.2 TI2V in diffusers' layout, or of a
    saved pipeline; a variant (fp16) where the full weights are not there.

    Raises ValueError, in one sentence that names the folder, for any other folder and for one that
    is incomplete or damaged.
    """
    folder = check_pipeline_folder(folder)
    variant = find_variant(folder)
    try:
        return ViewTimePipeline.from_pretrained(
            folder, torch_dtype=dtype, variant=variant, use_safetensors=True, local_files_only=True
        )
    # What diffusers, transformers and safetensors raise for damaged files, some over many lines.
    except (
        *(OSError, ValueError, RuntimeError, KeyError, TypeError, AttributeError, ImportError),
        SafetensorError,
    ) as error:
        reason = str(error).strip().partition("\n")[0].rstrip(". ")[:300]
        raise ValueError(
            f"{folder} cannot be loaded as a Wan model ({reason or type(error).__name__}); "
            f"download it again, {SINGLE_FILES.replace('or the', 'or give the')}."
        ) from error


def check_pipeline_folder(folder: Path) -> Path:
    """The folder. Raises ValueError where its model_index.json, or a part that it names, is not
    that of a Wan text-to-video pipeline."""
    index = folder / INDEX_FILE
    if folder.name == INDEX_FILE and folder.is_file():
        folder, index = folder.parent, folder
    if not index.is_file():
        what = f"has no {INDEX_FILE}" if folder.is_dir() else "is no folder"
        raise ValueError(
            f"{folder} {what}; give the folder of a Wan model in diffusers' layout, {SINGLE_FILES}."
        )
    content = _read_object(index)
    if _class_of(content.get("transformer_2"))[1]:
        raise ValueError(
            f"{folder} has two transformers (Wan 2.2 A14B), but only models of one work here: "
            "Wan 2.1 T2V or VACE 1.3B or 14B, or Wan 2.2 TI2V 5B."
        )
    if not isinstance(content.get("_class_name"), str):
        raise ValueError(
            f"{index} names no pipeline (_class_name); give the folder of a Wan model in "
            f"diffusers' layout, {SINGLE_FILES}."
        )
    for part, classes in CLASSES.items():
        found = _class_of(content.get(part))
        if not any(found[0] == library and name in (None, found[1]) for library, name in classes):
            library, name = found
            raise ValueError(
                f"{index} is of {content['_class_name']}, whose {part} is "
                f"{f'{name} of {library}' if name else 'not there'}, but a Wan text-to-video model "
                f"is needed, whose {part} is {classes[0][1] or f'of {classes[0][0]}'}."
            )
        if not (folder / part).is_dir():
            raise ValueError(f"{folder} lacks the folder {part}; download it again.")
        _check_part(folder / part)
    others = [k for k, v in content.items() if k not in CLASSES and _class_of(v)[1]]
    if others:
        raise ValueError(
            f"{index} has {others[0]}, which a Wan text-to-video model does not have (an "
            "image-to-video or control model does)."
        )
    return folder


def find_variant(folder: Path) -> str | None:
    """The variant (fp16, ...) in which a part of a pipeline's folder lies, where its full weights
    are not there; None where all are. Raises ValueError where a part has no usable weights."""
    needed: dict[str, str] = {}
    for part in WEIGHTS:
        names = sorted(entry.name for entry in (folder / part).iterdir())
        files = [name for name in names if name.endswith(".safetensors") and name[0] != "."]
        if not files:
            pickled = [name for name in names if name.endswith((".bin", ".pth", ".pt", ".ckpt"))]
            what = f"only {pickled[0]}, which is not read from a folder" if pickled else "no file"
            raise ValueError(
                f"{folder / part} has {what} of weights; download its .safetensors files."
            )
        variants = [VARIANT.search(name) for name in files]
        if None not in variants:
            needed[part] = next(found[1] for found in variants if found)
    if len(set(needed.values())) > 1:
        raise ValueError(
            f"{folder} has its parts in different variants ({', '.join(needed.values())}); "
            "download one variant of all of them."
        )
    return next(iter(needed.values()), None)


def _check_part(folder: Path) -> None:
    """Raise ValueError where a file of a part is no more than a pointer, or a part of its weights
    is missing."""
    for path in sorted(folder.iterdir()):
        if not path.is_file() or path.name.startswith("."):
            continue
        if INDEX.search(path.name) and not VARIANT.search(path.name):
            list_parts(path)
        elif path.suffix in (".safetensors", ".json", ".model"):
            weights_format(path)
        if path.name in ("config.json", "scheduler_config.json", "tokenizer_config.json"):
            _read_object(path)


def _read_object(path: Path) -> dict[str, Any]:
    """The JSON object of a file. Raises ValueError, naming the file, for anything else."""
    entries = read_json(path, finite=False).items()
    return {key: entry.value for key, entry in entries.items()}


def _class_of(entry: Any) -> tuple[str | None, str | None]:
    """(library, class) of an entry of model_index.json; of None where it is no such pair."""
    if isinstance(entry, list) and len(entry) == 2 and all(isinstance(x, str) for x in entry):
        return entry[0], entry[1]
    return None, None
