"""``RayEngine``: the engine for commands that run with ``--engine ray``."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import pairwise
from typing import Any

from aiovec.backend.contract import Backend, TableHandle
from aiovec.backend.engine import Loaded, ReadSource, Seen
from aiovec.backend.threads import in_thread
from aiovec.errors import AiovecError, DuplicateIdError, OutcomeUnknownError, UnsupportedError
from aiovec_lancedb import LancedbBackend
from aiovec_lancedb.engines import Filling, TablePlace, making

from . import fragments, indexes
from .cluster import Cluster, each, shared
from .fragments import Written

_NAME = "ray"
# The most ids named in an error.
_NAMED = 10
# Parts per worker into which a table is divided to compare its ids with the new ids.
_GROUPS = 4


class RayEngine:
    """Lets Ray's workers load, index and compact LanceDB tables."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster

    def close(self) -> None:
        self._cluster.close()

    async def load(
        self,
        backend: Backend,
        table: TableHandle,
        run: str,
        sources: Sequence[str],
        read: ReadSource,
        seen: Seen,
    ) -> Loaded:
        store = _lancedb(backend)
        place = store.place_of(table.name)
        if table.schema.embed is not None:
            hint = f"the table {table.name!r} embeds its texts in this process; leave out --engine"
            raise UnsupportedError("load by an engine", _NAME, hint)
        sweep = partial(in_thread, fragments.sweep, place)
        async with store.filling(table, run, sweep) as load:
            if load.rows is not None:
                return Loaded(0, load.rows)
            try:
                calls = [(source, place, table.schema, read) for source in sources]
                with load.guarded:
                    parts = await each(fragments.write_source, calls, _progress(seen))
                    await _check_ids(table, sources, read, parts)
                    if load.before:
                        await self._check_new(table, load, place, sources, read, parts)
                files = [text for part in parts for text in part.fragments]
                commit = partial(in_thread, fragments.commit, place, files, load.version, run)
                return Loaded(await load.commit(commit if files else _nothing))
            except OutcomeUnknownError:  # repeating the load shows whether the rows were added
                raise
            except AiovecError:
                await load.abandon()
                raise

    async def _check_new(
        self,
        table: TableHandle,
        load: Filling,
        place: TablePlace,
        sources: Sequence[str],
        read: ReadSource,
        parts: Sequence[Written],
    ) -> None:
        """Raise DuplicateIdError if the table has one of the new ids."""
        groups = await in_thread(
            fragments.groups_of, place, load.version, _GROUPS * self._cluster.workers
        )
        new = await in_thread(fragments.all_hashes, [part.hashes for part in parts])
        if not len(new):
            return
        hashes = await in_thread(shared, new)
        calls = [(place, load.version, group, hashes, _NAMED) for group in groups]
        parts_ids = await each(fragments.ids_among, calls, lambda ids: None)
        matches = sorted(id for ids in parts_ids for id in ids)[:_NAMED]
        if not matches:
            return
        of = await in_thread(fragments.hashes_of, matches)
        calls_by_source = [(source, table.schema, read, of) for source in sources]
        named = await each(fragments.ids_of, calls_by_source, lambda ids: None)
        new_ids = {id for part in named for id in part}
        if existing := [id for id in matches if id in new_ids]:  # otherwise two ids share a hash
            raise DuplicateIdError(table.name, existing)

    async def index(
        self, backend: Backend, table: TableHandle, kind: str, options: Mapping[str, Any]
    ) -> None:
        store = _lancedb(backend)
        with making(indexes.RayMaker(store, self._cluster.workers).make):
            await self._prepare(store, table)
            await store.create_index(table, kind, wait=True, options=options)

    async def optimize(self, backend: Backend, table: TableHandle) -> None:
        store = _lancedb(backend)
        with making(indexes.RayMaker(store, self._cluster.workers).make):
            await self._prepare(store, table)
            await store.optimize(table)

    async def _prepare(self, store: LancedbBackend, table: TableHandle) -> None:
        """Compact a table and index its ids and fields, before a vector index is built."""
        place = store.place_of(table.name)
        await store.by_engine(table, partial(indexes.compact, place, self._cluster.workers))


async def _nothing() -> None: ...


def _progress(seen: Seen) -> Callable[[Written], None]:
    """Return a function that counts the rows that workers have written."""
    files = rows = 0

    def add(part: Written) -> None:
        nonlocal files, rows
        files, rows = files + 1, rows + part.rows
        seen(files, rows)

    return add


def _lancedb(backend: Backend) -> LancedbBackend:
    if not isinstance(backend, LancedbBackend):
        raise UnsupportedError("the engine ray", backend.name)
    return backend


async def _check_ids(
    table: TableHandle, sources: Sequence[str], read: ReadSource, parts: Sequence[Written]
) -> None:
    """Raise DuplicateIdError if an id occurs more than once in the sources."""
    twice = await in_thread(fragments.repeated, [part.hashes for part in parts])
    if not len(twice):
        return
    calls = [(source, table.schema, read, twice[:_NAMED]) for source in sources]
    parts_ids = await each(fragments.ids_of, calls, lambda ids: None)
    ids = sorted(id for part in parts_ids for id in part)
    named = [id for id, following in pairwise(ids) if id == following]
    if named:  # otherwise two ids share a hash
        raise DuplicateIdError(table.name, list(dict.fromkeys(named)), within_call=True)
