"""What the tests share."""

from pathlib import Path

import pytest
import torch

torch.set_num_threads(min(torch.get_num_threads(), 2))


@pytest.fixture
def shared() -> Path:
    """The folder of reference numbers and photos beside the checkout."""
    folder = Path(__file__).resolve().parents[2] / "shared"
    if not folder.is_dir():
        pytest.skip("the folder ../shared with reference numbers is not here")
    return folder
