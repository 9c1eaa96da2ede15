"""A table of documents as a Haystack document store."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import Any

from haystack import default_from_dict, default_to_dict
from haystack.dataclasses import Document
from haystack.document_stores.errors import DuplicateDocumentError
from haystack.document_stores.types import DuplicatePolicy

from aiovec import (
    DuplicateIdError,
    F,
    Hit,
    InvalidArgumentError,
    Record,
    Table,
    TableNotFoundError,
)
from aiovec.bridge import DocumentBridge, StoreOrTarget, storable

from .filters import condition

# The key of a row's payload with the parts of a document that few have.
_PARTS = "_haystack"
_Filters = dict[str, Any]


class AiovecDocumentStore:
    """Documents in one table of an aiovec store. Every method has an asynchronous twin.

    ``store`` is a target such as ``"documents.db"`` or a store of ``aiovec.sync.connect``; a store
    of ``aiovec.connect`` serves the ``_async`` methods only. The first write creates the table,
    for vectors of ``embedding_dim`` numbers, by default of as many as its first vector has.
    ``options`` are those of ``aiovec.bridge.DocumentBridge`` (``schema``, ``metric``), and for a
    target those of ``aiovec.connect``.
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
        self._documents = DocumentBridge(
            store, table, text="content", dim=embedding_dim, vector_nullable=True, **options
        )
        schema = options.get("schema")
        self._declared = [] if schema is None else [*schema.fields]

    def to_dict(self) -> dict[str, Any]:
        """Return the settings, of which ``from_dict`` makes a store like this one."""
        for name, value in self._given.items():
            if not isinstance(value, str | int | float | None):
                kind = type(value).__name__
                raise InvalidArgumentError(name, kind, "text or a number, to be serialized")
        return default_to_dict(self, **self._given)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> AiovecDocumentStore:
        """Return a store with these settings."""
        return default_from_dict(cls, data)

    def close(self) -> None:
        """Close the store, if it was opened here, from a target."""
        self._documents.close()

    # Documents

    def count_documents(self) -> int:
        """Return the number of documents."""
        return self._documents.run(self._count, None)

    async def count_documents_async(self) -> int:
        """As ``count_documents``."""
        return await self._documents.aio(self._count, None)

    def count_documents_by_filter(self, filters: _Filters) -> int:
        """Return the number of documents that match the filters."""
        return self._documents.run(self._count, filters)

    async def count_documents_by_filter_async(self, filters: _Filters) -> int:
        """As ``count_documents_by_filter``."""
        return await self._documents.aio(self._count, filters)

    async def _count(self, table: Table, filters: _Filters | None) -> int:
        where = self._where(filters)
        return await self._documents.reading(lambda: table.count(where), 0)

    def filter_documents(self, filters: _Filters | None = None) -> list[Document]:
        """Return the documents that match the filters, by default all, by their ids."""
        return self._documents.run(self._filter, filters)

    async def filter_documents_async(self, filters: _Filters | None = None) -> list[Document]:
        """As ``filter_documents``."""
        return await self._documents.aio(self._filter, filters)

    async def _filter(self, table: Table, filters: _Filters | None) -> list[Document]:
        where = self._where(filters)
        rows = await self._documents.reading(
            lambda: table.find(where, limit=None, include_vector=True), ()
        )
        return list(map(self._document, rows))

    def write_documents(
        self, documents: list[Document], policy: DuplicatePolicy = DuplicatePolicy.NONE
    ) -> int:
        """Write documents, all or none, and return how many were written.

        An id that exists raises DuplicateDocumentError, unless the policy is SKIP or OVERWRITE.
        """
        return self._documents.run(self._write, documents, policy)

    async def write_documents_async(
        self, documents: list[Document], policy: DuplicatePolicy = DuplicatePolicy.NONE
    ) -> int:
        """As ``write_documents``."""
        return await self._documents.aio(self._write, documents, policy)

    async def _write(self, table: Table, documents: list[Document], policy: DuplicatePolicy) -> int:
        if not isinstance(documents, list) or not all(isinstance(d, Document) for d in documents):
            raise ValueError("documents are a list of Document")
        if not documents:
            return 0
        rows = list(map(self._row, documents))
        dim = next((len(d.embedding) for d in documents if d.embedding), None)

        async def write() -> int:
            if policy == DuplicatePolicy.OVERWRITE:
                return await table.upsert(rows)
            skip = policy == DuplicatePolicy.SKIP
            return await table.insert(rows, on_conflict="skip" if skip else "fail")

        try:
            return await self._documents.writing(table, dim, write)
        except DuplicateIdError as exc:
            raise DuplicateDocumentError(str(exc)) from exc

    def delete_documents(self, document_ids: list[str]) -> None:
        """Delete the documents with these ids. Ids that do not exist are no error."""
        self._documents.run(self._delete, document_ids)

    async def delete_documents_async(self, document_ids: list[str]) -> None:
        """As ``delete_documents``."""
        await self._documents.aio(self._delete, document_ids)

    async def _delete(self, table: Table, ids: list[str]) -> int:
        return await self._documents.reading(lambda: table.delete(ids), 0)

    def delete_all_documents(self, recreate_index: bool = False) -> None:
        """Delete all documents; with ``recreate_index`` the table, which the next write makes."""
        self._documents.run(self._delete_all, recreate_index)

    async def delete_all_documents_async(self, recreate_index: bool = False) -> None:
        """As ``delete_all_documents``."""
        await self._documents.aio(self._delete_all, recreate_index)

    async def _delete_all(self, table: Table, recreate: bool) -> None:
        if recreate:
            await self._documents.drop(table)
        else:
            await self._documents.reading(lambda: table.delete(where="TRUE"), 0)

    def delete_by_filter(self, filters: _Filters) -> int:
        """Delete the documents that match the filters, and return how many there were."""
        return self._documents.run(self._delete_by, filters)

    async def delete_by_filter_async(self, filters: _Filters) -> int:
        """As ``delete_by_filter``."""
        return await self._documents.aio(self._delete_by, filters)

    async def _delete_by(self, table: Table, filters: _Filters) -> int:
        where = condition(filters, self._fields)
        return await self._documents.reading(lambda: table.delete(where=where), 0)

    def update_by_filter(self, filters: _Filters, meta: dict[str, Any]) -> int:
        """Set these keys of the metadata of matching documents, and return how many matched."""
        return self._documents.run(self._update_by, filters, meta)

    async def update_by_filter_async(self, filters: _Filters, meta: dict[str, Any]) -> int:
        """As ``update_by_filter``."""
        return await self._documents.aio(self._update_by, filters, meta)

    async def _update_by(self, table: Table, filters: _Filters, meta: dict[str, Any]) -> int:
        where = condition(filters, self._fields)
        columns = self._documents.row("", "", None, {})
        row = self._documents.row("", "", None, meta)
        values = {name: value for name, value in row.items() if name not in columns}
        return await self._documents.reading(lambda: table.update(values, where=where), 0)

    # Metadata

    def get_metadata_fields_info(self) -> dict[str, dict[str, str]]:
        """Return the keys of the metadata with the type of their values."""
        return self._documents.run(self._fields_info)

    async def get_metadata_fields_info_async(self) -> dict[str, dict[str, str]]:
        """As ``get_metadata_fields_info``."""
        return await self._documents.aio(self._fields_info)

    async def _fields_info(self, table: Table) -> dict[str, dict[str, str]]:
        counts = await self._documents.reading(table.fields_info, dict[str, dict[str, int]]())
        found: dict[str, Any] = {}
        for name, types in counts.items():
            key = name.removeprefix("payload.")
            if key.startswith('"'):
                key = key[1:-1].replace('""', '"')
            most, rows = max(types.items(), key=lambda one: one[1])
            if rows and key != _PARTS:
                found[key] = {"type": _TYPES.get(most, "keyword")}
        return self._documents.metadata(Record(id="", vector=None, fields=found))

    def get_metadata_field_min_max(self, metadata_field: str) -> dict[str, Any]:
        """Return the least and the greatest value of a key, as "min" and "max"."""
        return self._documents.run(self._min_max, metadata_field)

    async def get_metadata_field_min_max_async(self, metadata_field: str) -> dict[str, Any]:
        """As ``get_metadata_field_min_max``."""
        return await self._documents.aio(self._min_max, metadata_field)

    async def _min_max(self, table: Table, name: str) -> dict[str, Any]:
        field = str(self._documents.field(*name.removeprefix("meta.").split(".")))
        bounds = await self._documents.reading(lambda: table.bounds(field), None)
        least, greatest = bounds or (None, None)
        return {"min": least, "max": greatest}

    def count_unique_metadata_by_filter(
        self, filters: _Filters, metadata_fields: list[str]
    ) -> dict[str, int]:
        """Return for each key how many different values it has in matching documents."""
        return self._documents.run(self._count_unique, filters, metadata_fields)

    async def count_unique_metadata_by_filter_async(
        self, filters: _Filters, metadata_fields: list[str]
    ) -> dict[str, int]:
        """As ``count_unique_metadata_by_filter``."""
        return await self._documents.aio(self._count_unique, filters, metadata_fields)

    async def _count_unique(
        self, table: Table, filters: _Filters, names: list[str]
    ) -> dict[str, int]:
        unique = await self._unique(table, names, filters)
        return {name: len(values) for name, values in zip(names, unique, strict=True)}

    def get_metadata_field_unique_values(
        self,
        metadata_field: str,
        search_term: str | None = None,
        from_: int = 0,
        size: int = 10,
        filters: _Filters | None = None,
    ) -> tuple[list[Any], int]:
        """Return some different values of a key, in order, and how many there are.

        Of a list, each item is a value. Only values whose text has ``search_term`` count, in any
        case.
        """
        return self._documents.run(
            self._unique_values, metadata_field, search_term, from_, size, filters
        )

    async def get_metadata_field_unique_values_async(
        self,
        metadata_field: str,
        search_term: str | None = None,
        from_: int = 0,
        size: int = 10,
        filters: _Filters | None = None,
    ) -> tuple[list[Any], int]:
        """As ``get_metadata_field_unique_values``."""
        return await self._documents.aio(
            self._unique_values, metadata_field, search_term, from_, size, filters
        )

    async def _unique_values(
        self,
        table: Table,
        name: str,
        term: str | None,
        first: int,
        size: int,
        filters: _Filters | None,
    ) -> tuple[list[Any], int]:
        (unique,) = await self._unique(table, [name], filters)
        part = (term or "").casefold()
        found = sorted(one for one in unique if part in str(one[-1]).casefold())
        return [value for *_, value in found[first : first + size]], len(found)

    async def _unique(
        self, table: Table, names: list[str], filters: _Filters | None
    ) -> list[set[tuple[bool, Any, str, Any]]]:
        found: list[set[tuple[bool, Any, str, Any]]] = [set() for _ in names]
        async for meta in self._metadata(table, filters):
            for name, values in zip(names, found, strict=True):
                value: Any = meta
                for key in name.removeprefix("meta.").split("."):
                    value = value.get(key) if isinstance(value, dict) else None
                items = value if isinstance(value, list) else [value]
                values.update(
                    # 1, 1.0 and True are equal; their types keep them apart.
                    (isinstance(one, str), one, type(one).__name__, one)
                    for one in items
                    if isinstance(one, str | int | float)
                )
        return found

    async def _metadata(
        self, table: Table, filters: _Filters | None = None
    ) -> AsyncIterator[dict[str, Any]]:
        """Yield the metadata of matching documents, from one snapshot, in constant memory."""
        select = [*self._declared, "payload"]
        export = table.export(where=self._where(filters), select=select)
        try:
            async with aclosing(export) as batches:
                async for batch in batches:
                    for row in batch.to_pylist():
                        payload = json.loads(row.pop("payload", None) or "{}")
                        fields = {**row, **payload, _PARTS: None}
                        yield self._documents.metadata(Record(id="", vector=None, fields=fields))
        except TableNotFoundError:
            return

    # Searches

    def retrieve(
        self,
        query: str | None,
        query_embedding: list[float] | None,
        filters: _Filters | None,
        top_k: int,
        options: Mapping[str, Any],
    ) -> dict[str, list[Document]]:
        """Return the best documents by words, by vector, or by both, as retrievers do.

        ``options`` are further ones of aiovec's searches.
        """
        return self._documents.run(self._retrieve, query, query_embedding, filters, top_k, options)

    async def retrieve_async(
        self,
        query: str | None,
        query_embedding: list[float] | None,
        filters: _Filters | None,
        top_k: int,
        options: Mapping[str, Any],
    ) -> dict[str, list[Document]]:
        """As ``retrieve``."""
        return await self._documents.aio(
            self._retrieve, query, query_embedding, filters, top_k, options
        )

    async def _retrieve(
        self,
        table: Table,
        query: str | None,
        vector: list[float] | None,
        filters: _Filters | None,
        top_k: int,
        options: Mapping[str, Any],
    ) -> dict[str, list[Document]]:
        if top_k < 1:
            return {"documents": []}
        asked = {"limit": top_k, "where": self._where(filters), **options}

        async def search() -> Sequence[Hit]:
            if vector is None:
                return await table.search_text(query or "", match="any", **asked)
            if query is None:
                return await table.search(vector, **asked)
            return await table.search_hybrid(query, vector, match="any", **asked)

        hits = await self._documents.reading(search, ())
        return {"documents": [replace(self._document(hit), score=hit.score) for hit in hits]}

    # Inside

    def _row(self, document: Document) -> dict[str, Any]:
        row = self._documents.row(
            document.id, document.content, document.embedding or None, document.meta
        )
        few = {"blob": document.blob, "sparse_embedding": document.sparse_embedding}
        if parts := {name: part.to_dict() for name, part in few.items() if part is not None}:
            row[_PARTS] = storable(parts)
        return row

    def _document(self, row: Record | Hit) -> Document:
        meta = self._documents.metadata(row)
        vector = None if row.vector is None else [float(one) for one in row.vector]
        parts = meta.pop(_PARTS, {})
        content = row.fields.get("content")
        return Document.from_dict(
            {"id": row.id, "content": content, "meta": meta, "embedding": vector, **parts}
        )

    def _where(self, filters: _Filters | None) -> Any:
        return condition(filters, self._fields) if filters else None

    def _fields(self, name: str) -> Sequence[Any]:
        if name in ("id", "content"):
            return [F[name]]
        return self._documents.fields(name.removeprefix("meta."))


_TYPES = {"bool": "boolean", "int": "int", "float": "float"}
