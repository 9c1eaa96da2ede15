"""The tools: a memory, which an agent may write, and the tables of the store, which it may read.

Their docstrings and the descriptions of their arguments are what the model sees.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from pydantic import Field as Argument

from aiovec import (
    Decay,
    Embed,
    EmbeddingError,
    Field,
    InvalidArgumentError,
    Schema,
    Table,
    TableNotFoundError,
    UnsupportedError,
    VectorStore,
    new_id,
)
from aiovec.bridge import best_search, storable, table_without_vectors

# Rows of an answer, which a model has to read.
_MOST = 100

Name = Annotated[str, Argument(description="The name of a table, as `list` shows it.")]
Where = Annotated[
    str | None,
    Argument(
        description="Only rows that match this filter, such as \"year >= 2024 AND lang = 'en'\". "
        "Operators: = != < <= > >= IN BETWEEN LIKE ILIKE CONTAINS IS NULL AND OR NOT; times are "
        "TIMESTAMP '2026-01-31T12:00:00Z'. Keys that are no field are payload.<key>."
    ),
]
Limit = Annotated[int, Argument(ge=1, le=_MOST, description="Number of rows, at most.")]
Select = Annotated[
    list[str] | None, Argument(description="Only these fields. Default: all, without the vector.")
]
By = Annotated[
    Literal["text", "vector", "hybrid"] | None,
    Argument(description="By keywords, by meaning, or both. Default: what the table supports."),
]
Facts = Annotated[
    dict[str, Any] | None,
    Argument(description='Facts to filter by later, such as {"user": "ana", "topic": "travel"}.'),
]
HalfLife = Annotated[
    str | None,
    Argument(
        description='Prefer newer memories: the age at which one counts half, such as "12h" or '
        '"7d". Default: age does not count.'
    ),
]
Ids = Annotated[list[str], Argument(description="The ids of rows.", max_length=_MOST)]
Id = Annotated[str | None, Argument(description="To replace a memory, its id.")]

_FIELDS = {"text": Field(str, text=True), "at": Field(datetime, index="btree")}
# The table of memories.
MEMORY = Schema(fields=_FIELDS, embed=Embed("text"))
_OWN = frozenset({"id", "text", "at", "embedding"})


class Tools:
    """The tools over one store. ``memory`` is the table of the memories."""

    def __init__(self, store: VectorStore, memory: Table) -> None:
        self._store = store
        self._memory = memory

    async def recall(
        self, query: str, limit: Limit = 5, where: Where = None, half_life: HalfLife = None
    ) -> dict[str, Any]:
        """Search your memory by meaning and by words: what `remember` saved, in this conversation
        or an earlier one. The best match comes first. Use it before you ask the user again."""
        options: dict[str, Any] = {"limit": limit, "where": where}
        try:
            if half_life is not None:
                options["boost"] = await self._boost(half_life)
            found = await self._search(self._memory, query, None, **options)
        except TableNotFoundError:
            found = []
        return {"memories": found}

    async def search(
        self,
        table: Name,
        query: str,
        limit: Limit = 10,
        where: Where = None,
        by: By = None,
        select: Select = None,
    ) -> dict[str, Any]:
        """Search the rows of a table for a text; the best match comes first."""
        options = {"limit": limit, "where": where, "select": select}
        return {"hits": await self._search(self._store.table(table), query, by, **options)}

    async def get(self, table: Name, ids: Ids, select: Select = None) -> dict[str, Any]:
        """Read rows of a table by their ids."""
        rows = await self._store.get(table, ids, select=select, include_vector=False)
        return {"rows": [row.to_dict() for row in rows]}

    async def list_(
        self,
        table: Annotated[str | None, Argument(description="A table. Default: all tables.")] = None,
        where: Where = None,
        order_by: Annotated[
            str | None, Argument(description='A field; "-at" sorts by "at", the latest first.')
        ] = None,
        limit: Limit = 20,
        offset: Annotated[int, Argument(ge=0, description="Number of rows to skip.")] = 0,
        select: Select = None,
    ) -> dict[str, Any]:
        """List the tables with their fields, or the rows of one table."""
        if table is None:
            names = await self._store.tables()
            return {"tables": [await self.describe(name) for name in names]}
        rows = await self._store.find(
            table, where, order_by=order_by, limit=limit, offset=offset, select=select
        )
        return {"rows": [row.to_dict() for row in rows]}

    async def describe(self, table: str) -> dict[str, Any]:
        """The schema of a table, and the number of its rows."""
        schema = json.loads((await self._store.schema(table)).to_json())
        return {"name": table, "rows": await self._store.count(table), "schema": schema}

    async def remember(self, text: str, facts: Facts = None, id: Id = None) -> dict[str, Any]:
        """Save a text that will matter later, such as a preference, a decision or a result.
        Write one fact as a whole sentence that is clear without this conversation."""
        if taken := _OWN & (facts or {}).keys():
            own = ", ".join(sorted(_OWN))
            words = f"facts cannot have the key {min(taken)!r}; these are a memory's own: {own}"
            raise InvalidArgumentError("facts", min(taken), "another key", reason=words)
        row = {**storable(facts or {}, "facts"), "id": new_id() if id is None else id, "text": text}
        row["at"] = datetime.now(UTC)
        try:
            await self._memory.upsert([row])
        except TableNotFoundError:
            await self._create_memory()
            await self._memory.upsert([row])
        return {"id": row["id"]}

    async def forget(
        self,
        ids: Annotated[list[str] | None, Argument(description="The ids of memories.")] = None,
        where: Where = None,
    ) -> dict[str, Any]:
        """Delete memories by their ids, or all that match a filter."""
        if ids is None and where is None:
            words = "pass ids or where; where='TRUE' deletes every memory"
            raise InvalidArgumentError("ids", ids, "given", reason=words)
        try:
            return {"deleted": await self._memory.delete(ids, where=where)}
        except TableNotFoundError:
            return {"deleted": 0}

    async def _boost(self, half_life: str) -> Decay:
        """Return how newer memories are preferred."""
        name = self._memory.name
        if "at" not in (await self._memory.schema()).fields:
            hint = "it has no field 'at' with the time of each row; leave half_life out"
            raise UnsupportedError("half_life", self._store.backend_name, hint, table=name)
        try:
            return Decay("at", half_life)
        except InvalidArgumentError:
            words = "a text such as '30m', '12h' or '30d'"
            raise InvalidArgumentError("half_life", half_life, words) from None

    async def _create_memory(self) -> None:
        """Create the table of memories; without an embedder, they are found by their words."""
        try:
            await self._memory.create(MEMORY, exist_ok=True)
        except EmbeddingError as exc:
            if exc.retryable or exc.model is not None:  # there is an embedder, and it failed
                raise
            await self._memory.create(table_without_vectors(_FIELDS), exist_ok=True)

    async def _search(
        self, table: Table, query: str, by: str | None, **options: Any
    ) -> list[dict[str, Any]]:
        if by is None:
            by = best_search(await table.schema())
        if by == "hybrid":
            hits = await table.search_hybrid(query, **options)
        elif by == "vector":
            hits = await table.search(query, **options)
        else:
            hits = await table.search_text(query, match="any", **options)
        return [hit.to_dict() for hit in hits]
