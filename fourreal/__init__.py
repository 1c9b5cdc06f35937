"""4Real: text to explorable 4D scenes (a grid of video frames, then dynamic 3D Gaussians)."""

TYPE_CHECKING = False  # type checkers take it for true; typing's own would be an import
if TYPE_CHECKING:
    __version__: str
else:

    def __getattr__(name):
        """`fourreal.__version__`, read when it is asked for: importing fourreal reads no file.

        pyproject.toml is the one place with the version, because the ComfyUI registry and
        ComfyUI-Manager read it there. A wheel has it in its metadata; the pack in ComfyUI's
        custom_nodes is not installed and has no metadata, but pyproject.toml lies beside it.
        """
        if name != "__version__":
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        import re
        from importlib.metadata import version
        from pathlib import Path

        project = Path(__file__).resolve().parents[1] / "pyproject.toml"
        text = project.read_text(encoding="utf-8") if project.is_file() else ""
        found = re.search(r'^name = "fourreal"\nversion = "(.+)"$', text, re.M)
        return found[1] if found else version("fourreal")
