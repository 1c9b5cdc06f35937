"""Build the documentation's site into site/, in an environment of its own; a warning fails it.

    python .ci/docs.py          # build
    python .ci/docs.py serve    # build, serve on this machine, and build again at each change

The packages are those of the extra `docs`; the library is read, not imported, so it needs no torch.
"""

import os
import subprocess
import sys
import venv
from pathlib import Path

try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10
    from pip._vendor import tomli as tomllib

ROOT = Path(__file__).resolve().parents[1]
ENVIRONMENT = ROOT / ".venv-docs"
PROGRAMS = ENVIRONMENT / ("Scripts" if os.name == "nt" else "bin")


def main(arguments: list[str]) -> int:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = project["optional-dependencies"]["docs"]
    if not PROGRAMS.exists():
        venv.create(ENVIRONMENT, with_pip=True)
    subprocess.run([PROGRAMS / "python", "-m", "pip", "install", "-q", *wanted], check=True)
    paths = os.pathsep.join((str(PROGRAMS), os.environ["PATH"]))  # ruff lays out signatures
    settings = os.environ | {"PATH": paths, "NO_MKDOCS_2_WARNING": "1"}
    command = [PROGRAMS / "python", "-m", "mkdocs", *(arguments or ["build"]), "--strict"]
    return subprocess.run(command, cwd=ROOT, env=settings).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
