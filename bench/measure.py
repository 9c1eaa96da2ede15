"""Options and results of benchmarks, and functions that time several ways in turn."""

from __future__ import annotations

import asyncio
import json
import os
import platform
import sqlite3
import statistics
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import asdict, dataclass, field
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np

RESULTS = Path(__file__).parent / "results"
_BLOCKS, _BLOCK_SECONDS = 12, 0.2
_PACKAGES = "aiovec sqlcipher3 sqlite-vec numpy pyarrow lancedb faiss-cpu tantivy".split()

Way = Callable[[], Awaitable[float]]
"""Does the work once, and returns a figure such as the milliseconds that it took."""
Ask = Callable[[int], Awaitable[list[int]]]
"""Searches with the query of this number, and returns the numbers of the rows."""


@dataclass(frozen=True)
class Options:
    """The options of a run. With a small ``scale``, a run only shows that a benchmark works."""

    folder: Path
    data: str | None = None
    scale: float = 1.0
    repeat: float = 1.0
    alone: bool = False
    cache: Path | None = None
    asked_rows: int | None = None
    dim: int = 384
    sets: list[str] | None = None

    def rows(self, wanted: int) -> int:
        return self.asked_rows or max(200, int(wanted * self.scale))

    def rounds(self, wanted: int) -> int:
        return max(1, int(wanted * self.repeat))

    def seconds(self, wanted: float) -> float:
        return wanted * min(1.0, self.repeat)


@dataclass(frozen=True)
class Result:
    """The measurements of several ways, their ratios, and wrong answers.

    A name that ends with a unit in parentheses has that unit; the others have ``unit``.
    """

    subject: str
    compared: str
    unit: str
    measured: Mapping[str, float]
    ratios: Mapping[str, float] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        width = max(map(len, [*self.measured, *self.ratios]))
        lines = [f"{self.subject}: {self.compared}"]
        lines += [
            f"  {name:<{width}}  {number(value):>10} {'' if name.endswith(')') else self.unit}"
            for name, value in self.measured.items()
        ]
        lines += [f"  {name:<{width}}  {number(value):>10}" for name, value in self.ratios.items()]
        lines += [f"  {note}" for note in self.notes]
        lines += [f"  WRONG: {text}" for text in self.wrong]
        return "\n".join(lines)


def number(value: float) -> str:
    """Format a figure with three significant digits; from 100 on, without decimals."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


async def interleaved(ways: Mapping[str, Way], rounds: int) -> dict[str, list[float]]:
    """Run the ways in turn, so that other work on the machine slows all of them equally.

    Every second round runs in reverse order, so that no way always follows the same other way.
    """
    times: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(rounds):
        for name in list(ways) if number % 2 == 0 else list(ways)[::-1]:
            times[name].append(await ways[name]())
    return times


def medians(measured: Mapping[str, list[float]]) -> dict[str, float]:
    return {name: statistics.median(values) for name, values in measured.items()}


def ratio(measured: Mapping[str, list[float]], way: str, other: str) -> float:
    """Return the median over the rounds of the ratio of two ways."""
    return float(np.median(np.divide(measured[way], measured[other])))


def ratios(measured: Mapping[str, list[float]], way: str, *others: str) -> dict[str, float]:
    """Return the ratios of one way to the others, as far as they were measured."""
    return {f"{way} / {name}": ratio(measured, way, name) for name in others if name in measured}


def block_of(ask: Ask, queries: int, seconds: float) -> Way:
    """Return a way that measures the median milliseconds of a block of searches in turn.

    Each block continues with the next queries.
    """
    turns = count(1)

    async def measure() -> float:
        await asyncio.sleep(0.02)  # until the threads of the previous way are idle
        took: list[float] = []
        until = time.perf_counter() + seconds
        while not took or (time.perf_counter() < until and len(took) < 50):
            began = time.perf_counter()
            await ask(next(turns) % queries)
            took.append((time.perf_counter() - began) * 1000)
        return statistics.median(took)

    return measure


async def in_turn(
    asking: Mapping[str, Ask], queries: int, options: Options
) -> dict[str, list[float]]:
    """Return the milliseconds of searches in several ways, in blocks that take turns."""
    seconds = options.seconds(_BLOCK_SECONDS)
    blocks = {name: block_of(ask, queries, seconds) for name, ask in asking.items()}
    return await interleaved(blocks, options.rounds(_BLOCKS))


def timed(call: Callable[[], Awaitable[object]]) -> Way:
    """Return a way that measures the milliseconds of a call."""

    async def measure() -> float:
        began = time.perf_counter()
        await call()
        return (time.perf_counter() - began) * 1000

    return measure


async def rate(call: Callable[[int], Awaitable[object]], clients: int, seconds: float) -> float:
    """Return the calls per second of clients that call again as soon as they are answered.

    ``call`` gets a number that is different for each client and each call.
    """
    done = 0
    began = time.perf_counter()

    async def client(turn: int) -> None:
        nonlocal done
        while time.perf_counter() < began + seconds:
            await call(turn)
            turn += clients
            done += 1

    await asyncio.gather(*map(client, range(clients)))
    return done / (time.perf_counter() - began)


async def shared(call: Callable[[int], Awaitable[object]], numbers: range, tasks: int) -> float:
    """Return the calls per second when ``tasks`` tasks share the calls with these numbers."""
    left = iter(numbers)

    async def task() -> None:
        for turn in left:
            await call(turn)

    began = time.perf_counter()
    await asyncio.gather(*(task() for _ in range(tasks)))
    return len(numbers) / (time.perf_counter() - began)


@asynccontextmanager
async def lags(every: float = 0.005) -> AsyncIterator[list[float]]:
    """Collect the milliseconds by which event-loop timers are late during the block."""
    late: list[float] = []

    async def look() -> None:
        while True:
            began = time.perf_counter()
            await asyncio.sleep(every)
            late.append((time.perf_counter() - began - every) * 1000)

    async with beside(look()):
        yield late


@asynccontextmanager
async def beside(work: Awaitable[object]) -> AsyncIterator[asyncio.Future[object]]:
    """Run work during the block, and stop it at the end. Raises the work's exception, if any."""
    task = asyncio.ensure_future(work)
    try:
        yield task
    finally:
        if task.done():
            task.result()
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


def most_memory() -> float:
    """Return this process's peak memory in MiB.

    ``ru_maxrss`` is not used, because it starts at the parent's memory.
    """
    status = Path("/proc/self/status").read_text("ascii")
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


async def fresh(module: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Call a benchmark's ``in_process`` in a separate process, and return its result."""
    out = await output(sys.executable, "-m", "bench.measure", module, json.dumps(settings))
    result: dict[str, Any] = json.loads(out.splitlines()[-1])
    return result


async def output(*command: str, most: float | None = None) -> str:
    """Run a command for at most ``most`` seconds, and return its standard output."""
    process = await asyncio.create_subprocess_exec(
        *command, env=clean_environment(),
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        out, err = await asyncio.wait_for(process.communicate(), most)
    except TimeoutError as error:
        process.kill()
        await process.communicate()
        raise RuntimeError(f"it took more than {most:,} seconds") from error
    if process.returncode:
        raise RuntimeError(f"{command[:3]} ended with {process.returncode}:\n{err.decode()}")
    return out.decode()


def by_figure(
    subject: str, measured: Mapping[str, Mapping[str, float]], notes: list[str]
) -> list[Result]:
    """Return a result for each figure, with its value for each way; the first has the notes."""
    keys = list(next(iter(measured.values())))
    figures = [{way: values[key] for way, values in measured.items()} for key in keys]
    results = [Result(subject, key, "", each) for key, each in zip(keys, figures, strict=True)]
    results[0].notes.extend(notes)
    return results


def clean_environment() -> dict[str, str]:
    """Return the environment variables without aiovec's settings, and with telemetry off."""
    own = {name: text for name, text in os.environ.items() if not name.startswith("AIOVEC_")}
    return own | {"ANONYMIZED_TELEMETRY": "False"}


def machine() -> dict[str, str]:
    """Return facts about the machine, and the versions of packages."""
    facts = {
        "cpu": _cpu(),
        "cores": str(os.cpu_count()),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "sqlite3": sqlite3.sqlite_version,
    }
    for package in _PACKAGES:
        with suppress(PackageNotFoundError):
            facts[package] = version(package)
    return facts


def _cpu() -> str:
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or "unknown CPU"


def write(results: list[Result], name: str, folder: Path) -> Path:
    """Write the results as JSON and return the path."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.json"
    report = {"machine": machine(), "results": [asdict(result) for result in results]}
    path.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    return path


if __name__ == "__main__":  # the separate process of ``fresh``
    called = import_module(f"bench.{sys.argv[1]}").in_process
    print(json.dumps(asyncio.run(called(json.loads(sys.argv[2])))))
