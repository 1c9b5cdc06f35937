"""The header of a PLY file: its elements, their properties, and where the data begins.

Source: Greg Turk, "The PLY Polygon File Format" (1994). Lines may end in LF, CR LF or CR; comments
and obj_info are skipped; words may be of any case.
"""

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

MAX_HEADER = 2**20  # bytes; real ones have about 1500, and some a long comment
TYPES = {
    **{"char": "i1", "uchar": "u1", "short": "i2", "ushort": "u2", "int": "i4", "uint": "u4"},
    **{"int8": "i1", "uint8": "u1", "int16": "i2", "uint16": "u2", "int32": "i4", "uint32": "u4"},
    **{"float": "f4", "float32": "f4", "double": "f8", "float64": "f8"},
}
ORDERS = {"ascii": "", "binary_little_endian": "<", "binary_big_endian": ">"}
BEGIN = re.compile(rb"(?:\xef\xbb\xbf)?ply[ \t]*(\r\n|\n|\r)", re.IGNORECASE)
END = re.compile(rb"[\r\n][ \t]*end_header[ \t]*\r?\n", re.IGNORECASE)
OLD_END = re.compile(rb"\r[ \t]*end_header[ \t]*\r", re.IGNORECASE)  # of files of CR only


@dataclass
class Element:
    """A table of a PLY file: `count` rows of properties (name, type, or None and type of a list's
    length)."""

    name: str
    count: int
    properties: list[tuple[str, str, str | None]]

    @property
    def has_lists(self) -> bool:
        return any(length for _, _, length in self.properties)

    def layout(self, order: str) -> np.dtype:
        """The rows in a binary file of that byte order ("<" or ">"), where there are no lists."""
        return np.dtype([(name, order + kind) for name, kind, _ in self.properties])


@dataclass
class Header:
    """What a PLY file holds, from its first bytes on."""

    order: str  # "<", ">" or "" (ascii)
    elements: list[Element]
    begin: int  # offset of the data

    def find(self, name: str) -> Element | None:
        """The element of that name (lower case)."""
        return next((e for e in self.elements if e.name == name), None)


def read_ply_header(start: bytes, path: Path) -> Header:
    """The header in the first MAX_HEADER bytes of a file. Raises ValueError for damage."""
    first = BEGIN.match(start)
    if not first:
        raise ValueError(f"{path} is not a PLY file: it begins with {start[:8]!r}, not with 'ply'.")
    last = (OLD_END if first[1] == b"\r" else END).search(start, first.end() - 1)
    if not last:
        raise ValueError(f"{path} is a damaged PLY file: its header has no end_header line.")
    text = start[first.end() : last.start()].decode("utf-8", "replace")
    lines = [line.split() for line in re.split(r"\r\n|\n|\r", text)]
    words = [w for w in lines if w and w[0].lower() not in ("comment", "obj_info")]
    if not words or words[0][0].lower() != "format" or words[0][1:2] == []:
        raise ValueError(f"{path} is a damaged PLY file: its header does not begin with a format.")
    kind = words[0][1].lower()
    if kind not in ORDERS:
        raise ValueError(f"{path} has the format {kind!r}, but only {', '.join(ORDERS)} are read.")
    return Header(ORDERS[kind], _elements(words[1:], path), last.end())


def _elements(words: list[list[str]], path: Path) -> list[Element]:
    """The elements that these lines of a header, split into words, declare."""
    elements: list[Element] = []
    for w in words:
        lower = [word.lower() for word in w]
        if lower[0] == "element" and len(w) == 3 and w[2].isdecimal() and len(w[2]) <= 20:
            elements.append(Element(lower[1], int(w[2]), []))
        elif lower[0] == "property" and elements and _is_property(lower, elements[-1]):
            length = lower[2] if lower[1] == "list" else None
            kind = TYPES[lower[-2]]
            elements[-1].properties.append((lower[-1], kind, TYPES[length] if length else None))
        else:
            raise ValueError(
                f"{path} is a damaged PLY file: cannot understand {' '.join(w)[:100]!r}."
            )
    return elements


def _is_property(lower: list[str], element: Element) -> bool:
    """Whether these words are a property, of a name that the element does not have yet."""
    if any(name == lower[-1] for name, _, _ in element.properties):
        return False
    if lower[1:2] == ["list"]:
        return len(lower) == 5 and TYPES.get(lower[2], "f")[0] in "iu" and lower[3] in TYPES
    return len(lower) == 3 and lower[1] in TYPES
