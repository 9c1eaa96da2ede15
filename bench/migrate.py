"""Moving a table from SQLite to LanceDB and back, verified, beside a plain loop."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .measure import Check, Result
from .options import Options

SUBJECT = "migrate"

_ROWS, _DIM = 100_000, 768
_ROUNDS = 3
# Fewer rows take no memory that could be told from the processes' own.
_FEW = 10_000
# A round of more rows takes minutes, and there is less chance in it.
_MANY = 300_000
_MEMORY_MB = 400

_THERE, _BACK = "SQLite to LanceDB", "LanceDB to SQLite"


@dataclass(frozen=True)
class _Way:
    """A direction, with what it has to reach in rows a second."""

    name: str
    source: str
    target: str
    copied: float
    verified: float | None


async def run(options: Options) -> list[Result]:
    rows, dim = options.rows(_ROWS), options.dim or _DIM
    rounds = 1 if rows > _MANY else options.rounds(_ROUNDS)
    places = {name: str(options.folder / name) for name in ("original.db", "there", "back.db")}
    original, there, back = places["original.db"], f"lancedb://{places['there']}", places["back.db"]
    made = await stage("make", target=original, rows=rows, dim=dim)
    ways = (
        _Way(_THERE, original, there, 60_000, 25_000),
        _Way(_BACK, there, back, 30_000, None),
    )
    results = [await _measured(way, rows, dim, rounds, options) for way in ways]
    results.append(await _equality(original, there, back, rows, dim, made))
    if options.slow_peers:
        results.append(await _index(there, rows, dim))
    return results


@dataclass
class _Rounds:
    """The figures of several rounds of one direction: rows a second, bytes, seconds of work."""

    copied: list[float] = field(default_factory=list)
    whole: list[float] = field(default_factory=list)
    looped: list[float] = field(default_factory=list)
    memory: list[float] = field(default_factory=list)
    loop_memory: list[float] = field(default_factory=list)
    worked: list[Mapping[str, float]] = field(default_factory=list)
    equal: bool = True

    def add_run(self, rows: int, told: Mapping[str, Any]) -> None:
        seconds = told["seconds"]
        self.copied.append(rows / seconds["copying"])
        # Planning measures how fast the stores are, for about as long with any table, and indexes
        # over fields are neither copy nor verification.
        beside = seconds["planning"] + seconds.get("indexing", 0.0)
        self.whole.append(rows / (sum(seconds.values()) - beside))
        self.worked.append(told["processor"])
        self.memory.append(told["memory"])
        self.equal = self.equal and told["equal"]

    def add_loop(self, rows: int, told: Mapping[str, Any]) -> None:
        self.looped.append(rows / told["seconds"])
        self.loop_memory.append(told["memory"])

    @property
    def ratio(self) -> float:
        pairs = zip(self.copied, self.looped, strict=True)
        return statistics.median([ours / theirs for ours, theirs in pairs])


async def _measured(way: _Way, rows: int, dim: int, rounds: int, options: Options) -> Result:
    found = _Rounds()
    other = f"{way.target}-by-loop.db" if way.name == _BACK else f"{way.target}-by-loop"
    for number in range(rounds):
        # In turn, and every second round the other way round.
        for turn in ("run", "loop") if number % 2 == 0 else ("loop", "run"):
            if turn == "run":
                _remove(way.target)
                journal = str(options.folder / f"{number}-{way.name}.db")
                places = {"source": way.source, "target": way.target, "journal": journal}
                found.add_run(rows, await stage("migrate", **places))
            else:
                _remove(other)
                found.add_loop(rows, await stage("loop", source=way.source, target=other))
    _remove(other)
    copied, whole = statistics.median(found.copied), statistics.median(found.whole)
    checks = [
        Check(f"{way.name}, rows copied a second", copied, way.copied),
        Check("the run's own verification found all equal", float(found.equal), 1.0),
    ]
    notes = [
        f"aiovec migrate / plain loop: {found.ratio:.2f}",
        f"the processor's work: {_shown(found.worked)}",
    ]
    if way.verified is not None:
        checks.insert(1, Check("copied and verified", whole, way.verified))
    if rows >= _FEW:
        alone = await _own_use(way, rows, dim, options)
        most = max(found.memory)
        above = max(0.0, (most - sum(alone.values())) / 1e6)
        what = "memory above the two stores' own use"
        checks.append(Check(what, above, _MEMORY_MB, at_most=True, unit=" MB"))
        notes.append(
            f"memory: {most / 1e6:,.0f} MB at most; the plain loop took "
            f"{max(found.loop_memory) / 1e6:,.0f} MB; the two stores' own use is "
            + ", ".join(f"{nbytes / 1e6:,.0f} MB {name}" for name, nbytes in alone.items())
        )
    return Result(
        f"{SUBJECT}, {way.name}",
        f"{rows:,} generated rows of {dim} dims with text, dates, lists and payload, no index "
        f"(median of {rounds})",
        "rows/s",
        {
            "aiovec migrate, copy": copied,
            "aiovec migrate, copy and verification": whole,
            "plain loop: read all, add batches of 1,000": statistics.median(found.looped),
        },
        checks,
        notes,
    )


async def _own_use(way: _Way, rows: int, dim: int, options: Options) -> Mapping[str, float]:
    """Measure the stores themselves at the same work, with no migrator between them."""
    filled = str(options.folder / "filled")
    target = f"{filled}.db" if way.name == _BACK else f"lancedb://{filled}"
    opened = await stage("opened", source=way.source, target=way.target)
    read = await stage("read", source=way.source)
    checked = await stage("read", source=way.target)
    written = await stage("fill", target=target, rows=rows, dim=dim)
    _remove(target)
    return {
        "just open": opened["memory"],
        "for reading the source": read["memory"],
        # One after the other.
        "for filling or reading the target": max(written["memory"], checked["memory"]),
    }


def _shown(worked: Sequence[Mapping[str, float]]) -> str:
    """Write out the CPU time of each phase, which a busy machine does not change much."""
    names = dict.fromkeys(name for one in worked for name in one)
    means = {name: statistics.median(one.get(name, 0.0) for one in worked) for name in names}
    return ", ".join(f"{name} {seconds:.2f} s" for name, seconds in means.items())


async def _equality(
    original: str, there: str, back: str, rows: int, dim: int, made: Mapping[str, Any]
) -> Result:
    told = await stage("fingerprints", targets=[original, there, back])
    assert told[original]["fingerprint"] == made["fingerprint"]

    def same(place: str, what: str) -> float:
        return float(told[place][what] == told[original][what])

    return Result(
        f"{SUBJECT}, equality",
        f"{rows:,} rows of {dim} dims: every value of every row, the schema and Arrow's metadata",
        "bytes a row",
        {
            "SQLite, the original": told[original]["bytes"] / rows,
            "LanceDB, no index": told[there]["bytes"] / rows,
            "SQLite, there and back": told[back]["bytes"] / rows,
        },
        [
            Check(f"{name}: {what} equal", same(place, key), 1.0)
            for place, name in ((there, "LanceDB"), (back, "SQLite, there and back"))
            for key, what in (
                ("fingerprint", "rows"), ("schema", "schema"), ("layouts", "Arrow schema")
            )
        ],
    )  # fmt: skip


async def _index(there: str, rows: int, dim: int) -> Result:
    told = await stage("index", target=there)
    return Result(
        f"{SUBJECT}, index",
        f"the index that {rows:,} rows of {dim} dims get on LanceDB, built and tuned",
        "of each unit",
        {
            "seconds": told["seconds"],
            "seconds for 10^9 components": told["seconds"] / (rows * dim / 1e9),
            "bytes a row on disk": told["bytes"] / rows,
            "MB of memory while it is built": told["memory"] / 1e6,
        },
    )


async def stage(what: str, **arguments: Any) -> dict[str, Any]:
    """Return the figures of one stage, done by a fresh process."""
    command = [sys.executable, "-m", "bench.migrating.stage", what, json.dumps(arguments)]
    # A store that builds its index by itself, in the background, would be measured as well.
    environment = {**os.environ, "AIOVEC_RETRIEVAL__LANCEDB__INDEX": "none"}
    done = await asyncio.to_thread(
        subprocess.run, command, capture_output=True, text=True, env=environment
    )
    if done.returncode:
        raise RuntimeError(f"the stage {what} failed:\n{done.stderr}")
    told: dict[str, Any] = json.loads(done.stdout)
    return told


def _remove(target: str) -> None:
    path = Path(target.removeprefix("lancedb://"))
    if path.is_dir():
        shutil.rmtree(path)
        return
    for suffix in ("", "-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)
