"""Advice on when another backend would serve a table better: now, soon, or from how many rows on.

``judge`` decides from the facts of a table, all measured on this machine. The ``Advisor`` of a
running store and ``aiovec advise`` collect the facts.
"""

from __future__ import annotations

import logging
import math
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Literal

from ..backend.contract import Advises, MemoryNeed, StaleTableError, TableHandle, TableStats
from ..backend.memory import size_text
from ..backend.pool import in_thread
from ..backend.threads import Background
from ..errors import AiovecError
from .current import Engine

if TYPE_CHECKING:
    import anyio

    from ..backend.config import AdviseSettings

LOG = logging.getLogger("aiovec")

# Searches of fewer rows take about as long as a call without rows, so they show no growth.
_FEWEST_ROWS = 5_000
# A younger table is being filled for the first time, which says nothing about its growth.
_FEWEST_DAYS = 1.0
# An advisor looks at a table after so many searches, whose times it then uses, and after so many
# seconds at the earliest: a look counts the table's rows.
_SEARCHES, _SECONDS = 512, 600.0
# The tables that an advisor watches; it forgets the one that was searched longest ago.
_MOST_TABLES = 256


@dataclass(frozen=True, slots=True)
class SearchTimes:
    """Times of some searches. ``growing`` is the part of them that grows with the rows."""

    p50_ms: float
    p95_ms: float
    searches: int
    growing: float
    source: str


@dataclass(frozen=True, slots=True)
class Growth:
    """New rows per day, and how they are known."""

    rows_a_day: float
    known_by: str


@dataclass(frozen=True, slots=True)
class TableFacts:
    """The facts of a table. None means unknown or not applicable."""

    table: str
    backend: str
    successor: str
    rows: int
    dim: int
    bytes: int
    searches: SearchTimes | None = None
    growth: Growth | None = None
    scan: MemoryNeed | None = None


@dataclass(frozen=True, slots=True)
class Advice:
    """The judgement on one table, with the reasons.

    ``at_rows`` is the number of rows from which the successor serves it better, and ``in_days`` the
    time until then at its present growth; None where there is no forecast.
    """

    facts: TableFacts
    verdict: Literal["now", "soon", "later"]
    at_rows: int | None
    in_days: float | None
    why: tuple[str, ...] = ()

    @property
    def sentence(self) -> str:
        """The judgement in one sentence, without the table's name."""
        successor, why = self.facts.successor, "; ".join(self.why)
        if self.verdict == "now":
            return f"{successor} would serve it better now: {why}"
        if self.verdict == "soon":
            days = _counted(math.ceil(self.in_days or 0), "day")
            return f"{successor} will serve it better in {days}: {why}"
        well = f"{self.facts.backend} serves it well; "
        if self.at_rows is None:
            return well + why
        well += f"{successor} would serve it better from some {_round(self.at_rows)} rows"
        if self.in_days is None:
            return well
        return f"{well}, at its present growth in some {_time(self.in_days)}"

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "sentence": self.sentence}


def judge(facts: TableFacts, limits: AdviseSettings) -> Advice:
    """Return the advice on a table, whose searches or whose copy in memory may pass a threshold."""
    if why := _reasons(facts, limits):
        return Advice(facts, "now", facts.rows, 0.0, why)
    if facts.searches is None or facts.rows < _FEWEST_ROWS:
        few = f"it has too few rows to forecast ({facts.rows:,} of at least {_FEWEST_ROWS:,})"
        return Advice(facts, "later", None, None, (few,))
    forecasts = _forecasts(facts, facts.searches, limits)
    if not forecasts:
        return Advice(facts, "later", None, None, ("it is expected to with any number of rows",))
    at_rows, then = min(forecasts)
    growth = facts.growth
    if growth is None or growth.rows_a_day <= 0:
        return Advice(facts, "later", at_rows, None)
    in_days = (at_rows - facts.rows) / growth.rows_a_day
    if growth.rows_a_day <= limits.rows_a_day or in_days > limits.days:
        return Advice(facts, "later", at_rows, in_days)
    coming = (
        f"it has {facts.rows:,} rows and grows by {_round(growth.rows_a_day)} a day "
        f"({growth.known_by}), and from {_round(at_rows)} rows on {then}"
    )
    return Advice(facts, "soon", at_rows, in_days, (coming,))


def _reasons(facts: TableFacts, limits: AdviseSettings) -> tuple[str, ...]:
    """Return the thresholds that the table has passed, in sentences."""
    why = []
    times, scan = facts.searches, facts.scan
    if times is not None and facts.rows > limits.rows and times.p95_ms > limits.p95_ms:
        why.append(
            f"{facts.rows:,} rows are searched in {times.p95_ms:,.0f} ms (p95 of "
            f"{times.searches:,}), beyond {limits.rows:,} rows and {limits.p95_ms:g} ms"
        )
    if scan is not None and scan.bytes > scan.budget:
        why.append(
            f"its copy in memory would take {size_text(scan.bytes)}, and {scan.option} is "
            f"{size_text(scan.budget)}, so searches do not use it"
        )
    return tuple(why)


def _forecasts(
    facts: TableFacts, times: SearchTimes, limits: AdviseSettings
) -> list[tuple[int, str]]:
    """Return the numbers of rows at which the table will pass a threshold, and in which way."""
    found = []
    # The forecast may differ a little from what was measured, so it begins beyond the present rows.
    next_row = facts.rows + 1
    # By the median: the machine's other work makes some searches slow, whatever the rows.
    ms_a_row = times.p50_ms * times.growing / facts.rows
    if ms_a_row > 0 or times.p95_ms > limits.p95_ms:
        spare_ms = max(0.0, limits.p95_ms - times.p95_ms)
        rows = max(next_row + math.floor(spare_ms / ms_a_row) if ms_a_row else 0, limits.rows + 1)
        p95 = times.p95_ms + ms_a_row * (rows - facts.rows)
        found.append((rows, f"searches are expected to take {p95:,.0f} ms (p95)"))
    if (scan := facts.scan) is not None and scan.bytes:
        rows = max(next_row, scan.budget * facts.rows // scan.bytes + 1)
        found.append((rows, f"its copy in memory is expected to be larger than {scan.option}"))
    return found


def facts_of(
    backend: Advises,
    stats: TableStats,
    dim: int,
    seconds: Sequence[float],
    source: str,
    growth: Growth | None,
    now: datetime,
) -> TableFacts:
    """Return the facts of a table whose searches took so many seconds each.

    Without a known growth it is the mean since the table was created, where that is known.
    """
    times = sorted(1000 * one for one in seconds)
    told = backend.advice_facts(stats, sum(times) / len(times) if times else 0.0)
    searches = None
    if times:
        p50, p95 = (times[math.ceil(part * len(times)) - 1] for part in (0.50, 0.95))
        searches = SearchTimes(p50, p95, len(times), told.growing, source)
    created = as_time(told.created)
    if growth is None and created is not None:
        known_by = "the mean since the table was created, {days} ago"
        growth = growth_since(stats.rows, created, now, known_by)
    known = (stats.table, stats.backend, backend.successor, stats.rows, dim, stats.bytes)
    return TableFacts(*known, searches, growth, told.memory)


def growth_since(rows: int, since: datetime, now: datetime, known_by: str) -> Growth | None:
    """Return the growth by so many rows; None for less than a day. ``known_by`` has {days}."""
    days = (now - since).total_seconds() / 86_400
    if days < _FEWEST_DAYS:
        return None
    return Growth(rows / days, known_by.format(days=_time(days)))


def as_time(value: object) -> datetime | None:
    """Return a datetime, or a text in RFC 3339, as a time with an offset; None for all else."""
    try:
        found = datetime.fromisoformat(value) if isinstance(value, str) else value
    except ValueError:
        return None
    if not isinstance(found, datetime):
        return None
    return found if found.tzinfo is not None else found.replace(tzinfo=UTC)


def _round(number: float) -> str:
    """Return an estimate with the two digits that count."""
    if number < 10:
        return f"{number:.2g}"
    return f"{int(round(number, 1 - math.floor(math.log10(number)))):,}"


def _time(days: float) -> str:
    if days < 60:
        return _counted(max(1, round(days)), "day")
    if days < 730:
        return _counted(round(days / 30.4), "month")
    years = round(days / 365.25)
    return "hundreds of years" if years >= 100 else _counted(years, "year")


def _counted(number: int, noun: str) -> str:
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


# The advice of a running store

# The stores and tables of this process whose advice is in the log, however often they are opened.
_logged: set[tuple[str, str]] = set()


@dataclass(slots=True)
class _Watched:
    """One table's last searches, and its rows when the process first looked at it."""

    seconds: deque[float]
    searches: int = 0
    look_at: datetime | None = None
    first: tuple[int, datetime] | None = None


class Advisor:
    """Log once that another backend would serve a table better.

    A search costs an entry in a list. After many of them, a task beside the searches reads the
    table's ``stats`` and judges.
    """

    def __init__(
        self,
        threads: Callable[[], anyio.CapacityLimiter],
        *,
        searches: int = _SEARCHES,
        pause: float = _SECONDS,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._threads = threads
        self._searches = searches
        self._pause = timedelta(seconds=pause)
        self._now = now
        self._engine: Engine | None = None
        self._tables: OrderedDict[str, _Watched] = OrderedDict()
        self._looks = Background()
        self._closed = False

    def searched(self, engine: Engine, table: TableHandle, seconds: float) -> None:
        """Note the time of a search. Called on the event loop, and returns at once."""
        backend = engine.backend
        if not isinstance(backend, Advises):
            return
        if engine is not self._engine:  # the store has followed its TOML
            self._engine = engine
            self._tables.clear()
        if (backend.target, table.name) in _logged:
            return
        watched = self._tables.get(table.name)
        if watched is None:
            watched = self._tables[table.name] = _Watched(deque(maxlen=self._searches))
            if len(self._tables) > _MOST_TABLES:
                self._tables.popitem(last=False)
        watched.seconds.append(seconds)
        watched.searches += 1
        if watched.searches < self._searches:
            return
        watched.searches = 0
        self._tables.move_to_end(table.name)
        now = self._now()
        if not self._closed and (watched.look_at is None or now >= watched.look_at):
            watched.look_at = now + self._pause
            self._looks.start(self._look(engine, backend, table, watched))

    async def _look(
        self, engine: Engine, backend: Advises, table: TableHandle, watched: _Watched
    ) -> None:
        # Nobody asked for this look, so nobody is told of its errors; the next one may succeed.
        with suppress(AiovecError, StaleTableError):
            calls = engine.enter()
            try:
                stats = await engine.backend.stats(table)
            finally:
                calls.leave()
            now = self._now()
            rows, since = watched.first = watched.first or (stats.rows, now)
            known_by = "seen by this process in {days}"
            growth = growth_since(stats.rows - rows, since, now, known_by)
            source = f"its last {len(watched.seconds):,} searches"
            seconds = list(watched.seconds)
            facts = facts_of(backend, stats, table.schema.dim, seconds, source, growth, now)
            advice = judge(facts, engine.settings.advise)
            key = (engine.backend.target, table.name)
            if advice.verdict != "later" and key not in _logged:
                _logged.add(key)
                # In a thread, since a log may be a file.
                await in_thread(_log, table.name, advice, limit=self._threads())

    async def stop(self) -> None:
        """End the looks that are under way."""
        self._closed = True
        await self._looks.cancel()


def _log(table: str, advice: Advice) -> None:
    LOG.warning(
        "table %s: %s. 'aiovec advise' measures it anew, 'aiovec migrate plan' what the move "
        "would take, and retrieval.advise in the TOML file holds the thresholds",
        table,
        advice.sentence,
    )
