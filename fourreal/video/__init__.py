"""The video half: ViewTimePipeline on diffusers' Wan (imported when first used)."""

from typing import Any

__all__ = ["ViewTimePipeline", "apply_view_time", "load_embedded_pipeline"]

_HOMES = {
    "ViewTimePipeline": "fourreal.video.pipeline",
    "apply_view_time": "fourreal.video.transformer",
    "load_embedded_pipeline": "fourreal.video.pipeline",
}


def __getattr__(name: str) -> Any:
    # diffusers takes seconds to import; importing fourreal.video must not.
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_HOMES[name]), name)
