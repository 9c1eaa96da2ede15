"""Bodies of requests: JSON up to 8 MiB, JSON Lines read by the line, Arrow IPC streams.

A body in Arrow is the JSON body, in the metadata of its schema, with the long lists as columns.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pydantic_core

from aiovec._http.ipc import ARROW, BODY, DamagedStreamError, read_stream
from aiovec.backend import LossyJsonError, read_json
from aiovec.backend.threads import in_thread

from .bounds import check_rows
from .call import Call
from .media import JSON, JSON_LINES, body_type
from .models import OLDER_NAMES, Model
from .problems import RequestError

LONGEST_JSON = 8 * 1024 * 1024
"""Bytes of a JSON body, or of a line of JSON Lines. A parser holds up all threads for 40 ms."""

_SMALL = 64 * 1024  # bytes that are parsed on the event loop, in under half a millisecond
_FEW_LISTS = 1000  # and the lists and objects in them
# A list takes 20 times its text. So a text may have so many lists, objects and commas, at most.
_MOST_LISTS, _MOST_COMMAS = 400_000, 1_000_000
_MANY = 16  # lists of so many floats become arrays, which take a fifth of their memory
# A text in which keys that come twice are looked for: that takes ten milliseconds.
_LONGEST_LOOKED_AT, _MOST_KEYS = 512 * 1024, 15_000
_KEY_END = re.compile(rb'"\s*:')

_LISTS = frozenset({"ids", "texts", "vectors", "where"})  # arguments that are bounded like rows


async def arguments_in(call: Call, model: type[Model]) -> dict[str, Any]:
    """Return the arguments in a body, which may be absent if this model needs none."""
    headers = call.request.headers
    absent = "content-type" not in headers or headers.get("content-length") == "0"
    if absent and not model.is_needed() and not await _whole(call, LONGEST_JSON):
        return {}
    kinds = (JSON, ARROW) if model.takes_columns() else (JSON,)
    if body_type(call.request, kinds) == ARROW:
        return model.of(await _value_of_arrow(call)).arguments()
    value = await _value(await _whole(call, LONGEST_JSON))
    arguments = model.of(value).arguments()
    call.uses_older_names = not OLDER_NAMES.keys().isdisjoint(value)
    for name in _LISTS.intersection(arguments):
        if isinstance(arguments[name], list):
            check_rows(len(arguments[name]), name)
    return arguments


async def _value_of_arrow(call: Call) -> Any:
    table = await arrow_body(call)
    text = (table.schema.metadata or {}).get(BODY, b"{}")
    if len(text) > LONGEST_JSON:
        raise RequestError(413, f"the metadata {BODY.decode()} {_TOO_LONG}")
    value = await _value(text)
    if type(value) is not dict:
        raise RequestError(422, f"the metadata {BODY.decode()} is no JSON object")
    for name, column in zip(table.schema.names, table.columns, strict=True):
        if name in value:
            raise RequestError(422, f"{name!r} is a column and stands in the metadata, too")
        value[name] = column
    return value


async def body_rows(call: Call) -> Any:
    """Return the rows of a body, as ``insert`` takes them."""
    kind = body_type(call.request, (JSON, JSON_LINES, ARROW))
    if kind == ARROW:
        return await arrow_body(call)
    if kind == JSON_LINES:
        return await _rows_of_lines(call)
    rows = await _value(await _whole(call, LONGEST_JSON))
    if type(rows) is not list:
        raise RequestError(422, "the body has to be a list of records: [{...}, ...]")
    check_rows(len(rows))
    return rows


async def arrow_body(call: Call) -> pa.Table:
    """Return the table of an Arrow IPC stream. The store validates its values."""
    table = await in_thread(_table, await _whole(call))
    check_rows(table.num_rows)
    return table


async def _whole(call: Call, most: int | None = None) -> bytearray:
    text = bytearray()
    async for data in call.request.stream():
        text += data
        if most is not None and len(text) > most:
            raise RequestError(
                413,
                f"a JSON body has at most {most // 2**20} MiB; send many records as "
                f"{JSON_LINES} or {ARROW}",
            )
    return text


async def _value(text: bytes | bytearray) -> Any:
    if len(text) > _SMALL or text.count(b"[") + text.count(b"{") > _FEW_LISTS:
        return await in_thread(_load, text, "the body")
    return _load(text, "the body")


async def _rows_of_lines(call: Call) -> list[Any]:
    return await in_thread(_loaded_lines, await _whole(call))


def _loaded_lines(text: bytearray) -> list[Any]:
    rows = []
    for number, line in enumerate(_lines_of(text), 1):
        if not line or line.isspace():
            continue
        if len(line) > LONGEST_JSON:
            raise RequestError(413, f"line {number} {_TOO_LONG}")
        row = _load(line, f"line {number}")
        if type(row) is not dict:
            raise RequestError(422, f"line {number} is no JSON object")
        for name, value in row.items():
            # Whole numbers stay: in the payload they are not floats.
            if type(value) is list and len(value) >= _MANY and set(map(type, value)) == {float}:
                row[name] = np.array(value, dtype=np.float64)
        rows.append(row)
        check_rows(len(rows))
    return rows


def _lines_of(text: bytearray) -> Iterator[bytes]:
    start = 0
    while start < len(text):
        end = text.find(b"\n", start)
        end = len(text) if end < 0 else end
        yield bytes(text[start:end])
        start = end + 1


_TOO_LONG = f"has more than {LONGEST_JSON // 2**20} MiB"


def _load(text: bytes | bytearray, name: str) -> Any:
    # A small text cannot hold so many.
    if len(text) > _SMALL and (
        text.count(b"[") + text.count(b"{") > _MOST_LISTS or text.count(b",") > _MOST_COMMAS
    ):
        raise RequestError(413, f"{name} holds too many values; send them in several requests")
    try:
        value = pydantic_core.from_json(text, allow_inf_nan=False)
    except ValueError as exc:
        raise RequestError(400, f"{name} is not JSON: {exc}") from exc
    _check_kept(text, value, name)
    return value


def _check_kept(text: bytes | bytearray, value: Any, name: str) -> None:
    """Refuse what the parser does not keep: a key that came twice, a number such as 1e400.

    In a text of one large row a second key is not looked for: that would hold up other threads.
    """
    keys = 0
    waiting = [value]
    for item in waiting:
        parts = item
        if type(item) is dict:
            keys += len(item)
            parts = item.values()
        elif type(item) is not list:
            parts = [item]
        kinds = set(map(type, parts))
        if float in kinds and (math.inf in parts or -math.inf in parts):
            raise RequestError(422, f"{name} has a number beyond those of float64")
        if dict in kinds or list in kinds:
            waiting += [part for part in parts if type(part) is dict or type(part) is list]
    # As many keys as ends of keys are proof that none was lost. A text may hold such an end, too.
    if len(text) > _LONGEST_LOOKED_AT or keys > _MOST_KEYS:
        return
    if keys != len(_KEY_END.findall(text)):
        try:
            read_json(text.decode())
        except LossyJsonError as exc:
            raise RequestError(422, f"{name} is ambiguous: {exc}") from None


def _table(data: bytearray) -> pa.Table:
    try:
        table = read_stream(data)
    except DamagedStreamError as exc:
        raise RequestError(400, str(exc)) from exc
    for field in table.schema:
        if not _is_plain(field.type):
            raise RequestError(
                422,
                f"the column {field.name!r} is of the Arrow type {field.type}, which can be far "
                "larger than its bytes; cast it to a plain type",
            )
    return table


def _is_plain(kind: pa.DataType) -> bool:
    """Return whether no few bytes of the type can stand for gigabytes."""
    if isinstance(kind, pa.BaseExtensionType):
        return _is_plain(kind.storage_type)
    if (
        pa.types.is_dictionary(kind) or pa.types.is_run_end_encoded(kind)
        or pa.types.is_string_view(kind) or pa.types.is_binary_view(kind)
        or pa.types.is_list_view(kind) or pa.types.is_large_list_view(kind)
        or pa.types.is_union(kind)
    ):  # fmt: skip
        return False
    return all(_is_plain(kind.field(n).type) for n in range(kind.num_fields))
