"""A table's name and its store in one hand."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable
from typing import TYPE_CHECKING, Concatenate, ParamSpec, TypeVar, Unpack

from .._input.types import Where
from ..backend.contract import IndexOptions
from .store import VectorStore

if TYPE_CHECKING:
    import pyarrow as pa

_P = ParamSpec("_P")
_T = TypeVar("_T")


def _bound(
    method: Callable[Concatenate[VectorStore, str, _P], Awaitable[_T]],
) -> Callable[Concatenate[Table, _P], Awaitable[_T]]:
    """The store's method with the table's name filled in."""

    def call(self: Table, /, *args: _P.args, **kwargs: _P.kwargs) -> Awaitable[_T]:
        return method(self.store, self.name, *args, **kwargs)

    call.__name__ = method.__name__
    call.__doc__ = method.__doc__
    return call


class Table:
    """A light handle on one table: the store's methods without the table's name.

    It reads nothing when it is made, and stays valid when the table is dropped and made anew.
    """

    __slots__ = ("name", "store")

    def __init__(self, store: VectorStore, name: str) -> None:
        self.store = store
        self.name = name

    def __repr__(self) -> str:
        return f"<Table {self.name} of {self.store!r}>"

    create = _bound(VectorStore.create_table)
    drop = _bound(VectorStore.drop_table)
    schema = _bound(VectorStore.schema)
    add_field = _bound(VectorStore.add_field)
    create_field_index = _bound(VectorStore.create_field_index)
    drop_field_index = _bound(VectorStore.drop_field_index)
    drop_field = _bound(VectorStore.drop_field)
    rename_field = _bound(VectorStore.rename_field)
    insert = _bound(VectorStore.insert)
    upsert = _bound(VectorStore.upsert)
    update = _bound(VectorStore.update)
    set_vectors = _bound(VectorStore.set_vectors)
    delete = _bound(VectorStore.delete)
    delete_where = _bound(VectorStore.delete_where)
    exists = _bound(VectorStore.exists)
    get = _bound(VectorStore.get)
    find = _bound(VectorStore.find)
    count = _bound(VectorStore.count)
    distinct = _bound(VectorStore.distinct)
    bounds = _bound(VectorStore.bounds)
    search = _bound(VectorStore.search)
    search_many = _bound(VectorStore.search_many)
    search_like = _bound(VectorStore.search_like)
    search_text = _bound(VectorStore.search_text)
    search_hybrid = _bound(VectorStore.search_hybrid)
    stats = _bound(VectorStore.stats)
    optimize = _bound(VectorStore.optimize)
    indexes = _bound(VectorStore.indexes)
    drop_index = _bound(VectorStore.drop_index)
    versions = _bound(VectorStore.versions)
    restore = _bound(VectorStore.restore)

    async def create_index(
        self, /, kind: str = "auto", *, wait: bool = True, **options: Unpack[IndexOptions]
    ) -> None:
        """As ``VectorStore.create_index``."""
        await self.store.create_index(self.name, kind, wait=wait, **options)

    def export(
        self,
        *,
        batch_size: int = 1000,
        where: Where = None,
        select: Iterable[str] | None = None,
        after: bytes | None = None,
    ) -> AsyncGenerator[pa.RecordBatch, None]:
        """As ``VectorStore.export``."""
        return self.store.export(
            self.name, batch_size=batch_size, where=where, select=select, after=after
        )
