"""Files of weights as people have them: told by their first bytes, read whole, prefixes found.

Read are .safetensors files, PyTorch's zip files (.pth, .pt, .ckpt, .bin; tensors only, no code is
run), folders with one such file, and checkpoints in several parts with an index, given as the
index, a part or the folder. The ending of a name decides nothing. Everything else is refused in one
sentence that says what the file is and what to do.
"""

import json
import os
import re
import warnings
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fourreal.files.tensors import read_safetensors

# What wrappers of torch put into the names of tensors, anywhere in them.
WRAPPERS = re.compile(r"(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
INDEX = re.compile(r"\.(safetensors|bin)\.index(\.[^.]+)?\.json$")
PART = re.compile(r"-\d{5}-of-(?P<count>\d{5})\.safetensors$")
VARIANT = re.compile(r"\.(fp16|fp32|bf16|fp8|non_ema|ema)(?=[.-])")  # diffusers' variants of a file
# State dicts lie under such names in the files of training programs.
STATE_DICTS = ("state_dict", "model_state_dict", "model", "module", "generator", "params")
NESTING = 4  # levels of dicts in which a state dict is looked for
ZIP, PICKLE = b"PK\x03\x04", b"\x80"
# First bytes of other files, what they are, and what helps.
FOREIGN = (
    (b"GGUF", "a GGUF file", "use the .safetensors file of the same model"),
    (b"version https://git-lfs", "a git-LFS pointer, not the weights", "run `git lfs pull`"),
    (b"PK\x05\x06", "an empty zip file", "download it again"),
    (b"\x93NUMPY", "a NumPy array", "use a .safetensors file"),
    (b"\x89HDF", "an HDF5 file (Keras)", "use the .safetensors file for PyTorch"),
    (b"\x1f\x8b", "a gzip archive", "unpack it first"),
    (b"\xfd7zXZ", "an xz archive", "unpack it first"),
    (b"(\xb5/\xfd", "a zstd archive", "unpack it first"),
    (b"7z\xbc\xaf", "a 7-zip archive", "unpack it first"),
    (b"Rar!", "a RAR archive", "unpack it first"),
    (b"\x89PNG", "a picture", "give the file of the weights"),
    (b"\xff\xd8\xff", "a picture", "give the file of the weights"),
    (b"%PDF", "a PDF document", "give the file of the weights"),
)


def read_weights(path: str | os.PathLike) -> tuple[dict[str, Tensor], dict[str, str]]:
    """CPU tensors by name and metadata of a file, folder or index of weights.

    Tensors are mapped where the format allows: what is not used is not read. What torch.compile,
    FSDP and checkpointing add to names is removed. Raises ValueError, naming the file, what it is
    and what helps, for all that is no complete file of weights.
    """
    path = Path(path)
    if path.is_dir():
        path = _file_of(path)
    tensors, metadata = _read_file(path)
    return {WRAPPERS.sub("", key): value for key, value in tensors.items()}, metadata


def strip_prefix(
    tensors: Mapping[str, Tensor], known: Iterable[str], path: str | os.PathLike
) -> dict[str, Tensor]:
    """The tensors under the prefix (module., model.diffusion_model., vae., ...) with which all
    `known` names appear, without that prefix; what lies under other prefixes is left out.

    Unchanged where the known names appear without a prefix, or not at all. Raises ValueError when
    they appear under several prefixes, because then the file holds several models; path is for
    this message.
    """
    found: set[str] | None = None
    for name in known:
        ends = {k[: -len(name)] for k in tensors if k == name or k.endswith(f".{name}")}
        found = ends if found is None else found & ends
    if not found or "" in found:
        return dict(tensors)
    if len(found) > 1:
        raise ValueError(
            f"{path} holds the same model {len(found)} times, under "
            f"{' and '.join(sorted(found)[:3])}; keep one of them and save it as .safetensors."
        )
    prefix = found.pop()
    return {k[len(prefix) :]: value for k, value in tensors.items() if k.startswith(prefix)}


def weights_format(path: Path) -> str:
    """What a file is by its first bytes: "safetensors", "torch" (written by torch.save) or "json".

    Raises ValueError, which says what it is and what helps, for anything that is known to be
    something else. What is unknown counts as safetensors, whose reader says what is wrong.
    """
    if not path.is_file():
        raise ValueError(f"{path} does not exist; give the path of a file of weights.")
    with path.open("rb") as file:
        start = file.read(512)
    if not start:
        raise ValueError(f"{path} is empty; download or copy it again.")
    if _is_safetensors(start):
        return "safetensors"
    for magic, what, help_ in FOREIGN:
        if start.startswith(magic):
            raise ValueError(f"{path} is {what}; {help_}.")
    if start.startswith(ZIP) or start[:1] == PICKLE:
        return "torch"
    text = start.removeprefix(b"\xef\xbb\xbf").lstrip()
    if text[:1] == b"<":
        raise ValueError(
            f"{path} is a web page that was saved in place of the weights; download the file "
            "itself (a gated model needs an account that has accepted its licence)."
        )
    return "json" if text[:1] in (b"{", b"[") else "safetensors"


def _read_file(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """read_weights of a file, with the names that it has."""
    found = weights_format(path)
    if found == "torch":
        return _read_torch(path), {}
    part = PART.search(path.name)
    if found == "safetensors" and part and int(part["count"]) > 1:
        return _read_parts(_index_of(path))
    return _read_parts(path) if found == "json" else read_safetensors(path)


def _is_safetensors(start: bytes) -> bool:
    """Whether a file begins like safetensors: the header's length in 8 bytes, then JSON.

    Asked first, because the length's first byte may be one with which another format begins.
    """
    return start[4:9] == b"\0\0\0\0{"  # a header is shorter than 4 GB


def _index_of(part: Path) -> Path:
    """The index beside a part of a checkpoint: the one that lists it."""
    for index in sorted(part.parent.glob("*.json")):
        if INDEX.search(index.name) and part.name in index.read_text("utf-8", "replace"):
            return index
    raise ValueError(
        f"{part} is one part of a checkpoint in several, but their index (.safetensors.index.json) "
        "is not beside it; download the whole folder."
    )


def _file_of(folder: Path) -> Path:
    """The one file of weights of a folder, or its index.

    Where a model lies there in several variants (fp16 beside the full one), it is the full one.
    """
    names = [entry.name for entry in sorted(folder.iterdir()) if not entry.name.startswith(".")]
    found = [name for name in names if INDEX.search(name)]
    found = found or [name for name in names if name.endswith(".safetensors")]
    found = found or [name for name in names if name.endswith((".pth", ".pt", ".ckpt", ".bin"))]
    if len(found) > 1:
        full = [name for name in found if not VARIANT.search(name)]
        found = full or found
    if len(found) == 1:
        return folder / found[0]
    inner = next((f for f in ("transformer", "vae", "text_encoder") if (folder / f).is_dir()), None)
    if inner:
        raise ValueError(
            f"{folder} is the folder of a whole pipeline; give it with --model, or one of its "
            f"parts, such as {folder / inner}."
        )
    if not found:
        raise ValueError(
            f"{folder} is a folder without weights; give a .safetensors file, or a folder of one."
        )
    raise ValueError(
        f"{folder} is a folder with {len(found)} files of weights ({', '.join(found[:3])}); give "
        "one of them."
    )


def list_parts(index: Path) -> dict[str, Path]:
    """The file of each tensor that an index lists; all are there, beside the index.

    Raises ValueError for other JSON files, and naming the part that is missing.
    """
    try:
        content: Any = json.loads(index.read_text(encoding="utf-8-sig"))
        names = {str(key): str(name) for key, name in content["weight_map"].items()}
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise ValueError(
            f"{index} is a JSON file, but not the index of a checkpoint in parts; give the file "
            "of the weights."
        ) from error
    if not names:
        raise ValueError(f"{index} is the index of a checkpoint in parts, but lists none of them.")
    for name in dict.fromkeys(names.values()):
        if Path(name).name != name:
            raise ValueError(f"{index} lists {name}, which is not a file beside it.")
        if not index.with_name(name).is_file():
            raise ValueError(
                f"{index.with_name(name)} is missing: {index.name} lists it among "
                f"{len(set(names.values()))} parts; download it into the same folder."
            )
    return {key: index.with_name(name) for key, name in names.items()}


def _read_parts(index: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """All parts of a checkpoint that an index lists."""
    tensors: dict[str, Tensor] = {}
    metadata: dict[str, str] = {}
    places = list_parts(index)
    for part in dict.fromkeys(places.values()):
        if weights_format(part) == "torch":
            tensors |= _read_torch(part)
            continue
        held, noted = read_safetensors(part)
        tensors |= held
        metadata = noted | metadata
    lost = [key for key in places if key not in tensors]
    if lost:
        raise ValueError(
            f"the parts of {index} lack {len(lost)} of its tensors, {lost[0]} first; download "
            "them again."
        )
    return tensors, metadata


def _read_torch(path: Path) -> dict[str, Tensor]:
    """The tensors of a file that torch.save wrote; objects of other kinds are never built."""
    zipped = zipfile.is_zipfile(path)
    if zipped:
        try:
            with zipfile.ZipFile(path) as archive:
                entries = archive.infolist()
        except (zipfile.BadZipFile, NotImplementedError, ValueError) as error:
            raise ValueError(
                f"{path} is a damaged zip archive ({error}); download or copy it again."
            ) from error
        inner = [entry.filename.partition("/")[2] for entry in entries]
        if "data.pkl" not in inner:
            what = f"such as {entries[0].filename}" if entries else "none"
            raise ValueError(
                f"{path} is a zip archive of other files ({what}), not PyTorch weights; unpack it, "
                "or give a .safetensors file."
            )
        if "constants.pkl" in inner:
            raise ValueError(
                f"{path} is a TorchScript program, not only weights; use a .safetensors file."
            )
        # torch stores without compression; a compressed archive may unfold without a limit.
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
            raise ValueError(
                f"{path} is a compressed zip archive, which torch does not write; use the original "
                "file, or a .safetensors file."
            )
    # torch takes a path with this ending for safetensors; an open file has none, but is not mapped.
    misnamed = path.suffix == ".safetensors"
    try:
        with path.open("rb") as file, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of pickle protocols, in damaged files
            content = torch.load(
                file if misnamed else path,
                map_location="cpu",
                weights_only=True,
                mmap=(zipped and not misnamed) or None,
            )
    except Exception as error:  # torch.load raises many kinds for damaged or unsafe files
        raise ValueError(
            f"{path} is a PyTorch (.pth) file that is damaged or holds more than tensors, so it "
            f"was not loaded ({type(error).__name__}); use a .safetensors file of it."
        ) from error
    return _state_dict(content, path)


def _state_dict(content: Any, path: Path) -> dict[str, Tensor]:
    """The tensors of what torch.save wrote: a state dict, alone or beside a training's state."""
    for _ in range(NESTING):
        if not isinstance(content, dict):
            break
        tensors = {str(k): v for k, v in content.items() if isinstance(v, Tensor)}
        if tensors:
            return tensors
        inner = {k: v for k, v in content.items() if _has_tensors(v, NESTING)}
        if len(inner) > 1:
            inner = {k: v for k, v in inner.items() if k in STATE_DICTS}
        content = next(iter(inner.values())) if len(inner) == 1 else None
    raise ValueError(
        f"{path} is a PyTorch (.pth) file that does not hold one state dict of tensors; use a "
        ".safetensors file of the model."
    )


def _has_tensors(content: Any, levels: int) -> bool:
    """Whether a dict, or one in it down to so many levels, holds tensors."""
    if not isinstance(content, dict):
        return False
    values = content.values()
    return any(isinstance(v, Tensor) or (levels and _has_tensors(v, levels - 1)) for v in values)
