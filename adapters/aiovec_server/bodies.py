"""Bodies of answers as JSON, JSON Lines and Arrow IPC streams."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from operator import methodcaller
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pydantic_core
from pydantic.alias_generators import to_camel
from starlette.responses import Response, StreamingResponse

from aiovec import Hit, Record, Results
from aiovec._http.ipc import ARROW
from aiovec.backend import from_matrix, without_vector
from aiovec.backend.threads import hop, in_thread
from aiovec.backend.weight import weight

from .bounds import check_answer
from .call import Call
from .media import JSON, OF_ROWS, answer_type

_Of = TypeVar("_Of")

_MEASURES = ("_score", "_distance")
_BYTES_A_VALUE = 8
# Bytes of an answer that are handed to the connection at once.
_PART = 256 * 1024


class JsonBytes(Response):
    """A body that is JSON already."""

    media_type = JSON


def dump(value: object) -> bytes:
    """Return a value as JSON, with null for what JSON has no number for."""
    return pydantic_core.to_json(value, inf_nan_mode="null")


def dump_values(value: object) -> bytes:
    """Return single values as JSON, in which an infinity is the text ``Infinity``."""
    return pydantic_core.to_json(value, inf_nan_mode="strings")


def json_response(
    value: object, status: int = 200, headers: Mapping[str, str] | None = None
) -> Response:
    """Answer with a value that is small."""
    return JsonBytes(dump(value), status, headers)


def camel_case(value: Mapping[str, Any]) -> dict[str, Any]:
    """Return a mapping with its own keys, not those within, as JSON has them."""
    return {to_camel(name): one for name, one in value.items()}


# Answers

_Row = Callable[[Any], dict[str, Any]]


def _older_form(hit: Hit) -> dict[str, Any]:
    """Return a hit with what it had before it was flat."""
    found = {"score": hit.score, "distance": hit.distance, "fields": dict(hit.fields)}
    return {**hit.to_dict(), **found}


def _row_of(call: Call) -> _Row:
    """Return the mapping that a row's JSON is made of: flat, as ``insert`` takes records."""
    return _older_form if call.uses_older_names else methodcaller("to_dict")


async def rows_response(call: Call, name: str, rows: Results[Hit] | Results[Record]) -> Response:
    """Answer with rows: ``{name: [...]}``, or Arrow as Accept says."""
    if answer_type(call.request, OF_ROWS) == ARROW:
        return _in_parts(await in_thread(arrow_parts, rows), ARROW)
    row = methodcaller("to_dict") if name == "records" else _row_of(call)
    return await _json_parts(_named(name, rows, row), weight(rows))


async def results_response(call: Call, found: list[Results[Hit]]) -> Response:
    """Answer with the hits of several queries, in their order.

    In Arrow the column ``_query`` tells the number of each row's query, from 0 on.
    """
    if answer_type(call.request, OF_ROWS) == ARROW:
        return _in_parts(await in_thread(_arrow_of_many, found), ARROW)
    return await _json_parts(_json_of_many(found, _row_of(call)), weight(found))


def _json_of_many(found: Sequence[Results[Hit]], row: _Row) -> Iterator[bytes]:
    comma = b'{"results":['
    for hits in found:
        yield comma
        yield from _named("hits", hits, row)
        comma = b","
    yield b"]}" if found else comma + b"]}"


def _arrow_of_many(found: Sequence[Results[Hit]]) -> list[bytes]:
    joined = found[0].copy() if found else Results[Hit]()
    for hits in found[1:]:
        joined.extend(hits)
    numbers = [number for number, hits in enumerate(found) for _ in hits]
    return arrow_parts(joined, numbers)


async def _json_parts(pieces: Iterator[bytes], effort: int) -> Response:
    """Answer with the text that these pieces make up; ``effort`` is that of making them."""
    parts = await hop(effort, _gathered, pieces)
    return JsonBytes(parts[0]) if len(parts) == 1 else _in_parts(parts, JSON)


def _in_parts(parts: list[bytes], kind: str) -> Response:
    """Answer with parts that are there, at the pace of the client."""
    headers = {"content-length": str(sum(map(len, parts)))}

    async def each() -> AsyncIterator[bytes]:
        parts.reverse()
        while parts:  # what was sent takes no memory
            yield parts.pop()
            await asyncio.sleep(0)  # a client that reads fast never has this wait

    return StreamingResponse(each(), media_type=kind, headers=headers)


def _named(name: str, rows: Iterable[Any], row: _Row) -> Iterator[bytes]:
    """Give the text of ``{name: [...]}``, row by row: so other threads get a turn between."""
    comma = b'{"' + name.encode() + b'":['
    for one in rows:
        yield comma + dump(row(one))
        comma = b","
    yield b"]}" if comma == b"," else comma + b"]}"


def _gathered(pieces: Iterable[bytes]) -> list[bytes]:
    """Return a text in parts of some size."""
    parts: list[bytes] = []
    waiting: list[bytes] = []
    size = whole = 0
    for piece in pieces:
        waiting.append(piece)
        size += len(piece)
        if size >= _PART:
            whole += size
            check_answer(whole)
            parts.append(b"".join(waiting))
            waiting, size = [], 0
    parts.append(b"".join(waiting))
    return parts


def arrow_parts(
    rows: Results[Hit] | Results[Record], queries: Sequence[int] | None = None
) -> list[bytes]:
    """Return rows as an Arrow IPC stream, with the number of each row's query if it is given.

    The columns are those of ``Schema.to_arrow()`` that were asked for, the keys of the payload as
    JSON text, and what a search found.
    """
    check_answer(bytes_of(rows))
    fields = {name: field for name, field in rows._columns.items() if field}
    columns: dict[str, pa.Array] = {"id": pa.array([row.id for row in rows], pa.utf8())}
    if queries is not None:
        columns["_query"] = pa.array(queries, pa.uint32())
    for name in _MEASURES:
        if name in rows._columns:
            columns[name] = pa.array([getattr(row, name[1:]) for row in rows], pa.float64())
    for name, field in fields.items():
        columns[name] = pa.array([row.fields.get(name) for row in rows], field.arrow_type())
    payloads = [{k: v for k, v in row.fields.items() if k not in fields} for row in rows]
    for name, values in (
        ("payload", payloads),
        ("_ranks", [_ranks(row) for row in rows]),
        ("_highlights", [getattr(row, "highlights", None) for row in rows]),
    ):
        if any(values):
            texts = [_json_text(dict(value)) if value else None for value in values]
            columns[name] = pa.array(texts, pa.utf8())
    if (shown := next((row for row in rows if row.vector is not None), None)) is not None:
        nothing = np.full(len(shown.vector), np.nan, np.float32)  # type: ignore[arg-type]
        matrix = np.stack([nothing if row.vector is None else row.vector for row in rows])
        columns[shown.vector_name] = from_matrix(matrix, without_vector(matrix))
    table = pa.Table.from_arrays(list(columns.values()), list(columns))
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    whole = memoryview(sink.getvalue())
    check_answer(len(whole))
    return [bytes(whole[start : start + _PART]) for start in range(0, len(whole), _PART)]


def _ranks(row: Hit | Record) -> dict[str, Any]:
    return {name: rank.to_dict() for name, rank in getattr(row, "ranks", {}).items()}


# As ``to_json`` of pydantic, but with the floats of Python, which json reads back as they were.
def _json_text(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def bytes_of(rows: Iterable[Hit | Record]) -> int:
    """Return about how many bytes the rows hold."""
    nbytes = 0
    for row in rows:
        nbytes += len(row.id) + (0 if row.vector is None else 4 * len(row.vector))
        nbytes += bytes_of_values(row.fields.values())
    return nbytes


def bytes_of_values(given: Iterable[Any]) -> int:
    """Return about how many bytes these values hold."""
    nbytes = 0
    values = list(given)
    for value in values:  # which grows
        if type(value) is str:
            nbytes += len(value)
        elif type(value) is dict:
            values += [*value, *value.values()]
        elif type(value) is list:
            values += value
        nbytes += _BYTES_A_VALUE
    return nbytes
