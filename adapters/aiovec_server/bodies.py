"""Bodies of answers as JSON, JSON Lines and Arrow IPC streams."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain
from typing import Any, TypeVar

import pyarrow as pa
import pydantic_core
from starlette.responses import Response

from aiovec import Hit, Record, Results
from aiovec.backend.threads import INLINE_LIMIT, in_thread
from aiovec.backend.weight import weight

from .bounds import check_answer
from .call import Call
from .media import ARROW, JSON, JSON_LINES, answer_type
from .streaming import InParts

_Of = TypeVar("_Of")

_QUERY = re.compile("_+query")
# Levels of a payload's lists that are Arrow's own; deeper ones are JSON text. Streams carry 64.
_DEEPEST = 32
# Bytes of JSON that are written on the event loop: of brackets alone, two milliseconds.
_LITTLE_TEXT = 128 * 1024
# Bytes of an answer that are handed to the connection at once.
_PART = 256 * 1024


class JsonBytes(Response):
    """A body that is JSON already."""

    media_type = JSON


def dump(value: object) -> bytes:
    """Return a value as JSON, with null for what JSON has no number for."""
    return pydantic_core.to_json(value, inf_nan_mode="null")


def json_response(value: object, status: int = 200) -> Response:
    """Answer with a value that is small."""
    return JsonBytes(dump(value), status)


# Answers

_Row = Callable[[Any], dict[str, Any]]


def hit_json(hit: Hit) -> dict[str, Any]:
    """Return a hit as the mapping that JSON is made of."""
    found: dict[str, Any] = {
        "id": hit.id, "score": hit.score, "distance": hit.distance, "fields": dict(hit.fields),
    }  # fmt: skip
    if hit.vector is not None:
        found["vector"] = hit.vector.tolist()
    if hit.ranks:
        found["ranks"] = {name: rank.to_dict() for name, rank in hit.ranks.items()}
    if hit.highlights:
        found["highlights"] = dict(hit.highlights)
    return found


def record_json(record: Record) -> dict[str, Any]:
    """Return a record as the flat mapping that ``insert`` takes."""
    return record.to_dict()


async def rows_response(
    call: Call, name: str, rows: Results[Hit] | Results[Record], row: _Row
) -> Response:
    """Answer with rows: ``{name: [...]}``, or a line or an Arrow row for each, as Accept says."""
    kind = answer_type(call, (JSON, JSON_LINES, ARROW))
    if kind == ARROW:
        return InParts(await in_thread(arrow_parts, rows), ARROW)
    pieces = _lines(rows, row) if kind == JSON_LINES else named(name, rows, row)
    return await json_parts(pieces, weight(rows), kind)


async def results_response(call: Call, found: list[Results[Hit]]) -> Response:
    """Answer with the hits of several queries, in their order.

    In JSON Lines each query has a line; in Arrow the column ``_query`` tells the number of each
    row's query, from 0 on.
    """
    kind = answer_type(call, (JSON, JSON_LINES, ARROW))
    if kind == ARROW:
        return InParts(await in_thread(_arrow_of_many, found), ARROW)
    pieces = _lines_of_many(found) if kind == JSON_LINES else _json_of_many(found)
    return await json_parts(pieces, weight(found), kind)


def _json_of_many(found: Sequence[Results[Hit]]) -> Iterator[bytes]:
    yield b'{"results":['
    for place, hits in enumerate(found):
        if place:
            yield b","
        yield from named("hits", hits, hit_json)
    yield b"]}"


def _lines_of_many(found: Sequence[Results[Hit]]) -> Iterator[bytes]:
    for hits in found:
        yield from named("hits", hits, hit_json)
        yield b"\n"


def _arrow_of_many(found: Sequence[Results[Hit]]) -> list[bytes]:
    joined = found[0].copy() if found else Results[Hit]()
    for hits in found[1:]:
        joined.extend(hits)
    numbers = [number for number, hits in enumerate(found) for _ in hits]
    return arrow_parts(joined, numbers)


async def json_parts(pieces: Iterator[bytes], effort: int, kind: str = JSON) -> Response:
    """Answer with the text that these pieces make up; ``effort`` is that of making them.

    It is an estimate: a payload may hold anything. So a text that grows long is made in a thread.
    """
    here: list[bytes] = []
    if effort <= INLINE_LIMIT:
        room = _LITTLE_TEXT
        for piece in pieces:
            here.append(piece)
            room -= len(piece)
            if room < 0:
                break
        else:
            return Response(b"".join(here), media_type=kind)
    parts = await in_thread(_gathered, chain(here, pieces))
    return InParts(parts, kind)


def named(name: str, rows: Iterable[Any], row: _Row) -> Iterator[bytes]:
    """Give the text of ``{name: [...]}``, row by row: so other threads get a turn between."""
    comma = b'{"' + name.encode() + b'":['
    for one in rows:
        yield comma + dump(row(one))
        comma = b","
    yield b"]}" if comma == b"," else comma + b"]}"


def _lines(rows: Iterable[Any], row: _Row) -> Iterator[bytes]:
    for one in rows:
        yield dump(row(one)) + b"\n"


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


def _depth(kind: pa.DataType) -> int:
    return max((1 + _depth(kind.field(n).type) for n in range(kind.num_fields)), default=0)


def _check_texts(rows: Iterable[Hit | Record]) -> None:
    """Refuse rows whose texts are too long for an answer, before Arrow copies them again and again.

    Rows may share them: of one row that is asked for a thousand times.
    """
    nbytes = 0
    for row in rows:
        values: list[Any] = list(row.fields.values())
        for value in values:
            if type(value) is str:
                nbytes += len(value)
            elif type(value) is dict:
                values += [*value, *value.values()]
            elif type(value) is list:
                values += value
        check_answer(nbytes)


def arrow_parts(
    rows: Results[Hit] | Results[Record], queries: Sequence[int] | None = None
) -> list[bytes]:
    """Return rows as an Arrow IPC stream, with the number of each row's query if it is given."""
    _check_texts(rows)
    table = rows.to_arrow()
    if queries is not None:
        # As everywhere, a key that has the name of something else gets an underscore in front.
        names = [f"_{name}" if _QUERY.fullmatch(name) else name for name in table.schema.names]
        table = table.rename_columns(names).add_column(0, "_query", pa.array(queries, pa.uint32()))
    for place, column in enumerate(table.schema):
        if _depth(column.type) > _DEEPEST:
            texts = [None if v is None else dump(v).decode() for v in table[place].to_pylist()]
            table = table.set_column(place, column.name, pa.array(texts, pa.utf8()))
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    whole = memoryview(sink.getvalue())
    check_answer(len(whole))
    return [bytes(whole[start : start + _PART]) for start in range(0, len(whole), _PART)]
