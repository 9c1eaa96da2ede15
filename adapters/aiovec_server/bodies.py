"""Bodies of requests and answers as JSON, JSON Lines and Arrow IPC streams."""

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

from .bounds import check_answer, check_rows
from .call import Call
from .media import ARROW, JSON, JSON_LINES, answer_type, body_type
from .pieces import JsonArray, JsonLines, load, load_large, rows_in
from .problems import RequestError
from .streaming import InParts

_Of = TypeVar("_Of")

# A JSON body up to this many bytes is parsed where it came: under half a millisecond.
SMALL_BODY = 64 * 1024
# Lists and objects that are looked at there too, each for half a microsecond.
_FEW_LISTS = 1000
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


# Requests


async def body_json(call: Call, *, needed: bool = True) -> Any:
    """Return the value of a body that has to be JSON; ``{}`` if it is not needed and empty."""
    if needed:
        body_type(call, (JSON,))
    text = await _whole(call)
    if not needed:
        if not text:
            return {}
        body_type(call, (JSON,))
    return await _loaded(text)


async def body_rows(call: Call) -> Any:
    """Return the rows of a body, as ``insert`` takes them."""
    kind = body_type(call, (JSON, JSON_LINES, ARROW))
    if kind == ARROW:
        return await arrow_body(call)
    if kind == JSON_LINES:
        return await rows_in(call.request.stream(), JsonLines())
    if _is_small(call):
        rows = await _loaded(await _whole(call))
        if type(rows) is not list:
            raise RequestError(422, "the body has to be a list of records: [{...}, ...]")
        check_rows(len(rows))
        return rows
    return await rows_in(call.request.stream(), JsonArray())


async def arrow_body(call: Call) -> pa.Table:
    """Return the table of an Arrow IPC stream. The store validates its values."""
    table = await in_thread(_table, await _whole(call))
    check_rows(table.num_rows)
    return table


def _table(data: bytearray) -> pa.Table:
    from .arrow_bodies import read_table

    return read_table(data)


async def _loaded(text: bytearray) -> Any:
    """Return the value of a JSON text, parsed in a thread unless it is small."""
    if len(text) > SMALL_BODY or text.count(b"[") + text.count(b"{") > _FEW_LISTS:
        return await in_thread(load_large, text)
    return load(text)


async def _whole(call: Call) -> bytearray:
    """Return all of a body, which is not copied at the end."""
    text = bytearray()
    async for data in call.request.stream():
        text += data
    return text


def _is_small(call: Call) -> bool:
    length = call.request.headers.get("content-length", "")
    return length.isdecimal() and len(length) < 9 and int(length) <= SMALL_BODY


async def release(call: Call, rows: Any) -> None:
    """Let go of a body's rows, in a thread unless they are small."""
    if type(rows) is list and not _is_small(call):
        await in_thread(_emptied, rows)


def _emptied(rows: list[Any]) -> None:
    while rows:
        rows.pop()  # one by one: a row may hold much


def _emptying(rows: list[Any], make: Callable[[_Of], list[bytes]], of: _Of) -> list[bytes]:
    """Return what was made of the rows, which are gone."""
    parts = make(of)
    _emptied(rows)
    return parts


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
    """Answer with rows: ``{name: [...]}``, or a line or an Arrow row for each, as Accept says.

    The rows are gone afterwards, if they are many.
    """
    kind = answer_type(call, (JSON, JSON_LINES, ARROW))
    if kind == ARROW:
        return InParts(await in_thread(_emptying, rows, arrow_parts, rows), ARROW)
    pieces = _lines(rows, row) if kind == JSON_LINES else named(name, rows, row)
    return await json_parts(pieces, weight(rows), kind, rows)


async def results_response(call: Call, found: list[Results[Hit]]) -> Response:
    """Answer with the hits of several queries, in their order.

    In JSON Lines each query has a line; in Arrow the column ``_query`` tells the number of each
    row's query, from 0 on. As for ``rows_response``, the hits are gone afterwards.
    """
    kind = answer_type(call, (JSON, JSON_LINES, ARROW))
    if kind == ARROW:
        return InParts(await in_thread(_emptying, found, _arrow_of_many, found), ARROW)
    pieces = _lines_of_many(found) if kind == JSON_LINES else _json_of_many(found)
    return await json_parts(pieces, weight(found), kind, found)


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


async def json_parts(
    pieces: Iterator[bytes], effort: int, kind: str = JSON, rows: list[Any] | None = None
) -> Response:
    """Answer with the text that these pieces make up; ``effort`` is that of making them.

    It is an estimate: a payload may hold anything. So a text that grows long is made in a thread,
    and so are its ``rows`` let go of.
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
    parts = await in_thread(_emptying, [] if rows is None else rows, _gathered, chain(here, pieces))
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
