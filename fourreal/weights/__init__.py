"""The embedded models: small, trained on procedural scenes, in the formats of the big ones."""

import os
from pathlib import Path


def folder() -> Path:
    """Where the embedded models lie; the environment variable FOURREAL_WEIGHTS overrides it."""
    return Path(os.environ.get("FOURREAL_WEIGHTS") or Path(__file__).parent)
