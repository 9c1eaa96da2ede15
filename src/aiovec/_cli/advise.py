"""``aiovec advise``: measure the tables of a store, and say which should move to LanceDB."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from .._filters import F
from .output import emit
from .run import failing_clearly
from .stores import AsJson, Config, OnlyTable, Store, in_store, of_each_table

if TYPE_CHECKING:
    from .._store.store import VectorStore

# Queries of the probe: this many stored vectors from each of this many places of the table.
_PLACES, _OF_EACH = 8, 12
# The probe ends after this time, once it has this many searches.
_PROBE_SECONDS, _FEWEST = 3.0, 5
# The probe waits up to a minute until SQLite has loaded the table into memory: a million rows of
# 384 dimensions take about five seconds (``python -m bench search --rows 1000000``).
_MOST_POLLS, _POLL_SECONDS = 600, 0.1
# Growth is counted over this many days.
_DAYS = 30


@dataclass(frozen=True)
class _Limits:
    """The thresholds of the verdict."""

    rows: int
    p95_ms: float
    rows_a_day: float


@dataclass(frozen=True)
class _Measured:
    """The facts of a table. None means unknown or not applicable."""

    table: str
    rows: int
    dim: int
    p50_ms: float | None
    p95_ms: float | None
    rows_a_day: float | None
    memory: int
    memory_budget: int | None

    def passed(self, limits: _Limits) -> dict[str, str]:
        """Return the thresholds that the table has passed, each with a reason."""
        reasons = {}
        if self.rows > limits.rows:
            reasons["rows"] = f"it has more than {limits.rows:,} rows"
        if self.p95_ms is not None and self.p95_ms > limits.p95_ms:
            reasons["p95_ms"] = f"5 % of the searches take longer than {limits.p95_ms:g} ms"
        if self.rows_a_day is not None and self.rows_a_day > limits.rows_a_day:
            reasons["rows_a_day"] = f"it grows by more than {limits.rows_a_day:g} rows a day"
        if self.memory_budget is not None and self.memory > self.memory_budget:
            reasons["memory"] = "it does not fit into scan_memory, so searches read the file"
        return reasons


Verdict = Literal["move", "watch", "stay"]


def _verdict(passed: dict[str, str]) -> Verdict:
    """Slow searches alone may have other causes; with many or ever more rows they will not end."""
    if "p95_ms" in passed and len(passed) > 1:
        return "move"
    return "watch" if passed else "stay"


@failing_clearly
def advise(
    table: OnlyTable = None,
    store: Store = None,
    created: Annotated[
        str | None,
        typer.Option(
            "--created-field",
            metavar="FIELD",
            help="Field with the time when a row was added, to measure growth. Without it, growth "
            "is not measured.",
        ),
    ] = None,
    rows: Annotated[int, typer.Option(min=0, help="Threshold: rows of a table.")] = 100_000,
    p95_ms: Annotated[
        float, typer.Option(min=0, help="Threshold: milliseconds that 95 % of searches may take.")
    ] = 200,
    rows_a_day: Annotated[float, typer.Option(min=0, help="Threshold: new rows a day.")] = 500,
    config: Config = None,
    json: AsJson = False,
) -> None:
    """Measure each table of a SQLite store, and say whether it should move to LanceDB.

    A table should move if its searches are slow and it has many rows, grows fast, or does not fit
    into memory. Changes nothing.
    """
    limits = _Limits(rows, p95_ms, rows_a_day)

    async def measured(vectors: VectorStore) -> tuple[dict[str, str], list[_Measured]]:
        async def of(name: str) -> _Measured:
            return await _measure(vectors, name, created)

        tables = await of_each_table(vectors, table and [table], of, "measuring")
        return {"store": vectors.target, "backend": vectors.backend_name}, tables

    about, found = in_store(store, config, measured, reading=True)
    movable = about["backend"] == "sqlite"  # what grows beyond LanceDB has nowhere to go
    tables: list[dict[str, Any]] = []
    shown: list[str | Mapping[str, object]] = [about]
    for one in found:
        passed = one.passed(limits)
        verdict = _verdict(passed) if movable else None
        tables.append({**asdict(one), "verdict": verdict, "passed": list(passed)})
        shown += ["", _lines(one, passed, verdict)]
    moving = ", ".join(one["table"] for one in tables if one["verdict"] == "move")
    if not movable:
        last = "only SQLite stores get a verdict"
    elif moving:
        last = f"move {moving}; start with: aiovec migrate plan --to …"
    else:
        last = "no table needs to move"
    facts = {**about, "thresholds": asdict(limits), "tables": tables}
    emit(facts, [*shown, "", f"advise: {last}"], json)


async def _measure(vectors: VectorStore, name: str, created: str | None) -> _Measured:
    times = sorted(1000 * seconds for seconds in await _probe(vectors, name))
    p50, p95 = (times[math.ceil(part * len(times)) - 1] if times else None for part in (0.5, 0.95))
    growth = None if created is None else await _rows_a_day(vectors, name, created)
    schema, stats = await vectors.schema(name), await vectors.stats(name)
    return _Measured(
        table=name,
        rows=stats.rows,
        dim=schema.dim,
        p50_ms=p50,
        p95_ms=p95,
        rows_a_day=growth,
        memory=max(stats.scan_memory, stats.details.get("scan_expected", 0)),
        memory_budget=stats.details.get("scan_budget"),
    )


async def _probe(vectors: VectorStore, name: str) -> list[float]:
    """Return the seconds of searches with stored vectors, one at a time."""
    schema, rows = await vectors.schema(name), await vectors.count(name)
    queries = []
    for offset in sorted({rows * place // _PLACES for place in range(_PLACES)}):
        found = await vectors.find(name, limit=_OF_EACH, offset=offset, select=[schema.vector])
        queries += [record.vector for record in found if record.vector is not None]
    if not queries:
        return []
    await vectors.search(name, queries[0])  # SQLite begins to load the table
    for _ in range(_MOST_POLLS):
        if "being loaded" not in (await vectors.stats(name)).details.get("searched", ""):
            break
        await asyncio.sleep(_POLL_SECONDS)
    seconds: list[float] = []
    end = time.monotonic() + _PROBE_SECONDS
    for query in queries:
        if len(seconds) >= _FEWEST and time.monotonic() > end:
            break
        began = time.perf_counter()
        await vectors.search(name, query)
        seconds.append(time.perf_counter() - began)
    return seconds


async def _rows_a_day(vectors: VectorStore, name: str, created: str) -> float | None:
    """Return the mean of the last days, or of the table's age if it is younger."""
    bounds: Any = await vectors.bounds(name, created)
    if bounds is None:
        return None
    now = datetime.now(UTC)
    since = now - timedelta(days=_DAYS)
    if isinstance(bounds[0], str):  # RFC 3339 in UTC sorts as time does
        oldest = datetime.fromisoformat(bounds[0])
        rows = await vectors.count(name, F[created] >= since.isoformat())
    else:
        oldest = bounds[0]
        rows = await vectors.count(name, F[created] >= since)
    return rows / max(1.0, (now - max(oldest, since)).total_seconds() / 86_400)


def _lines(one: _Measured, passed: dict[str, str], verdict: Verdict | None) -> dict[str, object]:
    from ..backend.memory import size_text

    lines: dict[str, object] = {
        "table": one.table,
        "rows": f"{one.rows:,} of {one.dim} dimensions",
        "search": "not measured: no row has a vector",
        "memory": size_text(one.memory),
    }
    if one.p95_ms is not None:
        lines["search"] = f"{one.p50_ms:.3g} ms (median), {one.p95_ms:.3g} ms (p95)"
    if one.memory_budget is not None:
        lines["memory"] = f"{size_text(one.memory)}; scan_memory is {size_text(one.memory_budget)}"
    if one.rows_a_day is not None:
        lines["growth"] = f"{one.rows_a_day:,.0f} rows a day"
    if verdict is not None:
        why = "; ".join(passed.values()) or "everything is within the thresholds"
        lines["verdict"] = f"{verdict}: {why}"
    return lines
