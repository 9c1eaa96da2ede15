"""Have the system calls of a process fail, one after the other, by the library of ``shim.c``.

    python -m tests.harness.syscalls TARGET JSON

runs scripts on an empty store while the calls fail that the JSON names, and checks each outcome.
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
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from tests.harness.scripts import (
    Call,
    Model,
    Place,
    Script,
    begun,
    path_of,
    prepared,
    scripts_of,
    settle,
    settled,
    state_of,
)

from aiovec import AiovecError, OutcomeUnknownError

ROOT = Path(__file__).resolve().parents[2]
SOURCE = Path(__file__).with_name("shim.c")
VARIABLE = "AIOVEC_FAULTS"

READ, WRITE, SYNC, TRUNCATE, RENAME, OPEN, UNLINK = (1 << n for n in range(7))
CHANGES = WRITE | SYNC | TRUNCATE | RENAME | UNLINK
KILL = -1
"""Instead of an error: the process is killed before the call."""

_SIZE = 4096
_TEXT = 64


@cache
def can_fail() -> bool:
    return sys.platform.startswith("linux") and bool(shutil.which("gcc") or shutil.which("cc"))


def environment(folder: Path, control: Path) -> dict[str, str]:
    """For a process whose calls shall fail, as ``Faults(control)`` says."""
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
    """The faults of a process that was started so; used in it or by whoever started it."""

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


async def every_io_error(
    faults: Faults, place: Place, model: Model, script: Script, places: Iterable[int], **fault: Any
) -> tuple[Model, int]:
    """Run the script again and again, and have the system fail at these calls in turn, until one
    run meets no failure. Gives the model of the store then, and how many runs met one.

    A call that failed is as ``Script.exact`` says. When the system works again, so does the store.
    """
    met = 0
    for skip in places:
        n = model.next()
        model = await prepared(place, model, script, n)
        calls = script.calls(n)
        faults.arm(path=str(path_of(place.target).parent), skip=skip, **fault)
        outcomes = await asyncio.gather(*(call(place) for call in calls), return_exceptions=True)
        failed = faults.disarm()
        await place.reopen()
        try:
            begun, acknowledged = _sorted(script, calls, outcomes)
            model = settle(model, begun, acknowledged, await state_of(place))
        except BaseException as exc:
            exc.add_note(f"call {skip} to the system failed, and {failed} in all: {outcomes}")
            raise
        if not failed:
            break
        met += 1
    return model, met


def _sorted(script: Script, calls: list[Call], outcomes: list[Any]) -> tuple[list[Call], list[int]]:
    """The calls that may be done, and which of these are."""
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
    return begun, acknowledged


def run(folder: Path, target: str, **options: Any) -> dict[str, int]:
    """Run each script in another process; how many failures it met."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.harness.syscalls", target, json.dumps(options)],
        cwd=ROOT, env=environment(folder, folder / "control"),
        capture_output=True, text=True, timeout=3000,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-5000:]
    met: dict[str, int] = json.loads(done.stdout)
    return met


async def main(target: str, options: dict[str, Any]) -> None:
    scripts = scripts_of("lancedb" if "://" in target else "sqlite")
    faults = Faults(Path(os.environ[VARIABLE]))
    met: dict[str, int] = {}
    async with Place(target) as place:
        model = await begun(place)
        for name in scripts:
            for fault in options["faults"]:
                try:
                    model, count = await every_io_error(
                        faults, place, model, scripts[name], range(*options["places"]), **fault
                    )
                except BaseException as exc:
                    exc.add_note(f"{name} with {fault}")
                    raise
                met[name] = met.get(name, 0) + count
    await settled(target, model)
    print(json.dumps(met))  # noqa: T201 - for the process that started this one


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], json.loads(sys.argv[2])))
