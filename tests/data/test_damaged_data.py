"""2,400 damaged files of data sets: each is read, or refused in one sentence that names a file.

`python -m tests.data.damaged_data --count 3000` runs more of them, with a fresh seed.
"""

import logging

import pytest

from .damaged_data import KINDS, run_mutations

MUTATIONS = 200  # of each kind


@pytest.mark.parametrize("kind", KINDS)
def test_damaged_files_are_read_or_refused_in_one_sentence(kind, caplog):
    caplog.set_level(logging.ERROR, "fourreal")
    ends, faults = run_mutations(KINDS[kind], MUTATIONS, "of the test")
    assert not faults
    assert ends.total() == MUTATIONS
