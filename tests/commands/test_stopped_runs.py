"""A few runs that are stopped at random moments; stopped_runs.py does any number by hand."""

import sys

import pytest

from .stopped_runs import stop_runs


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="Windows has other signals")
def test_runs_that_are_stopped_leave_whole_results_and_nothing_beside_them(tmp_path):
    runs = stop_runs(tmp_path, count=3, seed=3)
    assert not runs.faults
    assert sum(runs.ends.values()) == 3
