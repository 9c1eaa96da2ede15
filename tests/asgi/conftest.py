"""These tests need the extra ``dev``."""

from __future__ import annotations

import importlib.util

collect_ignore_glob = [] if importlib.util.find_spec("litestar") else ["test_*.py"]
