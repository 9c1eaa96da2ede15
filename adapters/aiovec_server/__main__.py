"""``python -m aiovec_server`` is ``aiovec serve``."""

from __future__ import annotations

from .command import app

if __name__ == "__main__":
    app(prog_name="aiovec serve")
