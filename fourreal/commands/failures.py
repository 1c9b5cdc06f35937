"""What went wrong, in one sentence: the one place that turns the errors of libraries into words.

Our own errors (ValueError and FloatingPointError) are sentences already. Those of libraries that
read and write files get the file's name, a full disk and a full memory what can be done. Anything
else is a defect of this project: it has no sentence, and its traceback is shown.
"""

import errno
import json
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

REPORT_TO = "https://github.com/fourreal/fourreal/issues"
# Packages whose errors are about a file that was handed in; their compiled parts have a _ or _rust.
READERS = {
    *("av", "PIL", "pillow_heif", "safetensors", "safetensors_rust", "pxr", "diffusers"),
    *("transformers", "tokenizers", "huggingface_hub", "peft", "sentencepiece", "accelerate"),
    *("zlib", "gzip", "zipfile", "zstandard", "pickle", "_pickle", "json", "struct", "plistlib"),
}
FULL = ("no space left", "os error 28", "file write failed", "unexpected pos", "requested and")
NO_MEMORY = (
    *("can't allocate memory", "cannot allocate memory", "out of memory", "not enough memory"),
    "tried to allocate",
)


def frames_of(error: BaseException) -> list[FrameType]:
    """The frames that an error went through, the innermost first."""
    found, trace = [], error.__traceback__
    while trace:
        found.append(trace.tb_frame)
        trace = trace.tb_next
    return found[::-1]


def room_of(frame: FrameType) -> str:
    """The package that a frame belongs to."""
    return frame.f_globals.get("__name__", "").split(".")[0]


def files_of(error: BaseException) -> Iterator[Path]:
    """Paths that our functions were working on, the innermost first."""
    for frame in frames_of(error):
        if room_of(frame) == "fourreal":
            values = frame.f_locals.values()
            yield from (value for value in values if isinstance(value, Path))


def named(error: BaseException, reason: str) -> str:
    """The reason, in one line, after the name of the file it is about."""
    reason = " ".join(reason.split()).rstrip(".") or type(error).__name__
    path = next(files_of(error), None)
    return f"{reason}." if path is None or str(path) in reason else f"{path}: {reason}."


def is_of_a_reader(error: BaseException) -> bool:
    """Whether a package that reads files raised an error, by the error's class or by the innermost
    frame."""
    if type(error).__module__.split(".")[0] in READERS:
        return True
    innermost = frames_of(error)[:1]
    return bool(innermost) and room_of(innermost[0]) in READERS


def sentence_of(error: Exception) -> str | None:
    """What to tell the user; None for a defect of this project."""
    words = str(error).lower()
    full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
    if full or any(part in words for part in FULL):
        place = getattr(error, "filename", None) or next(files_of(error), "the results")
        place = str(place).removeprefix("file:")  # FFmpeg's, before names of videos
        return f"no space is left on the disk for {place}; make room or choose another place."
    if isinstance(error, MemoryError) or any(part in words for part in NO_MEMORY):
        reason = " ".join(str(error).split())[:160] or "no memory is left"
        return (
            f"the memory is full ({reason}); use fewer views or frames, a smaller size, or an "
            "option that takes less memory, such as --offload."
        )
    if isinstance(error, json.JSONDecodeError | UnicodeDecodeError):
        return named(error, f"this is no readable text or JSON ({error})")
    if isinstance(error, OSError) and error.strerror and type(error).__module__ == "builtins":
        where = error.filename2 or error.filename or next(files_of(error), None)
        return f"{where}: {error.strerror.lower()}." if where else f"{error.strerror}."
    if is_of_a_reader(error):
        return named(error, str(error))
    if isinstance(error, ValueError | OSError | FloatingPointError):
        return " ".join(str(error).split("\n"))
    return None
