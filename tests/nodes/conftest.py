"""What the tests of the nodes share."""

import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest


@pytest.fixture
def nodes(pack) -> ModuleType:
    """The pack's package of nodes; its files are attributes, as `nodes.view_time`."""
    return sys.modules["fourreal_pack.nodes"]


@dataclass
class Embedded:
    """What Load Embedded Models gives, and the folder of its files."""

    nodes: ModuleType
    folder: Path
    model: Any
    clip: Any
    vae: Any
    reconstructor: Any

    def text(self, prompt: str = "a red ball", negative: str = "") -> tuple:
        """positive and negative CONDITIONING."""
        return self.nodes.TextEncode.execute(self.clip, prompt, negative).args


@pytest.fixture
def embedded(nodes, weights) -> Embedded:
    """Untrained models in place of the embedded ones."""
    return Embedded(nodes, weights, *nodes.LoadEmbeddedModels.execute().args)
