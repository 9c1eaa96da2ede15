"""``aiovec.watch``: a table of a store is kept as another database's, or as a folder.

A ``Feed`` knows its source, and finds and applies its changes. The importer has them,
and is loaded when something is watched.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from importlib import import_module
from typing import Any

from .._tools.hints import hints_arguments
from ..backend.paths import PathText, text_of
from ..backend.threads import in_thread
from .store import VectorStore
from .watching import Feed, Watching


@hints_arguments
def watch(
    store: VectorStore,
    source: PathText,
    *,
    table: str | None = None,
    embed: str | None = None,
    text: str | Iterable[str] = (),
    index: str | Iterable[str] = (),
    id_column: str | None = None,
    query: str | None = None,
    passages: bool = False,
    chunk_size: int | None = None,
    overlap: int = 0,
    base: str = "",
    include: Iterable[str] = (),
    exclude: Iterable[str] = (),
    every: float = 60.0,
) -> Watching:
    """Keep a table as its source: ``async with watch(store, "app.db#articles", embed="body")``.

    ``source`` is a folder or a file of documents, a table of a SQLite database, ``FILE#TABLE``, or
    rows that ``aiovec import`` reads with ``--embed``, such as ``postgresql://host/db#TABLE``. The
    first time all rows are copied, and after that only changes. Rows removed from the source are
    deleted; rows of apps and of other sources stay.

    A table of SQLite gets a queue and four triggers in its database, which note the keys of changed
    rows; ``aiovec watch FILE#TABLE --stop`` removes them. The queue serves one table of one
    store. Where none can be made, as for a view or a ``query``, a SELECT, all rows are compared
    every ``every`` seconds; a folder whose changes the system does not report is too.

    ``table`` is the store's table, by default the source's name, or "documents". ``embed`` is the
    column that vectors are made of, ``text`` are those for keyword search, ``index`` those with an
    index for filters; an existing table has them already. ``id_column`` is the one of the ids, by
    default the primary key; its values must be unique. With ``passages``, long texts are cut, by
    ``chunk_size`` and ``overlap``. The sizes may be left out if an earlier import or watch of the
    source named them, and ``passages`` only together with ``embed``.

    For documents, ``include`` and ``exclude`` are globs, and ``base`` is the URL before their
    paths. For rows, ``base`` names the source in the rows, by default ``source`` as written. Two
    folders, or two databases, in one table need different bases.

    Of several processes that watch a source for one store, one follows, and another one takes over
    when it ends. An error, such as that of an embedder, is logged as ``aiovec.watch``, shown by
    ``state``, and the work is tried again.

    Entering it raises ConfigError if the source cannot be read or does not suit the table, if its
    queue serves another table, or if another watch of the store on this machine has the same
    table and base; UnsupportedError for a read-only store.
    """
    options = {
        "table": table,
        "embed": embed,
        "text": text,
        "index": index,
        "id_column": id_column,
        "query": query,
        "passages": passages,
        "chunk_size": chunk_size,
        "overlap": overlap,
        "base": base,
        "include": include,
        "exclude": exclude,
    }

    async def opened() -> Feed:
        feeds = await in_thread(import_module, "aiovec_import.watching")  # slow
        wanted = feeds.Wanted.of([text_of(source, "source")], **options)
        feed: Feed = await feeds.followed(store, wanted, every)
        return feed

    return Watching(store, opened)


@asynccontextmanager
async def watching_all(
    store: VectorStore, sources: Iterable[PathText | Mapping[str, Any]]
) -> AsyncIterator[None]:
    """Watch sources, given as ``watch`` takes them, or as mappings of all its arguments."""
    async with AsyncExitStack() as stack:
        for source in sources:
            options = source if isinstance(source, Mapping) else {"source": source}
            await stack.enter_async_context(watch(store, **options))
        yield
