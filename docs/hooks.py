"""What mkdocs does beside the pages that lie here: pages made from the code, links out of docs/.

`pages()` makes the help page of every node, a page of the reference for every module of `fourreal`,
and those whose text lies elsewhere in the repository (SOURCES). Links to files outside of docs/
lead to the site's page of that file, or to the file in the repository. At the end the build fails
when a public name of `fourreal` has no place in the reference.

Standard library only but for mkdocs itself, which calls the functions named on_*.
"""

import ast
import os
import re
import zlib
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# A placeholder, as in pyproject.toml.
REPOSITORY = "https://github.com/fourreal/fourreal/blob/main/"
SOURCES = {  # pages of the site by the files that hold their text
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "fourreal/weights/README.md": "model-card.md",
}
NODE_HELP = "nodes/web/docs/"
ELSEWHERE = {  # files and folders that a page of their own stands for
    "README.md": "index.md",
    "nodes/web/docs": "nodes/index.md",
    "fourreal": "api/index.md",
    "fourreal/commands": "api/commands/index.md",
}
LINK = re.compile(r"(?<!!)\[([^\]]*)\]\(([^)\s]+)\)")
NODE = re.compile(r'node_id="(\w+)"(?:.|\n)*?display_name="([^"]+)"(?:.|\n)*?category=types\.(\w+)')
CHART = re.compile(r"```mermaid\nxychart-beta\n(.*?)```", re.S)
MENUS = {
    "GENERATE": "Generate a grid",
    "RECONSTRUCT": "Make a scene",
    "RENDER": "Look at a scene",
    "FILES": "Files",
}


# ----- the pages -----


def pages() -> dict[str, str]:
    """Markdown of every page that is made, by its address on the site."""
    texts = {page: (ROOT / file).read_text(encoding="utf-8") for file, page in SOURCES.items()}
    return texts | node_pages() | api_pages()


def source_of(page: str) -> str:
    """The file of the repository that a page's text, and so the base of its links, comes from."""
    for file, address in SOURCES.items():
        if page == address:
            return file
    if re.fullmatch(r"nodes/FourReal_\w+\.md", page):
        return NODE_HELP + page.removeprefix("nodes/")
    return f"docs/{page}"


def node_menus() -> dict[str, list[tuple[str, str]]]:
    """(id, name) of the nodes in each menu of ComfyUI, as their schemas have them."""
    menus: dict[str, list[tuple[str, str]]] = {title: [] for title in MENUS.values()}
    for path in sorted((ROOT / "nodes").glob("*_nodes.py")):
        for node, name, menu in NODE.findall(path.read_text(encoding="utf-8")):
            menus[MENUS[menu]].append((node, name))
    return menus


def node_pages() -> dict[str, str]:
    """The help page of every node, as ComfyUI shows it, and a list of them."""
    made = {
        f"nodes/{path.name}": path.read_text(encoding="utf-8")
        for path in sorted((ROOT / NODE_HELP).glob("*.md"))
    }
    lines = [
        "# Nodes",
        "Right-click the canvas of ComfyUI, *Add Node*, *4Real*; or double-click it and type a "
        "name. These pages are the nodes' own help, which ComfyUI shows too (select a node and "
        "press the question mark).",
    ]
    for title, nodes in node_menus().items():
        lines.append(f"## {title}")
        rows = [
            f"| [{name}]({node}.md) | {made[f'nodes/{node}.md'].splitlines()[2]} |"
            for node, name in sorted(nodes, key=lambda entry: entry[1])
        ]
        lines.append("\n".join(["| node | what it does |", "|---|---|", *rows]))
    return made | {"nodes/index.md": "\n\n".join(lines) + "\n"}


# ----- the reference -----


def modules() -> dict[str, Path]:
    """The files of the library by their modules' names."""
    found = {}
    for path in sorted((ROOT / "fourreal").rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(part for part in parts if part != "__init__")] = path
    return dict(sorted(found.items()))


def is_package(path: Path) -> bool:
    return path.name == "__init__.py"


def defined_names(path: Path) -> list[str]:
    """Public functions, classes and constants that a file defines."""
    names = []
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.append(node.name)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names += [target.id for target in targets if isinstance(target, ast.Name)]
    return [name for name in dict.fromkeys(names) if not name.startswith("_")]


def public_names() -> list[str]:
    """Every public function, class and method of the library, with its module."""
    names = []
    for module, path in modules().items():
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                names += [f"{module}.{name}" for name in _with_methods(node)]
    return names


def _with_methods(node: ast.stmt) -> Iterator[str]:
    """A function's or class's name and those of the class's methods, if they are public."""
    if node.name.startswith("_"):
        return
    yield node.name
    for inner in node.body if isinstance(node, ast.ClassDef) else []:
        if isinstance(inner, ast.FunctionDef) and not inner.name.startswith("_"):
            yield f"{node.name}.{inner.name}"


def first_line(path: Path) -> str:
    """The first sentence or line of a module's docstring."""
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return " ".join(text.split("\n\n")[0].split())


def address(module: str, path: Path) -> str:
    """The page of a module; a package's is the index of its folder."""
    place = "/".join(["api", *module.split(".")[1:]])
    return f"{place}/index.md" if is_package(path) else f"{place}.md"


def api_pages() -> dict[str, str]:
    """A page for each module, where mkdocstrings puts what its docstrings say."""
    found = modules()
    return {
        address(module, path): package_page(module, path)
        if is_package(path)
        else f"# {module}\n\n::: {module}\n"
        for module, path in found.items()
    }


def package_page(module: str, path: Path) -> str:
    """What a package is, what can be imported from it, and its modules."""
    inside = {
        name: file
        for name, file in modules().items()
        if name != module and name.rpartition(".")[0] == module
    }
    defined = [name for name in defined_names(path) if name != "TYPE_CHECKING"]
    members = str(defined).replace("'", '"')
    lines = [f"# {module}", f"::: {module}\n    options:\n      members: {members}"]
    homes = {name: home for home, file in inside.items() for name in defined_names(file)}
    if names := exported(path):
        links = [f"[`{name}`][{homes[name]}.{name}]" for name in names if name in homes]
        lines += ["## To import from here", ", ".join(links) + "."]
    rows = [
        f"| [{name.rpartition('.')[2]}]({name.rpartition('.')[2]}{'/index' * is_package(file)}.md) "
        f"| {first_line(file)} |"
        for name, file in inside.items()
    ]
    lines += ["## Modules", "\n".join(["| module | what it is |", "|---|---|", *rows])]
    return "\n\n".join(lines) + "\n"


def exported(path: Path) -> list[str]:
    """The names of a package's __all__."""
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "__all__":
            return ast.literal_eval(node.value)
    return []


# ----- links out of docs/ -----


def outside_links(markdown: str, page: str) -> str:
    """A page's text with links out of its folder as the site needs them."""
    base = (ROOT / source_of(page)).parent

    def rewritten(match: re.Match) -> str:
        text, target = match.groups()
        path, _, section = target.partition("#")
        if "://" in target or not path:
            return match[0]
        file = os.path.relpath(base / path, ROOT).replace(os.sep, "/")
        made = SOURCES.get(file) or ELSEWHERE.get(file)
        if file.startswith(NODE_HELP):
            made = "nodes/" + file.removeprefix(NODE_HELP)
        if made is None and file.startswith("docs/") and not file.endswith(".py"):
            made = file.removeprefix("docs/")
        if made is None:
            return f"[{text}]({REPOSITORY}{file}{'#' * bool(section)}{section})"
        found = os.path.relpath(made, Path(page).parent).replace(os.sep, "/")
        return f"[{text}]({found}{'#' * bool(section)}{section})"

    return LINK.sub(rewritten, markdown)


# ----- charts -----


def drawn_charts(markdown: str) -> str:
    """Mermaid's line charts, which GitHub draws, as drawings inside the page: the site loads no
    program from elsewhere."""
    return CHART.sub(lambda match: drawn_chart(match[1]), markdown)


def drawn_chart(text: str) -> str:
    """One line over evenly spaced values, with the ends of both axes."""
    title = re.search(r'title "(.+?)"', text)[1]
    label, first, last = re.search(r'x-axis "(.+?)" (\S+) --> (\S+)', text).groups()
    low, high = re.search(r"y-axis.*? (\S+) --> (\S+)", text).groups()
    values = [float(value) for value in re.search(r"line \[(.+?)\]", text)[1].split(",")]
    share = [(value - float(low)) / (float(high) - float(low)) for value in values]
    points = " ".join(
        f"{50 + 420 * i / (len(values) - 1):.1f},{150 - 120 * part:.1f}"
        for i, part in enumerate(share)
    )
    return (
        f'<figure class="drawing"><svg viewBox="0 0 500 180" role="img" aria-label="{title}">'
        f'<path class="line" d="M50 30 V150 H470"/><polyline class="line" points="{points}"/>'
        f'<text class="small" x="44" y="34" text-anchor="end">{high}</text>'
        f'<text class="small" x="44" y="154" text-anchor="end">{low}</text>'
        f'<text class="small" x="50" y="168" text-anchor="middle">{first}</text>'
        f'<text class="small" x="470" y="168" text-anchor="middle">{last}</text>'
        f'<text class="small" x="260" y="168" text-anchor="middle">{label}</text></svg>'
        f"<figcaption>{title}</figcaption></figure>"
    )


# ----- what mkdocs calls -----


def navigation(entries: list) -> list:
    """The navigation of mkdocs.yml, with the nodes and the reference in their places."""
    filled = []
    for entry in entries:
        (title, value), *_ = entry.items()
        if value == "nodes/":
            value = ["nodes/index.md"]
            for menu, nodes in node_menus().items():
                inner = [{name: f"nodes/{node}.md"} for node, name in nodes]
                value.append({menu: sorted(inner, key=lambda item: next(iter(item)))})
        elif value == "api/":
            value = api_navigation("fourreal")
        elif isinstance(value, list):
            value = navigation([item for item in value if isinstance(item, dict)])
        filled.append({title: value})
    return filled


def api_navigation(package: str) -> list:
    """A package's page and those of its modules."""
    entries: list = []
    for module, path in modules().items():
        if module == package:
            entries.insert(0, address(module, path))
        elif module.rpartition(".")[0] == package:
            title = module.rpartition(".")[2]
            inner = api_navigation(module) if is_package(path) else address(module, path)
            entries.append({title: inner})
    return entries


def on_config(config):
    config.nav = navigation(config.nav)
    return config


def on_files(files, config):
    from mkdocs.structure.files import File

    for page, text in pages().items():
        files.append(File.generated(config, page, content=text))
    return files


def on_page_markdown(markdown, page, config, files):
    return drawn_charts(outside_links(markdown, page.file.src_uri))


def on_post_build(config):
    """Raise an error when a public name has no place in the reference."""
    from mkdocs.exceptions import PluginError

    inventory = (Path(config.site_dir) / "objects.inv").read_bytes()
    missing = missing_names(inventory)
    if missing:
        raise PluginError(f"these public names have no place in the reference: {missing}")


def missing_names(inventory: bytes) -> list[str]:
    """Public names that an inventory (objects.inv of Sphinx, version 2) does not list."""
    body = inventory.split(b"\n", 4)[4]
    listed = {line.split(" ")[0] for line in zlib.decompress(body).decode().splitlines()}
    return [name for name in public_names() if name not in listed]
