"""Skips that CI does not expect fail its run (see skips.py)."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = """
import pytest

def test_of_a_gpu():
    pytest.skip("no CUDA device")

def test_of_a_tool():
    pytest.skip("no such tool is installed")

@pytest.fixture
def browser():
    pytest.skip("no browser is installed")

def test_of_a_page(browser):
    pass

@pytest.mark.xfail
def test_of_a_known_defect():
    assert False
"""
MODULE = "import pytest\npytest.importorskip('no_such_package')\n"


@pytest.fixture
def run(tmp_path):
    """Run the tests above with the hooks of skips.py: pytest's last line."""
    shutil.copy(Path(__file__).with_name("skips.py"), tmp_path / "conftest.py")
    (tmp_path / "test_parts.py").write_text(TESTS)
    (tmp_path / "test_module.py").write_text(MODULE)

    def last_line(*arguments: str, no_skips: str) -> str:
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments]
        environment = os.environ | {"FOURREAL_NO_SKIPS": no_skips}
        done = subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True
        )
        return done.stdout.strip().splitlines()[-1]

    return last_line


def test_unexpected_skips_fail_where_the_variable_is_set(run):
    assert run("test_parts.py", no_skips="1").startswith("1 failed, 1 skipped, 1 xfailed, 1 error")
    assert "1 error" in run("test_module.py", no_skips="1")


def test_skips_are_pytests_own_where_the_variable_is_not_set(run):
    assert run(no_skips="").startswith("4 skipped, 1 xfailed")
