"""Build a wheel of what is committed into dist/, and check that it has all of the package.

It needs git, and pip downloads setuptools for the build.
"""

import io
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


def git(*arguments: str) -> bytes:
    return subprocess.run(["git", *arguments], cwd=ROOT, check=True, capture_output=True).stdout


def build() -> Path:
    """The wheel. It is built from a copy, since a build takes up what earlier ones left behind."""
    shutil.rmtree(DIST, ignore_errors=True)
    with tempfile.TemporaryDirectory() as folder:
        with tarfile.open(fileobj=io.BytesIO(git("archive", "HEAD"))) as source:
            source.extractall(folder)
        command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", str(DIST), folder]
        subprocess.run(command, check=True)
    (wheel,) = DIST.glob("fourreal-*.whl")
    return wheel


def main() -> None:
    wheel = build()
    tracked = git("ls-files", "fourreal").decode().split()
    wanted = {name for name in tracked if not name.startswith(NOT_SHIPPED)}
    with zipfile.ZipFile(wheel) as file:
        found = {name for name in file.namelist() if ".dist-info/" not in name}
    for word, names in (("lacks", wanted - found), ("should not have", found - wanted)):
        if names:
            sys.exit(f"{wheel.name} {word} {', '.join(sorted(names))}.")
    print(f"{wheel}: {len(found)} files")


if __name__ == "__main__":
    main()
