"""The rows of a PLY file's elements: skipped, or read block by block as structured arrays."""

import itertools
import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np

from fourreal.formats.blocks import BLOCK
from fourreal.formats.ply_header import Element, Header

MAX_LISTS = 10**6  # rows with lists before what is wanted: each is walked over by itself
MAX_PADDING = 64  # bytes behind the last element


def _number(word: bytes) -> float:
    """A number in text. Microsoft's C writes what is not finite as -nan(ind) or 1.#INF."""
    try:
        return float(word)
    except ValueError:
        lower = word.lower()
        if b"nan" in lower or b"#ind" in lower:
            return float("nan")
        if b"#inf" in lower:
            return float("inf")
        raise


class Rows:
    """Goes over the elements of an open PLY file in their order, after its header."""

    def __init__(self, file: BinaryIO, header: Header, path: Path):
        self.file, self.header, self.path = file, header, path
        self.size = os.fstat(file.fileno()).st_size
        file.seek(header.begin)
        self.words: Iterator[bytes] = iter(())

    def truncated(self, element: Element, row: int) -> ValueError:
        return ValueError(
            f"{self.path} has {self.size} bytes, but its header promises {element.count} rows of "
            f"{element.name} of {row} bytes after {self.file.tell()} bytes; it is truncated or "
            "damaged."
        )

    def skip(self, element: Element) -> None:
        """Go behind an element. Raises ValueError where the file ends before."""
        if self.header.order == "":
            for _ in range(self._promised(element)):
                while (line := self.file.readline(BLOCK)) and not line.strip():
                    pass  # empty lines
                while line and not line.endswith(b"\n"):
                    line = self.file.readline(BLOCK)
        elif element.has_lists:
            self._skip_lists(element)
        else:
            row = element.layout(self.header.order).itemsize
            if element.count * row > self.size - self.file.tell():
                raise self.truncated(element, row)
            self.file.seek(element.count * row, os.SEEK_CUR)

    def _promised(self, element: Element) -> int:
        """The rows of an ascii element, each of whose values takes two bytes or more."""
        row = 2 * max(1, len(element.properties))
        if element.count * row > self.size - self.file.tell() + 1:  # the last one needs no space
            raise self.truncated(element, row)
        return element.count

    def _skip_lists(self, element: Element) -> None:
        if element.count > MAX_LISTS:
            raise ValueError(
                f"{self.path} has {element.count} rows of {element.name} with lists before its "
                f"vertices, but at most {MAX_LISTS} are read over; store the vertices first."
            )
        for _ in range(element.count):
            for _, kind, length in element.properties:
                items = 1
                if length:
                    prefix = self.file.read(int(length[1]))
                    if len(prefix) < int(length[1]):
                        raise self.truncated(element, 1)
                    items = int(np.frombuffer(prefix, self.header.order + length)[0])
                if not 0 <= items * int(kind[1]) <= self.size - self.file.tell():
                    raise self.truncated(element, 1)
                self.file.seek(items * int(kind[1]), os.SEEK_CUR)

    def check(self, element: Element, is_last: bool) -> None:
        """Raises ValueError unless the file has room for the rows of an element without lists, and
        ends there where it is the last one."""
        if self.header.order == "":
            self._promised(element)
            self.words = itertools.chain.from_iterable(self._pieces())
            return
        row = element.layout(self.header.order).itemsize
        surplus = self.size - self.file.tell() - element.count * row
        if surplus < 0 or (is_last and surplus > 0 and not self._ends_in_padding(surplus)):
            raise self.truncated(element, row)

    def _ends_in_padding(self, surplus: int) -> bool:
        """Whether the last bytes of the file are a few spaces, line ends or zeros."""
        if surplus > MAX_PADDING:
            return False
        begin = self.file.tell()
        self.file.seek(-surplus, os.SEEK_END)
        padding = self.file.read(surplus)
        self.file.seek(begin)
        return not padding.strip(b"\0\t\r\n ")

    def read(self, element: Element, count: int) -> np.ndarray:
        """The next `count` rows of an element that was checked."""
        if self.header.order:
            return np.fromfile(self.file, element.layout(self.header.order), count)
        values = count * len(element.properties)
        try:
            numbers = map(_number, itertools.islice(self.words, values))
            table = np.fromiter(numbers, np.float64, values)
        except ValueError as error:  # a word that is no number, or too few of them
            raise ValueError(
                f"{self.path} is a damaged PLY file: {str(error)[:80]} among its rows of "
                f"{element.name}."
            ) from error
        layout = np.dtype([(name, "<f8") for name, _, _ in element.properties])
        return table.view(layout)

    def _pieces(self) -> Iterator[list[bytes]]:
        """The words of the rest of an ascii file, some KB at a time."""
        rest = b""
        while piece := self.file.read(BLOCK // 16):
            words = (rest + piece).split()
            rest = b""
            if not piece[-1:].isspace() and words:
                rest = words.pop()
                if len(rest) > 1000:
                    raise ValueError("a word of more than 1000 letters")
            yield words
        yield [rest] if rest else []
