"""Warnings about files: each once, however often the file is read."""

import logging
from functools import lru_cache

logger = logging.getLogger(__name__)


@lru_cache(maxsize=1000)
def warn_once(message: str) -> None:
    """Log a warning, but for one that was logged lately."""
    logger.warning("%s", message)
