"""``python -m aiovec`` is the ``aiovec`` command."""

from __future__ import annotations

from ._cli import main

if __name__ == "__main__":
    main()
