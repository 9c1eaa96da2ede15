"""The ``aiovec`` command.

Exit codes: 0 done, 1 failed, 2 wrong usage, 130 interrupted. Facts go to standard output, on a
terminal laid out for eyes, in a pipe as plain lines; progress and errors go to standard error.
"""

from __future__ import annotations

import errno
import os
import sys
from typing import TextIO

_UNWRITABLE = frozenset({errno.ENOSPC, errno.EFBIG, errno.EIO, errno.EBADF})


def main() -> None:
    """Run the command with the arguments of the process, and end the process."""
    try:
        _settle_closed_streams()
        from .app import app

        try:
            app(prog_name="aiovec")
        finally:
            sys.stdout.flush()  # what is left would fail when the interpreter ends
    except KeyboardInterrupt:  # one that came before or after the command itself
        sys.exit(130)
    except OSError as exc:
        sys.stdout = _nowhere()
        if exc.errno in _UNWRITABLE and exc.filename is None:
            sys.exit(f"error: the output cannot be written: {exc.strerror}")
        if exc.errno != errno.EPIPE:  # the reader of the output has seen enough
            raise


def _settle_closed_streams() -> None:
    """Have each standard stream open: else a file of the store would get its number."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
    for name in ("stdin", "stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, _nowhere())


def _nowhere() -> TextIO:
    return open(os.devnull, "r+", encoding="utf-8")


__all__ = ["main"]
