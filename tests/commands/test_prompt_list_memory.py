"""A list of prompts takes no more main memory at its end than at its beginning."""

import json
import subprocess
import sys

import pytest

from .small_job import SMALL

CHILD = """
import gc, json, sys
import torch
from fourreal.cli import main
from fourreal.commands import generate as job

plain, seen = job.generate_one, []

def measured(*given):
    plain(*given)
    gc.collect()
    held = {}
    for x in gc.get_objects():
        if isinstance(x, torch.Tensor) and x.device.type == "cpu":
            held[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
    status = open("/proc/self/status").read()
    seen.append([sum(held.values()), 1024 * int(status.split("VmRSS:")[1].split()[0])])

job.generate_one = measured
assert main(sys.argv[1:]) == 0
print(json.dumps(seen))
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="memory is read as Linux gives it")
def test_main_memory_does_not_grow_from_the_second_prompt_to_the_fifth(tmp_path):
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("\n".join(f"a {c} ball" for c in ("red", "blue", "green", "grey", "pink")))
    job = ["generate", "--prompts", str(prompts), "--out", str(tmp_path / "out"), *SMALL]
    words = [sys.executable, "-c", CHILD, *job, "--device", "cpu"]
    said = subprocess.run(words, capture_output=True, check=True, text=True).stdout
    _, second, *_, fifth = json.loads(said.splitlines()[-1])
    # A prompt's own frames, maps and Gaussians take more than 1 MB.
    assert fifth[0] - second[0] < 2**16  # tensors that live
    assert fifth[1] - second[1] < 20 * 2**20  # the process, whose allocator keeps some of it
