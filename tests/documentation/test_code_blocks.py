"""What a reader copies from README and the site works.

Commands and Python of a page run in their order, in a folder with a small scene, videos and photos,
at small sizes. Where a comment above a block says what it needs (`<!-- needs a GPU -->`), its
arguments are read by the real command line, and its names and keywords looked up, but nothing runs.
In README, which has no such comments, a command runs where what it reads is there.
"""

import ast
import functools
import importlib
import importlib.util
import inspect
import json
import re
import runpy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import tyro

from fourreal.cli import COMMANDS, GROUPS, gather, main, module_of
from fourreal.commands import option_checks, option_rules
from fourreal.commands.verbosity import with_verbosity
from fourreal.files.media import write_images, write_video
from fourreal.formats import save_scene
from fourreal.gaussians import GaussianScene

from ..comfyui import write_random_weights
from ..test_project import PROJECT
from ..tiny import cloud
from .blocks import SHELL, Block, blocks_of, commands_of

ROOT = Path(__file__).resolve().parents[2]
README = ROOT / "README.md"
PAGES = [README, *sorted((ROOT / "docs").rglob("*.md"))]
PAGES = [page for page in PAGES if blocks_of(page)]
SMALLER = {  # options with which a command takes seconds
    "generate": {
        **{"num_views": 2, "num_frames": 5, "height": 32, "width": 32},
        **{"num_inference_steps": 1, "orbit_size": 16},
    },
    "reconstruct": {"orbit_size": 16, "max_frames": 2},
    "render": {"height": 16, "num_frames": 3},
    "warp": {"num_views": 2},
}
READ = (
    option_checks.file_to_read,
    option_checks.folder_to_read,
    option_rules.reconstructor_file,
)
KNOWN = ("cd", "git", "source", "npm", "apt-get", "mkdocs")  # programs of others


@pytest.fixture(scope="module")
def untrained_models(tmp_path_factory):
    """Smaller models in place of the embedded ones."""
    folder = tmp_path_factory.mktemp("weights")
    write_random_weights(folder)
    return folder


def pictures(count: int, size: int) -> torch.Tensor:
    """Smooth random images [count, 3, size, size], which survive a video file."""
    return torch.nn.functional.interpolate(torch.rand(count, 3, 4, 4), size, mode="bilinear")


@pytest.fixture
def desk(tmp_path, monkeypatch, untrained_models):
    """A folder with what the pages speak of, which is the current one."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FOURREAL_WEIGHTS", str(untrained_models))
    cameras = torch.eye(3, 4).repeat(2, 1, 1)
    cameras[:, :, 3] = torch.tensor([[0.0, 0, 4], [0.5, 0, 4]])
    lens = torch.tensor([[30.0, 0, 16], [0, 30, 16], [0, 0, 1]]).repeat(2, 1, 1)
    scene = GaussianScene(cloud(9), [cloud(3 + t) for t in range(5)], cameras, lens, 32, 32)
    save_scene(scene, tmp_path / "out/demo/scene.safetensors")
    row = pictures(5, 32)
    write_video(tmp_path / "row.mp4", row, 8)
    write_images(tmp_path / "photos", torch.cat([row[:1], pictures(1, 32)]))
    for camera in (1, 2, 3):
        write_video(tmp_path / f"cams/cam{camera}.mp4", pictures(16, 32), 8)
    write_video(tmp_path / "my_videos/clip.mp4", pictures(29, 64), 16)
    return tmp_path


def reads(rule) -> bool:
    """Whether a rule opens what an option names."""
    return rule in READ or isinstance(rule, option_checks.PathToRead)


def options_of(words: list[str]):
    """What the command line makes of the words behind `fourreal`, and the function for it."""
    app, runs = gather(words[0])
    options, _ = app.cli(prog="fourreal", args=words)
    return options, runs[type(options)]


def check_arguments(words: list[str]) -> None:
    """Raise an error for what `fourreal` would not take, whatever files are here."""
    options, _ = options_of(words)
    if together := option_rules.TOGETHER.get(type(options).__name__):
        together(options)
    for name, keys, value in option_checks.options_of(options):
        rule = option_checks.rule_of(keys, option_rules.RULES)
        if rule and not reads(rule) and not (rule is option_rules.device and value):
            option_checks.check_option(name, value, rule)


def run_fourreal(words: list[str]) -> None:
    """Run a command at a small size."""
    options, run = options_of(words)
    if words[0] in SMALLER:
        options = replace(options, **SMALLER[words[0]])
    option_rules.check_options(options)
    run(options)


def reads_what_is_here(words: list[str]) -> bool:
    """Whether a command of README can run: it ends by itself, and its files are on the desk."""
    options, _ = options_of(words)
    if words[0] not in COMMANDS or (words[0] == "view" and not options.html):
        return False
    for _, keys, value in option_checks.options_of(options):
        if reads(option_checks.rule_of(keys, option_rules.RULES)):
            paths = value if isinstance(value, tuple) else (value,)
            if not all(path is None or path.exists() for path in paths):
                return False
    return True


def check_program(words: list[str]) -> None:
    """A command that is not `fourreal`: its parts exist."""
    if words[0] == "python" and words[1] == "tasks.py":
        spec = importlib.util.spec_from_file_location("tasks", ROOT / "tasks.py")
        tasks = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(tasks)
        assert callable(getattr(tasks, words[2]))
    elif words[0] == "accelerate":
        from accelerate.commands.launch import launch_command_parser

        given = launch_command_parser().parse_args(words[2:])
        assert given.module and given.training_script == "fourreal.cli"
        assert given.config_file is None or (ROOT / given.config_file).is_file()
        check_arguments(given.training_script_args)
    elif words[:2] == ["pip", "install"] or words[1:4] == ["-m", "pip", "install"]:
        extras = re.findall(r"\[([\w,]+)\]", " ".join(words))
        wanted = {extra for group in extras for extra in group.split(",")}
        assert wanted <= set(PROJECT["optional-dependencies"])
    elif words[0] == "python" and words[1].endswith(".py"):
        assert (ROOT / words[1]).is_file()
    elif words[:3] == ["python", "-m", "tests.fuzz"]:
        assert (ROOT / "tests/fuzz.py").is_file()
    else:
        assert words[0] in KNOWN or Path(words[0]).suffix == ".sh", f"what is {words}?"


def check_names(code: str) -> None:
    """Python that needs more than is here: what it imports exists, and calls name real options."""
    tree, names = ast.parse(code), {}
    for node in tree.body:
        if isinstance(node, ast.ImportFrom):
            module = importlib.import_module(node.module)
            names |= {item.asname or item.name: getattr(module, item.name) for item in node.names}
        elif isinstance(node, ast.Import):
            names |= {item.name: importlib.import_module(item.name) for item in node.names}
    for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
        first, *attributes = ast.unparse(call.func).split(".")
        if first in names:
            function = functools.reduce(getattr, attributes, names[first])
            inspect.signature(function).bind_partial(**{k.arg: None for k in call.keywords})


def run_python(code: str, names: dict) -> None:
    """Run a page's Python after that of the blocks before, whose names it goes on with."""
    file = Path("block.py")
    file.write_text(code, encoding="utf-8")
    names.update(runpy.run_path(str(file), names))


def do(block: Block, page: Path, names: dict) -> None:
    """Run a block, or check it where it says what it needs."""
    if block.title:
        Path(block.title).write_text(block.text, encoding="utf-8")
    if block.language == "python" and block.mark:
        check_names(block.text)
    elif block.language == "python":
        run_python(block.text, names)
    elif block.language in SHELL:
        for words in commands_of(block):
            if words[0] != "fourreal":
                check_program(words)
            elif block.mark or (page == README and not reads_what_is_here(words[1:])):
                check_arguments(words[1:])
            else:
                run_fourreal(words[1:])
    elif block.language == "json":
        json.loads(block.text)
    else:
        assert block.language in ("text", "powershell", "mermaid"), f"what is {block.language}?"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_the_code_blocks_of_a_page_work(page, desk):
    names: dict = {}
    for block in blocks_of(page):
        do(block, page, names)


def all_options() -> set[str]:
    """Every option of every command, with its other names."""
    found = set()
    for name in [*COMMANDS, *GROUPS]:
        module = module_of(name)
        for config, _ in [module.COMMAND] if name in COMMANDS else module.COMMANDS.values():
            parser = tyro.extras.get_parser(with_verbosity(config))
            found |= {text for action in parser._actions for text in action.option_strings}
    return {option.replace("_", "-") for option in found}


def test_options_that_the_pages_name_exist():
    """Those in the text: between backquotes, outside of blocks."""
    options, others = all_options(), {"--comfyui", "--lowvram", "--depth", "--num-processes"}
    for page in PAGES:
        text = re.sub(r"^ *```.*?^ *```", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)
        named = set(re.findall(r"(?<![\w-])--[a-z][\w.-]*", " ".join(re.findall(r"`[^`]+`", text))))
        assert named - options - others == set(), page


def test_what_is_not_run_says_why():
    marks = {block.mark for page in PAGES for block in blocks_of(page) if block.mark}
    known = re.compile(r"needs [\w ]+|runs until it is stopped|takes long on a CPU")
    assert marks and [mark for mark in marks if not known.fullmatch(mark)] == []


@pytest.mark.parametrize(
    ("language", "text", "mark"),
    [
        ("bash", "fourreal render nowhere.safetensors", None),
        ("bash", "fourreal render out/demo/scene.safetensors --knid orbit", "needs a GPU"),
        ("bash", "fourreal generate ball --num-frames 4", "needs a GPU"),
        ("bash", "python tasks.py dmeo", None),
        ("bash", "pip install fourreal[nothing]", None),
        ("bash", "accelerate launch --num_procs 2 -m fourreal.cli generate ball", None),
        ("bash", "fuorreal info", None),
        ("python", "from fourreal.formats import open_secne", "needs a GPU"),
        ("python", "from fourreal.formats import open_scene\nopen_scene(file='a')", "needs a GPU"),
        ("python", "1 / 0", None),
        ("json", "{", None),
    ],
)
def test_a_block_that_does_not_work_is_found(language, text, mark, desk):
    with pytest.raises((Exception, SystemExit)):
        do(Block(language, text, None, mark), Path("page.md"), {})


def test_the_command_line_itself_ends_well_on_the_first_command_of_the_site(desk, capsys):
    """The others are run without the part of `main` that prints and turns errors to codes."""
    words = ["view", "out/demo/scene.safetensors", "--html", "scene.html"]
    assert main(words) == 0
    assert "scene.html" in capsys.readouterr().out
