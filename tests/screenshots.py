"""Screenshots of the browser tests, for people to look at; kept only where somebody asks."""

import os
from pathlib import Path


def keep(page, name: str) -> None:
    """Save the page as NAME.png in the folder that FOURREAL_SCREENSHOTS names, if it is set."""
    folder = os.environ.get("FOURREAL_SCREENSHOTS")
    if folder:
        Path(folder).mkdir(parents=True, exist_ok=True)
        page.screenshot(path=str(Path(folder) / f"{name}.png"))
