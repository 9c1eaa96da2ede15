"""The ``aiovec`` command.

Exit codes: 0 done, 1 failed, 2 wrong usage, 130 interrupted. Facts go to standard output, laid out
for people on a terminal, and as plain lines in a pipe. Progress and errors go to standard error.
"""

from __future__ import annotations

import errno
import gc
import io
import os
import sys


def main() -> None:
    """Run the command with the process's arguments, then end the process."""
    _open_closed_streams()
    # By default, every 700 new objects start a collection. A short command creates about 60,000
    # objects, so collections would take a tenth of its time.
    gc.set_threshold(100_000, *gc.get_threshold()[1:])
    try:
        from .app import app

        try:
            app(prog_name="aiovec")
        finally:
            sys.stdout.flush()  # nothing handles the errors of the flush at interpreter exit
            gc.freeze()  # otherwise the collections at exit scan everything that was imported
    except KeyboardInterrupt:  # an interrupt before or after the command itself
        sys.exit(130)
    except OSError as exc:
        sys.stdout = io.StringIO()
        if exc.errno == errno.ENOSPC and exc.filename is None:
            sys.exit(f"error: the output cannot be written: {exc.strerror}")
        if exc.errno != errno.EPIPE:  # EPIPE: the reader of the output has closed it
            raise


def _open_closed_streams() -> None:
    """Open the null device for each standard stream that the caller closed, as ``>&-`` does.

    The null device gets the stream's descriptor, the lowest free one. Otherwise a file that the
    command opens could get this descriptor, and the command would print into that file.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115


__all__ = ["main"]
