"""A store's own advice: it notes how long searches take, and says once where that is too long.

On the way of a search it costs an entry in a list. Once in many searches, and at most once in some
minutes, a task beside them asks the backend for its figures and judges.
"""

from __future__ import annotations

import logging
import time
from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import lru_cache, partial
from typing import Any

from ..errors import AiovecError
from .advice import Advice, Growth, facts_of, growth_since, judge, mean_growth, times_of
from .contract import StaleTableError, TableHandle, TableStats
from .engine import Engine
from .loops import Background

LOG = logging.getLogger("aiovec")

ADVISED = "sqlite"
"""The backend that the advice is for: the one that LanceDB follows."""

# Searches of a table between two looks, which are also those whose times count.
_SEARCHES = 512
# And the seconds between two looks at least. One counts the table's rows.
_SECONDS = 600.0
# Tables that are watched; the one searched longest ago is forgotten.
_MOST_TABLES = 256
# Tables of the process of which it is known whether their advice was told.
_MOST_TOLD = 4096


@dataclass(slots=True)
class _Told:
    """Whether the advice on a table was logged."""

    done: bool = False


@lru_cache(maxsize=_MOST_TOLD)
def _told(target: str, table: str) -> _Told:
    """One for each table of this process, however many stores of it are opened."""
    return _Told()


@dataclass(slots=True)
class _Watched:
    """One table's last searches."""

    seconds: deque[float]
    told: _Told
    searches: int = 0
    look_at: float = 0.0
    first: tuple[datetime, int] | None = field(default=None)
    """When it was first looked at, and how many rows it had."""


class Advisor:
    """Watches the searches of one store."""

    def __init__(
        self,
        in_thread: Callable[..., Awaitable[Any]],
        *,
        searches: int = _SEARCHES,
        pause: float = _SECONDS,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._in_thread = in_thread
        self._searches = searches
        self._pause = pause
        self._now = now
        self._engine: Engine | None = None
        self._advises = False
        self._tables: OrderedDict[str, _Watched] = OrderedDict()
        self._looks = Background()
        self._closed = False

    def searched(self, engine: Engine, table: TableHandle, seconds: float) -> None:
        """A search took so long. Done on the event loop, at once."""
        if engine is not self._engine:  # the store has followed its TOML
            self._engine = engine
            self._advises = engine.backend.name == ADVISED
            self._tables.clear()
        if not self._advises:
            return
        watched = self._tables.get(table.name)
        if watched is None:
            watched = self._begin(engine, table.name)
        if watched.told.done:
            return
        watched.seconds.append(seconds)
        watched.searches += 1
        if watched.searches < self._searches:
            return
        watched.searches = 0
        self._tables.move_to_end(table.name)
        if time.monotonic() < watched.look_at or self._closed:
            return
        watched.look_at = time.monotonic() + self._pause
        self._looks.start(self._look(engine, table, watched))

    def _begin(self, engine: Engine, name: str) -> _Watched:
        told = _told(engine.backend.target, name)
        watched = self._tables[name] = _Watched(deque(maxlen=self._searches), told)
        while len(self._tables) > _MOST_TABLES:
            self._tables.popitem(last=False)
        return watched

    async def _look(self, engine: Engine, table: TableHandle, watched: _Watched) -> None:
        # What cannot be found out now is found out the next time, and who asked for nothing is
        # told of no error.
        with suppress(AiovecError, StaleTableError):
            calls = engine.enter()
            try:
                stats = await engine.backend.stats(table)
            finally:
                calls.leave()
            source = f"its last {len(watched.seconds):,} searches"
            times = times_of(list(watched.seconds), stats, source)
            growth = self._growth(watched, stats)
            facts = facts_of(stats, table.schema.dim, times, growth)
            advice = judge(facts, engine.settings.advise)
            if advice.verdict != "later" and not watched.told.done:
                watched.told.done = True
                watched.seconds.clear()
                # In a thread, since a log may be a file.
                await self._in_thread(partial(_say, table.name, advice))

    def _growth(self, watched: _Watched, stats: TableStats) -> Growth | None:
        """What this process has seen, once that is long enough; else the mean."""
        now = self._now()
        if watched.first is None:
            watched.first = now, stats.rows
        since, rows = watched.first
        seen = growth_since(stats.rows - rows, since, now, "seen by this process in {days}")
        return seen or mean_growth(stats, now)

    async def stop(self) -> None:
        """End the looks that are under way."""
        self._closed = True
        await self._looks.cancel()


def _say(table: str, advice: Advice) -> None:
    LOG.warning(
        "table %s: %s. 'aiovec advise' tells what that would cost, and retrieval.advise in the "
        "TOML file holds the thresholds",
        table,
        advice.sentence,
    )
