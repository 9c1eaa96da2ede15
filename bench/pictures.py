"""Pictures of results, where matplotlib is installed."""

from __future__ import annotations

import importlib
from typing import Any

SIZE = (6.0, 3.8)


def find_pyplot() -> Any:
    """matplotlib's pyplot, which writes the same picture as the same file; None without it."""
    try:
        matplotlib = importlib.import_module("matplotlib")
    except ImportError:
        return None
    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "aiovec"
    matplotlib.rcParams["svg.fonttype"] = "none"  # text as text: a third of the size
    return importlib.import_module("matplotlib.pyplot")
