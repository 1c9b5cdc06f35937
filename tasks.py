"""Run the demo: `python tasks.py demo ["PROMPT"] [options]`; run the tests: `python tasks.py test`.

The tests are ruff, mypy and pytest; `python tasks.py lint` runs the first two alone.
`python tasks.py test --comfyui PATH` also runs what needs a ComfyUI checkout (0.28 or newer).
`python tasks.py gpu` runs the tests and benchmarks that need a CUDA GPU, in at most 20 minutes, and
writes gpu.json.

Standard library only; works on Linux, macOS and Windows. Everything is installed into `.venv`
beside this file.
"""

import os
import shutil
import subprocess
import sys
import urllib.request
import venv
from http.client import HTTPException
from pathlib import Path

HERE = Path(__file__).resolve().parent
ENVIRONMENT = HERE / ".venv"
DEMO_PROMPT = "a red ball bouncing next to a yellow cylinder"
CPU_INDEX = "https://download.pytorch.org/whl/cpu"  # PyTorch's own CPU builds
CPU_TORCH = "torch==2.13.0"  # some mirrors of PyPI offer a CPU build under this version


def python() -> Path:
    """The environment's interpreter."""
    inside = "Scripts/python.exe" if os.name == "nt" else "bin/python"
    return ENVIRONMENT / inside


def run(*command, check: bool = True, **options) -> int:
    """Show a command, run it, and stop with its exit code when it fails."""
    print("+", *(str(c) for c in command), flush=True)
    code = subprocess.run([str(c) for c in command], cwd=HERE, **options).returncode
    if check and code:
        sys.exit(code)
    return code


def reachable(address: str, seconds: float = 5) -> bool:
    """Whether a web address answers."""
    try:
        with urllib.request.urlopen(address, timeout=seconds):
            return True
    except (OSError, HTTPException):  # no network, no such host, an error, or too late
        return False


def cpu_index() -> list[str]:
    """pip's option for PyTorch's own CPU builds, if there is no NVIDIA GPU and they are in reach.

    On Linux pip's own choice is a CUDA build of several gigabytes.
    """
    if shutil.which("nvidia-smi") or not reachable(f"{CPU_INDEX}/torch/"):
        return []
    return ["--index-url", CPU_INDEX]


def torch_attempts() -> list[list[str]]:
    """What pip may be asked for to get torch, the best first."""
    if shutil.which("nvidia-smi"):
        return [["torch"]]
    index = cpu_index()
    return [*([["torch", *index]] if index else []), [CPU_TORCH], ["torch"]]


def install_torch() -> None:
    """Install torch if it cannot be imported: a CPU build where there is no NVIDIA GPU."""
    if run(python(), "-c", "import torch", check=False, stderr=subprocess.DEVNULL) == 0:
        return
    for wanted in torch_attempts():
        if run(python(), "-m", "pip", "install", "-q", *wanted, check=False) == 0:
            return
    sys.exit(
        f"pip could not install torch (see its messages above). Install it into {ENVIRONMENT} as "
        "https://pytorch.org/get-started says, then run this again."
    )


def setup(extras: str) -> None:
    """Make the environment and install the project with the given extras, once per change."""
    if sys.version_info < (3, 10):  # noqa: UP036 (this runs before any requirement is checked)
        sys.exit(f"Python 3.10 or newer is needed; this is {sys.version.split()[0]}.")
    if not python().exists():
        print(f"making {ENVIRONMENT}", flush=True)
        venv.create(ENVIRONMENT, with_pip=True)
    marker = ENVIRONMENT / f"installed-{extras or 'base'}"
    wanted = (HERE / "pyproject.toml").read_text()
    if marker.exists() and marker.read_text() == wanted:
        return
    install_torch()
    target = f"{HERE}[{extras}]" if extras else str(HERE)
    run(python(), "-m", "pip", "install", "-q", "-e", target)
    marker.write_text(wanted)


def demo(arguments: list[str]) -> None:
    setup("")
    if not arguments or arguments[0].startswith("-"):
        arguments = [DEMO_PROMPT, *arguments]
    if "--out" not in arguments:
        arguments += ["--out", "out/demo"]
    run(python(), "-m", "fourreal.cli", "generate", *arguments)


def use_comfyui(folder: Path) -> None:
    """Install what a ComfyUI checkout needs, once per change, and point the tests at it."""
    requirements = folder / "requirements.txt"
    if not (folder / "main.py").exists():
        sys.exit(f"{folder} is not a ComfyUI checkout: it has no main.py.")
    marker, wanted = ENVIRONMENT / "installed-comfyui", requirements.read_text()
    if not marker.exists() or marker.read_text() != wanted:
        index = cpu_index()
        if index:  # these two must be of the same build as torch
            run(python(), "-m", "pip", "install", "-q", "torchvision", "torchaudio", *index)
        run(python(), "-m", "pip", "install", "-q", "-r", requirements)
        marker.write_text(wanted)
    os.environ["COMFYUI_PATH"] = str(folder)


def lint(_: list[str]) -> None:
    setup("test")
    run(python(), "-m", "ruff", "check", ".")
    run(python(), "-m", "ruff", "format", "--check", ".")
    run(python(), "-m", "mypy", "fourreal")


def test(arguments: list[str]) -> None:
    setup("test")
    if arguments[:1] == ["--comfyui"]:
        if len(arguments) < 2:
            sys.exit("--comfyui needs the path of a ComfyUI checkout.")
        use_comfyui(Path(arguments[1]).resolve())
        arguments = arguments[2:]
    lint([])
    # A process for each core, of one thread: small tensors are slower with more.
    workers = ("-n", min(4, os.cpu_count() or 1), "--dist", "worksteal")
    run(python(), "-m", "pytest", *workers, *arguments, env=os.environ | {"OMP_NUM_THREADS": "1"})


def gpu(arguments: list[str]) -> None:
    if not shutil.which("nvidia-smi"):  # as where torch is installed; nothing is made for nothing
        print("There is no NVIDIA GPU here, so nothing was measured.", file=sys.stderr)
        sys.exit(2)
    setup("test")
    run(python(), "-m", "fourreal.benchmarks.gpu", *arguments)


def main() -> None:
    commands = {"demo": demo, "gpu": gpu, "lint": lint, "test": test}
    if len(sys.argv) < 2 or sys.argv[1] not in commands:
        sys.exit(__doc__)
    try:
        commands[sys.argv[1]](sys.argv[2:])
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
