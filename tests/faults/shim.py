"""Calls to the system that fail on purpose, by the library of ``shim.c``."""

from __future__ import annotations

import errno
import mmap
import os
import shutil
import struct
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

SOURCE = Path(__file__).with_name("shim.c")
VARIABLE = "AIOVEC_FAULTS"

READ, WRITE, SYNC, TRUNCATE, RENAME, OPEN, UNLINK = (1 << n for n in range(7))

_SIZE = 4096
_TEXT = 64


def compiled(folder: Path) -> Path:
    """The library, compiled into the folder; skips the test where that cannot be."""
    if not sys.platform.startswith("linux"):
        pytest.skip("the library that makes calls fail is for Linux")
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler is there, which the library that makes calls fail needs")
    library = folder / "shim.so"
    command = [compiler, "-shared", "-fPIC", "-O1", "-o", str(library), str(SOURCE), "-ldl"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return library


def environment(library: Path, control: Path) -> dict[str, str]:
    """For a process whose calls shall fail, as ``Faults(control)`` says."""
    control.write_bytes(bytes(_SIZE))
    return {**os.environ, "LD_PRELOAD": str(library), VARIABLE: str(control)}


class Faults:
    """What fails in a process that was started so; used in it or by whoever started it."""

    def __init__(self, control: Path) -> None:
        with control.open("r+b") as file:
            self._map = mmap.mmap(file.fileno(), _SIZE)

    def arm(
        self, calls: int, path: str, *, skip: int = 0, fail: int = 1, error: int = errno.EIO
    ) -> None:
        """Have the next calls of these kinds fail on files whose paths hold the text."""
        self.disarm()
        text = os.fsencode(path) + b"\0"
        self._map[_TEXT : _TEXT + len(text)] = text
        self._map[4:28] = struct.pack("=6i", skip, fail, error, 0, 0, _TEXT)
        self._map[0:4] = struct.pack("=i", calls)

    def disarm(self) -> int:
        """Let every call pass; how many have failed since ``arm``."""
        self._map[0:4] = bytes(4)
        (failed,) = struct.unpack("=i", self._map[16:20])
        return int(failed)


@cache
def here() -> Faults:
    """In a process that was started with ``environment``."""
    return Faults(Path(os.environ[VARIABLE]))
