"""Writes what ComfyUI shows about the nodes: their help pages and their English locale.

    python tests/nodes/make_help.py

Run it after a change of a node's schema or docstring; a test compares the committed files with what
it would write. A help page is the node's description, the docstring of its class, and a table of
its inputs and of its outputs. No ComfyUI is needed: the schemas are read on the stand-in.
"""

import importlib
import importlib.util
import inspect
import json
import re
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGES = Path("nodes/web/docs")  # of the frontend: <node id>.md
LOCALE = Path("locales/en/nodeDefs.json")


def help_files(nodes: list) -> dict[Path, str]:
    """The text of every file by its path in the repository, for these node classes."""
    schemas = {node: node.GET_SCHEMA() for node in nodes}
    said = {schema.node_id: locale_entry(schema) for schema in schemas.values()}
    files = {LOCALE: json.dumps(said, indent=2, ensure_ascii=False) + "\n"}
    for node, schema in schemas.items():
        files[PAGES / f"{schema.node_id}.md"] = help_page(schema, node.__doc__ or "")
    return files


def locale_entry(schema) -> dict:
    inputs = {i.id: {"name": i.id, "tooltip": i.tooltip} for i in in_shown_order(schema.inputs)}
    outputs = {
        str(place): {"name": output_name(output), "tooltip": output.tooltip}
        for place, output in enumerate(schema.outputs)
    }
    entry = {"display_name": schema.display_name, "description": schema.description}
    return entry | ({"inputs": inputs} if inputs else {}) | {"outputs": outputs}


def help_page(schema, docstring: str) -> str:
    parts = [f"# {schema.display_name}", schema.description]
    if docstring:
        parts.append(unwrapped(docstring))
    if schema.inputs:
        rows = [
            (i.id + (" (optional)" if i.optional else ""), socket_type(i), i.tooltip)
            for i in in_shown_order(schema.inputs)
        ]
        parts += ["## Inputs", table(rows)]
    rows = [(output_name(output), socket_type(output), output.tooltip) for output in schema.outputs]
    parts += ["## Outputs", table(rows)]
    return "\n\n".join(parts) + "\n"


def in_shown_order(inputs: list) -> list:
    """As a node shows its sockets: the required ones first."""
    return sorted(inputs, key=lambda i: bool(i.optional))


def output_name(output) -> str:
    return output.display_name or output.get_io_type()


def socket_type(socket) -> str:
    if hasattr(socket, "template"):  # of a socket that grows: the type of each
        socket = socket.template.input
    return socket.get_io_type().replace(",", " or ")


def table(rows: list[tuple[str, str, str]]) -> str:
    lines = ["| name | type | |", "|---|---|---|", *(f"| {' | '.join(row)} |" for row in rows)]
    return "\n".join(lines)


def unwrapped(docstring: str) -> str:
    """Paragraphs and list items in one line each."""
    return re.sub(r"(?<!\n)\n(?!\n|- ) *", " ", inspect.cleandoc(docstring))


def pack_on_the_stand_in(folder: Path) -> list:
    """The node classes; ComfyUI's own folders are made in `folder`."""
    sys.path.insert(0, str(ROOT / "tests"))
    import comfy_stand_in

    comfy_stand_in.install(folder)
    spec = importlib.util.spec_from_file_location(
        "fourreal_pack", ROOT / "__init__.py", submodule_search_locations=[str(ROOT)]
    )
    sys.modules["fourreal_pack"] = importlib.util.module_from_spec(spec)
    return importlib.import_module("fourreal_pack.nodes").NODES


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        files = help_files(pack_on_the_stand_in(Path(folder)))
    for path in set((ROOT / PAGES).glob("*.md")) - {ROOT / path for path in files}:
        path.unlink()  # of a node that is gone
    for path, text in files.items():
        (ROOT / path).write_text(text, encoding="utf-8", newline="\n")


if __name__ == "__main__":
    main()
