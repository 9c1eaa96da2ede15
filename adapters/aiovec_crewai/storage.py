"""A table of memories as a CrewAI ``StorageBackend``."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from typing import Any, Literal, TypeVar

from crewai.memory.storage.backend import EmbeddingDimensionMismatchError
from crewai.memory.types import MemoryRecord, ScopeInfo

from aiovec import (
    Counts,
    DimensionMismatchError,
    F,
    Field,
    Hit,
    InvalidArgumentError,
    Record,
    Schema,
    Table,
)
from aiovec.bridge import (
    Bridge,
    Closable,
    StoreOrTarget,
    all_of,
    any_of,
    blocking,
    in_store,
    keys_below,
    metadata_filter,
    relevance,
    storable,
    unless_true,
    without_zeros,
)

_FIELDS = {
    "content": Field(str, nullable=False, text=True),
    "scope": Field(str, nullable=False, index="btree"),  # "/" or a path such as "/crew/agent"
    "categories": Field(list[str]),
    "created_at": Field(datetime, nullable=False, index="btree"),
    "last_accessed": Field(datetime, nullable=False),
    "importance": Field(float, nullable=False),
    "source": Field(str),
    "private": Field(bool, nullable=False),
}

_R = TypeVar("_R")
_M = TypeVar("_M")


class AiovecStorage(Closable):
    """The memories of a crew in one table of an aiovec store.

    ``store`` is a store from ``aiovec.sync.connect`` or a target such as ``"memory.db"``; a store
    from ``aiovec.connect`` supports only ``asave``, ``asearch`` and ``adelete``. The first write
    creates the table. For a target, ``options`` are passed to ``aiovec.connect``. A scope includes
    the scopes below it: "/crew" includes "/crew/agent", but not "/crews". With ``zero_as_none``, a
    vector of zeros, which has no direction, is stored as None.
    """

    def __init__(
        self,
        store: StoreOrTarget = ":memory:",
        table: str = "crewai",
        *,
        metric: Literal["cosine", "l2", "dot"] = "cosine",
        zero_as_none: bool = False,
        **options: Any,
    ) -> None:
        def schema(dim: int) -> Schema:
            return Schema(dim=dim, metric=metric, fields=_FIELDS, vector_nullable=True)

        self._bridge = Bridge(store, table, schema, **options)
        self._zero_as_none = zero_as_none

    # Writes

    def update(self, record: MemoryRecord) -> None:
        """Replace the memory with the same id."""
        self.save([record])

    @in_store
    async def asave(self, records: list[MemoryRecord]) -> None:
        """Save memories. A memory replaces an earlier one with the same id."""
        if not records:
            return
        rows = [_row(record) for record in records]
        if self._zero_as_none:
            rows = [{**row, "embedding": without_zeros(row["embedding"])} for row in rows]
        dim = next((len(record.embedding) for record in records if record.embedding), None)
        try:
            await self._bridge.write(dim, lambda table: table.upsert(rows))
        except DimensionMismatchError as exc:
            raise EmbeddingDimensionMismatchError(exc.expected, exc.given) from exc

    @blocking(asave)
    def save(self) -> Any:
        """Like ``asave``."""

    def touch_records(self, record_ids: list[str]) -> None:
        """Set the time of the last access of these memories to now."""
        now = {"last_accessed": datetime.now(UTC)}
        self._read(lambda table: table.update(now, ids=record_ids), 0)

    async def adelete(
        self,
        scope_prefix: str | None = None,
        categories: list[str] | None = None,
        record_ids: list[str] | None = None,
        older_than: datetime | None = None,
        metadata_filter: dict[str, Any] | None = None,
    ) -> int:
        """Delete the memories that meet all conditions, and return how many were deleted.

        An empty list of categories or ids selects no memory.
        """
        record_ids = [] if categories == [] else record_ids
        where = _where(scope_prefix, categories, metadata_filter, record_ids, older_than)
        if metadata_filter is not None and unless_true(all_of(where)) is None:
            expected = "a filter that not every memory matches; delete() deletes all"
            raise InvalidArgumentError("metadata_filter", metadata_filter, expected)
        return await self._bridge.read(lambda table: table.delete(where=where or "TRUE"), 0)

    @blocking(adelete)
    def delete(self) -> Any:
        """Like ``adelete``."""

    def reset(self, scope_prefix: str | None = None) -> None:
        """Delete the memories of a scope.

        Without a scope, drop the table, so that new memories can have vectors of another length.
        """
        if _path(scope_prefix):
            self.delete(scope_prefix)
        else:
            self._bridge.run(lambda _: self._bridge.drop())

    # Reads

    @in_store
    async def asearch(
        self,
        query_embedding: list[float],
        scope_prefix: str | None = None,
        categories: list[str] | None = None,
        metadata_filter: dict[str, Any] | None = None,
        limit: int = 10,
        min_score: float = 0.0,
    ) -> list[tuple[MemoryRecord, float]]:
        """Return the nearest memories that meet all conditions, with their relevance from 0 to 1.

        Under the metric "cosine", relevance is the cosine similarity.
        """
        if limit < 1:
            return []
        where = _where(scope_prefix, categories, metadata_filter)
        try:
            hits: Sequence[Hit] = await self._bridge.read(
                lambda table: table.search(
                    query_embedding, limit=limit, where=where, include_vector=True
                ),
                (),
            )
        except DimensionMismatchError as exc:
            raise EmbeddingDimensionMismatchError(exc.expected, exc.given) from exc
        scored = [(_record(hit), relevance(hit.score, self._bridge.metric)) for hit in hits]
        return [(record, score) for record, score in scored if score >= min_score]

    @blocking(asearch)
    def search(self) -> Any:
        """Like ``asearch``."""

    def get_record(self, record_id: str) -> MemoryRecord | None:
        """Return the memory with this id, or None."""
        rows = self._read(lambda table: table.get([record_id]), ())
        return _record(rows[0]) if rows else None

    def list_records(
        self, scope_prefix: str | None = None, limit: int = 200, offset: int = 0
    ) -> list[MemoryRecord]:
        """Return the memories of a scope, newest first."""
        if limit < 1 or offset < 0:
            return []
        latest: dict[str, Any] = {
            "order_by": ["-created_at", "id"],
            "limit": limit,
            "offset": offset,
        }
        where = _where(scope_prefix)
        rows = self._read(lambda table: table.find(where, include_vector=True, **latest), ())
        return list(map(_record, rows))

    def get_scope_info(self, scope: str) -> ScopeInfo:
        """Return the number, categories and dates of a scope's memories, and the scopes below the
        scope."""
        where = _where(scope)
        nothing: tuple[Any, Any] = None, None
        bounds: tuple[Any, Any] | None = self._read(
            lambda table: table.bounds("created_at", where), nothing
        )
        oldest, newest = bounds or nothing
        return ScopeInfo(
            path=_path(scope) or "/",
            record_count=self.count(scope),
            categories=sorted(self.list_categories(scope)),
            oldest_record=_naive(oldest),
            newest_record=_naive(newest),
            child_scopes=self.list_scopes(scope),
        )

    def list_scopes(self, parent: str = "/") -> list[str]:
        """Return the scopes directly below a scope."""
        start = f"{_path(parent)}/"
        names = [name for name in self._counts("scope", parent) if name.startswith(start)]
        below = {name.removeprefix(start).partition("/")[0] for name in names}
        return sorted(f"{start}{name}" for name in below if name)

    def list_categories(self, scope_prefix: str | None = None) -> dict[str, int]:
        """Return the categories in a scope, each with its number of memories."""
        return self._counts("categories", scope_prefix)

    def count(self, scope_prefix: str | None = None) -> int:
        """Return how many memories a scope has."""
        where = _where(scope_prefix)
        return self._read(lambda table: table.count(where), 0)

    # Inside

    def _counts(self, field: str, scope: str | None) -> dict[str, int]:
        where = _where(scope)
        counts = self._read(lambda table: table.distinct(field, where), Counts())
        return {str(name): count for name, count in counts.items()}

    def _read(self, call: Callable[[Table], Awaitable[_R]], missing: _M) -> _R | _M:
        """Return the result of a call, or ``missing`` if the table does not exist yet."""
        return self._bridge.run(lambda _: self._bridge.read(call, missing))


def _where(
    scope: str | None = None,
    categories: Sequence[str] | None = None,
    metadata: Mapping[str, Any] | None = None,
    ids: Sequence[str] | None = None,
    older_than: datetime | None = None,
) -> list[Any]:
    """Return the conditions that a memory has to meet."""
    conditions: list[Any] = []
    if path := _path(scope):
        conditions.append((F.scope == path) | F.scope.startswith(f"{path}/"))
    if categories:
        conditions.append(any_of([F.categories.contains(name) for name in categories]))
    if metadata:
        conditions.append(metadata_filter(metadata, partial(keys_below, F.payload["metadata"])))
    if ids is not None:
        conditions.append(F.id.in_(ids))
    if older_than is not None:
        conditions.append(F.created_at < _aware(older_than))
    return conditions


def _path(scope: str | None) -> str:
    """Return a scope with a leading "/", or "" for all scopes."""
    inner = (scope or "").strip("/")
    return f"/{inner}" if inner else ""


def _row(record: MemoryRecord) -> dict[str, Any]:
    return {
        **record.model_dump(exclude={"embedding", "metadata"}),
        "scope": _path(record.scope) or "/",
        "created_at": _aware(record.created_at),
        "last_accessed": _aware(record.last_accessed),
        "embedding": record.embedding or None,
        "metadata": storable(record.metadata),
    }


def _record(row: Record | Hit) -> MemoryRecord:
    fields = dict(row.fields)
    dates = {name: _naive(fields[name]) for name in ("created_at", "last_accessed")}
    vector = None if row.vector is None else [float(number) for number in row.vector]
    return MemoryRecord(**{**fields, **dates, "id": row.id, "embedding": vector})


def _aware(when: datetime) -> datetime:
    """Return a datetime with a time zone; CrewAI's datetimes without one are in UTC."""
    return when.replace(tzinfo=UTC) if when.tzinfo is None else when


def _naive(when: datetime | None) -> datetime | None:
    return None if when is None else when.astimezone(UTC).replace(tzinfo=None)
