"""A scene, its images, and the page that shows it."""

from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch

from fourreal import viewer
from fourreal.gaussians import GaussianScene

from .letters import TIMES, draw, letters_scene
from .shown_page import ShownPage


@pytest.fixture(scope="session")
def scene() -> GaussianScene:
    return letters_scene()


@pytest.fixture(scope="session")
def rendered(scene):
    """images(view, time): what the torch renderer draws, [H, W, 3] in [0, 1]."""

    @cache
    def images(view: int, time: int) -> np.ndarray:
        return draw(scene, view, time)

    return images


@pytest.fixture(scope="session")
def exported(scene, rendered, tmp_path_factory) -> Path:
    """The page with the scene, and negatives of its images as the input frames."""
    path = tmp_path_factory.mktemp("viewer") / "scene.html"
    images = [
        torch.from_numpy(rendered(view, time)).movedim(-1, 0)
        for view in range(scene.num_views)
        for time in range(TIMES)
    ]
    frames = 1 - torch.stack(images).unflatten(0, (scene.num_views, TIMES))
    viewer.export_html(scene, path, frames)
    return path


@pytest.fixture(scope="module")
def shown(browser, exported) -> ShownPage:
    return ShownPage(browser, exported.as_uri())
