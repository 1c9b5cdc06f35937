"""The entrance for ComfyUI; the library itself is the package `fourreal` beside this file."""

WEB_DIRECTORY = "./nodes/web"


async def comfy_entrypoint():
    """ComfyUI calls this once. Imported here, so that other tools may import this folder."""
    from .nodes import FourRealExtension

    return FourRealExtension()
