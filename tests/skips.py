"""Fail the run on a skipped test, unless what it misses is among the things that CI may lack.

With FOURREAL_NO_SKIPS=1, as in CI, a test that is skipped for another reason counts as failed. So
nobody takes a run for complete in which the browser or a tool was absent. Without the variable
pytest skips as it always does.
"""

import os

import pytest

VARIABLE = "FOURREAL_NO_SKIPS"
EXPECTED = (
    # Hardware and systems: CI has CPUs, and each test of one system runs in another job.
    "CUDA",
    "on Linux only",
    "other systems have another allocator",
    "Windows has no file modes",
    "it has no backward on CPUs",
    "on CPUs it needs a C++ compiler",
    # The tests of the pack run on a stand-in, or in another job on a real ComfyUI.
    "COMFYUI_PATH",
    "a real ComfyUI executes the workflows",
    "a real ComfyUI asks the driver",
)


def unexpected(report: pytest.TestReport | pytest.CollectReport) -> str | None:
    """Why a report's test was skipped, where that is not expected and somebody wants to know."""
    if not os.environ.get(VARIABLE) or not report.skipped or hasattr(report, "wasxfail"):
        return None
    reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
    return None if any(known in reason for known in EXPECTED) else reason


def fail_if_unexpected(report):
    reason = unexpected(report)
    if reason:
        report.outcome = "failed"
        report.longrepr = f"{reason} (a skip that {VARIABLE} does not allow, see tests/skips.py)"
    return report


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport():
    return fail_if_unexpected((yield))


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report():
    return fail_if_unexpected((yield))
