"""``aiovec advise``: measure the tables of a store, and report which should move to LanceDB."""

from __future__ import annotations

import math
import time
from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .._tools.messages import shown
from ..errors import AiovecError, UnsupportedError
from .stores import At, OnlyTable, Shown, of_each_table, on_store

if TYPE_CHECKING:
    from .._model.schema import Schema
    from .._store.store import VectorStore

# Queries of the probe: 12 stored vectors from each of 8 places in the table.
_PLACES, _OF_EACH = 8, 12
# The probe ends after this many seconds, but makes at least this many searches.
_PROBE_SECONDS, _FEWEST = 3.0, 5
# The probe waits up to a minute until SQLite has loaded the table into memory: a million rows of
# 384 dimensions take about five seconds (``python -m bench search --rows 1000000``).
_MOST_POLLS, _POLL_SECONDS = 600, 0.1
# The maximum number of payload keys whose filters are measured, the number of newest rows from
# which these keys are taken, and the milliseconds above which a filter is slow.
_KEYS, _SAMPLE, _SLOW_FILTER = 8, 200, 5.0
# Growth is measured over ``_DAYS`` days. A table that will become slow within ``_SOON`` days gets
# the verdict "watch".
_DAYS, _SOON = 30, 365


Facts = dict[str, Any]


@on_store(shows_progress=True)
async def advise(
    at: At,
    table: OnlyTable = None,
    created: Annotated[
        str | None,
        typer.Option(
            "--created-field",
            metavar="FIELD",
            help="Field with the time when a row was added, to measure growth; text without a "
            "time zone is UTC. Without it, growth is not measured.",
        ),
    ] = None,
    rows: Annotated[int, typer.Option(min=0, help="Threshold: rows of a table.")] = 100_000,
    p95_ms: Annotated[
        float, typer.Option(min=0, help="Threshold: milliseconds that 95 % of searches may take.")
    ] = 200,
    rows_a_day: Annotated[float, typer.Option(min=0, help="Threshold: new rows a day.")] = 500,
    lancedb_ms: Annotated[
        float, typer.Option(min=0, help="Milliseconds of a search on LanceDB; measure your own.")
    ] = 15,  # from ``bench sizes``, with 100,000 to 1,000,000 rows
) -> Shown:
    """Measure each table of a SQLite store, and report whether it should move to LanceDB.

    The thresholds that a table has passed are shown. A table should move if it has more rows than
    --rows, 5 % of its searches take longer than --p95-ms, and LanceDB would be faster. Slow filters
    on payload keys are named, with the call that makes them fast. Changes nothing.
    """
    limits = {"rows": rows, "p95_ms": p95_ms, "rows_a_day": rows_a_day}

    vectors = await at.open(reading=True)
    if vectors.backend_name != "sqlite":  # there is no larger backend for a LanceDB store
        raise UnsupportedError("advise", vectors.backend_name, "advise works on SQLite stores only")

    async def of(name: str) -> Facts:
        return await _measure(vectors, name, created)

    target = vectors.target
    tables = await of_each_table(vectors, table and [table], of, "measuring")
    shown: list[str | Facts] = [{"store": target}]
    for facts in tables:
        facts |= _verdict(facts, limits, lancedb_ms)
        shown += ["", _lines(facts, lancedb_ms)]
    moving = ", ".join(facts["table"] for facts in tables if facts["verdict"] == "move")
    last = (
        f"move {moving}; start with: aiovec migrate plan --to …"
        if moving
        else "no table needs to move"
    )
    facts = {"store": target, "thresholds": limits, "tables": tables}
    return Shown(facts, [*shown, "", f"advise: {last}"])


def _verdict(facts: Facts, limits: Facts, lancedb_ms: float) -> Facts:
    """Return the verdict, its reason, and the thresholds that the table exceeds."""
    passed = [name for name, limit in limits.items() if (facts[name] or 0) > limit]
    rows, p95, growth = facts["rows"], facts["p95_ms"], facts["rows_a_day"]
    slow = f"5 % of the searches take longer than {limits['p95_ms']:g} ms"
    verdict, why = "stay", "SQLite serves it well"
    if "p95_ms" in passed and p95 <= lancedb_ms:
        why = f"{slow}; they would on LanceDB too"
    elif "p95_ms" in passed and "rows" in passed:
        verdict, why = "move", f"{slow}, and it has more than {limits['rows']:,} rows"
    elif "p95_ms" in passed:
        verdict, why = "watch", f"{slow}, though it has few rows; is the disk slow, or busy?"
    elif {"rows", "rows_a_day"} <= {*passed} and p95:
        # In large tables, the time of a scan is proportional to the number of rows.
        days = rows * (limits["p95_ms"] / p95 - 1) / growth
        if days < _SOON:
            verdict, why = "watch", f"as it grows, {slow} in {days:.0f} days"
    return {"verdict": verdict, "why": why, "passed": passed}


async def _measure(vectors: VectorStore, name: str, created: str | None) -> Facts:
    """Return the facts about a table. None means unknown or not applicable."""
    times = sorted(1000 * seconds for seconds in await _probe(vectors, name))
    growth = None if created is None else await _rows_a_day(vectors, name, created)
    schema, stats = await vectors.schema(name), await vectors.stats(name)
    return {
        "table": name,
        "rows": stats.rows,
        "dim": schema.dim,
        "p95_ms": times[math.ceil(0.95 * len(times)) - 1] if times else None,
        "rows_a_day": growth,
        "filters_ms": await _filters(vectors, name, schema),
        "memory": stats.scan_memory,
        "scan_file": stats.details.get("scan_file", 0),
    }


async def _probe(vectors: VectorStore, name: str) -> list[float]:
    """Search with stored vectors, one at a time, and return the seconds that each search took."""
    schema, rows = await vectors.schema(name), await vectors.count(name)
    queries = []
    for offset in sorted({rows * place // _PLACES for place in range(_PLACES)}):
        records = await vectors.find(name, limit=_OF_EACH, offset=offset, select=[schema.vector])
        queries += [record.vector for record in records if record.vector is not None]
    if not queries:
        return []
    import asyncio

    await vectors.search(name, queries[0])  # starts loading the table into memory
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


async def _filters(vectors: VectorStore, name: str, schema: Schema) -> dict[str, float]:
    """Return the milliseconds that a filter takes, for some payload keys without an index."""
    from .._filters import F
    from .._filters.tree import Ref

    if not schema.payload:
        return {}
    values: dict[str, Counter[Any]] = {}
    for record in await vectors.find(name, order_by="-id", limit=_SAMPLE, select=["payload"]):
        for key, value in record.fields.items():
            if isinstance(value, (str, int, float)):
                values.setdefault(key, Counter())[value] += 1
    seconds: dict[str, float] = {}
    for key, counts in sorted(values.items(), key=lambda item: -max(item[1].values())):
        named = str(Ref("payload", (key,)))
        (value, repeated), *_ = counts.most_common(1)
        if repeated > 1 and named not in schema.payload_indexes and len(seconds) < _KEYS:
            began = time.perf_counter()
            await vectors.count(name, F.payload[key] == value)
            seconds[named] = 1000 * (time.perf_counter() - began)
    return seconds


async def _rows_a_day(vectors: VectorStore, name: str, created: str) -> float | None:
    """Return the mean number of new rows a day, over the last 30 days or the table's age."""
    from .._filters import F

    bounds: Any = await vectors.bounds(name, created)
    if bounds is None:
        return None
    now = datetime.now(UTC)
    since, oldest = now - timedelta(days=_DAYS), _time_of(bounds[0], created)
    # RFC 3339 times in UTC sort in chronological order.
    from_then = since.isoformat() if isinstance(bounds[0], str) else since
    rows = await vectors.count(name, F[created] >= from_then)
    days = (now - max(oldest, since)).total_seconds() / 86_400
    return rows / max(1.0, days)


def _time_of(value: object, field: str) -> datetime:
    """Return a stored time. Text without a time zone is in UTC."""
    try:
        time = datetime.fromisoformat(value) if isinstance(value, str) else value
    except ValueError:
        time = None
    if not isinstance(time, datetime):
        expected = "times such as 2024-05-01T12:00:00Z"
        raise AiovecError(f"the field {field} must hold {expected}, not {shown(value)}")
    return time if time.tzinfo else time.replace(tzinfo=UTC)


def _lines(facts: Facts, lancedb_ms: float) -> dict[str, str]:
    from ..backend.memory import size_text, usable_cores

    lines = {
        "table": facts["table"],
        "rows": f"{facts['rows']:,} of {facts['dim']} dimensions",
        "search": "not measured: no row has a vector",
        "memory": f"{size_text(facts['memory'])}, shared {size_text(facts['scan_file'])}",
    }
    if facts["p95_ms"] is not None:
        cores = f"{usable_cores()} core{'s' * (usable_cores() > 1)}"
        p95 = float(f"{facts['p95_ms']:.3g}")
        most = f"95 % take at most {p95:,g} ms on {cores}"
        lines["search"] = f"{most}, and find the nearest rows"
    slow = {key: ms for key, ms in facts["filters_ms"].items() if ms > _SLOW_FILTER}
    if slow:
        times = ", ".join(f"{key} {ms:.0f} ms" for key, ms in slow.items())
        call = f"create_field_index({facts['table']!r}, {next(iter(slow))!r}, 'btree')"
        lines["filters"] = f"{times}; if the app filters on one: {call}"
    if facts["rows_a_day"] is not None:
        lines["growth"] = f"{facts['rows_a_day']:,.0f} rows a day"
    if "rows" in facts["passed"]:
        # LanceDB's index takes 0.6 bytes for each number of a vector.
        memory = size_text(int(0.6 * facts["rows"] * facts["dim"]))
        lines["lancedb"] = f"about {lancedb_ms:g} ms, 95 % of the nearest rows, {memory} of index"
    return {**lines, "verdict": f"{facts['verdict']}: {facts['why']}"}
