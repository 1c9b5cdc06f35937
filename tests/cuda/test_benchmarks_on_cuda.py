"""`python tasks.py gpu`: its parts at tiny sizes on the pretend device."""

import pytest

from fourreal.benchmarks.gpu import OUT, gpu_parts
from fourreal.benchmarks.measuring import PRODUCT_SIZES
from fourreal.cli import main

from ..pretend_cuda import PretendCuda

# At tiny sizes several parts are the same command; generate is in test_commands_on_cuda.py.
COMMANDS = {
    part.arguments: part
    for part in gpu_parts("cuda", tiny=True)
    if part.arguments[0] == "fourreal.cli" and "generate" not in part.arguments
}


@pytest.mark.slow
@pytest.mark.parametrize("part", COMMANDS.values(), ids=lambda part: part.name)
def test_a_part_measures_what_runs_on_the_device(part, tmp_path, monkeypatch):
    monkeypatch.setitem(PRODUCT_SIZES, "cuda", 512)  # the host computes what the device would
    out = tmp_path / "result"
    with PretendCuda() as device:
        assert main([str(out) if a == OUT else a for a in part.arguments[1:]]) == 0
    rows = part.rows(out)
    assert rows and all(row["seconds"] >= 0 for row in rows)
    # Weights and inputs are made on the host.
    assert device.operations["cuda"] > 2 * device.operations["cpu"]
