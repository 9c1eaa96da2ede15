"""The task that keeps a table in step with its source, through a ``Feed``."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from functools import partial

from .._tools.hints import Hints, NotCopied
from ..backend.feed import Feed
from ..backend.threads import in_thread
from ..errors import AiovecError, ConfigError, StoreClosedError

LOG = logging.getLogger("aiovec.watch")

# Seconds between two checks of whether the table is up to date, and of another process's lock.
_BETWEEN_CHECKS, _STAND_BY = 0.02, 1.0
# Seconds before the first retry; each later pause is twice as long, up to ``_LAST_RETRY``.
_FIRST_RETRY, _LAST_RETRY = 0.25, 10.0


@dataclass(frozen=True, slots=True)
class WatchState:
    """The state of a watched table.

    ``waiting`` is the number of changes still to be copied. It is None while the number is unknown:
    while all rows are being compared, or while the source cannot be read. ``seconds`` is the time
    since the table was last known to be up to date, and 0 while it is up to date. ``ready`` is True
    once all rows have been copied, even if later changes are waiting. ``following`` is False while
    another process follows the source. ``error`` is the error text of the last attempt if it
    failed; ``refused`` maps the ids of rows that were set aside to the reasons.
    """

    source: str
    table: str
    following: bool
    ready: bool
    waiting: int | None
    seconds: float
    error: str
    refused: Mapping[str, str]


class Watching(NotCopied, Hints):
    """A source that is followed in an ``async with`` block. Created by ``aiovec.watch``."""

    def __init__(
        self, target: str, others: list[Watching], open_feed: Callable[[], Awaitable[Feed]]
    ) -> None:
        self._target, self._others, self._open_feed = target, others, open_feed
        self._feed: Feed | None = None
        self._task: asyncio.Task[None] | None = None
        self._following = False
        self._is_ready = self._was_fresh = False
        # When the table was last known to be up to date.
        self._fresh_at = 0.0
        self._error = ""

    async def __aenter__(self) -> Watching:
        if self._feed is not None:
            raise RuntimeError("a Watching can be entered only once; call aiovec.watch again")
        feed = await self._open_feed()
        try:
            self._check_apart(feed)
            self._following = await feed.take_turn()
        except BaseException:
            await feed.close()
            raise
        self._feed = feed
        self._fresh_at = time.monotonic()
        self._others.append(self)
        self._task = asyncio.create_task(self._follow(self._feed))
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._feed is None or self._task is None:
            return
        self._others.remove(self)
        self._task.cancel()
        try:
            await asyncio.wait([self._task])
        finally:
            await self._feed.close()

    def _check_apart(self, feed: Feed) -> None:
        """Raise ConfigError if this feed and another one would delete each other's rows."""
        for other in (watching._entered() for watching in self._others):
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
        """The name of the table that is kept in step with the source."""
        return self._entered().table

    async def caught_up(self) -> None:
        """Wait until a search sees everything that was committed in the source before this call.

        The call waits as long as necessary, even while the source or the embedder cannot be
        reached: limit the wait with ``asyncio.timeout``.
        """
        feed = self._entered()
        mark: int | None = None
        while True:
            self._check_open()
            try:
                mark = await feed.last() if mark is None else mark
                left = await feed.waiting(mark)
            except StoreClosedError:
                raise
            except LookupError:
                left = mark = None
            except AiovecError:  # logged by ``_follow``, which retries
                left = None
            if left == 0:
                return
            await asyncio.sleep(_BETWEEN_CHECKS)

    def _check_open(self) -> None:
        if self._task is None or self._task.done():
            raise StoreClosedError(self._target)

    async def state(self) -> WatchState:
        """Return the state: the number of waiting changes, the delay, the last error."""
        feed = self._entered()
        error = self._error
        try:
            async with asyncio.timeout(0.5):  # other work on the source may block this
                waiting = await feed.waiting()
        except TimeoutError:
            waiting = None
        except AiovecError as exc:
            waiting, error = None, error or str(exc)
        seconds = 0.0 if waiting == 0 else time.monotonic() - self._fresh_at
        self._is_ready = self._is_ready or waiting is not None
        return WatchState(
            feed.source, feed.table, self._following, self._is_ready, waiting, seconds, error,
            dict(feed.refused),
        )  # fmt: skip

    def _entered(self) -> Feed:
        if self._feed is None:
            raise RuntimeError("write 'async with aiovec.watch(...) as watching'")
        return self._feed

    async def _follow(self, feed: Feed) -> None:
        pause = 0.0
        while True:
            try:
                self._following = self._following or await feed.take_turn()
                is_late = await (feed.step() if self._following else feed.waiting()) != 0
                self._error, pause = "", 0.0
                if not is_late:
                    await self._is_up_to_date(feed)
                if not self._following:
                    await asyncio.sleep(_STAND_BY)
                elif not is_late:
                    while not await feed.changed():
                        self._fresh_at = time.monotonic()
            except StoreClosedError:
                return
            except Exception as exc:  # noqa: BLE001 - every failure is retried
                pause = min(max(2 * pause, _FIRST_RETRY), _LAST_RETRY)
                self._error = f"{exc}" if isinstance(exc, AiovecError) else f"{exc!r}"
                error = None if isinstance(exc, AiovecError) else exc
                about = "%s: %s; next attempt in %.2g s"
                log = partial(LOG.warning, exc_info=error)
                await in_thread(log, about, feed.source, self._error, pause)
                await asyncio.sleep(pause)

    async def _is_up_to_date(self, feed: Feed) -> None:
        self._fresh_at = time.monotonic()
        if not self._was_fresh:
            await in_thread(LOG.info, "%s: the table %r is up to date", feed.source, feed.table)
            self._was_fresh = True
