"""Run the demo: `python tasks.py demo ["PROMPT"] [options]`; run the tests: `python tasks.py test`.

`python tasks.py test --comfyui PATH` also runs what needs a ComfyUI checkout (0.28 or newer).

Standard library only; works on Linux, macOS and Windows. Everything is installed into `.venv`
beside this file.
"""

import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

HERE = Path(__file__).resolve().parent
ENVIRONMENT = HERE / ".venv"
DEMO_PROMPT, DEMO_SEED = "a red ball bouncing next to a yellow cylinder", "2"
CPU_TORCH = "torch==2.13.0"  # where pip offers a CPU build under this version


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


def install_torch() -> None:
    """A CPU build where there is no NVIDIA GPU and pip offers one, else pip's own choice."""
    if run(python(), "-c", "import torch", check=False, stderr=subprocess.DEVNULL) == 0:
        return
    has_gpu = shutil.which("nvidia-smi") is not None
    attempts = [["torch"]] if has_gpu else [[CPU_TORCH], ["torch"]]
    for wanted in attempts:
        if run(python(), "-m", "pip", "install", "-q", *wanted, check=wanted == ["torch"]) == 0:
            return


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
        seed = [] if "--seed" in arguments else ["--seed", DEMO_SEED]
        arguments = [DEMO_PROMPT, *seed, *arguments]
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
        run(python(), "-m", "pip", "install", "-q", "-r", requirements)
        marker.write_text(wanted)
    os.environ["COMFYUI_PATH"] = str(folder)


def test(arguments: list[str]) -> None:
    setup("test")
    if arguments[:1] == ["--comfyui"]:
        if len(arguments) < 2:
            sys.exit("--comfyui needs the path of a ComfyUI checkout.")
        use_comfyui(Path(arguments[1]).resolve())
        arguments = arguments[2:]
    run(python(), "-m", "ruff", "check", ".")
    run(python(), "-m", "ruff", "format", "--check", ".")
    run(python(), "-m", "pytest", *arguments)


def main() -> None:
    commands = {"demo": demo, "test": test}
    if len(sys.argv) < 2 or sys.argv[1] not in commands:
        sys.exit(__doc__)
    try:
        commands[sys.argv[1]](sys.argv[2:])
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
