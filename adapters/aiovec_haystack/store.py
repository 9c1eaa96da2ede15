"""A table of documents as a Haystack document store."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from operator import itemgetter
from typing import Any

from haystack import default_from_dict, default_to_dict
from haystack.dataclasses import Document
from haystack.document_stores.errors import DuplicateDocumentError
from haystack.document_stores.types import DuplicatePolicy

from aiovec import DuplicateIdError, F, Hit, InvalidArgumentError, Record, Table
from aiovec.bridge import (
    Closable,
    DocumentBridge,
    StoreOrTarget,
    blocking,
    in_store,
    storable,
    unless_true,
)

from .filters import condition

# The payload key for a document's blob and sparse embedding.
_PARTS = "_haystack"
_Filters = dict[str, Any]


class AiovecDocumentStore(Closable):
    """Documents in one table of an aiovec store. Every operation also has an async method.

    ``store`` is a target such as ``"documents.db"`` or a store from ``aiovec.sync.connect``; a
    store from ``aiovec.connect`` supports only the ``_async`` methods. The first write creates the
    table, for vectors of length ``embedding_dim``, by default the length of the first vector.
    ``options`` are passed to ``aiovec.bridge.DocumentBridge`` (``schema``, ``metric``) and, for a
    target, to ``aiovec.connect``. Dates in metadata are strings. Write dates in UTC, because
    filters compare them in UTC.
    """

    def __init__(
        self,
        store: StoreOrTarget = ":memory:",
        table: str = "haystack",
        *,
        embedding_dim: int | None = None,
        **options: Any,
    ) -> None:
        self._given = {
            "store": store, "table": table, "embedding_dim": embedding_dim, **options,
        }  # fmt: skip
        self._bridge: DocumentBridge = DocumentBridge(
            store, table, text="content", dim=embedding_dim, vector_nullable=True, **options
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the settings for ``from_dict``."""
        for name, value in self._given.items():
            if not isinstance(value, str | int | float | None):
                kind = type(value).__name__
                raise InvalidArgumentError(name, kind, "text or a number, to be serialized")
        return default_to_dict(self, **self._given)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> AiovecDocumentStore:
        """Return a store with these settings."""
        return default_from_dict(cls, data)

    # Documents

    async def count_documents_async(self) -> int:
        """Return the number of documents."""
        return await self._bridge.read(Table.count, 0)

    @blocking(count_documents_async)
    def count_documents(self) -> Any:
        """Like ``count_documents_async``."""

    @in_store
    async def count_documents_by_filter_async(self, filters: _Filters) -> int:
        """Return the number of documents that match the filters."""
        where = self._where(filters)
        return await self._bridge.read(lambda table: table.count(where), 0)

    @blocking(count_documents_by_filter_async)
    def count_documents_by_filter(self) -> Any:
        """Like ``count_documents_by_filter_async``."""

    @in_store
    async def filter_documents_async(self, filters: _Filters | None = None) -> list[Document]:
        """Return the documents that match the filters, by default all, sorted by id."""
        where = self._where(filters)
        rows = await self._bridge.read(
            lambda table: table.find(where, limit=None, include_vector=True), ()
        )
        return list(map(self._document, rows))

    @blocking(filter_documents_async)
    def filter_documents(self) -> Any:
        """Like ``filter_documents_async``."""

    @in_store
    async def write_documents_async(
        self,
        documents: list[Document],
        policy: DuplicatePolicy = DuplicatePolicy.NONE,
    ) -> int:
        """Write documents, all or none, and return how many were written.

        An existing id raises DuplicateDocumentError, unless the policy is SKIP or OVERWRITE.
        """
        if not isinstance(documents, list) or not all(isinstance(d, Document) for d in documents):
            raise ValueError("documents are a list of Document")
        if not documents:
            return 0
        rows = list(map(self._row, documents))
        dim = next((len(d.embedding) for d in documents if d.embedding), None)

        async def write(table: Table) -> int:
            if policy == DuplicatePolicy.OVERWRITE:
                return await table.upsert(rows)
            skip = policy == DuplicatePolicy.SKIP
            return await table.insert(rows, on_conflict="skip" if skip else "fail")

        try:
            return await self._bridge.write(dim, write)
        except DuplicateIdError as exc:
            raise DuplicateDocumentError(str(exc)) from exc

    @blocking(write_documents_async)
    def write_documents(self) -> Any:
        """Like ``write_documents_async``."""

    async def delete_documents_async(self, document_ids: list[str]) -> None:
        """Delete the documents with these ids. Missing ids are not an error."""
        await self._bridge.read(lambda table: table.delete(document_ids), 0)

    @blocking(delete_documents_async)
    def delete_documents(self) -> Any:
        """Like ``delete_documents_async``."""

    async def delete_all_documents_async(self, recreate_index: bool = False) -> None:
        """Delete all documents. With ``recreate_index``, drop the table; the next write creates it
        again."""
        if recreate_index:
            await self._bridge.drop()
        else:
            await self._bridge.read(lambda table: table.delete(where="TRUE"), 0)

    @blocking(delete_all_documents_async)
    def delete_all_documents(self) -> Any:
        """Like ``delete_all_documents_async``."""

    @in_store
    async def delete_by_filter_async(self, filters: _Filters) -> int:
        """Delete the documents that match the filters, and return how many were deleted."""
        where = unless_true(condition(filters, self._fields))
        return await self._bridge.read(lambda table: table.delete(where=where), 0)

    @blocking(delete_by_filter_async)
    def delete_by_filter(self) -> Any:
        """Like ``delete_by_filter_async``."""

    @in_store
    async def update_by_filter_async(self, filters: _Filters, meta: dict[str, Any]) -> int:
        """Set metadata keys of the matching documents, and return how many matched."""
        where = unless_true(condition(filters, self._fields))
        columns = self._bridge.row("", "", None, {})
        row = self._bridge.row("", "", None, meta)
        values = {name: value for name, value in row.items() if name not in columns}
        return await self._bridge.read(lambda table: table.update(values, where=where), 0)

    @blocking(update_by_filter_async)
    def update_by_filter(self) -> Any:
        """Like ``update_by_filter_async``."""

    # Metadata

    async def get_metadata_fields_info_async(self) -> dict[str, dict[str, str]]:
        """Return the metadata keys, each with the most frequent type of its values."""
        counts = await self._bridge.read(Table.fields_info, dict[str, dict[str, int]]())
        kinds: dict[str, Any] = {}
        for name, types in counts.items():
            key = name.removeprefix("payload.")
            if key.startswith('"'):
                key = key[1:-1].replace('""', '"')
            most, rows = max(types.items(), key=itemgetter(1))
            if rows and key != _PARTS:
                kinds[key] = {"type": _TYPES.get(most, "keyword")}
        return self._bridge.metadata(Record(id="", vector=None, fields=kinds))

    @blocking(get_metadata_fields_info_async)
    def get_metadata_fields_info(self) -> Any:
        """Like ``get_metadata_fields_info_async``."""

    @in_store
    async def get_metadata_field_min_max_async(self, metadata_field: str) -> dict[str, Any]:
        """Return the smallest and the largest value of a metadata key, as "min" and "max"."""
        for field in map(str, self._bridge.fields(metadata_field.removeprefix("meta."))):
            bounds = await self._bridge.read(partial(Table.bounds, field=field), None)
            if bounds is not None:
                return {"min": bounds[0], "max": bounds[1]}
        return {"min": None, "max": None}

    @blocking(get_metadata_field_min_max_async)
    def get_metadata_field_min_max(self) -> Any:
        """Like ``get_metadata_field_min_max_async``."""

    @in_store
    async def count_unique_metadata_by_filter_async(
        self, filters: _Filters, metadata_fields: list[str]
    ) -> dict[str, int]:
        """Return how many distinct values each metadata key has in the matching documents."""
        return {name: len(await self._unique(name, filters)) for name in metadata_fields}

    @blocking(count_unique_metadata_by_filter_async)
    def count_unique_metadata_by_filter(self) -> Any:
        """Like ``count_unique_metadata_by_filter_async``."""

    @in_store
    async def get_metadata_field_unique_values_async(
        self,
        metadata_field: str,
        search_term: str | None = None,
        from_: int = 0,
        size: int = 10,
        filters: _Filters | None = None,
    ) -> tuple[list[Any], int]:
        """Return a sorted page of a metadata key's distinct values, and their total number.

        Each item of a list counts as a value, and 1 and 1.0 are different values. With
        ``search_term``, values whose text does not contain the term are left out; case is ignored.
        """
        part = (search_term or "").casefold()
        unique = await self._unique(metadata_field, filters)
        matches = [value for value in unique if part in str(value).casefold()]
        matches.sort(key=lambda value: (isinstance(value, str), value))
        return matches[from_ : from_ + size], len(matches)

    @blocking(get_metadata_field_unique_values_async)
    def get_metadata_field_unique_values(self) -> Any:
        """Like ``get_metadata_field_unique_values_async``."""

    async def _unique(self, name: str, filters: _Filters | None) -> list[Any]:
        """Return the distinct values of a metadata key."""
        where, key = self._where(filters), name.removeprefix("meta.")
        unique: dict[tuple[type, Any], None] = {}
        for levels, field in zip((1, key.count(".") + 1), self._bridge.fields(key), strict=False):
            values = partial(_values, field=field, levels=levels, where=where)
            for value in await self._bridge.read(values, ()):
                unique[type(value), value] = None
        return [value for _, value in unique]

    # Inside

    def _row(self, document: Document) -> dict[str, Any]:
        row = self._bridge.row(
            document.id, document.content, document.embedding or None, document.meta
        )
        few = {"blob": document.blob, "sparse_embedding": document.sparse_embedding}
        if parts := {name: part.to_dict() for name, part in few.items() if part is not None}:
            row[_PARTS] = storable(parts)
        return row

    def _document(self, row: Record | Hit) -> Document:
        meta = self._bridge.metadata(row)
        vector = None if row.vector is None else [float(number) for number in row.vector]
        parts = meta.pop(_PARTS, {})
        content = row.fields.get(self._bridge.text)
        return Document.from_dict(
            {"id": row.id, "content": content, "meta": meta, "embedding": vector, **parts}
        )

    def _where(self, filters: _Filters | None) -> Any:
        return condition(filters, self._fields) if filters else None

    def _fields(self, name: str) -> Sequence[Any]:
        if name == "id":
            return [F.id]
        if name == "content":
            return [F[self._bridge.text]]
        return self._bridge.fields(name.removeprefix("meta."))


async def _values(table: Table, *, field: Any, levels: int, where: Any) -> list[Any]:
    """Return the distinct values of a field that is nested ``levels`` deep in the rows.

    The store treats 1 and 1.0 as the same int. To tell 1 from 1.0, this function also reads every
    row with a number in the field.
    """
    values = [*await table.distinct(str(field), where)]
    if str(field).startswith("payload.") and any(type(value) is int for value in values):
        numbers = (field < 0) | (field >= 0)
        async for row in table.rows([where, numbers], select=[str(field)]):
            value: Any = row.fields
            for _ in range(levels):
                [value] = value.values()
            if isinstance(value, float):
                values.append(value)
    return values


_TYPES = {"bool": "boolean", "int": "int", "float": "float"}
