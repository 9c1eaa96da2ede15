"""The ``aiovec`` command.

Exit codes: 0 done, 1 failed, 2 wrong usage, 130 interrupted. Facts go to standard output, on a
terminal laid out for eyes, in a pipe as plain lines; progress and errors go to standard error.
"""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command with the arguments of the process, and end the process."""
    try:
        from .app import app

        app(prog_name="aiovec")
    except KeyboardInterrupt:  # one that came before or after the command itself
        sys.exit(130)


__all__ = ["main"]
