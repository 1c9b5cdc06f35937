"""Install dist/*.whl into an empty environment; run the demo and the viewer without this folder.

With `--borrow` torch and the other dependencies are those of the Python that runs this, so that
nothing is downloaded; without it pip installs them.
"""

import os
import subprocess
import sys
import sysconfig
import tempfile
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGE = 2**20  # bytes that a page with a scene has at least


def run(*command: str | Path, cwd: Path) -> str:
    """Run in a folder that is not the checkout's; gives what was printed."""
    print("+", *command, flush=True)
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    line = [str(part) for part in command]
    done = subprocess.run(line, cwd=cwd, env=environment, check=True, stdout=subprocess.PIPE)
    return done.stdout.decode()


def install(folder: Path, borrow: bool) -> Path:
    """An environment with the wheel in it; gives the folder of its programs."""
    (wheel,) = (ROOT / "dist").glob("fourreal-*.whl")
    venv.create(folder, with_pip=not borrow)
    programs = folder / ("Scripts" if os.name == "nt" else "bin")
    python = programs / ("python.exe" if os.name == "nt" else "python")
    if borrow:
        run(
            *(sys.executable, "-m", "pip", "--python", python),
            *("install", "-q", "--no-deps", wheel),
            cwd=folder,
        )
        site = "import sysconfig; print(sysconfig.get_path('purelib'), end='')"
        place = Path(run(python, "-c", site, cwd=folder))
        (place / "borrowed.pth").write_text(sysconfig.get_path("purelib"))
    else:
        run(python, "-m", "pip", "install", "-q", wheel, cwd=folder)
    return programs


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name).resolve()
        programs = install(folder / "fresh", "--borrow" in sys.argv[1:])
        where = "import fourreal, sys; print(fourreal.__file__, end='')"
        found = Path(run(programs / "python", "-c", where, cwd=folder))
        if folder not in found.parents:
            sys.exit(f"fourreal was imported from {found}, not from the fresh environment.")
        fourreal = programs / "fourreal"
        print(run(fourreal, "info", cwd=folder))
        sys.path.insert(0, str(ROOT))
        from tasks import DEMO_PROMPT  # the README's demo

        run(fourreal, "generate", DEMO_PROMPT, "--out", "out/demo", cwd=folder)
        scene = folder / "out" / "demo" / "scene.safetensors"
        run(fourreal, "view", scene, "--html", "scene.html", cwd=folder)
        size = (folder / "scene.html").stat().st_size
        if size < PAGE:
            sys.exit(f"scene.html has {size} bytes, but a scene and the viewer are larger.")
        print(f"The wheel works on its own: a scene, and a page of {size / 2**20:.1f} MB.")


if __name__ == "__main__":
    main()
