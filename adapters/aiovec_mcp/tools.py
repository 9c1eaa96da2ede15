"""The tools: a memory, which an agent may write, and the tables of the store, which it may read.

The model sees the tools' docstrings and the descriptions of their arguments.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import zip_longest
from typing import Annotated, Any, Literal, cast

from pydantic import Field as Argument
from pydantic_core import to_json

from aiovec import (
    Decay,
    Embed,
    F,
    Field,
    Hit,
    InvalidArgumentError,
    Record,
    Schema,
    Table,
    TableNotFoundError,
    UnsupportedError,
    VectorStore,
    new_id,
)
from aiovec.bridge import best_search, create_memory, seconds_of, storable
from aiovec.documents import FARTHEST, place_of
from aiovec.documents import around as passages_around

# Limits of an answer, which a model has to read: the number of rows, and the bytes of their JSON
# (50,000 tokens).
_MOST = 100
_MOST_RECALLED = 40  # as many as a search orders by age
_MOST_BYTES = 200_000
_NEAR = frozenset({"cite", "title", "body"})
_CENTURY = 100 * 365 * 86_400  # seconds

Name = Annotated[str, Argument(description="The name of a table, as `list` shows it.")]
OnlyName = Annotated[
    str | None,
    Argument(description="The name of a table. Default: the only one besides the memory."),
]
Where = Annotated[
    str | None,
    Argument(
        description="Only rows that match this filter, such as \"year >= 2024 AND lang = 'en'\". "
        "Operators: = != < <= > >= IN BETWEEN LIKE ILIKE CONTAINS IS NULL AND OR NOT; times are "
        "TIMESTAMP '2026-01-31T12:00:00Z'. Write other keys than fields as payload.<key>."
    ),
]
_ROWS = "Maximum number of rows to return."
Limit = Annotated[int, Argument(ge=1, le=_MOST, description=_ROWS)]
Select = Annotated[
    list[str] | None, Argument(description="Only these fields. Default: all, without the vector.")
]
By = Annotated[
    Literal["text", "vector", "hybrid"] | None,
    Argument(description="By keywords, by meaning, or both. Default: what the table supports."),
]
Facts = Annotated[
    dict[str, Any] | None,
    Argument(
        description='Facts to filter by later, such as {"user": "ana", "topic": "travel"}; filters '
        "name them payload.user and payload.topic."
    ),
]
HalfLife = Annotated[
    str | None,
    Argument(
        description="Prefer newer memories more: the age at which a memory has lost half of its "
        'freshness, such as "12h" or "7d". Default: of memories that match alike, newer ones first.'
    ),
]
ExpiresIn = Annotated[
    str | None,
    Argument(
        description='Forget the memory after this time, such as "12h" or "30d". Default: keep.'
    ),
]
Around = Annotated[
    int,
    Argument(ge=0, le=FARTHEST, description="Passages of a document before and after each hit."),
]
Ids = Annotated[list[str], Argument(description="The ids of rows.", max_length=_MOST)]
Id = Annotated[str | None, Argument(description="To replace a memory, its id.")]

_FIELDS = {
    "text": Field(str, text=True),
    "at": Field(datetime, index="btree"),
    "expires_at": Field(datetime, expires=True),
}
# The schema of a new table of memories.
MEMORY = Schema(fields=_FIELDS, embed=Embed("text"), analyzer="english")
# A new memory passes an old one whose score is up to 1.1 times as high. With a weight of 0.2, the
# right topic is first for 0.88 of the questions in place of 0.95, by "local" (``bench quality``).
_NEWER = Decay("at", "30d", weight=0.1)
_UNITS = (86_400, "days"), (3_600, "hours"), (60, "minutes"), (1, "seconds")
_OWN = frozenset({"id", "embedding", *_FIELDS})

Answer = dict[str, Any]


def user_field(table: str, schema: Schema) -> str:
    """Return the field that holds a memory's user; raise an error if the table has none."""
    field = schema.fields.get("user")
    if field is not None and field.kind == "text":
        return "user"
    if field is None and schema.payload:
        return "payload.user"
    words = f"the table {table!r} cannot keep memories apart by user: "
    if field is None:
        words += f"add a field for the user, await store.add_field({table!r}, 'user', str)"
    else:
        words += f"its field 'user' is {field.kind}, not text; name another table"
    raise InvalidArgumentError("user", table, reason=words)


class Tools:
    """The tools over one store.

    ``memory`` is the table of memories, and ``readable`` has the names of the other tables that an
    agent may read; None means every table. With ``user``, an agent sees, replaces and deletes only
    the memories whose fact ``user`` is this name.
    """

    def __init__(
        self,
        store: VectorStore,
        memory: Table,
        readable: Collection[str] | None = None,
        user: str | None = None,
        analyzer: str = MEMORY.analyzer,
    ) -> None:
        if user is not None and not re.fullmatch(r"[\w.@+-]{1,100}", user):
            words = "1 to 100 letters, digits and . _ @ + -"
            raise InvalidArgumentError("user", user, words)
        self._store = store
        self._memory = memory
        self._user = user
        self._new = replace(MEMORY, analyzer=cast("Any", analyzer))
        self._readable = None if readable is None else {*readable, memory.name}

    async def recall(
        self,
        query: str,
        limit: Annotated[int, Argument(ge=1, le=_MOST_RECALLED, description=_ROWS)] = 5,
        where: Where = None,
        half_life: HalfLife = None,
    ) -> Answer:
        """Search your memory by meaning and by words: what `remember` saved, in this conversation
        or an earlier one. The best match comes first; `_distance` is how far its meaning is from
        the query: 0 is the same, 1 unrelated. If memories contradict each other, trust the newer
        one: `_age` says how old each is. `where` filters facts as payload.NAME, such as
        "payload.user = 'ana'". Use it before you ask the user again."""
        hits: Sequence[Hit] = []
        with suppress(TableNotFoundError):
            seen = await self._seen(self._memory, where)
            options: dict[str, Any] = {"limit": limit, "where": seen}
            if half_life is not None:
                options["rerank"] = Decay("at", half_life)
            elif (field := (await self._schema()).fields.get("at")) and field.kind == "datetime":
                options["rerank"] = _NEWER
            hits = await self._search(self._memory, query, None, **options)
        answer = _fitting("memories", hits)
        for row in answer["memories"]:
            if isinstance(at := row.get("at"), datetime):
                row["_age"] = _age(datetime.now(UTC) - at)
        return answer

    async def search(
        self,
        query: str,
        table: OnlyName = None,
        limit: Limit = 10,
        where: Where = None,
        by: By = None,
        select: Select = None,
        around: Around = 0,
    ) -> Answer:
        """Search the rows of a table for a text; the best match comes first. `_distance` is how
        far its meaning is from the text. A search by keywords gives a `_score` instead, which is
        comparable only within one search. A row with `cite` is a passage of a document: cite this
        place in your answer. `around` also returns the passages `before` and `after` it."""
        named = await self._named(await self._only_name() if table is None else table)
        seen = await self._seen(named, where)
        options = {"limit": limit, "where": seen, "select": select}
        hits = await self._search(named, query, by, **options)
        if self._user is not None and named.name == self._memory.name:
            around = 0  # rows around a memory may belong to another user
        return _fitting("hits", hits, await passages_around(named, hits, around) if around else ())

    async def get(self, table: Name, ids: Ids, select: Select = None) -> Answer:
        """Read rows of a table by their ids."""
        named = await self._named(table)
        seen = await self._seen(named, F.id.in_(ids))
        rows = {row.id: row for row in await named.find(seen, select=select)}
        return _fitting("rows", [rows[id] for id in ids if id in rows])

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
    ) -> Answer:
        """List the tables with their fields, or the rows of one table."""
        if table is None:
            return await self._tables()
        named = await self._named(table)
        seen = await self._seen(named, where)
        rows = await named.find(seen, order_by=order_by, limit=limit, offset=offset, select=select)
        return _fitting("rows", rows)

    async def remember(
        self, text: str, facts: Facts = None, id: Id = None, expires_in: ExpiresIn = None
    ) -> Answer:
        """Save a text that will matter later, such as a preference, a decision or a result.
        Write one fact as a whole sentence that is clear without this conversation."""
        if taken := _OWN & (facts or {}).keys():
            names = ", ".join(sorted(_OWN))
            words = f"facts cannot have the key {min(taken)!r}; a memory's own fields are: {names}"
            raise InvalidArgumentError("facts", min(taken), reason=words)
        row = {**storable(facts or {}, "facts"), "id": new_id() if id is None else id, "text": text}
        if self._user is not None:
            await self._make_own(row, self._user)
        row["at"] = datetime.now(UTC)
        if expires_in is not None:
            seconds = seconds_of(expires_in)
            if not 0 < seconds < _CENTURY:
                words = "a time below 100 years, such as '12h' or '30d'"
                raise InvalidArgumentError("expires_in", expires_in, words)
            row[await self._expiry_field()] = row["at"] + timedelta(seconds=seconds)
        try:
            await self._memory.upsert([row])
        except TableNotFoundError:
            await create_memory(self._memory, self._new)
            await self._memory.upsert([row])
        return {"id": row["id"]}

    async def forget(
        self,
        ids: Annotated[list[str] | None, Argument(description="The ids of memories.")] = None,
        where: Where = None,
    ) -> Answer:
        """Delete memories by their ids, or all that match a filter."""
        if ids is None and where is None:
            words = "pass ids or where; where='TRUE' deletes every memory"
            raise InvalidArgumentError("ids", ids, reason=words)
        try:
            seen = await self._seen(self._memory, where)
            return {"deleted": await self._memory.delete(ids, where=seen)}
        except TableNotFoundError:
            return {"deleted": 0}

    async def has_memory(self) -> bool:
        """Return whether the table of memories exists; the first `remember` creates the table."""
        return self._memory.name in await self._store.tables()

    # Inside

    async def _make_own(self, row: dict[str, Any], user: str) -> None:
        """Set a memory's user to the session's user; raise an error if it belongs to another
        user."""
        if row.setdefault("user", user) != user:
            words = f"the user of this session is {user!r}; leave the fact 'user' out"
            raise InvalidArgumentError("facts", row["user"], reason=words)
        # Users cannot create ids of other users, but an app or an agent without a user can.
        row["id"] = f"{user}/{str(row['id']).removeprefix(f'{user}/')}"
        user_field(self._memory.name, await self._schema())
        with suppress(TableNotFoundError):
            for replaced in await self._memory.get(row["id"], include_vector=False):
                if replaced.get("user") != user:
                    words = "the memory with this id is not yours; leave id out"
                    raise InvalidArgumentError("id", row["id"], reason=words)

    async def _schema(self) -> Schema:
        """Return the memory's schema, even before the first write creates the table."""
        try:
            return await self._memory.schema()
        except TableNotFoundError:
            return self._new

    async def _seen(self, table: Table, where: Any) -> Any:
        """Return a filter for a table's rows that the session's user may see."""
        if self._user is None or table.name != self._memory.name:
            return where
        field = user_field(table.name, await table.schema())
        return [where, F[field] == self._user]

    async def _names(self) -> list[str]:
        names = await self._store.tables()
        return [name for name in names if self._readable is None or name in self._readable]

    async def _tables(self) -> Answer:
        """Describe the tables that fit into an answer; skip tables dropped in the meantime."""
        tables, size, names = list[Answer](), 0, await self._names()
        for place, name in enumerate(names):
            with suppress(TableNotFoundError):
                schema = json.loads((await self._store.schema(name)).to_json())
                rows = await self._store.count(
                    name, await self._seen(self._store.table(name), None)
                )
                described = {"name": name, "rows": rows, "schema": schema}
                size += len(to_json(described))
                if size > _MOST_BYTES:
                    omitted = f"{len(names) - place} tables, from {name!r} on: an answer has at "
                    omitted += f"most {_MOST_BYTES:,} bytes. List one of them, such as "
                    omitted += ", ".join(names[place : place + _MOST])
                    return {"tables": tables, "omitted": omitted}
                tables.append(described)
        return {"tables": tables}

    async def _only_name(self) -> str:
        """Return the name of the only table that the agent may read, apart from its memory."""
        names = await self._names()
        others = [name for name in names if name != self._memory.name] or names
        if len(others) == 1:
            return others[0]
        words = f"name a table, one of: {', '.join(others[:_MOST])}"
        reason = words if others else "the store has no table that you may read"
        raise InvalidArgumentError("table", None, reason=reason)

    async def _named(self, table: str) -> Table:
        """Return a table; treat a table that the agent may not read as missing."""
        if self._readable is not None and table not in self._readable:
            raise TableNotFoundError(table, await self._names())
        return self._store.table(table)

    async def _expiry_field(self) -> str:
        """Return the name of the field with the time at which memories expire."""
        for name, field in (await self._schema()).fields.items():
            if field.expires:
                return name
        hint = "it has no field by which rows expire; leave expires_in out"
        name = self._store.backend_name
        raise UnsupportedError("expires_in", name, hint, table=self._memory.name)

    async def _search(
        self, table: Table, query: str, by: str | None, **options: Any
    ) -> Sequence[Hit]:
        if by is None:
            by = best_search(await table.schema())
        if by == "hybrid":
            return await table.search_hybrid(query, **options)
        if by == "vector":
            return await table.search(query, **options)
        return await table.search_text(query, **options)


def _fitting(
    name: str, rows: Sequence[Record | Hit], near: Sequence[Sequence[Record]] = ()
) -> Answer:
    """Return an answer with the rows that fit, and a note about the rows left out.

    ``near`` has the passages around each row.
    """
    fitting, size = list[dict[str, Any]](), 0
    for row, passages in zip_longest(map(_short, rows), near):
        for each in passages or ():
            if each["part"] != row["part"]:
                side = row.setdefault("before" if each["part"] < row["part"] else "after", [])
                side.append({key: value for key, value in _short(each).items() if key in _NEAR})
        size += len(to_json(row, fallback=str))
        if size > _MOST_BYTES:
            words = f"{len(rows) - len(fitting)} rows, from {row['id']!r} on: an answer has at "
            words += f"most {_MOST_BYTES:,} bytes. Select fewer fields or lower the limit."
            return {name: fitting, "omitted": words}
        fitting.append(row)
    return {name: fitting}


def _age(age: timedelta) -> str:
    """Return an age in words, such as "3 days"."""
    seconds = max(0, int(age.total_seconds()))
    size, unit = next((each for each in _UNITS if seconds >= 2 * each[0]), _UNITS[-1])
    return f"{seconds // size} {unit}"


def _short(row: Record | Hit) -> dict[str, Any]:
    """Return a row in few tokens: without nulls and ranks, and with one measure of four digits.

    The measure is the distance, if the hit has one: merged and boosted scores are comparable only
    within one search. For a passage of a document, the key ``cite`` holds the passage's place.
    """
    flat = {key: value for key, value in row.to_dict().items() if value is not None}
    if (place := place_of(flat)) is not None:
        flat = {"cite": place, **flat}
        for name in ("hash", "start", "modified"):
            flat.pop(name, None)
    if isinstance(row, Hit):
        flat.pop("_ranks", None)
        if row.distance is not None:
            del flat["_score"]
        measure = next(key for key in ("_distance", "_score") if key in flat)
        flat[measure] = float(f"{flat[measure]:.4g}")
    return flat
