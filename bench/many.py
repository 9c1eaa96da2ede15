"""Run several processes on one store: count the rows written, found by a reader, or lost by kills.

Each process opens the store like an app on one machine, writes rows one by one, and prints the
number of each row whose write is acknowledged.
"""

from __future__ import annotations

import asyncio
import json
import math
import os
import sys
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import numpy as np

from .measure import Options, Result, by_figure, clean_environment
from .peers import OURS, SHARED, Rows, last_line

_ROWS, _FEW = 200, 50  # rows for each of two processes, and for each of ten
_PROCESSES = 10
_KILLED = (2, 5, 8)  # the processes of the ten that are killed
_LOST = "of these, lost"
_PATIENCE = 600.0  # time limit in seconds for a store


async def run(options: Options) -> list[Result]:
    counts = options.rounds(_ROWS), options.rounds(_FEW)
    measured, notes = dict[str, dict[str, float]](), list[str]()
    for name, peer in SHARED.items():
        if name == OURS or not options.alone:
            try:
                python = str(await peer.environment(options))
                place = options.folder / name
                async with asyncio.timeout(_PATIENCE):
                    figures = await _two(python, name, place / "two", counts[0])
                    measured[name] = figures | await _ten(python, name, place / "ten", counts[1])
            except (RuntimeError, TimeoutError) as error:
                notes.append(f"skipped: {name}: {last_line(error)}")
    results = by_figure("many", measured, notes)
    if measured[OURS][_LOST]:
        results[-1].wrong.append(f"{OURS} lost acknowledged rows")
    return results


async def _two(python: str, name: str, folder: Path, count: int) -> dict[str, float]:
    folder.mkdir(parents=True)  # noqa: ASYNC240
    async with AsyncExitStack() as stack:
        reader, *writers = [_Process(python, name, folder) for _ in range(3)]
        for process in (reader, *writers):
            await stack.enter_async_context(process)
        first = range(2 * count, 2 * count + 1)  # a reader that has searched may keep its index
        for call in ("write", "find"):
            await reader.ask(call, first)
        parts = [range(count), range(count, 2 * count)]
        written = await asyncio.gather(*map(_Process.ask, writers, ["write"] * 2, parts))
        found = await reader.ask("find", range(2 * count))
    return {
        f"2 processes beside a reader: written, of {2 * count}": len(set().union(*written)),
        "of these, found by the open reader": len(found.intersection(*[set().union(*written)])),
    }


async def _ten(python: str, name: str, folder: Path, count: int) -> dict[str, float]:
    folder.mkdir(parents=True)  # noqa: ASYNC240
    async with _Process(python, name, folder) as first:  # creates the table
        await first.ask("write", range(0))
    async with AsyncExitStack() as stack:
        writers = [_Process(python, name, folder) for _ in range(_PROCESSES)]
        await asyncio.gather(*map(stack.enter_async_context, writers))
        parts = [range(n * count, (n + 1) * count) for n in range(_PROCESSES)]
        kills = [count / 2 if n in _KILLED else math.inf for n in range(_PROCESSES)]
        asked = zip(writers, parts, kills, strict=True)
        written = await asyncio.gather(*(each.ask("write", *more) for each, *more in asked))
    async with _Process(python, name, folder) as last:
        found = await last.ask("find", range(_PROCESSES * count))
    whole = [rows for n, rows in enumerate(written) if n not in _KILLED]
    return {
        "10 processes, 3 killed: opened by": sum(each.opened for each in writers),
        f"written by the other 7, of {len(whole) * count}": len(set().union(*whole)),
        "acknowledged, of all 10": len(set().union(*written)),
        _LOST: len(set().union(*written) - found),
    }


class _Process:
    """A process that keeps a store open, and writes or finds rows."""

    opened = False

    def __init__(self, *arguments: object) -> None:
        self._python, *self._arguments = map(str, arguments)

    async def __aenter__(self) -> _Process:
        self._process = await asyncio.create_subprocess_exec(
            self._python, "-m", "bench.many", *self._arguments, env=clean_environment(),
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
        )  # fmt: skip
        self.opened = await self._line() == "open"
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._process.returncode is None:
            self._process.stdin.close()  # type: ignore[union-attr]  # it is a pipe
        await self._process.wait()

    async def ask(self, call: str, rows: range, kill_after: float = math.inf) -> set[int]:
        """Return the rows that the process wrote or found; kill it after ``kill_after`` rows."""
        done = set[int]()
        if self.opened:
            asked = json.dumps([call, rows.start, rows.stop]) + "\n"
            self._process.stdin.write(asked.encode())  # type: ignore[union-attr]
            while (line := await self._line()).isdigit():
                done.add(int(line))
                if len(done) == kill_after:
                    self._process.kill()
        return done

    async def _line(self) -> str:
        return (await self._process.stdout.readline()).decode().strip()  # type: ignore[union-attr]


async def _serve(name: str, folder: Path, out: Any) -> None:
    vectors = np.random.default_rng(1).standard_normal((10_000, 64)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    rows = Rows(vectors, [0] * len(vectors), ["a text"] * len(vectors))
    async with SHARED[name].opened(folder, rows) as table:
        print("open", file=out, flush=True)
        while line := await asyncio.to_thread(sys.stdin.readline):
            call, *bounds = json.loads(line)
            for row in range(*bounds):
                try:
                    if call == "write":
                        await table.fill(range(row, row + 1))
                    elif row not in await table.search(vectors[row], None):
                        continue
                except Exception:  # noqa: BLE001 - the row is not written, or not found
                    continue
                print(row, file=out, flush=True)
            print("end", file=out, flush=True)


if __name__ == "__main__":
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # for libraries that print
    asyncio.run(_serve(sys.argv[1], Path(sys.argv[2]), answers))
