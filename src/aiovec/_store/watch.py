"""``aiovec.watch``: keep a table in step with a table of another database, or with a folder of
documents.

A ``Feed`` finds and applies the changes of its source. The feeds are in ``aiovec_import``, which is
imported when a watch begins.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from importlib import import_module
from typing import Any, TypedDict, Unpack

from .._model.schema import Analyzer
from .._tools.hints import unexpected
from ..backend.feed import Feed
from ..backend.paths import PathText, text_of
from ..backend.threads import in_thread
from ..errors import InvalidArgumentError
from .store import VectorStore
from .watch_task import Watching

# Seconds between two checks of whether the first copy of a source is complete.
_BETWEEN_CHECKS = 0.05


class WatchOptions(TypedDict, total=False):
    """The options of ``aiovec.watch``."""

    table: str | None
    embed: str | None
    text: str | Iterable[str]
    index: str | Iterable[str]
    analyzer: Analyzer | None
    id_column: str | None
    query: str | None
    passages: bool
    chunk_size: int | None
    overlap: int
    base: str
    include: str | Iterable[str]
    exclude: str | Iterable[str]
    every: float


def watch(store: VectorStore, source: PathText, **options: Unpack[WatchOptions]) -> Watching:
    """Update a table from a source: ``async with watch(store, "app.db#articles", embed="body")``.

    ``source`` is a folder or a file of documents, a table of a SQLite database, written
    ``FILE#TABLE``, or rows that ``aiovec import`` reads with ``--embed``, such as
    ``postgresql://host/db#TABLE``. The first time, all rows are copied; after that, only changes.
    Rows removed from the source are deleted; rows from apps and from other sources stay.

    A SQLite table gets a queue and triggers in its database, which record the keys of changed rows;
    after that, the database is only read. ``aiovec watch FILE#TABLE --stop`` removes the queue and
    the triggers. Other rows, such as those of a view or of a ``query`` (a SELECT), are all compared
    every ``every`` seconds, and so is a folder whose changes the system does not report.

    ``table`` is the store's table, by default the source's name, or "documents". ``embed`` is the
    column from which vectors are made, ``text`` has the columns for keyword search, ``index`` the
    columns with an index for filters; an existing table keeps the columns that its schema names.
    ``analyzer`` is that of a new table, by default that of the language of the texts in the first
    copy, if it is clear, else "english" if the embedder is "local" or "demo", else "plain".
    ``id_column`` is the column with the ids, by default the primary key; its values must be unique.
    With ``passages``, long texts are cut by ``chunk_size`` and ``overlap``, which default to the
    values of an earlier import or watch of the source. If ``embed`` is left out for an existing
    table, its schema also decides whether texts are cut.

    For documents, ``include`` and ``exclude`` are one glob or several, and ``base`` is the URL to
    put before their paths. For rows, ``base`` names the source in the rows, by default ``source``
    as written. Two folders, or two databases, in one table need different bases.

    If several processes watch a source for one store, one of them follows the source; when that
    process ends, another one takes over. An error, for example from an embedder, is logged to
    ``aiovec.watch`` and shown by ``state``, and the work is retried.

    Raises InvalidArgumentError if ``every`` is not a number above 0, and UnsupportedError for a
    read-only store. Entering the result raises ConfigError if the source cannot be read or does not
    fit the table, or if another watch of the store on this machine has the same table and base.
    """
    for name in options.keys() - WatchOptions.__annotations__.keys():
        raise unexpected("watch", name, [*WatchOptions.__annotations__])
    every = options.pop("every", 60.0)
    if isinstance(every, bool) or not isinstance(every, (int, float)) or not every > 0:
        raise InvalidArgumentError("every", every, "a number of seconds above 0")
    store._check_writable("watch")
    named = text_of(source, "source")

    async def open_feed() -> Feed:
        feeds = await in_thread(import_module, "aiovec_import.watching")  # slow
        feed: Feed = await feeds.followed(store, feeds.Wanted.of([named], **options), every)
        return feed

    return Watching(store.target, store.watching, open_feed)


Sources = PathText | Mapping[str, Any] | Iterable[PathText | Mapping[str, Any]]
"""One source or several: each as ``watch`` accepts it, or a mapping of all arguments of
``watch``."""


def sources_of(sources: Sources) -> list[PathText | Mapping[str, Any]]:
    """Return one source or several as a list."""
    return [sources] if isinstance(sources, (str, os.PathLike, Mapping)) else [*sources]


async def check_watched(
    store: VectorStore, sources: Iterable[PathText | Mapping[str, Any]]
) -> None:
    """Raise the errors that watching these sources would raise. Copies nothing."""
    for watching in _watched(store, sources):
        feed = await watching._open_feed()
        await feed.close()


def _watched(
    store: VectorStore, sources: Iterable[PathText | Mapping[str, Any]]
) -> Iterator[Watching]:
    for source in sources:
        options = source if isinstance(source, Mapping) else {"source": source}
        yield watch(store, **options)


@asynccontextmanager
async def watching_all(
    store: VectorStore, sources: Iterable[PathText | Mapping[str, Any]], *, wait: bool = False
) -> AsyncIterator[None]:
    """Watch sources; with ``wait``, the block begins only once each source has been copied."""
    async with AsyncExitStack() as stack:
        for each in _watched(store, sources):
            watching = await stack.enter_async_context(each)
            while wait and not (await watching.state()).ready:  # noqa: ASYNC110 - perhaps another process copies
                await asyncio.sleep(_BETWEEN_CHECKS)
        yield
