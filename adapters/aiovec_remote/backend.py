"""The remote backend: a store that another process serves, over HTTP."""

from __future__ import annotations

import base64
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, aclosing
from dataclasses import asdict, fields
from datetime import datetime
from functools import partial
from typing import Any, ClassVar, TypeVar, cast
from urllib.parse import quote

import numpy as np
import pyarrow as pa
from pydantic.alias_generators import to_camel, to_snake

from aiovec import REMOVE
from aiovec._http.ipc import cost_of_body
from aiovec.backend import Expr, PayloadPatch, Ref, Schema, TextClause, Value, from_matrix
from aiovec.backend.changes import (
    AddField,
    Delete,
    DropField,
    IndexField,
    Insert,
    RenameField,
    RowChange,
    SchemaChange,
    UnindexField,
    Update,
    UpdateRows,
    Upsert,
)
from aiovec.backend.contract import (
    NO_NOTES,
    Backend,
    Bounds,
    Columns,
    Count,
    Find,
    FromEach,
    Get,
    IndexInfo,
    IndexOptions,
    Query,
    Read,
    TableHandle,
    TableStats,
    Tuning,
    Values,
    stored_rows,
)
from aiovec.backend.cost import cost_of
from aiovec.backend.limits import Slot, current_deadline, write_gate
from aiovec.backend.rows import Batch, partition_fields
from aiovec.backend.threads import arrow_ready, hop

from .client import Client, Request
from .codec import WireError, exported_batch, found_rows, values_read
from .settings import RemoteSettings

_T = TypeVar("_T")

# The most write calls that check or send rows at the same time, with at most 64 MiB in total.
_WRITES_AT_ONCE = 1024
# Without this parameter, the server would count the rows of each table.
_UNCOUNTED = {"rows": "false"}


class RemoteBackend(Backend):
    """The backend for the tables of an aiovec server."""

    name: ClassVar[str] = "remote"
    abilities = frozenset({"read-only"})
    """Capabilities of this backend and, once it is open, of the server's store."""

    tunings = None  # the server refuses tunings
    hints: ClassVar[Mapping[str, str]] = {
        "questions": "the server measures with the searches that it answers",
    }

    upkeep = False  # the server does the upkeep
    hides_expired = True

    def __init__(self, url: str, settings: RemoteSettings) -> None:
        self._client = Client(url, settings)
        self._writing = write_gate(_WRITES_AT_ONCE)
        self.busy_timeout = settings.busy_timeout

    @property
    def target(self) -> str:
        return self._client.target

    # Opening and closing

    async def open(self) -> None:
        await arrow_ready()  # ids and rows are sent as Arrow
        await self._look(once=True)

    async def _look(self, *, once: bool = False) -> None:
        """Ask the server for the capabilities of its store."""
        request = Request("GET", "/store", once=once)
        self.abilities = await self._ask(
            request, lambda answer: frozenset([*answer["abilities"], "read-only"])
        )

    async def close(self) -> None:
        await self._client.close()

    async def ping(self) -> None:
        await self._look()

    # Tables

    async def tables(self) -> list[str]:
        request = Request("GET", "/tables", query=_UNCOUNTED)
        return await self._ask(
            request, lambda answer: [table["name"] for table in answer["tables"]]
        )

    async def open_table(self, name: str) -> TableHandle:
        request = Request("GET", f"/tables/{name}", _UNCOUNTED)
        schema, state = await self._client.ask(
            request, lambda answer: Schema.from_json(answer["schema"])
        )
        return TableHandle(name, schema, state)

    async def create_table(self, name: str, schema: Schema) -> None:
        body = {"name": name, "schema": schema.to_dict()}
        await self._ask(Request("POST", "/tables", body=body, writes=True), _nothing)

    async def rename_table(self, old: str, new: str) -> None:
        path, body = f"/tables/{old}/rename", {"name": new}
        await self._ask(Request("POST", path, body=body, writes=True, long=True), _nothing)

    async def drop_table(self, name: str) -> None:
        path, query = f"/tables/{name}", {"confirm": name}
        await self._ask(Request("DELETE", path, query, writes=True, long=True), _nothing)

    async def alter(self, table: TableHandle, change: SchemaChange) -> None:
        path = f"/fields/{change.name}"
        match change:
            case AddField(name, field):
                body = {"name": name, "field": field.to_dict()}
                await self._alter(table, "POST", "/fields", body=body)
            case DropField(name):
                await self._alter(table, "DELETE", path, query={"confirm": name})
            case RenameField():
                await self._alter(table, "POST", f"{path}/rename", body={"name": change.new})
            case IndexField():
                await self._alter(table, "PUT", f"{path}/index", body={"kind": change.kind})
            case UnindexField():
                query = {} if change.kind is None else {"kind": change.kind}
                await self._alter(table, "DELETE", f"{path}/index", query=query)

    # Writing

    def writing(self, size: int) -> AbstractAsyncContextManager[Slot | None]:
        return self._writing.enter(current_deadline(self.busy_timeout), size)

    async def write(self, table: TableHandle, change: RowChange) -> int:
        match change:
            case Insert(rows):
                return await self._put(
                    table, rows, {"onConflict": "skip"} if change.skip_existing else {}
                )
            case Upsert(rows):
                if change.moves and partition_fields(table.schema):  # the server refuses moves
                    await self.write(table, Delete(rows.ids))
                return await self._put(table, rows, {"mode": "upsert"})
            case UpdateRows(parts):
                cost = sum(map(cost_of, parts))
                sent = await hop(cost, _rows_of, change, table.schema)
                query = {"strict": "true"} if change.strict else {}
                return await self._change(
                    table, "/records", "updated", method="PATCH", query=query, rows=sent
                )
            case Delete(ids, where):
                return await self._change(
                    table, "/records", "deleted",
                    method="DELETE", body={"where": where}, rows=_ids_table(ids),
                )  # fmt: skip
            case Update(ids=ids):
                body = _body_of(change)
                return await self._change(
                    table, "/update", "updated", body=body, rows=_ids_table(ids)
                )

    async def _put(self, table: TableHandle, rows: Batch, query: dict[str, str]) -> int:
        sent = await hop(cost_of(rows), rows.table, table.schema)
        return await self._change(table, "/records", "count", query=query, rows=sent)

    # Reading

    async def read(self, table: TableHandle, read: Read[_T]) -> _T:
        result: Any
        match cast("Read[Any]", read):
            case Get(ids, columns, finish):
                body, ids_table = _selection(table.schema, columns), _ids_table(ids)
                found = _rows(table, columns)
                rows = await self._on(table, "/get", found, body=body, rows=ids_table)
                result = await hop(cost_of(rows), finish, rows)
            case Find(where, order_by, limit, columns, finish, offset):
                orders = ["-" * order.descending + _name_of(order.ref) for order in order_by]
                if orders[-1:] == ["id"]:  # the server's default order
                    orders.pop()
                body = {"where": where, "orderBy": orders, "limit": limit, "offset": offset}
                body |= _selection(table.schema, columns)
                rows = await self._on(table, "/find", _rows(table, columns), body=body)
                result = await hop(cost_of(rows), finish, rows)
            case Count(where):
                result = await self._on(table, "/count", _counted, body={"where": where})
            case Values(where, ref, limit):
                body = {"field": _name_of(ref), "where": where, "limit": limit}
                values = partial(_values, table.schema, ref)
                result = await self._on(table, "/distinct", values, body=body)
            case Bounds(where, ref):
                body = {"field": _name_of(ref), "where": where}
                ends = partial(_ends, table.schema, ref)
                result = await self._on(table, "/bounds", ends, body=body)
            case _:
                raise self._lacks(type(read).__name__)
        return cast("_T", result)

    async def search(
        self, table: TableHandle, queries: Sequence[Query], finish: FromEach[_T]
    ) -> _T:
        first = queries[0]  # the queries differ only in their vectors and filters
        rows, body = None, _selection(table.schema, first.columns) | {"limit": first.limit}
        if not first.by_words:
            body |= {"exact": first.exact, "tuning": first.tuning and _tuning(first.tuning)}
        filters = [query.where for query in queries]
        if all(where is first.where for where in filters):
            body["where"] = first.where
        else:
            body["eachWhere"] = filters
        if first.by_words:
            path, body = "/search_text", body | _text(first)
        elif first.fusion is None:
            path, matrix = "/search_many", np.stack([query.vector for query in queries])
            rows = pa.Table.from_arrays([from_matrix(matrix)], ["vectors"])
        else:
            kind = type(first.fusion).__name__.lower()
            path, body = "/search_hybrid", body | _text(first) | {
                "vector": first.vector.tolist(), "maxDistance": first.max_distance,
                "fusion": {"type": kind, **asdict(first.fusion)},
                "limit": first.hits, "fetchK": first.fused,
            }  # fmt: skip
        read = partial(found_rows, table.schema, first.columns, len(queries))
        results = await self._on(table, path, read, body=body, rows=rows)
        return await hop(cost_of(*results), finish, results)

    async def export(
        self,
        table: TableHandle,
        *,
        where: Expr | None,
        columns: Columns,
        after: bytes | None,
        batch_size: int,
    ) -> AsyncGenerator[tuple[pa.RecordBatch, bytes], None]:
        body = {
            "where": where, "select": _select(table.schema, columns),
            "after": None if after is None else base64.urlsafe_b64encode(after).decode(),
            "batchSize": batch_size,
        }  # fmt: skip
        path = f"/tables/{table.name}/export"
        request = Request("POST", path, body=body, state=str(table.epoch))
        batches = self._client.stream(request)
        async with aclosing(batches):
            async for head, data in batches:
                try:
                    yield await hop(cost_of_body(data), exported_batch, head, data)
                except WireError as exc:
                    raise self._client.unreadable(exc) from exc

    # Upkeep

    async def stats(self, table: TableHandle) -> TableStats:
        def read(answer: Any) -> TableStats:
            last = answer["lastOptimize"]
            return _known(
                TableStats,
                answer,
                table=table.name,
                backend=self.name,
                last_optimize=None if last is None else datetime.fromisoformat(last),
                details={"server_backend": answer["backend"], **answer["details"]},
            )

        return await self._on(table, "/stats", read, method="GET", long=True)

    async def notes(
        self, table: TableHandle, change: Mapping[str, str | None] = NO_NOTES
    ) -> Mapping[str, str]:
        def read(answer: Any) -> Mapping[str, str]:
            return dict(answer["notes"])

        if not change:
            return await self._on(table, "/notes", read, method="GET")
        body = {"notes": dict(change)}
        return await self._on(table, "/notes", read, method="PATCH", body=body, writes=True)

    async def optimize(self, table: TableHandle) -> None:
        await self._alter(table, "POST", "/optimize")

    async def create_index(
        self, table: TableHandle, kind: str, *, wait: bool, options: Mapping[str, Any]
    ) -> None:
        known = IndexOptions.__annotations__
        body = {to_camel(name): value for name, value in options.items() if name in known}
        if others := {name: value for name, value in options.items() if name not in known}:
            body["others"] = others
        await self._alter(table, "POST", "/indexes", body={"kind": kind, "wait": wait, **body})

    async def indexes(self, table: TableHandle) -> list[IndexInfo]:
        def read(answer: Any) -> list[IndexInfo]:
            return [_known(IndexInfo, index) for index in answer["indexes"]]

        return await self._on(table, "/indexes", read, method="GET")

    async def drop_index(self, table: TableHandle, name: str) -> None:
        await self._alter(table, "DELETE", f"/indexes/{quote(name, safe='')}")

    async def versions(self, table: TableHandle) -> list[Mapping[str, Any]]:
        def read(answer: Any) -> list[Mapping[str, Any]]:
            return [
                {**version, "created": datetime.fromisoformat(version["created"])}
                for version in answer["versions"]
            ]

        return await self._on(table, "/versions", read, method="GET")

    async def revert(self, table: TableHandle, version: int) -> None:
        await self._alter(table, "POST", "/versions/revert", body={"version": version})

    # Inside

    async def _ask(self, request: Request, read: Callable[[Any], _T]) -> _T:
        """Send a request, and return the result of ``read`` for its response."""
        return (await self._client.ask(request, read))[0]

    async def _on(
        self, table: TableHandle, path: str, read: Callable[[Any], _T], *, method: str = "POST",
        **options: Any,
    ) -> _T:  # fmt: skip
        """Call an endpoint of a table, provided that the table is in the handle's state."""
        path = f"/tables/{table.name}{path}"
        return await self._ask(Request(method, path, state=str(table.epoch), **options), read)

    async def _alter(self, table: TableHandle, method: str, path: str, **options: Any) -> None:
        """Change a table with a call that may take a long time."""
        await self._on(table, path, _nothing, method=method, writes=True, long=True, **options)

    async def _change(self, table: TableHandle, path: str, counted: str, **options: Any) -> int:
        """Change rows, and return how many were changed."""
        return await self._on(
            table, path, lambda answer: int(answer[counted]), writes=True, **options
        )


def _nothing(_: Any) -> None:
    """Ignore the content of a response."""


def _rows(table: TableHandle, columns: Columns) -> Callable[[Any], Batch]:
    return partial(stored_rows, schema=table.schema, columns=columns)


def _body_of(change: Update) -> dict[str, Any]:
    payload, removed = _by_name(change.payload)
    body = {"set": {**change.values, **payload}, "remove": removed, "where": change.where}
    # A vector of NaN means that the new text is empty, so the row's vector is removed. The client
    # does not send such a vector: the server sees the empty text.
    if change.vector is not None and not np.isnan(change.vector[0]):
        body["vector"] = change.vector.tolist()
    return body


def _rows_of(change: UpdateRows, schema: Schema) -> pa.Table | list[Any]:
    """Return the rows of an update as columns, or as objects if the rows' keys differ."""
    if len(change.parts) == 1 and not change.payloads:
        return change.parts[0].table(schema)
    rows = []
    for part in change.parts:
        fields = [(name, part.values(name)) for name in part.fields]
        for place, id in enumerate(part.ids):
            payload, removed = _by_name(change.payloads.get(id, PayloadPatch()))
            row = {"id": id, **{name: values[place] for name, values in fields}, **payload}
            if removed:
                row["_remove"] = removed
            if part.vectors is not None:
                vector = part.vectors[place]
                row[schema.vector] = None if np.isnan(vector[0]) else vector.tolist()
            rows.append(row)
    return rows


def _by_name(patch: PayloadPatch) -> tuple[dict[str, Any], list[str]]:
    """Return the payload keys to set, with their values, and the keys to remove."""
    payload = {str(Ref("payload", path)): value for path, value in patch.changes}
    removed = [name for name, value in payload.items() if value is REMOVE]
    return {name: value for name, value in payload.items() if value is not REMOVE}, removed


def _ids_table(ids: Sequence[str] | None) -> pa.Table | None:
    if ids is None:
        return None
    return pa.Table.from_arrays([pa.array(ids, pa.utf8())], ["ids"])


def _select(schema: Schema, columns: Columns) -> list[str]:
    select = list(columns.fields)
    if columns.payload:
        select.append("payload")
    if columns.vector:
        select.append(schema.vector)
    return select


def _selection(schema: Schema, columns: Columns) -> dict[str, Any]:
    select = _select(schema, columns)
    if columns.payload:
        # Also select payload keys named like unselected fields, which the server would leave out.
        hidden = (name for name in schema.fields if name not in columns.fields)
        select += [str(Ref("payload", (name,))) for name in hidden]
    return {"select": select, "includeVector": columns.vector}


def _counted(answer: Any) -> int:
    return int(answer["count"])


def _values(schema: Schema, ref: Ref, answer: Any) -> list[tuple[Value, int]]:
    values = values_read([entry["value"] for entry in answer["values"]], schema, ref)
    return list(zip(values, (entry["count"] for entry in answer["values"]), strict=True))


def _ends(schema: Schema, ref: Ref, answer: Any) -> tuple[Value, Value] | None:
    if answer["min"] is None:
        return None
    least, greatest = values_read([answer["min"], answer["max"]], schema, ref)
    return least, greatest


def _known(kind: type[_T], answer: Mapping[str, Any], **facts: object) -> _T:
    """Build a dataclass from a response, ignoring keys that newer servers add."""
    given = {to_snake(name): value for name, value in answer.items()} | facts
    return kind(**{field.name: given[field.name] for field in fields(kind)})  # type: ignore[arg-type]


def _tuning(tuning: Tuning) -> dict[str, Any]:
    return {name: value for name, value in asdict(tuning).items() if value not in (None, {})}


def _text(query: Query) -> dict[str, Any]:
    """Return the arguments of a keyword search: words, matching and snippets."""
    return {
        "query": " ".join(map(_words, query.clauses)),
        "match": query.match,
        "highlight": False if query.highlight is None else list(query.highlight),
    }


def _words(clause: TextClause) -> str:
    """Return a clause as a user would type it; in quotes, the server does not cut it again."""
    text = f"{clause.text}*" if clause.prefix else f'"{clause.text}"'
    field = "" if clause.field is None else f"{clause.field}:"
    return f"{'-' if clause.excluded else ''}{field}{text}"


def _name_of(ref: Ref) -> str:
    return str(ref) if ref.path else ref.name
