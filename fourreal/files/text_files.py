"""Text files to read: UTF-8, with or without a byte order mark, on every system.

Never the locale's encoding: a file that is read on one machine is read alike on all. What is not
UTF-8 is named and not guessed at, for a guess is wrong without a word.
"""

import os
import re

from fourreal.files.existing import existing_file

MARKS = {  # byte order marks of other encodings; UTF-32's before UTF-16's, which it begins with
    b"\xff\xfe\x00\x00": "UTF-32",
    b"\x00\x00\xfe\xff": "UTF-32",
    b"\xff\xfe": "UTF-16",
    b"\xfe\xff": "UTF-16",
}


def read_text(path: str | os.PathLike) -> str:
    """The text of a UTF-8 file, without its byte order mark; lines may end as on any system.

    Raises ValueError in one sentence naming the file when it is missing, cannot be read or has
    another encoding.
    """
    path = existing_file(path)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}.") from error
    encoding = next((name for mark, name in MARKS.items() if content.startswith(mark)), None)
    if encoding is None and b"\x00" in content:
        encoding = "UTF-16 or no text at all (it has zero bytes)"
    if encoding is None:
        try:
            return content.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            line = content.count(b"\n", 0, error.start) + 1
            encoding = (
                f"not UTF-8 but perhaps Latin-1 or Windows-1252 (byte {content[error.start]:#04x} "
                f"in line {line})"
            )
    raise ValueError(f"{path} is {encoding}; save it as UTF-8.")


def text_lines(text: str) -> list[str]:
    """The lines of a text. Only line feeds and carriage returns end one: JSON and prompts may hold
    the further separators of str.splitlines, like U+2028."""
    return re.split(r"\r\n|\r|\n", text)


def has_control(name: str) -> bool:
    """Whether a name has control characters: it would break the sentence that it is shown in."""
    return re.search(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]", name) is not None
