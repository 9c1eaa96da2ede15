"""The methods of the asynchronous store and table, each of which blocks until it is done."""

from __future__ import annotations

import asyncio
import sys
import warnings
import weakref
from collections.abc import (
    AsyncGenerator,
    Awaitable,
    Callable,
    Generator,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
    Set,
)
from contextlib import suppress
from functools import wraps
from typing import Any, Concatenate, Final, Generic, ParamSpec, TypeVar, Unpack, cast

from .._store.connect import connect as connect_async
from .._store.store import Table as AsyncTable
from .._store.store import VectorStore as AsyncStore
from .._store.watch import WatchOptions
from .._store.watch import watch as watch_async
from .._store.watch_task import Watching as AsyncWatching
from .._tools.hints import (
    Hints,
    NoLength,
    NotCopied,
    hints_arguments,
    taking_arguments_of,
    without_frames,
)
from .._tools.redaction import redacted
from ..backend.paths import PathText
from ..errors import AiovecError, StoreClosedError
from .portal import Portal

# Notebooks, whose cells run on an event loop.
_NOTEBOOKS = ("ipykernel", "marimo")

_A = TypeVar("_A")
_P = ParamSpec("_P")
_R = TypeVar("_R")


class _Blocking(NotCopied, Hints, Generic[_A]):
    """An asynchronous object with the portal to its event loop."""

    def __init__(self, awaited: _A, portal: Portal) -> None:
        self._awaited: Final = awaited
        self._portal: Final = portal


def _blocking(
    method: Callable[Concatenate[_A, _P], Awaitable[_R]],
) -> Callable[Concatenate[_Blocking[_A], _P], _R]:
    """Return the method as a blocking function."""

    @wraps(method)
    def call(self: _Blocking[_A], /, *args: _P.args, **kwargs: _P.kwargs) -> _R:
        # Lazy arguments are read here, in the caller's thread, since they may use the same store.
        positional: Any = [_read(argument) for argument in args]
        named: Any = {name: _read(argument) for name, argument in kwargs.items()}
        try:
            return self._portal.run(lambda: method(self._awaited, *positional, **named))
        except AiovecError as exc:
            raise without_frames(exc) from exc.__cause__

    return call


def _iterating(
    method: Callable[Concatenate[_A, _P], AsyncGenerator[_R, None]],
) -> Callable[Concatenate[_Blocking[_A], _P], Generator[_R, None, None]]:
    """Return the method as a plain generator function; ``close()`` ends an iteration early."""

    @wraps(method)
    def call(
        self: _Blocking[_A], /, *args: _P.args, **kwargs: _P.kwargs
    ) -> Generator[_R, None, None]:
        return _iterated(self, method(self._awaited, *args, **kwargs))

    return call


def _iterated(face: _Blocking[Any], items: AsyncGenerator[_R, None]) -> Generator[_R, None, None]:
    portal = face._portal  # keeps the store from being collected before its iterator
    ended = object()
    try:
        while (item := portal.run(lambda: anext(items, ended))) is not ended:
            yield cast("_R", item)
    finally:
        # The garbage collector may run this in any thread, even in the portal's.
        with suppress(StoreClosedError):
            portal.begin(items.aclose)


# Iterables of these types, or with one of these attributes, are not lazy.
_COLLECTIONS = (Sequence, Mapping, Set, bytearray)
_FORMS = (
    "__array__ __array_interface__ __arrow_c_array__ __arrow_c_stream__ __dataframe__ "
    "model_fields shape"
).split()


def _is_lazy(argument: object) -> bool:
    if isinstance(argument, Iterator):
        return True
    if not isinstance(argument, Iterable) or isinstance(argument, _COLLECTIONS):
        return False
    return not any(hasattr(type(argument), name) for name in _FORMS)


def _read(argument: object) -> object:
    if _is_lazy(argument):
        return list(cast("Iterable[object]", argument))
    if type(argument) is dict and any(map(_is_lazy, argument.values())):
        return {name: _read(column) for name, column in argument.items()}  # columns of rows
    return argument


class Table(NoLength, _Blocking[AsyncTable]):
    """A lightweight handle to one table, with the store's methods but no table name to pass."""

    def __init__(self, store: VectorStore, awaited: AsyncTable) -> None:
        super().__init__(awaited, store._portal)
        self.store: VectorStore = store
        self.name: str = awaited.name

    def __repr__(self) -> str:
        return f"<sync.Table {self.name} of {self.store!r}>"

    create: Final = _blocking(AsyncTable.create)
    create_from: Final = _blocking(AsyncTable.create_from)
    drop: Final = _blocking(AsyncTable.drop)
    schema: Final = _blocking(AsyncTable.schema)
    add_field: Final = _blocking(AsyncTable.add_field)
    create_field_index: Final = _blocking(AsyncTable.create_field_index)
    drop_field_index: Final = _blocking(AsyncTable.drop_field_index)
    drop_field: Final = _blocking(AsyncTable.drop_field)
    rename_field: Final = _blocking(AsyncTable.rename_field)
    insert: Final = _blocking(AsyncTable.insert)
    upsert: Final = _blocking(AsyncTable.upsert)
    update: Final = _blocking(AsyncTable.update)
    set_vectors: Final = _blocking(AsyncTable.set_vectors)
    delete: Final = _blocking(AsyncTable.delete)
    exists: Final = _blocking(AsyncTable.exists)
    get: Final = _blocking(AsyncTable.get)
    find: Final = _blocking(AsyncTable.find)
    count: Final = _blocking(AsyncTable.count)
    distinct: Final = _blocking(AsyncTable.distinct)
    fields_info: Final = _blocking(AsyncTable.fields_info)
    bounds: Final = _blocking(AsyncTable.bounds)
    search: Final = _blocking(AsyncTable.search)
    search_many: Final = _blocking(AsyncTable.search_many)
    search_like: Final = _blocking(AsyncTable.search_like)
    search_text: Final = _blocking(AsyncTable.search_text)
    search_hybrid: Final = _blocking(AsyncTable.search_hybrid)
    rows: Final = _iterating(AsyncTable.rows)
    export: Final = _iterating(AsyncTable.export)
    stats: Final = _blocking(AsyncTable.stats)
    optimize: Final = _blocking(AsyncTable.optimize)
    create_index: Final = _blocking(AsyncTable.create_index)
    indexes: Final = _blocking(AsyncTable.indexes)
    drop_index: Final = _blocking(AsyncTable.drop_index)
    versions: Final = _blocking(AsyncTable.versions)
    changes: Final = _blocking(AsyncTable.changes)
    revert: Final = _blocking(AsyncTable.revert)


class Watching(_Blocking[AsyncWatching]):
    """A source that is followed inside a ``with`` block. Created by ``aiovec.sync.watch``."""

    def __enter__(self) -> Watching:
        self._portal.run(self._awaited.__aenter__)
        return self

    def __exit__(self, *_: object) -> None:
        self._portal.run(self._awaited.__aexit__)

    caught_up: Final = _blocking(AsyncWatching.caught_up)
    state: Final = _blocking(AsyncWatching.state)


class VectorStore(_Blocking[AsyncStore]):
    """A store from ``aiovec.sync.connect``, with the methods of ``aiovec.VectorStore``."""

    def __init__(self, awaited: AsyncStore, portal: Portal) -> None:
        super().__init__(awaited, portal)
        self._finalizer = weakref.finalize(self, _abandoned, awaited, portal)
        # The thread ends with the process. If the finalizer woke the thread at exit, the thread
        # would run in an interpreter that is partly torn down.
        self._finalizer.atexit = False

    @property
    def target(self) -> str:
        """The path or URL of the store."""
        return self._awaited.target

    @property
    def backend_name(self) -> str:
        """The name of the backend in use now."""
        return self._awaited.backend_name

    @property
    def read_only(self) -> bool:
        """True if the store was opened for reading only."""
        return self._awaited.read_only

    @property
    def watching(self) -> list[Watching]:
        """The sources that ``aiovec.sync.watch`` follows for this store, in this process."""
        return [Watching(each, self._portal) for each in self._awaited.watching]

    def __repr__(self) -> str:
        return f"<sync.VectorStore {self.target}>"

    def __enter__(self) -> VectorStore:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Wait for the accepted writes, then close the store.

        May be called twice, and from any thread. Does nothing in a forked child, since the store
        belongs to the parent.
        """
        if self._portal.gone or self._portal.stopped:
            return
        try:
            self._portal.run(self._awaited.close)
        except StoreClosedError:  # another thread closed it at the same time
            return
        self._portal.stop()

    def supports(self, ability: str) -> bool:
        """Like ``aiovec.VectorStore.supports``."""
        return self._awaited.supports(ability)

    def table(self, name: str) -> Table:
        """Return a handle to a table: ``store.table("docs").search(vector)``. Reads nothing."""
        return Table(self, self._awaited.table(name))

    ping: Final = _blocking(AsyncStore.ping)
    create_table: Final = _blocking(AsyncStore.create_table)
    create_table_from: Final = _blocking(AsyncStore.create_table_from)
    add_field: Final = _blocking(AsyncStore.add_field)
    create_field_index: Final = _blocking(AsyncStore.create_field_index)
    drop_field_index: Final = _blocking(AsyncStore.drop_field_index)
    drop_field: Final = _blocking(AsyncStore.drop_field)
    rename_field: Final = _blocking(AsyncStore.rename_field)
    rename_table: Final = _blocking(AsyncStore.rename_table)
    drop_table: Final = _blocking(AsyncStore.drop_table)
    tables: Final = _blocking(AsyncStore.tables)
    schema: Final = _blocking(AsyncStore.schema)
    insert: Final = _blocking(AsyncStore.insert)
    upsert: Final = _blocking(AsyncStore.upsert)
    update: Final = _blocking(AsyncStore.update)
    set_vectors: Final = _blocking(AsyncStore.set_vectors)
    delete: Final = _blocking(AsyncStore.delete)
    exists: Final = _blocking(AsyncStore.exists)
    get: Final = _blocking(AsyncStore.get)
    find: Final = _blocking(AsyncStore.find)
    count: Final = _blocking(AsyncStore.count)
    distinct: Final = _blocking(AsyncStore.distinct)
    fields_info: Final = _blocking(AsyncStore.fields_info)
    bounds: Final = _blocking(AsyncStore.bounds)
    search: Final = _blocking(AsyncStore.search)
    search_many: Final = _blocking(AsyncStore.search_many)
    search_like: Final = _blocking(AsyncStore.search_like)
    search_text: Final = _blocking(AsyncStore.search_text)
    search_hybrid: Final = _blocking(AsyncStore.search_hybrid)
    rows: Final = _iterating(AsyncStore.rows)
    export: Final = _iterating(AsyncStore.export)
    stats: Final = _blocking(AsyncStore.stats)
    optimize: Final = _blocking(AsyncStore.optimize)
    create_index: Final = _blocking(AsyncStore.create_index)
    indexes: Final = _blocking(AsyncStore.indexes)
    drop_index: Final = _blocking(AsyncStore.drop_index)
    versions: Final = _blocking(AsyncStore.versions)
    changes: Final = _blocking(AsyncStore.changes)
    revert: Final = _blocking(AsyncStore.revert)
    backup: Final = _blocking(AsyncStore.backup)


def wait_for(store: VectorStore, call: Callable[[AsyncStore], Awaitable[_R]]) -> _R:
    """Run a call of the store's asynchronous methods, and return its result. Blocks."""
    return store._portal.run(lambda: call(store._awaited))


def runs_in(store: VectorStore) -> bool:
    """Return whether this is the thread in which the store's methods run."""
    return store._portal.is_here


async def aio(store: VectorStore, call: Callable[[AsyncStore], Awaitable[_R]]) -> _R:
    """Await a call of the store's asynchronous methods: ``await aio(store, lambda s: s.tables())``.

    With it, both plain and asynchronous code can use one store, even one in memory, on any number
    of event loops. ``call`` runs on the store's own loop, in another thread, so it must not use
    objects of the caller's loop. Cancelling the task cancels the call and waits for its end.
    """
    return await store._portal.run_for_task(lambda: call(store._awaited))


def _abandoned(store: AsyncStore, portal: Portal) -> None:
    """Close a store that was garbage collected without ``close``. Does not wait."""
    if portal.gone or portal.stopped:
        return

    async def close() -> None:
        try:
            await store.close()
        finally:
            portal.stop()

    # Made before ``close`` begins, since afterwards ``repr`` says that the store is closed.
    text = f"{store!r} was never closed"
    portal.begin(close)
    warnings.warn(text, ResourceWarning, stacklevel=2)


@hints_arguments
@taking_arguments_of(connect_async)
def connect(*args: Any, **options: Any) -> VectorStore:
    """Open a store; the arguments are as in ``aiovec.connect``. Close it, or use ``with``.

    Raises AiovecError in async code, since each call would block the event loop. A notebook is an
    exception, since nothing else runs during a cell.
    """
    with suppress(RuntimeError):  # no loop runs
        asyncio.get_running_loop()
        if sys.modules.keys().isdisjoint(_NOTEBOOKS):
            raise AiovecError(
                "aiovec.sync.connect() would block the running event loop; use "
                "'async with aiovec.connect(...)' there, or asyncio.to_thread for blocking code"
            )
    return open_store(*args, **options)


def open_store(target: PathText | None = None, **options: Any) -> VectorStore:
    """Open a store, even in async code."""
    portal = Portal(redacted(str(target if target is not None else options.get("config") or "")))

    try:
        store = portal.run(lambda: connect_async(target, **options))
    except BaseException:
        portal.stop()
        raise
    portal.target = store.target
    return VectorStore(store, portal)


@wraps(watch_async)
def watch(store: VectorStore, source: PathText, **options: Unpack[WatchOptions]) -> Watching:
    return Watching(watch_async(store._awaited, source, **options), store._portal)
