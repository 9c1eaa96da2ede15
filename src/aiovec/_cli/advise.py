"""``aiovec advise``: whether LanceDB would serve a store's tables better, and what that takes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

import typer

from .._core.advice import (
    YOUNGEST_DAYS,
    Advice,
    Cost,
    Growth,
    SearchTimes,
    facts_of,
    growth_since,
    judge,
    mean_growth,
    times_of,
)
from .._core.advising import ADVISED
from .._core.contract import TableStats
from .._core.memory import size_text
from .._core.records import Record
from .._core.schema import Schema
from .._core.store import VectorStore
from .._filters import F
from .._settings.load import AdviseSettings
from .output import out, print_facts, print_json
from .run import failing_clearly, run
from .stores import AsJson, Config, Store, of_each_table, opened, source_of

# Stored vectors that are searched for, from so many places of the table.
_PLACES, _OF_EACH = 8, 12
# The probe of a table ends after so many seconds, but not before so many searches.
_PROBE_SECONDS, _FEWEST = 3.0, 5
# How often to look, and after how many seconds each, whether a table is in memory: a million rows
# take some five seconds (``python -m bench search-million``).
_MOST_POLLS, _POLL = 600, 0.1
# The field that tells when a row came, in tables that have one of this name.
_CREATED = "created_at"


@failing_clearly
def advise(
    store: Store = None,
    table: Annotated[
        str | None,
        typer.Argument(metavar="TABLE", help="Only this table.", show_default=False),
    ] = None,
    created: Annotated[
        str,
        typer.Option(
            "--created-field",
            metavar="FIELD",
            help="The field that tells when a row came, of which growth is reckoned.",
        ),
    ] = _CREATED,
    config: Config = None,
    json: AsJson = False,
) -> None:
    """Measure the tables of a SQLite store and say whether LanceDB would serve them better.

    Changes nothing. The thresholds are in the TOML file, in the section retrieval.advise.
    """
    found = run(_advise(store, table, config, created))
    if json:
        print_json(found.to_dict())
    else:
        _show(found, "" if config is None else f" --config {config}", store)


@dataclass(frozen=True)
class _Found:
    """What was measured; no advice where the store is on another backend than SQLite."""

    target: str
    backend: str
    limits: AdviseSettings
    tables: list[Advice]

    def to_dict(self) -> dict[str, Any]:
        return {
            "store": self.target,
            "backend": self.backend,
            "advised": self.backend == ADVISED,
            "thresholds": self.limits.model_dump(),
            "tables": [advice.to_dict() for advice in self.tables],
        }


async def _advise(store: str | None, table: str | None, config: str | None, created: str) -> _Found:
    limits = await asyncio.to_thread(_limits, store, config)
    async with opened(store, config, reading=True) as vectors:
        found = _Found(vectors.target, vectors.backend_name, limits, [])
        if found.backend != ADVISED:
            return found

        async def measured(name: str) -> Advice:
            return await _advice_on(vectors, name, limits, created)

        named = None if table is None else [table]
        found.tables.extend(await of_each_table(vectors, named, measured, "measuring"))
        return found


def _limits(store: str | None, config: str | None) -> AdviseSettings:
    return source_of(store, config).settings().advise


async def _advice_on(
    vectors: VectorStore, name: str, limits: AdviseSettings, created: str
) -> Advice:
    schema = await vectors.schema(name)
    growth = await _growth(vectors, name, schema, limits, created)
    seconds = await _probe(vectors, name, schema)
    stats = await vectors.stats(name)
    times = times_of(seconds, stats, "a probe with stored vectors, one search at a time")
    return judge(facts_of(stats, schema.dim, times, growth), limits)


async def _probe(vectors: VectorStore, name: str, schema: Schema) -> list[float]:
    """What searches take, in seconds, from memory where the table has a place there."""
    stored = await _stored(vectors, name, schema)
    queries = [record.vector for record in stored if record.vector is not None]
    if not queries:
        return []
    await vectors.search(name, queries[0])
    for _ in range(_MOST_POLLS):
        if not _is_loading(await vectors.stats(name)):
            break
        await asyncio.sleep(_POLL)
    await vectors.search(name, queries[0])
    seconds: list[float] = []
    end = time.monotonic() + _PROBE_SECONDS
    for number, query in enumerate(queries):
        if number >= _FEWEST and time.monotonic() > end:
            break
        began = time.perf_counter()
        await vectors.search(name, query)
        seconds.append(time.perf_counter() - began)
    return seconds


async def _stored(vectors: VectorStore, name: str, schema: Schema) -> list[Record]:
    """Some rows with their vectors, from all over the table."""
    rows = await vectors.count(name)
    found: dict[str, Record] = {}
    for place in range(_PLACES):
        records = await vectors.find(
            name, limit=_OF_EACH, offset=rows * place // _PLACES, select=[schema.vector]
        )
        found |= {record.id: record for record in records}
    return list(found.values())


def _is_loading(stats: TableStats) -> bool:
    return "loaded" in str(stats.details.get("searched", ""))


async def _growth(
    vectors: VectorStore, name: str, schema: Schema, limits: AdviseSettings, created: str
) -> Growth | None:
    """By the field that tells when a row came, else the mean since the table was made."""
    now = datetime.now(UTC)
    return await _by_field(vectors, name, schema, now, limits.days, created) or mean_growth(
        await vectors.stats(name), now
    )


async def _by_field(
    vectors: VectorStore, name: str, schema: Schema, now: datetime, days: float, created: str
) -> Growth | None:
    """The rows that came within the last days; None where no such field tells."""
    field = schema.fields.get(created)
    if field is None or field.kind not in ("datetime", "text"):
        return None
    oldest = await vectors.find(
        name, F[created].is_not_null(), order_by=created, limit=1, select=[created]
    )
    began = _as_time(oldest[0].fields[created]) if oldest else None
    if began is None or (now - began).days < YOUNGEST_DAYS:
        return None
    since = max(began, now - timedelta(days=days))
    # Text is compared as text: RFC 3339 in UTC sorts as time does.
    moment = since if field.kind == "datetime" else since.isoformat()
    rows = await vectors.count(name, F[created] >= moment)
    return growth_since(rows, since, now, f"by {created}, over the last {{days}}")


def _as_time(value: object) -> datetime | None:
    try:
        found = datetime.fromisoformat(value) if isinstance(value, str) else value
    except ValueError:
        return None
    if not isinstance(found, datetime):
        return None
    return found if found.tzinfo is not None else found.replace(tzinfo=UTC)


# For people


def _show(found: _Found, config: str, store: str | None) -> None:
    console = out()
    print_facts({"store": found.target, "backend": found.backend})
    if found.backend != ADVISED:
        console.print(
            f"The advice is whether to move from {ADVISED} to LanceDB; this store is not there."
        )
        return
    for advice in found.tables:
        console.print()
        print_facts(_lines(advice))
    moving = [advice.facts.table for advice in found.tables if advice.verdict != "later"]
    console.print()
    if moving:
        to = "--to lancedb" if store is None else f"--from {store} --to lancedb://PATH"
        console.print(f"For {', '.join(moving)}, begin with: aiovec migrate plan{config} {to}")
    else:
        console.print("Nothing is to be done.")


def _lines(advice: Advice) -> Mapping[str, object]:
    facts = advice.facts
    return {
        "table": facts.table,
        "rows": f"{facts.rows:,} of {facts.dim} dimensions",
        "search": _searches(facts.searches),
        "growth": _growing(facts.growth),
        "memory": "no copy is kept"
        if facts.scan is None
        else f"{size_text(facts.scan.bytes)} of the {size_text(facts.scan.budget)} of scan_memory",
        "advice": advice.sentence,
        "on LanceDB": _cost(advice.cost),
    }


def _searches(times: SearchTimes | None) -> str:
    if times is None:
        return "not measured: there are no rows"
    return (
        f"{times.p50_ms:.3g} ms, p95 {times.p95_ms:.3g} ms, of {times.searches}; "
        f"{times.growing:.0%} of it grows with the rows ({times.source})"
    )


def _growing(growth: Growth | None) -> str:
    if growth is None:
        return "not known: the table is younger than a day"
    return f"{growth.rows_a_day:,.0f} rows a day ({growth.known_by})"


def _cost(cost: Cost) -> str:
    return (
        f"some {size_text(cost.memory_bytes)} of memory and {size_text(cost.disk_bytes)} on disk "
        f"(and up to as much again for earlier versions); "
        f"{_seconds(cost.copy_seconds)} to copy it, {_seconds(cost.build_seconds)} and "
        f"{size_text(cost.build_memory_bytes)} more of memory to build the index; then about "
        f"{cost.search_ms:.0f} ms a search (approximate)"
    )


def _seconds(seconds: float) -> str:
    if seconds < 1:
        return "less than a second"
    return f"{seconds:,.0f} s" if seconds < 120 else f"{seconds / 60:,.0f} min"
