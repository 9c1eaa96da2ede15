"""Bodies of answers as JSON and as Arrow IPC streams."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from itertools import chain
from operator import methodcaller
from typing import Any

import numpy as np
import pyarrow as pa
import pydantic_core
from pydantic.alias_generators import to_camel
from starlette.responses import Response, StreamingResponse

from aiovec import Hit, Record, Results
from aiovec._http.ipc import ARROW
from aiovec.backend import from_matrix, without_vector
from aiovec.backend.cost import cost_of
from aiovec.backend.threads import arrow_ready, hop

from .bounds import BOUNDS, bounded, check_answered
from .call import JSON, OF_ROWS, Call

_MEASURES = ("_score", "_distance")
# Bytes of an answer that are handed to the connection at once.
_PART = 256 * 1024

Answers = Sequence[Results[Hit] | Results[Record]]


def dump(value: object) -> bytes:
    """Return a value as JSON, in which an infinity is the text ``Infinity`` or ``-Infinity``."""
    return pydantic_core.to_json(value, inf_nan_mode="strings")


async def values_response(value: object) -> Response:
    """Answer with single values."""

    def text() -> bytes:
        body = dump(value)
        BOUNDS.get().check_bytes(len(body))
        return body

    return Response(await hop(cost_of(value), text), media_type=JSON)


def camel_case(value: Any) -> dict[str, Any]:
    """Return a dataclass with its own keys, not those within, as JSON has them."""
    return {to_camel(name): item for name, item in asdict(value).items()}


async def rows_response(
    call: Call, name: str, answers: Answers, *, of_many: bool = False
) -> Response:
    """Answer with rows: ``{name: [...]}``, or Arrow as Accept says.

    ``of_many`` answers with the rows of each query, in order, as ``{"results": [{name: [...]},
    ...]}``. In Arrow the column ``_query`` is the number of each row's query, from 0 on.
    """
    check_answered(max(map(len, answers), default=0), len(answers), cure=", or export them")
    kind = call.answer_type(OF_ROWS)
    if kind == ARROW:
        await arrow_ready()
        make = partial(_arrow_parts, answers, of_many)
    else:
        older = call.uses_older_names and name == "hits"
        make = partial(_json_parts, name.encode(), answers, of_many, older)
    return _in_parts(await hop(cost_of(answers), make), kind)


async def found_response(
    call: Call, options: dict[str, Any], method: str, name: str = "hits"
) -> Response:
    """Answer with what a method of the store finds with these options."""
    rows = await getattr(call.store, method)(call.table, **bounded(options))
    return await rows_response(call, name, [rows])


def _in_parts(parts: list[bytes], kind: str) -> Response:
    """Answer with parts that are there, at the pace of the client."""
    if len(parts) == 1:
        return Response(parts[0], media_type=kind)
    headers = {"content-length": str(sum(map(len, parts)))}

    async def each() -> AsyncIterator[bytes]:
        parts.reverse()
        while parts:  # what was sent takes no memory
            yield parts.pop()
            await asyncio.sleep(0)  # a client that reads fast never has this wait

    return StreamingResponse(each(), media_type=kind, headers=headers)


def _older_form(hit: Any) -> dict[str, Any]:
    """Return a hit with what it had before it was flat."""
    nested = {"score": hit.score, "distance": hit.distance, "fields": dict(hit.fields)}
    return {**hit.to_dict(), **nested}


def _json_parts(name: bytes, answers: Answers, of_many: bool, older: bool) -> list[bytes]:
    """Return the text in parts of some size, made row by row: so other threads get a turn."""
    flat = _older_form if older else methodcaller("to_dict")
    text = bytearray(b'{"results":[' if of_many else b"")
    bounds, parts, whole = BOUNDS.get(), [], 0
    for number, rows in enumerate(answers):
        text += b'%s{"%s":[' % (b"," if number else b"", name)
        comma = b""
        for row in rows:
            text += comma + dump(flat(row))
            comma = b","
            if len(text) >= _PART:
                whole += len(text)
                bounds.check_bytes(whole)
                parts.append(bytes(text))
                text.clear()
        text += b"]}"
    return [*parts, bytes(text + b"]}" if of_many else text)]


def _arrow_parts(answers: Answers, of_many: bool) -> list[bytes]:
    """Return rows as an Arrow IPC stream.

    The columns are those of ``Schema.to_arrow()`` that were asked for, the keys of the payload as
    JSON text, and what a search found.
    """
    rows: list[Hit | Record] = list(chain.from_iterable(answers))
    selected = answers[0]._columns if answers else {}
    fields = {name: field for name, field in selected.items() if field}
    columns: dict[str, pa.Array] = {"id": pa.array([row.id for row in rows], pa.utf8())}
    if of_many:
        numbers = [number for number, hits in enumerate(answers) for _ in hits]
        columns["_query"] = pa.array(numbers, pa.uint32())
    for name in _MEASURES:
        if name in selected:
            columns[name] = pa.array([getattr(row, name[1:]) for row in rows], pa.float64())
    for name, field in fields.items():
        columns[name] = pa.array([row.fields.get(name) for row in rows], field.arrow_type())
    for name, values in (
        ("payload", [{k: v for k, v in row.fields.items() if k not in fields} for row in rows]),
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
    BOUNDS.get().check_bytes(len(whole))
    return [bytes(whole[start : start + _PART]) for start in range(0, len(whole), _PART)]


def _ranks(row: Hit | Record) -> dict[str, Any]:
    return {
        name: {"rank": rank.rank, "score": rank.score}
        for name, rank in getattr(row, "ranks", {}).items()
    }


# As ``to_json`` of pydantic, but with the floats of Python, which json reads back as they were.
def _json_text(value: Mapping[str, Any]) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
