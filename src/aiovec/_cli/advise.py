"""``aiovec advise``: whether another backend would serve a store's tables better."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Annotated

import typer

from .._filters import F
from .._model.schema import Schema
from .._store.advice import Advice, Growth, as_time, facts_of, growth_since, judge
from .._store.store import VectorStore
from ..backend.config import AdviseSettings
from ..backend.contract import Advises
from ..backend.memory import size_text
from .output import out, print_facts, print_json
from .run import failing_clearly, run
from .stores import AsJson, Config, Store, of_each_table, opened, source_of

# The probe searches for this many stored vectors, from so many places of the table.
_PLACES, _OF_EACH = 8, 12
# It ends after so many seconds, but not before so many searches.
_PROBE_SECONDS, _FEWEST = 3.0, 5
# It waits at most so many times so many seconds until a table is in memory: a million rows take
# some five seconds (``python -m bench search-million``).
_MOST_POLLS, _POLL = 600, 0.1


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
            help="Timestamp field used to estimate growth.",
        ),
    ] = "created_at",
    config: Config = None,
    json: AsJson = False,
) -> None:
    """Measure the tables of a store and say whether another backend would serve them better.

    Changes nothing. The thresholds are in the TOML file, in the section retrieval.advise.
    """
    found = run(_advise(store, table, config, created))
    if json:
        print_json(
            {
                **found.about,
                "advised": found.successor is not None,
                "thresholds": found.limits.model_dump(),
                "tables": [advice.to_dict() for advice in found.tables],
            }
        )
    else:
        _show(found, "" if config is None else f" --config {config}", store)


@dataclass(frozen=True)
class _Found:
    """The advice on each table; ``successor`` is None for a backend that gives none."""

    about: dict[str, str]
    successor: str | None
    limits: AdviseSettings
    tables: list[Advice]


async def _advise(store: str | None, table: str | None, config: str | None, created: str) -> _Found:
    limits = await asyncio.to_thread(lambda: source_of(store, config).settings().advise)
    async with opened(store, config, reading=True) as vectors:
        about = {"store": vectors.target, "backend": vectors.backend_name}
        backend = vectors._advises
        if backend is None:
            return _Found(about, None, limits, [])

        async def measured(name: str) -> Advice:
            return await _measure(vectors, backend, name, limits, created)

        named = None if table is None else [table]
        advices = await of_each_table(vectors, named, measured, "measuring")
        return _Found(about, backend.successor, limits, advices)


async def _measure(
    vectors: VectorStore, backend: Advises, name: str, limits: AdviseSettings, created: str
) -> Advice:
    schema = await vectors.schema(name)
    growth = await _growth(vectors, name, schema, limits.days, created)
    seconds = await _probe(vectors, backend, name, schema)
    stats = await vectors.stats(name)
    source = "a probe with stored vectors, one search at a time"
    now = datetime.now(UTC)
    return judge(facts_of(backend, stats, schema.dim, seconds, source, growth, now), limits)


async def _probe(
    vectors: VectorStore, backend: Advises, name: str, schema: Schema
) -> Sequence[float]:
    """Return the seconds of some searches, from memory if the table has a place there."""
    rows = await vectors.count(name)
    stored = {}
    for place in range(_PLACES):  # all over the table
        offset = rows * place // _PLACES
        for record in await vectors.find(
            name, limit=_OF_EACH, offset=offset, select=[schema.vector]
        ):
            stored[record.id] = record.vector
    queries = [vector for vector in stored.values() if vector is not None]
    if not queries:
        return []
    await vectors.search(name, queries[0])
    for _ in range(_MOST_POLLS):
        if not backend.advice_facts(await vectors.stats(name), 0.0).loading:
            break
        await asyncio.sleep(_POLL)
    await vectors.search(name, queries[0])
    seconds: list[float] = []
    end = time.monotonic() + _PROBE_SECONDS
    for query in queries:
        if len(seconds) >= _FEWEST and time.monotonic() > end:
            break
        began = time.perf_counter()
        await vectors.search(name, query)
        seconds.append(time.perf_counter() - began)
    return seconds


async def _growth(
    vectors: VectorStore, name: str, schema: Schema, days: float, created: str
) -> Growth | None:
    """Return the growth over the last days by a timestamp field; None without such a field."""
    field = schema.fields.get(created)
    if field is None or field.kind not in ("datetime", "text"):
        return None
    oldest = await vectors.find(
        name, F[created].is_not_null(), order_by=created, limit=1, select=[created]
    )
    began = as_time(oldest[0].fields[created]) if oldest else None
    if began is None:
        return None
    now = datetime.now(UTC)
    since = max(began, now - timedelta(days=days))
    # Text is compared as text: RFC 3339 in UTC sorts as time does.
    moment = since if field.kind == "datetime" else since.isoformat()
    rows = await vectors.count(name, F[created] >= moment)
    return growth_since(rows, since, now, f"by {created}, over the last {{days}}")


def _show(found: _Found, config: str, store: str | None) -> None:
    say = out().print
    print_facts(found.about)
    if found.successor is None:
        say("There is no advice for this store: no installed backend is a successor of this one.")
        return
    for advice in found.tables:
        say()
        print_facts(_lines(advice))
    moving = [advice.facts.table for advice in found.tables if advice.verdict != "later"]
    say()
    if not moving:
        say("No table needs to move now.")
        return
    to = "" if store is None else f" --from {store}"
    to += f" --to {found.successor}" + ("" if store is None else "://PATH")
    say(f"For {', '.join(moving)}, start with: aiovec migrate plan{config}{to}")
    say("It measures how long the move takes on this machine.")


def _lines(advice: Advice) -> dict[str, object]:
    facts = advice.facts
    search, memory = "not measured: there are no rows", "no copy is kept"
    growth = "unknown: the table is younger than a day"
    if (times := facts.searches) is not None:
        search = (
            f"{times.p50_ms:.3g} ms, p95 {times.p95_ms:.3g} ms, of {times.searches}; "
            f"{times.growing:.0%} of it grows with the rows ({times.source})"
        )
    if facts.growth is not None:
        growth = f"{facts.growth.rows_a_day:,.0f} rows a day ({facts.growth.known_by})"
    if (scan := facts.scan) is not None:
        memory = f"{size_text(scan.bytes)} of the {size_text(scan.budget)} of {scan.option}"
    return {
        "table": facts.table,
        "rows": f"{facts.rows:,} of {facts.dim} dimensions",
        "search": search,
        "growth": growth,
        "memory": memory,
        "advice": advice.sentence,
    }
