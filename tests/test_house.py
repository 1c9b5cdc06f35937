"""The house rules: floors of imports, sizes of files and functions, one name for one thing."""

import ast
import re
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FLOORS = (
    {
        "caching",
        "cameras",
        "bars",
        "devices",
        "files",
        "gaussians",
        "grid",
        "neighborhoods",
        "parallel",
        "profiling",
        "weights",
    },
    {"attention", "formats", "reference_colors", "rendering"},
    {"metrics", "moving_objects", "paste", "scenes", "warp"},
    {"carry", "data", "embedded", "fill", "reconstruction", "video"},
    {"benchmarks", "training", "viewer"},
    {"evaluation"},
    {"commands"},
)
FILE_LINES, FUNCTION_LINES, PARAMETERS, SKIPS = 400, 80, 10, 20
PUBLIC_CALL = "ViewTimePipeline.__call__"  # diffusers' convention: every option is a parameter
STAND_INS = ("_stand_in.py", "pretend_cuda.py")  # they have the signatures of other packages


def sources(*suffixes: str) -> list[Path]:
    """The project's own code: no built page, no installed packages, no lock files."""
    folders = ("fourreal", "nodes", "tests")
    found = [p for folder in folders for p in (ROOT / folder).rglob("*") if p.suffix in suffixes]
    kept = [p for p in found if "node_modules" not in p.parts and p.name != "page.html"]
    return sorted([*kept, *(p for p in ROOT.glob("*") if p.suffix in suffixes)])


def package_of(module: str) -> str:
    """The room of a module: fourreal.video.pipeline is in video; cli belongs to the commands."""
    name = [*module.split("."), "fourreal"][1]
    return "commands" if name == "cli" else name


@pytest.fixture(scope="module")
def arrows() -> set[tuple[str, str]]:
    """(room, room it imports from), of the real imports, those inside functions too."""
    grimp = pytest.importorskip("grimp", reason="grimp is not installed (extra `test`)")
    graph = grimp.build_graph("fourreal", cache_dir=None)
    pairs = {
        (package_of(module), package_of(imported))
        for module in graph.modules
        for imported in graph.find_modules_directly_imported_by(module)
    }
    return {(a, b) for a, b in pairs if a != b and "fourreal" not in (a, b)}


def test_imports_never_run_up_the_floors(arrows):
    floor = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}
    rooms = {room for arrow in arrows for room in arrow}
    assert rooms <= set(floor), f"no floor is given for {sorted(rooms - set(floor))}"
    assert not [(a, b) for a, b in sorted(arrows) if floor[a] < floor[b]]


def test_imports_make_at_most_seven_floors_and_no_circle(arrows):
    below = {room: {b for a, b in arrows if a == room} for arrow in arrows for room in arrow}
    heights: dict[str, int] = {}
    while len(heights) < len(below):
        ready = [r for r in below if r not in heights and below[r] <= set(heights)]
        assert ready, f"a circle among {sorted(set(below) - set(heights))}"
        heights |= {r: 1 + max((heights[b] for b in below[r]), default=0) for r in ready}
    assert max(heights.values()) <= 7, heights


def test_the_library_knows_nothing_of_comfyui_and_the_nodes():
    pattern = re.compile(r"^\s*(from|import) (comfy|comfy_api|comfy_extras|nodes|folder_paths)\b")
    found = [
        f"{path.relative_to(ROOT)}: {line.strip()}"
        for path in (ROOT / "fourreal").rglob("*.py")
        for line in path.read_text(encoding="utf-8").splitlines()
        if pattern.match(line)
    ]
    assert not found


def test_no_file_of_code_is_over_400_lines():
    sizes = {
        str(path.relative_to(ROOT)): len(path.read_text(encoding="utf-8").splitlines())
        for path in sources(".py", ".js", ".css", ".html")
    }
    assert not {name: size for name, size in sizes.items() if size > FILE_LINES}


def functions(path: Path):
    """(qualified name, node) of every Python function of a file, inner ones too."""

    def walk(node, prefix):
        for child in ast.iter_child_nodes(node):
            named = isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef))
            name = f"{prefix}.{child.name}".lstrip(".") if named else prefix
            if named and not isinstance(child, ast.ClassDef):
                yield name, child
            yield from walk(child, name)

    yield from walk(ast.parse(path.read_text(encoding="utf-8")), "")


JS_FUNCTION = re.compile(
    r"^(\s*)(?:export )?(?:default )?(?:async )?"
    r"(?:function\b.*|(?:const|let) \w+ = (?:async )?\(?[^=]*\)? => |"
    r"(?!if|for|while|switch|catch|else|return)\w+\([^;]*\) )\{$"
)


def javascript_functions(path: Path):
    """(first line, lines) of functions that begin a line and end with a brace in its column."""
    lines = path.read_text(encoding="utf-8").splitlines()
    for start, line in enumerate(lines):
        match = JS_FUNCTION.match(line)
        if match:
            closing = re.compile(rf"^{match[1]}\}}")
            end = next((i for i in range(start + 1, len(lines)) if closing.match(lines[i])), start)
            yield line.strip(), end - start + 1


def test_no_function_is_over_80_lines():
    long = {
        f"{path.relative_to(ROOT)}: {name}": node.end_lineno - node.lineno + 1
        for path in sources(".py")
        for name, node in functions(path)
        if node.end_lineno - node.lineno + 1 > FUNCTION_LINES
    }
    long |= {
        f"{path.relative_to(ROOT)}: {name}": size
        for path in sources(".js")
        for name, size in javascript_functions(path)
        if size > FUNCTION_LINES
    }
    assert not long


def test_no_signature_has_more_than_ten_parameters():
    wide = {}
    own = [path for path in sources(".py") if not path.name.endswith(STAND_INS)]
    for path in own:
        for name, node in functions(path):
            arguments = node.args
            listed = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
            count = sum(argument.arg not in ("self", "cls") for argument in listed)
            if count > PARAMETERS and name != PUBLIC_CALL:
                wide[f"{path.relative_to(ROOT)}: {name}"] = count
    assert not wide


def test_the_formatter_is_rarely_switched_off():
    mark = "# fmt: " + "skip"
    skips = Counter(
        {str(p.relative_to(ROOT)): p.read_text("utf-8").count(mark) for p in sources(".py")}
    )
    assert skips.total() < SKIPS, skips.most_common(10)


def test_no_two_modules_have_one_name():
    modules = [
        path
        for folder in ("fourreal", "nodes")
        for path in (ROOT / folder).rglob("*.py")
        if path.stem != "__init__"
    ]
    packages = [path.parent.name for path in (ROOT / "fourreal").rglob("__init__.py")]
    names = Counter([*(path.stem for path in modules), *packages])
    assert not {name for name, count in names.items() if count > 1}


def test_no_two_public_functions_or_classes_have_one_name():
    places: dict[str, list[str]] = {}
    for folder in ("fourreal", "nodes"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            for node in ast.parse(path.read_text(encoding="utf-8")).body:
                name = getattr(node, "name", "_")  # of a function or class
                if not name.startswith("_"):
                    places.setdefault(name, []).append(str(path.relative_to(ROOT)))
    assert not {name: files for name, files in places.items() if len(files) > 1}
