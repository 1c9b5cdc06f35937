"""The project's own files: one version, the same dependencies, pinned actions."""

import importlib.metadata
import importlib.util
import re
import shutil
from pathlib import Path

import pytest
import yaml

import fourreal

try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10, where pytest brings its forerunner
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def test_the_version_is_that_of_pyproject_and_written_nowhere_else():
    version = PROJECT["version"]
    assert fourreal.__version__ == version
    named = re.compile(rf"version\W+{re.escape(version)}\b", re.IGNORECASE)
    files = [
        *ROOT.glob("*"),
        *(path for folder in ("fourreal", "nodes", "tests") for path in (ROOT / folder).rglob("*")),
    ]
    places = [
        path.relative_to(ROOT).as_posix()
        for path in files
        if path.suffix in (".py", ".toml", ".cff", ".json", ".md") and path.is_file()
        if "node_modules" not in path.parts
        if named.search(path.read_text(encoding="utf-8"))
    ]
    assert places == ["pyproject.toml"]


def test_the_changelog_has_this_version_and_what_comes_next():
    headings = re.findall(r"^## \[(.+?)\]", (ROOT / "CHANGELOG.md").read_text("utf-8"), re.M)
    assert headings[0] == "Unreleased"
    assert PROJECT["version"] in headings


@pytest.mark.parametrize("beside", [None, 'name = "another"\nversion = "1.2.3"\n'])
def test_an_installed_package_has_its_version_from_its_metadata(tmp_path, monkeypatch, beside):
    """Whatever lies beside the package in site-packages."""
    (tmp_path / "fourreal").mkdir()
    copy = Path(shutil.copy(fourreal.__file__, tmp_path / "fourreal"))
    if beside:
        (tmp_path / "pyproject.toml").write_text(beside)
    monkeypatch.setattr(importlib.metadata, "version", lambda name: f"{name} of the wheel")
    spec = importlib.util.spec_from_file_location("fourreal", copy)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.__version__ == "fourreal of the wheel"
    with pytest.raises(AttributeError, match="no attribute 'version'"):
        _ = module.version


def test_requirements_equal_the_projects_dependencies():
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").split()
    assert lines == PROJECT["dependencies"]
    assert not any(line.startswith("torch") for line in lines)


def workflow(name: str) -> dict:
    text = (ROOT / ".github" / "workflows" / f"{name}.yml").read_text(encoding="utf-8")
    return yaml.safe_load(text)


def test_the_workflows_use_pinned_actions_and_publish_only_what_passes_the_tests():
    workflows = ROOT / ".github" / "workflows"
    used = [
        name
        for path in workflows.glob("*.yml")
        for name in re.findall(r"uses: (\S+)", path.read_text(encoding="utf-8"))
    ]
    pinned = re.compile(r"[\w-]+/[\w-]+@(v\d+\.\d+\.\d+|[0-9a-f]{40})|\./\.github/workflows/\S+")
    assert used and [name for name in used if not pinned.fullmatch(name)] == []
    jobs = workflow("publish")["jobs"]
    assert jobs["tests"]["uses"] == "./.github/workflows/tests.yml"
    published = {name for name, job in jobs.items() if job.get("needs") == "tests"}
    assert published == set(jobs) - {"tests", "version"} == {"pypi", "registry"}


def test_the_package_index_gets_the_files_that_were_checked_and_trusts_the_workflow():
    """What is uploaded is what the job `wheel` has built, looked into and run; there is no
    password."""
    job, pypi = workflow("tests")["jobs"]["wheel"], workflow("publish")["jobs"]["pypi"]
    lines = [step.get("run", "") for step in job["steps"]]
    assert lines.index("python .ci/wheel.py") < lines.index("python .ci/fresh_install.py")
    kept, fetched = job["steps"][-1]["with"], pypi["steps"][0]["with"]
    assert kept["name"] == fetched["name"] and kept["path"] == f"{fetched['path']}/*"
    assert pypi["permissions"] == {"id-token": "write"}
    assert "with" not in pypi["steps"][1]
