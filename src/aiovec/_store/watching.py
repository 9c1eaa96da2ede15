"""A task that keeps a table of a store as its source is, by a ``Feed``."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import Protocol

from .._tools.hints import Hints, NotCopied
from ..backend.threads import in_thread
from ..errors import AiovecError, ConfigError, StoreClosedError, UnsupportedError

LOG = logging.getLogger("aiovec.watch")

# Seconds between looks while something is waited for, and at the lock of another process.
_LOOK, _STAND_BY = 0.02, 1.0
# Seconds that a question for the state waits behind other work, such as a queue that is made.
_PATIENCE = 0.5
# Seconds before the first retry, which double up to the last.
_FIRST_RETRY, _LAST_RETRY = 0.25, 10.0


class Feed(Protocol):
    """A source that is followed. ``refused`` has the reasons for rows that were set aside."""

    @property
    def source(self) -> str:
        """The source as messages name it, without secrets."""

    @property
    def table(self) -> str:
        """The table of the store."""

    @property
    def base(self) -> str:
        """The base of its rows. A feed deletes the others of its base in the table."""

    @property
    def document(self) -> str:
        """The one document that a feed has, whose rows alone it deletes; else empty."""

    @property
    def refused(self) -> Mapping[str, str]:
        """The rows or documents that were set aside, with the reasons."""

    async def take_turn(self) -> bool:
        """Return whether this process follows now; False while another one does."""

    async def step(self) -> bool:
        """Apply some changes, so that a killed process can continue; False if none is left.

        An error has applied only a part, and the next step begins where it was.
        """

    async def changed(self) -> None:
        """Return when the source may have changed since the last step, or soon after."""

    async def last(self) -> int:
        """Return a mark for all that is committed in the source now."""

    async def waiting(self, mark: int | None = None) -> int | None:
        """Return how many changes wait, up to a mark; None if that is not known yet."""

    async def close(self) -> None:
        """Let the source go."""


@dataclass(frozen=True, slots=True)
class WatchState:
    """The state of a watched table.

    ``waiting`` counts the changes that wait, and is None while that is unknown, as while a queue is
    made, or during the first copy of a source without one. ``seconds`` says for how long some have
    waited. ``following`` is False in a process that stands by for another one. ``error`` is the
    last one if the last attempt failed; ``refused`` has the reasons for rows that were set aside,
    by their ids.
    """

    source: str
    table: str
    following: bool
    waiting: int | None
    seconds: float
    error: str
    refused: Mapping[str, str]


class Followed(Protocol):
    """The store of a ``Watching``."""

    @property
    def target(self) -> str: ...

    @property
    def read_only(self) -> bool: ...

    @property
    def backend_name(self) -> str: ...

    @property
    def watching(self) -> list[Watching]: ...


class Watching(NotCopied, Hints):
    """A source that is followed while this is entered. Made by ``aiovec.watch``."""

    def __init__(self, store: Followed, opened: Callable[[], Awaitable[Feed]]) -> None:
        self._store = store
        self._opened = opened
        self._feed: Feed | None = None
        self._task: asyncio.Task[None] | None = None
        self._following = False
        self._behind_since: float | None = None
        self._error = ""

    async def __aenter__(self) -> Watching:
        if self._feed is not None:
            raise RuntimeError("a Watching is entered once; call aiovec.watch again")
        if self._store.read_only:
            reason = f"{self._store.target} was opened with read_only=True"
            raise UnsupportedError("watch", self._store.backend_name, reason)
        feed = await self._opened()
        try:
            self._check_apart(feed)
            self._following = await feed.take_turn()
        except BaseException:
            await feed.close()
            raise
        self._feed = feed
        self._store.watching.append(self)
        self._task = asyncio.create_task(self._follow(self._feed))
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._feed is None or self._task is None:
            return
        self._store.watching.remove(self)
        self._task.cancel()
        try:
            await asyncio.wait([self._task])
        finally:
            await self._feed.close()

    def _check_apart(self, feed: Feed) -> None:
        """Raise ConfigError if a feed and another one would delete the rows of each other."""
        for other in (watching._entered() for watching in self._store.watching):
            apart = other.document and feed.document and other.document != feed.document
            if (other.table, other.base) == (feed.table, feed.base) and not apart:
                raise ConfigError(
                    f"{other.source} is watched for the table {feed.table!r} with the same base "
                    f"{feed.base!r}, and each watch would delete the rows of the other; watch "
                    f"{feed.source} with another base, or for another table",
                    key="base",
                )

    @property
    def table(self) -> str:
        """The table of the store."""
        return self._entered().table

    async def caught_up(self) -> None:
        """Wait until a search sees all that was committed in the source before this call.

        It waits for as long as that takes: bound it with ``asyncio.timeout``.
        """
        feed = self._entered()
        mark = await feed.last()
        while await feed.waiting(mark) != 0:
            if self._task is None or self._task.done():
                raise StoreClosedError(self._store.target)
            await asyncio.sleep(_LOOK)

    async def state(self) -> WatchState:
        """Return how far the table is behind its source, and the last error."""
        feed = self._entered()
        error = self._error
        try:
            async with asyncio.timeout(_PATIENCE):
                waiting = await feed.waiting()
        except TimeoutError:
            waiting = None
        except AiovecError as exc:
            waiting, error = None, error or str(exc)
        since = self._behind_since
        seconds = 0.0 if since is None or waiting == 0 else time.monotonic() - since
        return WatchState(
            feed.source, feed.table, self._following, waiting, seconds, error, dict(feed.refused)
        )

    def _entered(self) -> Feed:
        if self._feed is None:
            raise RuntimeError("write 'async with aiovec.watch(...) as watching'")
        return self._feed

    async def _follow(self, feed: Feed) -> None:
        pause, said = 0.0, False
        self._behind_since = time.monotonic()
        while True:
            try:
                self._following = self._following or await feed.take_turn()
                behind = await (feed.step() if self._following else feed.waiting())
                self._behind_since = (self._behind_since or time.monotonic()) if behind else None
                self._error, pause = "", 0.0
                if not self._following:
                    await asyncio.sleep(_STAND_BY)
                elif not behind:
                    if not said:
                        about = "%s: the table %r is up to date"
                        await in_thread(LOG.info, about, feed.source, feed.table)
                        said = True
                    await feed.changed()
                    self._behind_since = time.monotonic()
            except StoreClosedError:
                return
            except Exception as exc:  # noqa: BLE001 - whatever fails is tried again
                pause = min(max(2 * pause, _FIRST_RETRY), _LAST_RETRY)
                self._error = f"{exc}" if isinstance(exc, AiovecError) else f"{exc!r}"
                error = None if isinstance(exc, AiovecError) else exc
                about = "%s: %s; next attempt in %.2g s"
                log = partial(LOG.warning, exc_info=error)
                await in_thread(log, about, feed.source, self._error, pause)
                await asyncio.sleep(pause)
