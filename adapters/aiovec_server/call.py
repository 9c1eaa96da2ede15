"""A request as an endpoint sees it: its path, query string and body.

A body is JSON of up to 8 MiB, JSON Lines, which are parsed line by line, or an Arrow IPC stream.
An Arrow stream holds the rows of a write, or the same arguments as a JSON body: long lists are
columns, and all other arguments are in its schema's metadata.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any
from urllib.parse import quote, unquote_to_bytes

import numpy as np
import pyarrow as pa
import pydantic_core
from starlette.requests import Request

from aiovec import VectorStore
from aiovec._http.ipc import ARROW, BODY, DamagedStreamError, cost_of_body, read_rows
from aiovec.backend import shown
from aiovec.backend.threads import arrow_ready, hop
from aiovec.errors import InvalidArgumentError

from .limits import check_rows
from .models import OLDER_NAMES, Model
from .once import WriteKeys
from .problems import RequestError

JSON = "application/json"
JSON_LINES = "application/x-ndjson"
OF_ROWS = (JSON, ARROW)

LONGEST_JSON = 8 * 1024 * 1024
"""Maximum size in bytes of a JSON body, and of a line of JSON Lines. Parsing a body of this size
blocks all threads for 40 ms."""

_TOO_LONG = f"has more than {LONGEST_JSON // 2**20} MiB"
_SMALL = 64 * 1024  # a body of up to this many bytes cannot hold too many values
# A list takes 20 times the memory of its text, and the parser blocks all threads: for 30 to 50 ms
# with this many lists and objects, different keys, or numbers.
_MOST_LISTS, _MOST_KEYS, _MOST_COMMAS = 200_000, 120_000, 1_000_000
_MANY = 16  # lists of this many floats or more become arrays, which take a fifth of the memory
# Exponents of numbers that may be too large for float64. A pattern that begins with a fixed
# letter makes the search twenty times as fast.
_HUGE = re.compile(rb"e(?<=\de)\+?[1-9]\d\d"), re.compile(rb"E(?<=\dE)\+?[1-9]\d\d")
# Lists that may have as many items as a request may have rows.
_LISTS = frozenset({"ids", "texts", "vectors", "eachWhere"})

_MOST_RANGES = 64
_CHARSET = re.compile(r"\s*(charset=\"?utf-?8\"?\s*)?", re.IGNORECASE)
_HALF_ENCODED = re.compile(rb"#|%(?![0-9A-Fa-f]{2})")


class Call:
    """One request to an endpoint."""

    __slots__ = ("headers", "request", "store", "uses_older_names", "writes")

    def __init__(self, request: Request, store: VectorStore, writes: WriteKeys) -> None:
        self.request: Request = request
        self.store: VectorStore = store
        self.writes: WriteKeys = writes
        """The idempotency keys of the app's writes."""
        self.uses_older_names: bool = False
        """True if the body uses the argument names of older clients."""
        self.headers: dict[str, str] = {}
        """The headers of a JSON response."""

    @property
    def table(self) -> str:
        return self.segment("table")

    def segment(self, name: str) -> str:
        """Return the path segment of the parameter ``name``, unchecked (see ``last_segment``)."""
        text: str = self.request.path_params[name]
        return text

    def last_segment(self, name: str) -> str:
        """Return the last path segment, decoded; refuse one that a path cannot carry safely.

        Clients and proxies resolve ``.``, ``..`` and bare slashes as in a file path, so an id that
        contains them might reach the server as the id of another row. A client has to send such an
        id in a body.
        """
        text = self.segment(name)
        raw = self.request.scope.get("raw_path") or quote(text).encode()
        last = raw.partition(b"?")[0].rpartition(b"/")[2]
        whole = not _HALF_ENCODED.search(last) and unquote_to_bytes(last) == text.encode()
        if not whole or text in ("", ".", ".."):
            raise RequestError(
                400,
                f"the path cannot carry the {name} {text!r} safely: encode its slashes as %2F and "
                "every # and %, or name it in a body, as DELETE .../records does",
            )
        return text

    def answer_type(self, offered: Sequence[str]) -> str:
        """Return the media type of the response: the first in Accept that is also in ``offered``.

        The default is the first of ``offered``.
        """
        accept = ",".join(self.request.headers.getlist("accept")).lower() or "*/*"
        for part in accept.split(",", _MOST_RANGES)[:_MOST_RANGES]:
            wanted = part.partition(";")[0].strip()
            for kind in offered:
                if wanted in (kind, kind.partition("/")[0] + "/*", "*/*"):
                    return kind
        words = f"the answer can be {' or '.join(offered)}; Accept names none"
        raise RequestError(406, words, accepted=offered)

    # Arguments

    def query(self, model: type[Model]) -> dict[str, Any]:
        """Return the arguments of the query string. Only the model's keys are allowed."""
        given = self.request.query_params
        if len(given) < len(given.multi_items()):
            raise RequestError(422, "the query string names an argument twice; pass it once")
        return model.read(given, "the query", texts=True) if given else {}

    async def body(self, model: type[Model], kinds: Sequence[str]) -> dict[str, Any]:
        """Return the arguments in the body, which may be missing if no argument is required."""
        headers = self.request.headers
        absent = "content-type" not in headers or headers.get("content-length") == "0"
        if absent and not model.is_needed() and not await self._read(LONGEST_JSON):
            return {}
        is_arrow = self._body_type(kinds) == ARROW
        data = await (self._arrow() if is_arrow else self._read(LONGEST_JSON))

        def read() -> dict[str, Any]:
            given = _load_columns(data) if is_arrow else _load(data, "the body")
            if type(given) is not dict:
                keys = ", ".join(model.keys())
                raise InvalidArgumentError("the body", given, f"a JSON object with {keys}")
            for name in _LISTS & given.keys():
                if isinstance(given[name], list):
                    check_rows(len(given[name]), name)
            self.uses_older_names = not given.keys().isdisjoint(OLDER_NAMES.values())
            return model.read(given, "the body")

        return await hop(cost_of_body(data), read)

    async def rows(self, kinds: Sequence[str]) -> Any:
        """Return the rows of the body in a form that ``insert`` accepts."""
        kind = self._body_type(kinds)
        if kind == ARROW:
            data = await self._arrow()
            return await hop(cost_of_body(data), _load_table, data)
        if kind == JSON_LINES:
            data = await self._read()
            return await hop(cost_of_body(data), _loaded_lines, data)
        data = await self._read(LONGEST_JSON)
        rows = await hop(cost_of_body(data), _load, data, "the body")
        if type(rows) is not list:
            raise RequestError(422, "the body must be a list of records: [{...}, ...]")
        check_rows(len(rows))
        return rows

    def _body_type(self, accepted: Sequence[str]) -> str:
        """Return the media type of the body; refuse a type that is not accepted.

        A body without a type is refused: for a page of another origin, a browser sends such a body
        without a preflight request.
        """
        headers = self.request.headers
        given = headers.get("content-type", "")
        kind, _, parameters = given.partition(";")
        kind = kind.strip().lower()
        words = ""
        if kind not in accepted or not _CHARSET.fullmatch(parameters):
            words = f"the body's Content-Type is {given[:100] or 'missing'}; it has to be "
            words += f"{' or '.join(accepted)}, in UTF-8"
        elif headers.get("content-encoding", "identity").lower() != "identity":
            words = "the body must have no Content-Encoding"
        if words:
            named = {"accept": ", ".join(accepted)}
            raise RequestError(415, words, accepted=accepted, headers=named)
        return kind

    async def _read(self, most: int | None = None) -> bytearray:
        text = bytearray()
        async for data in self.request.stream():
            text += data
            if most is not None and len(text) > most:
                raise RequestError(
                    413,
                    f"a JSON body has at most {most // 2**20} MiB; send many records as "
                    f"{JSON_LINES} or {ARROW}",
                )
        return text

    async def _arrow(self) -> bytearray:
        data = await self._read()
        await arrow_ready()
        return data


def _load_table(data: bytearray) -> pa.Table:
    """Return the table in an Arrow IPC stream, after its values have been validated."""
    try:
        table = read_rows(data)
    except DamagedStreamError as exc:
        raise RequestError(400, str(exc)) from exc
    check_rows(table.num_rows)
    return table


def _load_columns(data: bytearray) -> Any:
    """Return the arguments from the schema's metadata and from the columns."""
    table = _load_table(data)
    schema, names = table.schema, table.schema.names
    # A dictionary would keep only the last of two values of a key.
    whole = schema.equals(schema.with_metadata(schema.metadata), check_metadata=True)
    if not whole or len(set(names)) < len(names):
        raise RequestError(422, "the body has an argument twice; send it once")
    text = (schema.metadata or {}).get(BODY, b"{}")
    if len(text) > LONGEST_JSON:
        raise RequestError(413, f"the metadata {BODY.decode()} {_TOO_LONG}")
    value = _load(text, "the body")
    if type(value) is not dict or not value.keys().isdisjoint(names):
        words = "has to be a JSON object without the keys that are columns"
        raise RequestError(422, f"the metadata {BODY.decode()} {words}")
    return value | dict(zip(names, table.columns, strict=True))


def _loaded_lines(text: bytearray) -> list[Any]:
    rows = []
    for number, line in enumerate(_lines_of(text), 1):
        if not line or line.isspace():
            continue
        if len(line) > LONGEST_JSON:
            raise RequestError(413, f"line {number} {_TOO_LONG}")
        row = _load(line, f"line {number}")
        if type(row) is not dict:
            raise RequestError(422, f"line {number} is not a JSON object")
        for name, value in row.items():
            # Integers stay integers, because in a payload 1 is not 1.0.
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


def _load(text: bytes | bytearray, name: str) -> Any:
    # A small text cannot hold too many values. A key has a colon and two quotes, though strings may
    # also contain them.
    if len(text) > _SMALL and (
        text.count(b"[") + text.count(b"{") > _MOST_LISTS
        or min(text.count(b":"), text.count(b'"') // 2) > _MOST_KEYS
        or text.count(b",") > _MOST_COMMAS
    ):
        raise RequestError(413, f"{name} holds too many values; send them in several requests")
    try:
        value = pydantic_core.from_json(text, allow_inf_nan=False)
    except ValueError as exc:
        raise RequestError(400, f"{name} is not JSON: {exc}") from exc
    _check_keys(text, value, name)
    # Search in parts, because a regex search blocks all threads.
    starts = range(0, len(text), _SMALL)
    if any(huge.search(text, at, at + _SMALL + 8) for huge in _HUGE for at in starts):
        json.loads(text, parse_float=_check_finite, parse_int=str, strict=False)
    return value


_WALKED = frozenset({dict, list, str})  # skips numbers, which make up most of a long body


def _check_keys(text: bytes | bytearray, value: Any, name: str) -> None:
    """Refuse JSON in which an object has a key twice.

    The parser would silently keep only the key's last value, and the last ``where`` might select
    every row. In the text, a colon follows each key. So a key is repeated if the text has more
    colons than ``value`` has keys and colons in its strings.
    """
    colons, keys = text.count(b":"), 0
    texts: list[str] = []
    waiting = [value]
    while waiting:
        item = waiting.pop()
        if type(item) is dict:
            keys += len(item)
            texts += item
            waiting += item.values()
        elif type(item) is list and not _WALKED.isdisjoint(map(type, item)):
            waiting += item
        elif type(item) is str:
            texts.append(item)
    if colons == keys:
        return
    if b"\\u003" in text:
        plain = text.replace(rb"\\", b"")  # after an escaped backslash, u003a is not an escape
        colons += plain.count(rb"\u003a") + plain.count(rb"\u003A")
    if colons == keys + "".join(texts).count(":"):
        return

    def refuse(pairs: list[tuple[str, Any]]) -> None:
        if len(dict(pairs)) < len(pairs):
            ((key, _),) = Counter(key for key, _ in pairs).most_common(1)
            words = f"{name} has the key {shown(key)} twice in one object; send it once"
            raise RequestError(422, words)

    json.loads(text, object_pairs_hook=refuse, parse_int=str, strict=False)


def _check_finite(number: str) -> None:
    """Refuse a number too large for float64, which the parser turned into infinity."""
    if math.isinf(float(number)):
        raise RequestError(422, "the body has a number that is too large for float64")
