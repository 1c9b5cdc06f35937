"""Build what is committed as an sdist, and a wheel from it, into dist/; check that both are whole.

The wheel has every file of the package, and the sdist all that the wheel is built from. It needs
git, and pip downloads setuptools for the build.
"""

import io
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
DIST = ROOT / "dist"
NOT_SHIPPED = ("fourreal/viewer/src/", "fourreal/weights/scores/")
LARGEST = 100  # MB of a file that the package index takes
BUILD_SDIST = "import sys; from setuptools import build_meta; build_meta.build_sdist(sys.argv[1])"


def git(*arguments: str) -> bytes:
    return subprocess.run(["git", *arguments], cwd=ROOT, check=True, capture_output=True).stdout


def pip(*arguments: str | Path) -> None:
    subprocess.run([sys.executable, "-m", "pip", *map(str, arguments)], check=True)


def build() -> tuple[Path, Path]:
    """The sdist and the wheel. The sdist is built from a copy, since a build takes up what earlier
    ones left behind; the wheel is built from the sdist alone."""
    shutil.rmtree(DIST, ignore_errors=True)
    with tempfile.TemporaryDirectory() as folder:
        tools, copy = Path(folder) / "tools", Path(folder) / "copy"
        with tarfile.open(fileobj=io.BytesIO(git("archive", "HEAD"))) as source:
            source.extractall(copy)
        pip("install", "-q", "--target", tools, "setuptools>=77")
        line = [sys.executable, "-c", BUILD_SDIST, str(DIST)]
        environment = os.environ | {"PYTHONPATH": str(tools)}
        subprocess.run(line, cwd=copy, env=environment, stdout=subprocess.DEVNULL, check=True)
    (sdist,) = DIST.glob("fourreal-*.tar.gz")
    pip("wheel", "-q", "--no-deps", "-w", DIST, sdist)
    (wheel,) = DIST.glob("fourreal-*.whl")
    return sdist, wheel


def check(file: Path, found: set[str], wanted: set[str]) -> None:
    """Stop when a file lacks something or has something too many, or is too large."""
    for word, names in (("lacks", wanted - found), ("should not have", found - wanted)):
        if names:
            sys.exit(f"{file.name} {word} {', '.join(sorted(names))}.")
    size = file.stat().st_size / 2**20
    if size > LARGEST:
        sys.exit(f"{file.name} has {size:.0f} MB, but the package index takes {LARGEST}.")
    print(f"{file}: {len(found)} files, {size:.1f} MB")


def main() -> None:
    sdist, wheel = build()
    tracked = git("ls-files", "fourreal").decode().split()
    wanted = {name for name in tracked if not name.startswith(NOT_SHIPPED)}
    with zipfile.ZipFile(wheel) as file:
        check(wheel, {name for name in file.namelist() if ".dist-info/" not in name}, wanted)
    with tarfile.open(sdist) as file:
        names = {m.name.partition("/")[2] for m in file.getmembers() if m.isfile()}
    made = {"PKG-INFO", "setup.cfg"}
    kept = {name for name in names if ".egg-info/" not in name} - made
    check(sdist, kept, wanted | {"LICENSE", "MANIFEST.in", "README.md", "pyproject.toml"})


if __name__ == "__main__":
    main()
