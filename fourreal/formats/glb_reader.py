"""Reading binary glTF: its chunks, nodes and accessors, as far as splats need them.

Every number of the JSON is checked before it is used: files come from anywhere.
"""

import math
import os
import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from fourreal.files.existing import existing_file
from fourreal.files.json_files import JsonValue, parse_json
from fourreal.formats.blocks import bytes_of, largest_result
from fourreal.formats.similarity import placed
from fourreal.gaussians import Gaussians

EXTENSION = "KHR_gaussian_splatting"
KERNEL, COLOR_SPACE = "ellipse", "srgb_rec709_display"
GLTF = struct.Struct("<4sII")  # magic, version, length of the file
GLB = struct.Struct("<I4s")  # length of a chunk, kind
COMPONENTS = {5120: "i1", 5121: "u1", 5122: "<i2", 5123: "<u2", 5125: "<u4", 5126: "<f4"}
WIDTHS = {"SCALAR": 1, "VEC2": 2, "VEC3": 3, "VEC4": 4}
MAX_NODES = 2**16
MAX_DEPTH = 64  # of nodes within nodes


def read_glb(path: str | os.PathLike) -> Gaussians:
    """All splats of a .glb file's scene, in glTF's axes. See `load_glb` for what is refused."""
    path = existing_file(path)
    document, binary = read_chunks(path)
    for name in _names(document.find("extensionsRequired")):
        if name not in (EXTENSION, "KHR_mesh_quantization"):
            raise ValueError(
                f"{path} needs the glTF extension {name}, which is not read; write it again "
                "without compression."
            )
    if EXTENSION not in _names(document.find("extensionsUsed")):
        raise ValueError(
            f"{path} has no Gaussians: it does not use the glTF extension {EXTENSION}, so it holds "
            "meshes or points."
        )
    left = largest_result(path)  # bytes that may be unfolded, for files that repeat
    parts = []
    for mesh, matrix in _placed_meshes(document):
        for primitive in mesh.get("primitives").entries():
            splats = (primitive.find("extensions") or JsonValue({}, path)).find(EXTENSION)
            if splats is None:
                continue
            g = _primitive(document, binary, primitive, splats)
            left -= bytes_of(len(g), g.harmonics.shape[1])
            if left < 0:
                raise ValueError(
                    f"{path} repeats its splats to more than 32 times its size; write them once."
                )
            parts.append(placed(g, matrix, mesh.place, path))
    return Gaussians.concatenate(parts) if parts else Gaussians.empty()


def read_chunks(path: Path) -> tuple[JsonValue, memoryview]:
    """(the JSON, the bytes of the binary chunk) of a .glb file."""
    raw = memoryview(path.read_bytes())
    if len(raw) < GLTF.size + GLB.size or bytes(raw[:4]) != b"glTF":
        raise ValueError(
            f"{path} is not binary glTF: it begins with {bytes(raw[:4])!r}, but 'glTF' is needed."
        )
    _, version, total = GLTF.unpack_from(raw)
    if version != 2 or total > len(raw):
        raise ValueError(
            f"{path} is damaged or truncated: it says version {version} and {total} bytes, but "
            f"has {len(raw)}; version 2 is read."
        )
    chunks: dict[bytes, memoryview] = {}
    at = GLTF.size
    while at + GLB.size <= total:
        length, kind = GLB.unpack_from(raw, at)
        at += GLB.size
        if length > total - at:
            raise ValueError(f"{path} is damaged: a chunk at byte {at} ends beyond the file.")
        chunks.setdefault(kind, raw[at : at + length])
        at += length + -length % 4
    try:
        text = bytes(chunks.get(b"JSON", b"")).decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is damaged: its JSON is not UTF-8 ({error.reason}).") from error
    return parse_json(text, path), chunks.get(b"BIN\0", memoryview(b""))


def _names(value: JsonValue | None) -> list[str]:
    return [] if value is None else [entry.string() for entry in value.entries()]


def _entry(document: JsonValue, kind: str, index: JsonValue) -> JsonValue:
    """document[kind][index], where the index is one of the list's."""
    entries = document.get(kind)
    if not isinstance(entries.value, list):
        entries.wrong("a list")
    number = index.integer(0, len(entries.value) - 1)
    return JsonValue(entries.value[number], document.file, f"{kind}[{number}]")


def _placed_meshes(document: JsonValue) -> Iterator[tuple[JsonValue, Tensor]]:
    """(mesh, world matrix [4, 4], float64) of each node of the scene that has a mesh."""
    first = document.find("scene") or JsonValue(0, document.file, "scene")
    roots = _entry(document, "scenes", first).find("nodes") if document.find("scenes") else None
    if roots is None:
        return
    start = torch.eye(4, dtype=torch.float64)
    waiting = [(index, start, 0) for index in reversed(roots.entries())]
    for _ in range(MAX_NODES):
        if not waiting:
            return
        index, above, depth = waiting.pop()
        node = _entry(document, "nodes", index)
        matrix = above @ _node_matrix(node)
        mesh, children = node.find("mesh"), node.find("children")
        if mesh is not None:
            yield _entry(document, "meshes", mesh), matrix
        if children is not None and depth < MAX_DEPTH:
            waiting += [(child, matrix, depth + 1) for child in reversed(children.entries())]
        elif children is not None:
            break
    raise ValueError(
        f"{document.file} has nodes within nodes without end, or more than {MAX_NODES}; it is "
        "damaged."
    )


def _node_matrix(node: JsonValue) -> Tensor:
    """A node's own transformation [4, 4]."""
    given = node.find("matrix")
    if given is not None:
        return torch.tensor(given.numbers(16), dtype=torch.float64).view(4, 4).mT
    parts = {"translation": [0.0] * 3, "rotation": [0.0, 0, 0, 1], "scale": [1.0] * 3}
    for name, default in parts.items():
        found = node.find(name)
        if found is not None:
            parts[name] = found.numbers(len(default))
    x, y, z, w = parts["rotation"]
    length = math.sqrt(x * x + y * y + z * z + w * w)
    if not length:
        node.get("rotation").wrong("a quaternion of length 1")
    x, y, z, w = (part / length for part in (x, y, z, w))
    turn = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
        [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
        [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
    ]
    matrix = torch.eye(4, dtype=torch.float64)
    matrix[:3, :3] = torch.tensor(turn, dtype=torch.float64) * torch.tensor(parts["scale"])
    matrix[:3, 3] = torch.tensor(parts["translation"], dtype=torch.float64)
    return matrix


def _primitive(
    document: JsonValue, binary: memoryview, primitive: JsonValue, splats: JsonValue
) -> Gaussians:
    """The Gaussians of one primitive, before its node's transformation."""
    if splats.find("extensions"):
        names = ", ".join(splats.get("extensions").items())
        raise ValueError(
            f"{document.file} holds splats compressed by {names}, which is not read; write it "
            "again without compression."
        )
    for name, expected in (("kernel", KERNEL), ("colorSpace", COLOR_SPACE)):
        found = splats.get(name).string()
        if found != expected:
            raise ValueError(
                f"{document.file} has splats whose {name} is {found!r}, but only {expected!r} is "
                "read."
            )
    attributes = primitive.get("attributes")

    def column(attribute: str, width: int) -> Tensor:
        return _values(document, binary, attributes.get(attribute), width)

    harmonics = [column(f"{EXTENSION}:SH_DEGREE_0_COEF_0", 3)]
    for degree in (1, 2, 3):
        coefficients = [f"{EXTENSION}:SH_DEGREE_{degree}_COEF_{n}" for n in range(2 * degree + 1)]
        if all(attributes.find(attribute) is None for attribute in coefficients):
            break
        harmonics += [column(attribute, 3) for attribute in coefficients]
    means, scales = column("POSITION", 3), column(f"{EXTENSION}:SCALE", 3)
    xyzw, opacities = column(f"{EXTENSION}:ROTATION", 4), column(f"{EXTENSION}:OPACITY", 1)
    if len({len(part) for part in (means, scales, xyzw, opacities, *harmonics)}) > 1:
        attributes.wrong("the same number of splats in each attribute")
    quaternions = torch.nn.functional.normalize(xyzw, dim=-1).roll(1, -1)
    return Gaussians(means, quaternions, scales, opacities[:, 0], torch.stack(harmonics, dim=1))


def _values(document: JsonValue, binary: memoryview, index: JsonValue, width: int) -> Tensor:
    """An accessor's rows [N, width], float32; integers are those of KHR_mesh_quantization."""
    accessor = _entry(document, "accessors", index)
    if accessor.find("sparse") is not None:
        accessor.wrong("an accessor that is not sparse")
    kind = accessor.get("componentType").integer(0, 2**16)
    if kind not in COMPONENTS or WIDTHS.get(accessor.get("type").string()) != width:
        accessor.wrong(f"rows of {width} floats or integers")
    dtype = np.dtype(COMPONENTS[kind])
    view = _entry(document, "bufferViews", accessor.get("bufferView"))
    buffer = _entry(document, "buffers", view.get("buffer"))
    if buffer.find("uri") is not None:
        buffer.wrong("the .glb file's own binary chunk, no other file")
    row = dtype.itemsize * width
    count = accessor.get("count").integer(1, 2**31)
    begin, length = (
        found.integer(0, 2**32) if (found := view.find(name)) else 0
        for name in ("byteOffset", "byteLength")
    )
    inner = found.integer(0, 2**32) if (found := accessor.find("byteOffset")) else 0
    stride = found.integer(row, 255) if (found := view.find("byteStride")) else row
    last = inner + (count - 1) * stride + row
    if last > length or begin + length > len(binary):
        raise ValueError(
            f"{document.file} is damaged or truncated: {accessor.place} ends at byte {last} of "
            f"{length}, in a binary chunk of {len(binary)}."
        )
    rows = np.ndarray((count, width), dtype, binary, begin + inner, (stride, dtype.itemsize))
    values = torch.from_numpy(rows.astype(np.float32))
    if kind == 5126:
        return values
    scaled = accessor.find("normalized")
    if scaled is None or not scaled.boolean():
        return values
    return (values / np.iinfo(dtype).max).clamp_min(-1)
