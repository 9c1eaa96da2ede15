"""Make the system calls of a process fail, one after another, with the library of ``shim.c``.

    python -m tests.harness.syscalls TARGET JSON

runs scripts on an empty store while the system calls in the JSON fail, and checks each outcome.
"""

from __future__ import annotations

import asyncio
import errno
import json
import mmap
import os
import shutil
import struct
import subprocess
import sys
from functools import cache, partial
from pathlib import Path
from typing import Any

import pytest
from tests.harness.processes import output_of
from tests.harness.scripts import (
    Broken,
    Call,
    Place,
    Script,
    campaign,
    kind_of,
    path_of,
    scripts_of,
)

from aiovec import AiovecError, OutcomeUnknownError

SOURCE = Path(__file__).with_name("shim.c")
VARIABLE = "AIOVEC_FAULTS"

READ, WRITE, SYNC, TRUNCATE, RENAME, OPEN, UNLINK = (1 << n for n in range(7))
CHANGES = WRITE | SYNC | TRUNCATE | RENAME | UNLINK
KILL = -1
"""An ``error`` for ``Faults.arm``: the process is killed before the call."""

_SIZE = 4096
_TEXT = 64


@cache
def can_fail() -> bool:
    return sys.platform.startswith("linux") and bool(shutil.which("gcc") or shutil.which("cc"))


def environment(folder: Path, control: Path) -> dict[str, str]:
    """Return the environment of a process whose calls fail as ``Faults(control)`` says."""
    if not can_fail():
        pytest.skip("calls of the system can fail on Linux, where a C compiler is")
    library = folder / "shim.so"
    if not library.exists():
        compiler = shutil.which("gcc") or "cc"
        command = [compiler, "-shared", "-fPIC", "-O1", "-o", str(library), str(SOURCE), "-ldl"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
    control.write_bytes(bytes(_SIZE))
    return {**os.environ, "LD_PRELOAD": str(library), VARIABLE: str(control)}


class Faults:
    """The faults of a process with this ``environment``, for use in it or in its parent."""

    def __init__(self, control: Path) -> None:
        with control.open("r+b") as file:
            self._map = mmap.mmap(file.fileno(), _SIZE)

    def arm(
        self, calls: int, path: str, *, skip: int = 0, fail: int = 1, error: int = errno.EIO
    ) -> None:
        """Make calls of these kinds fail on files whose paths contain ``path``.

        Let the first ``skip`` matching calls pass, and then make ``fail`` calls fail.
        """
        self.disarm()
        text = os.fsencode(path) + b"\0"
        self._map[_TEXT : _TEXT + len(text)] = text
        self._map[4:28] = struct.pack("=6i", skip, fail, error, 0, 0, _TEXT)
        self._map[0:4] = struct.pack("=i", calls)

    def disarm(self) -> int:
        """Let every call pass; return how many have failed since ``arm``."""
        self._map[0:4] = bytes(4)
        (failed,) = struct.unpack("=i", self._map[16:20])
        return int(failed)

    def matched(self) -> int:
        """Return how many calls have matched since ``arm``."""
        (matched,) = struct.unpack("=i", self._map[20:24])
        return int(matched)


async def run_and_fail(
    faults: Faults, place: Place, script: Script, calls: list[Call], fault: dict[str, int], at: int
) -> Broken:
    """Make the calls while the ``at``-th matching system call fails; the store must recover.

    ``Script.exact`` says whether a failed call may have been done.
    """
    faults.arm(path=str(path_of(place.target).parent), skip=at, **fault)
    outcomes = await asyncio.gather(*(call(place) for call in calls), return_exceptions=True)
    failed = faults.disarm()
    begun: list[Call] = []
    acknowledged = []
    for call, outcome in zip(calls, outcomes, strict=True):
        if not isinstance(outcome, BaseException):
            acknowledged.append(len(begun))
        elif not isinstance(outcome, AiovecError):
            raise outcome
        elif script.exact and not isinstance(outcome, OutcomeUnknownError):
            continue
        begun.append(call)
    return bool(failed), begun, acknowledged


def run(folder: Path, target: str, **options: Any) -> None:
    """Run each script in another process, while its system calls fail."""
    command = ("-m", "tests.harness.syscalls", target, json.dumps(options))
    output_of(*command, env=environment(folder, folder / "control"), timeout=3000)


async def main(target: str, options: dict[str, Any]) -> None:
    names, places = scripts_of(kind_of(target)), range(*options["places"])
    run_and_break = partial(run_and_fail, Faults(Path(os.environ[VARIABLE])))
    await campaign(target, names, options["faults"], places, run_and_break)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], json.loads(sys.argv[2])))
