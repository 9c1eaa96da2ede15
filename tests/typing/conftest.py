"""These tests need the extra ``dev``."""

from __future__ import annotations

import importlib.util

collect_ignore_glob = [] if importlib.util.find_spec("polars") else ["test_*.py"]
