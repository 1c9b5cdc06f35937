"""The functions that make the site's pages (docs/hooks.py), which no package holds."""

import importlib.util
from pathlib import Path

_FILE = Path(__file__).resolve().parents[2] / "docs" / "hooks.py"
_spec = importlib.util.spec_from_file_location("site_hooks", _FILE)
hooks = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(hooks)
