"""Each option with bad values: exit code 2 and one sentence, before a model is made."""

import dataclasses
import os
import subprocess
import sys
import typing

import pytest
import torch

from fourreal.cli import COMMANDS, GROUPS, main, module_of
from fourreal.commands.option_checks import Number, rule_of
from fourreal.commands.option_rules import RULES

from .test_render import save_small_scene

NOT_NUMBERS = ("nan", "inf")
COUNT, SIZE = ("0", "-1"), ("0", "-16", str(2**31))
RATE = ("0", "-1", "nan", "inf", "1e9", "1e-300")
FRAMES, SHARE = ("0", "4", "-3"), ("-0.1", "1.5", "nan")
CELLS, FROM_ZERO, MISSING = ("0", "33", "-16"), ("-1", *NOT_NUMBERS), ("{tmp}/none", "{tmp}/pipe")
ODDS = ("0 0 0 0", "nan 1 1 1", "-1 1 1 1")
LOOP = {
    "--loop.steps": COUNT,
    "--loop.minutes": ("0", "-1", *NOT_NUMBERS),
    "--loop.save-every": COUNT,
    "--loop.batch-size": COUNT,
    "--loop.accumulate": COUNT,
    "--loop.learning-rate": FROM_ZERO,
    "--loop.warmup-steps": ("-1",),
    "--loop.ema-decay": SHARE,
    "--loop.workers": ("-1",),
    "--loop.seed": (str(2**64), str(-(2**64))),
    "--loop.out": ("{tmp}/dangling", "{tmp}/text"),
}
EVALUATE = {"--scenes": COUNT, "--height": CELLS, "--width": CELLS, "--device": ("gpu",)}
EVALUATE |= {"--out": ("{tmp}/dangling", "{tmp}"), "--data": MISSING}
BAD = {
    "generate ball": {
        "--num-views": COUNT,
        "--num-frames": FRAMES,
        "--height": (*CELLS, str(2**31)),
        "--width": (*CELLS, str(2**31)),
        "--num-inference-steps": COUNT,
        "--guidance-scale": NOT_NUMBERS,
        "--view-strength": FROM_ZERO,
        "--window": FRAMES,
        "--window-overlap": FRAMES,
        "--seed": (str(2**64), str(-(2**63) - 1)),
        "--fps": RATE,
        "--orbit-size": SIZE,
        "--device": ("gpu", "cuda:99"),
        "--first-block-cache": FROM_ZERO,
        "--negative-prompt": ("\udcff",),
        "--reconstructor": (*MISSING, "{tmp}/text", "{tmp}/empty", "{tmp}/damaged.safetensors"),
        "--transformer": MISSING,
        "--vae": MISSING,
        "--model": MISSING,
        "--lora": MISSING,
        "--image": MISSING,
        "--fixed-view": MISSING,
        "--freeze-time": MISSING,
        "--out": ("{tmp}/dangling", "{tmp}/text", "{tmp}/text/out", "{tmp}/dangling/out"),
        "--prompts": ("{tmp}/text",),
        "--arc": ("0", "400", "nan"),
        "--rounds": COUNT,
        "--elevation": ("90",),
        "--distance": ("0",),
        "--fill-scale": (*COUNT, "0 --height 64", "3 --height 64"),
    },
    "generate": {"\udcff": ("--views 2",), " ": ("--views 2",), "--prompts": MISSING},
    "reconstruct {tmp}/clip.mp4": {
        "--max-frames": COUNT,
        "--fps": RATE,
        "--resolution": SIZE,
        "--window": COUNT,
        "--sh-degree": ("-1",),
        "--refine": ("-1",),
        "--orbit-size": SIZE,
        "--filters.sharpen": FROM_ZERO,
        "--filters.voxel-size": FROM_ZERO,
        "--filters.border": ("0.5", "nan"),
        "--reconstructor": MISSING,
        "--known-cameras": MISSING,
        "--out": ("{tmp}/dangling", "{tmp}/text"),
        "--dtype": ("int8",),
    },
    "reconstruct --max-frames 1": {"{tmp}/none": ("",), "{tmp}/pipe": ("",)},
    "warp {tmp}/scene.safetensors": {
        "--arc": ("0", "360", "-400", *NOT_NUMBERS),
        "--elevation": ("90", "-90", "nan"),
        "--distance": ("0", "-1", "inf"),
        "--num-views": ("1", "0"),
        "--height": ("64", *SIZE),
        "--max-frames": COUNT,
        "--fps": RATE,
        "--reconstructor": MISSING,
        "--out": ("{tmp}/dangling", "{tmp}/text"),
        "--device": ("gpu",),
    },
    "warp": {"{tmp}/none": ("",), "{tmp}/pipe": ("",), "{tmp}/damaged.safetensors": ("",)},
    "track {tmp}/clip.mp4 --reconstructor {tmp}/model.pt": {
        "--rows": (*COUNT, "1000"),
        "--points": MISSING,
        "--view": ("-1",),
        "--time": ("-1",),
        "--max-frames": COUNT,
        "--resolution": SIZE,
        "--device": ("gpu",),
        "--out": ("{tmp}/dangling", "{tmp}/text"),
    },
    "track {tmp}/clip.mp4": {"--reconstructor": (*MISSING, "{tmp}/text")},
    "render {tmp}/scene.safetensors": {
        "--num-frames": COUNT,
        "--height": SIZE,
        "--freeze-at": ("-1",),
        "--keyframes": MISSING,
        "--depth": ("{tmp}/text/depth", "{tmp}/dangling"),
        "--out": ("{tmp}/text/out.mp4", "{tmp}/dangling", "{tmp}/text/images"),
        "--device": ("gpu",),
    },
    "render": {"{tmp}/none": ("",), "{tmp}/pipe": ("",), "{tmp}/damaged.safetensors": ("",)},
    "convert {tmp}/scene.safetensors": {"{tmp}/text/out.ply": ("",), "{tmp}/dangling": ("",)},
    "convert {tmp}/scene.safetensors {tmp}/x.ply": {
        "--cameras": ("{tmp}/text/c", "{tmp}/dangling"),
        "--time": ("-1",),
    },
    "view {tmp}/scene.safetensors --no-browser": {
        "--port": ("99999", "-1"),
        "--input-frames": MISSING,
        "--html": ("{tmp}", "{tmp}/dangling"),
    },
    "train autoencoder": {
        **LOOP,
        "--size": ("0", "7", "33"),
        "--z-dim": ("0", "10000"),
        "--decoder-width": ("-1",),
        "--decoder-depth": COUNT,
        "--half-size": (*SHARE, "0.5 --size 24"),
        "--num-scenes": COUNT,
        "--start-from": MISSING,
    },
    "train video": {
        "--width": ("100", "0"),
        "--layers": COUNT,
        "--reference-odds": ODDS,
        "--grid-starts": ("0 0 nan 1", "0.1 0.2 0.3 0.4"),
        "--grid-odds": ("0 0 0 0",),
        "--grids": ("x 2x5 4x13 8x29", "0x5 2x5 4x13 8x29", "1x1 2x4 4x13 8x29"),
        "--shift": ("0", "nan"),
        "--text-dropout": SHARE,
        "--reverse-views": SHARE,
        "--continuation": SHARE,
        "--half-size": (*SHARE, "0.5 --data.height 72", "0.5 --data.width 8"),
        "--reconstructor": MISSING,
        "--tune": ("lora", "vace"),
        "--vace": ("", "--start-from . --tune lora", "--start-from . --conditioning add"),
        "--data.shares": ("nan 1 1 1", "-1 1 1 1", "0 0 0 0"),
        "--data.height": CELLS,
        "--data.draws": ("-1",),
        "--data.scenes": ("-1",),
        "--data.multiview": ("{tmp}/none",),
        "--loop.steps": COUNT,
    },
    "train reconstructor": {
        "--num-views": ("1", "2", "3", "4", "6"),
        "--num-times": ("0", "12"),
        "--most-views": ("0", "7"),
        "--changing-views": SHARE,
        "--start-share": (*SHARE, "0.5"),
        "--size": ("0", "7", "33"),
        "--render-size": ("32", "0"),
        "--stage": ("all", "static", "dynamic"),
        "--temporal": ("words",),
        "--posed": ("{tmp}/none",),
        "--posed-share": SHARE,
        "--lpips-backbone": MISSING,
    },
    "evaluate autoencoder": {**EVALUATE, "--num-frames": FRAMES, "--num-views": COUNT},
    "evaluate video": {
        "--num-views": ("0", "1"),
        "--num-frames": (*FRAMES, "1"),
        "--fill-scale": (*COUNT, "3", "2 --height 65"),
        "--carry": ("--reconstructor {tmp}/none",),
        "--model": MISSING,
    },
    "evaluate warp": {
        "--num-views": ("0", "1"),
        "--vace": MISSING,
        "--strengths": ("0 -1", "nan"),
        "--feather": ("-1",),
        "--vace-steps": COUNT,
        "--grow": ("0 -1",),
        "--cache": ("{tmp}/text",),
        "--geometries": ("none",),
    },
    "evaluate pipeline": {
        "--times": COUNT,
        "--reconstructor": MISSING,
        "--guidance-scale": ("nan",),
    },
    "evaluate reconstruction": {"--num-frames": COUNT, "--num-views": ("1",), "--lpips": MISSING},
    "ablate video": {
        "--train-steps": COUNT,
        "--num-views": ("1",),
        "--variants": ("spare",),
        "--seeds": (str(2**64),),
    },
    "ablate sampling": {"--step-counts": ("4 0",), "--guidance-scales": ("1 nan",)},
    "benchmark attention": {"--heads": COUNT, "--tokens": COUNT, "--num-views": COUNT},
    "benchmark reconstruction": {"--num-views": ("2 0",), "--embed-dim": ("0", "100")},
    "benchmark renderer": {"--gaussians": ("0", "-5")},
}
LINES = [
    [*command.split(" "), option, *value.split()]
    for command, options in BAD.items()
    for option, values in options.items()
    for value in values
]


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A folder with what is wrong in some way, and with a scene and a clip that are right."""
    folder = tmp_path_factory.mktemp("files")
    (folder / "dangling").symlink_to("nowhere")
    (folder / "text").write_text("not a model")
    (folder / "empty").write_bytes(b"")
    (folder / "damaged.safetensors").write_bytes(b"\x10\0\0\0\0\0\0\0{}")
    os.mkfifo(folder / "pipe")
    for name in ("clip.mp4", "model.pt"):
        (folder / name).write_bytes(b"never read")
    save_small_scene(folder / "scene.safetensors")
    return folder


def placed(line, folder):
    return [part.replace("{tmp}", str(folder)) for part in line]


def test_there_are_200_wrong_command_lines():
    assert len(LINES) >= 200


@pytest.mark.parametrize("command", BAD)
def test_wrong_options_are_told_before_a_model_is_made(command, files, monkeypatch, capsys):
    def trap(*_, **__):
        raise AssertionError("a model was made")

    monkeypatch.chdir(files)
    before = sorted(files.rglob("*"))
    lines = [line for line in LINES if line[: len(command.split())] == command.split(" ")]
    assert lines
    monkeypatch.setattr(torch.nn.Module, "__init__", trap)
    for line in lines:
        code = main(placed(line, files))
        printed = capsys.readouterr().err
        assert code == 2, (line, printed)
        told = [text for text in printed.splitlines() if text.startswith("fourreal: ")]
        # tyro's own way to say what is wrong, for words that are no choice and for Filters
        boxed = "invalid choice" in printed or "Value error" in printed
        assert boxed or len(told) == len(printed.splitlines()) == 1, (line, printed)
        assert "Traceback" not in printed
    assert sorted(files.rglob("*")) == before


@pytest.mark.parametrize(
    "line", [LINES[i] for i in range(0, len(LINES), 80)], ids=lambda line: line[0]
)
def test_a_process_tells_it_soon(line, files):
    """In seconds of its own processor time, which other processes hardly add to."""
    line = [part.encode(errors="surrogateescape") for part in placed(line, files)]
    start = os.times()
    process = subprocess.run(
        [sys.executable, "-m", "fourreal.cli", *line], capture_output=True, cwd=files
    )
    end = os.times()
    assert process.returncode == 2, process.stderr
    assert process.stderr.count(b"\n") == 1
    used = end.children_user + end.children_system - start.children_user - start.children_system
    assert used < 6, f"{used} s"  # 1 to 2 on a machine at rest


@pytest.mark.parametrize("command", [*COMMANDS, *GROUPS])
def test_the_options_of_a_command_need_no_package_that_takes_seconds_to_import(command):
    program = (
        f"import sys, {module_of(command).__name__}, fourreal.commands.option_rules\n"
        "print([name for name in ('diffusers', 'transformers', 'pxr') if name in sys.modules])"
    )
    process = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert process.stdout == "[]\n", process.stderr


def configs():
    for name in (*COMMANDS, *GROUPS):
        module = module_of(name)
        found = [module.COMMAND] if name in COMMANDS else module.COMMANDS.values()
        yield from (config for config, _ in found)


def options(config):
    """(names in the table, type) of each option, those of nested configs too."""
    for field in dataclasses.fields(config):
        kind = typing.get_type_hints(config)[field.name]
        if dataclasses.is_dataclass(kind):
            yield from options(kind)
        else:
            owners = [cls.__name__ for cls in config.__mro__ if dataclasses.is_dataclass(cls)]
            yield " ".join([*(f"{owner}.{field.name}" for owner in owners), field.name]), kind


def test_every_number_and_every_path_has_a_rule_and_every_rule_an_option():
    found = [pair for config in configs() for pair in options(config)]
    for keys, kind in found:
        free = any(word in str(kind) for word in ("bool", "Literal", "str"))
        assert free or rule_of(keys, RULES), keys
    used = {rule_of(keys, {key: key for key in RULES}) for keys, _ in found}
    assert set(RULES) == used - {None}


@pytest.mark.parametrize(
    ("rule", "right", "wrong"),
    [
        (Number(1), (1, 1e30), (0, -1, float("nan"), float("inf"))),
        (Number(0, above=True), (1e-30,), (0, -1e-30)),
        (Number(0, 1), (0, 0.5, 1), (-0.001, 1.001)),
        (Number(1, multiple=4, plus=1), (1, 5, 29), (0, 2, 4, 28, -3)),
        (Number(16, 64, multiple=16), (16, 48, 64), (0, 33, 80, -16)),
    ],
)
def test_a_range_accepts_its_ends_and_nothing_beside_them(rule, right, wrong):
    assert not [value for value in right if rule(value)]
    assert all(rule(value) for value in wrong)


def test_short_and_former_names_of_options_are_the_same_options(monkeypatch):
    given = []
    for line in (
        "generate ball --views 2 --frames 5 --steps 3 --guidance 1.5",
        "evaluate video --views 3 --frames 9 --steps 2 --guidance 2",
        "ablate video --views 3 --frames 9 --steps 2",
        "benchmark reconstruction --views 2 3 --times 4 5",
    ):
        group, inner = [*line.split()[:2]]
        module = module_of(group)
        if group in COMMANDS:
            monkeypatch.setattr(module, "COMMAND", (module.COMMAND[0], given.append))
        else:
            monkeypatch.setitem(module.COMMANDS, inner, (module.COMMANDS[inner][0], given.append))
        assert main(line.split()) == 0
    seen = [(c.num_views, c.num_frames) for c in given]
    assert seen == [(2, 5), (3, 9), (3, 9), ((2, 3), (4, 5))]
    assert [c.num_inference_steps for c in given[:3]] == [3, 2, 2]
    assert [c.guidance_scale for c in given[:2]] == [1.5, 2.0]


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("reconstruct none", "none does not exist; give videos, or the folder that holds them."),
        (
            "reconstruct clip.mp4 --weights none",
            "--reconstructor (--weights): none does not exist; give the path of a file.",
        ),
        (
            "render none",
            "none does not exist; give a scene file, or the folder that holds a file of each time.",
        ),
        (
            "generate ball --freeze-time none",
            "--freeze-time: none does not exist; give a video, or the folder that holds an image "
            "of each view.",
        ),
        ("view scene.safetensors --html .", "--html: . is a folder; give the path of a file to "),
        ("track clip.mp4 --weights model.pt --rows 0", "--rows is 0, but must be at least 1."),
        ("generate ball --views 0", "--num-views is 0, but must be at least 1."),
        ("train video --loop.steps 0", "--loop.steps is 0, but must be at least 1."),
    ],
)
def test_the_sentence_names_the_option_and_what_it_accepts(
    line, sentence, files, monkeypatch, capsys
):
    monkeypatch.chdir(files)
    assert main(line.split()) == 2
    assert capsys.readouterr().err.startswith(f"fourreal: {sentence}")
