"""Bodies of the calls between the remote backend and a server.

A body is one ``Message``: facts, which are JSON, and rows where the call has some. Without rows it
is JSON, with rows an Arrow IPC stream whose schema carries the facts in its metadata. A fact that
is a long list follows the others in lines of its own, each a part of it. Both sides
read a body as data from a stranger: ``unpack`` gives arrays that Arrow has validated in full, and
``stored_rows`` and ``found_rows`` give what fits the schema and nothing else.

Blocking, and for large bodies slow enough to need a thread. Brings pyarrow.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import chain
from typing import Any

import numpy as np
import pyarrow as pa

from .._model.arrays import Float32Array
from .._model.arrow import check_table, one_array, payload_texts, python_values, to_matrix
from .._model.schema import Schema
from ..backend.contract import Columns, Found, StoredRows
from ..errors import AiovecError
from .ipc import DamagedStreamError, read_stream

PROTOCOL = "1"
"""The version of the calls. A server answers the clients of its own version alone."""

PROTOCOL_HEADER = "Aiovec-Protocol"
STORE_HEADER = "Aiovec-Store"
"""Of every answer: changes when the server has come to serve another store."""

ARROW = "application/vnd.apache.arrow.stream"
JSON = "application/json"

_FACTS = b"aiovec.facts"
# Ends an Arrow IPC stream.
_END = b"\xff\xff\xff\xff\0\0\0\0"
_TIME = "$time"
_PAYLOAD = "payload"
# No field has such a name.
_MEASURE, _HIGHLIGHTS = "#measure", "#highlights"
# Items of a list that are read or written at once. A parser of JSON holds up every other thread,
# and so the event loop, while it runs. So many ids, whatever stands in them, are never too much.
_ITEMS = 250
_CHARACTERS = 2**20
# Bytes of a line that a server takes, and the lists, objects and commas in it.
_LONGEST_LINE, _MOST_MARKS = 8 * 2**20, 400_000

Body = bytes | bytearray | memoryview


class WireError(Exception):
    """A body that is no message, or does not fit what was asked. Never reaches a user."""

    status = 400


class TooLargeToReadError(WireError):
    """A body with a value that a parser would take long for."""

    status = 413


@dataclass(frozen=True, slots=True)
class Message:
    """The content of a call or an answer. ``rows`` is None where it has none."""

    facts: Mapping[str, Any] = field(default_factory=dict)
    rows: pa.Table | None = None


def pack(message: Message) -> tuple[str, memoryview]:
    """Return the content type and the bytes of a message."""
    facts = b"\n".join(map(json_bytes, _lines_of(message.facts)))
    if message.rows is None:
        return JSON, memoryview(facts)
    rows = message.rows
    schema = rows.schema.with_metadata({_FACTS: facts})
    # As a stream's writer would, at half its cost for the few rows of most answers.
    parts = [schema.serialize(), *(batch.serialize() for batch in rows.to_batches()), _END]
    return ARROW, memoryview(b"".join(parts))


def unpack(content_type: str, data: Body, *, bounded: bool = False) -> Message:
    """Return the message of a body, or raise WireError. Its rows are sound, but may be any.

    With ``bounded``, facts that a parser would take long for are refused.
    """
    kind = content_type.partition(";")[0].strip().lower()
    if kind == JSON:
        return Message(_facts_of(data, bounded))
    if kind != ARROW:
        raise WireError(f"a body of the type {content_type!r:.80} is neither {JSON} nor {ARROW}")
    try:
        rows = read_stream(data)
        check_table(rows)
    except (DamagedStreamError, AiovecError) as exc:
        raise WireError(str(exc)) from exc
    metadata = rows.schema.metadata or {}
    return Message(
        _facts_of(metadata.get(_FACTS, b"{}"), bounded), rows.replace_schema_metadata(None)
    )


# JSON that also has moments


def json_bytes(value: object) -> bytes:
    """Return a value as JSON; a datetime becomes an object with the one key ``$time``."""
    return _ENCODER.encode(value).encode()


def _tagged(value: object) -> object:
    if isinstance(value, datetime):
        return {_TIME: value.astimezone(UTC).isoformat()}
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, (set, frozenset)):
        return sorted(value)
    return str(value)


def _untagged(value: dict[str, Any]) -> object:
    if len(value) == 1 and isinstance(text := value.get(_TIME), str):
        moment = datetime.fromisoformat(text)
        if moment.tzinfo is None:
            raise ValueError("a time without a zone")
        return moment
    return value


# ``json.dumps`` and ``json.loads`` would make one for each call.
_ENCODER = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), default=_tagged)
_DECODER = json.JSONDecoder(object_hook=_untagged)


def _lines_of(facts: Mapping[str, Any]) -> Iterator[object]:
    """Yield the facts, and behind them each part of a long list with its name."""
    long = {name: fact for name, fact in facts.items() if _is_long(fact)}
    yield {name: [] if name in long else fact for name, fact in facts.items()}
    for name, fact in long.items():
        for part in _parts_of(fact):
            yield [name, part]


def _is_long(fact: object) -> bool:
    return isinstance(fact, list) and (len(fact) > _ITEMS or sum(map(_size, fact)) > _CHARACTERS)


def _parts_of(items: list[Any]) -> Iterator[list[Any]]:
    part: list[Any] = []
    size = 0
    for item in items:
        part.append(item)
        size += _size(item)
        if len(part) == _ITEMS or size > _CHARACTERS:
            yield part
            part, size = [], 0
    if part:
        yield part


def _size(item: Any) -> int:
    """Return the characters of a text, such as a filter of many ids, or of those in a dict."""
    if isinstance(item, dict):
        return sum(map(_size, item.values()))
    return len(item) if isinstance(item, str) else 0


def _facts_of(data: Body, bounded: bool) -> dict[str, Any]:
    lines = _split(bytes(data))
    facts = _json_of(next(lines), bounded)
    if type(facts) is not dict:
        raise WireError("the JSON is no object")
    for line in lines:
        part = _json_of(line, bounded)
        match part:
            case [str(name), list(items)] if isinstance(known := facts.get(name), list):
                known += items
            case _:
                raise WireError("a part of a list belongs to none")
    return facts


def _split(data: bytes) -> Iterator[bytes]:
    """Yield the lines. The next is looked for when the last was sound: there may be millions."""
    start = 0
    while (end := data.find(b"\n", start)) >= 0:
        yield data[start:end]
        start = end + 1
    yield data[start:]


def _json_of(line: bytes, bounded: bool) -> Any:
    try:
        if bounded and (
            len(line) > _LONGEST_LINE or sum(map(line.count, (b"[", b"{", b","))) > _MOST_MARKS
        ):
            raise TooLargeToReadError(
                "the call holds a text, or a list of a row's values, that is too large to be read "
                "at once; insert and upsert take it"
            )
        text = line.decode()
        found = _DECODER.decode(text)
        if "\\ud" in text.lower():  # an escape may be half of a character, which no text may have
            json_bytes(found)
    except (ValueError, RecursionError, OverflowError) as exc:
        raise WireError(f"the JSON cannot be read: {exc}"[:200]) from exc
    return found


# Rows of answers


def table_of_rows(stored: StoredRows, schema: Schema) -> pa.Table:
    """Return rows of a table of this schema as Arrow: id, fields, payload and vector."""
    return _table(_columns_of(stored, schema))


def _table(columns: Mapping[str, pa.Array]) -> pa.Table:
    return pa.Table.from_arrays(list(columns.values()), list(columns))


def _columns_of(stored: StoredRows, schema: Schema) -> dict[str, pa.Array]:
    columns: dict[str, Any] = {"id": pa.array(stored.ids, pa.utf8())}
    for name, values in stored.fields.items():
        columns[name] = pa.array(values, schema.fields[name].arrow_type(), from_pandas=False)
    if stored.payloads is not None:
        columns[_PAYLOAD] = pa.array(stored.payloads, pa.utf8())
    if stored.vectors is not None:
        columns[schema.vector] = matrix_column(stored.vectors)
    return columns


def matrix_column(matrix: Float32Array) -> pa.FixedSizeListArray:
    """A matrix as it is, with NaN where a row has no vector."""
    flat = pa.array(np.ascontiguousarray(matrix, np.float32).reshape(-1), pa.float32())
    return pa.FixedSizeListArray.from_arrays(flat, matrix.shape[1])


def stored_rows(rows: pa.Table | None, schema: Schema, columns: Columns) -> StoredRows:
    """Return the rows of an answer, or raise WireError where there are none."""
    if rows is None:
        raise WireError("rows were asked for, and there are none")
    return StoredRows(
        one_array(rows.column("id")).to_pylist(),
        {name: python_values(one_array(rows.column(name))) for name in columns.fields},
        payload_texts(one_array(rows.column(_PAYLOAD))) if columns.payload else None,
        to_matrix(one_array(rows.column(schema.vector))) if columns.vector else None,
    )


def table_of_found(found: Sequence[Found], schema: Schema) -> Message:
    """Return the answers of many queries, which asked for the same columns, as one message."""
    if not found:
        return Message({"counts": []})
    joined = found[0].rows if len(found) == 1 else _joined(found)
    table = _columns_of(joined, schema)
    measures = found[0].measures
    if len(found) > 1:
        measures = list(chain.from_iterable(one.measures for one in found))
    table[_MEASURE] = pa.array(measures, pa.float64())
    if found[0].highlights is not None:
        marked = chain.from_iterable(one.highlights or () for one in found)
        texts = [json.dumps(dict(each), ensure_ascii=False) for each in marked]
        table[_HIGHLIGHTS] = pa.array(texts, pa.utf8())
    return Message({"counts": [len(one.rows.ids) for one in found]}, _table(table))


def _joined(found: Sequence[Found]) -> StoredRows:
    """Return the rows of many answers one after another."""
    first = found[0].rows
    vectors = [one.rows.vectors for one in found if one.rows.vectors is not None]
    return StoredRows(
        list(chain.from_iterable(one.rows.ids for one in found)),
        {
            name: list(chain.from_iterable(one.rows.fields[name] for one in found))
            for name in first.fields
        },
        None
        if first.payloads is None
        else list(chain.from_iterable(one.rows.payloads or () for one in found)),
        np.concatenate(vectors) if vectors else None,
    )


def found_rows(message: Message, schema: Schema, columns: Columns, queries: int) -> list[Found]:
    """Return the answers to so many queries for these columns, or raise WireError.

    Each may have more rows than were asked for, as of any search where distances are equal.
    """
    counts, rows = message.facts["counts"], message.rows
    if len(counts) != queries or rows is None or sum(counts) != rows.num_rows:
        raise WireError(f"the numbers of hits do not fit {queries} queries")
    stored = stored_rows(rows, schema, columns)
    measures = one_array(rows.column(_MEASURE)).to_pylist()
    marked = None
    if _HIGHLIGHTS in rows.schema.names:
        marked = list(map(json.loads, one_array(rows.column(_HIGHLIGHTS)).to_pylist()))
    if queries == 1:
        return [Found(stored, measures, marked)]
    found, start = [], 0
    for count in counts:
        part = slice(start, start + count)
        found.append(
            Found(_part(stored, part), measures[part], None if marked is None else marked[part])
        )
        start += count
    return found


def _part(rows: StoredRows, part: slice) -> StoredRows:
    return StoredRows(
        rows.ids[part],
        {name: values[part] for name, values in rows.fields.items()},
        None if rows.payloads is None else rows.payloads[part],
        None if rows.vectors is None else rows.vectors[part],
    )


# An export: frames in one stream


def exported_batch(
    message: Message, schema: Schema, columns: Columns
) -> tuple[pa.RecordBatch, bytes]:
    """Return a batch that was asked for and its cursor, or raise WireError."""
    rows, layout = message.rows, schema.to_arrow()
    if rows is None:
        raise WireError("a batch has no rows")
    wanted = {"id", *columns.fields}
    wanted |= {_PAYLOAD} if columns.payload else set()
    wanted |= {schema.vector} if columns.vector else set()
    kept = [field for field in layout if field.name in wanted]
    batch = pa.RecordBatch.from_arrays(
        [one_array(rows.column(field.name)) for field in kept],
        schema=pa.schema(kept, metadata=layout.metadata),
    )
    return batch, bytes.fromhex(message.facts["cursor"])


FRAME_HEAD = 9
"""Bytes in front of each frame: its kind, and its length as a big-endian number."""

BATCH_FRAME, END_FRAME, FAILED_FRAME = 1, 2, 3


def frame(kind: int, length: int) -> bytes:
    """Return the head of a frame."""
    return bytes((kind,)) + length.to_bytes(FRAME_HEAD - 1, "big")


def frame_of(head: Body) -> tuple[int, int]:
    """Return the kind and the length that the head of a frame says, or raise WireError."""
    kind, length = head[0], int.from_bytes(bytes(head[1:FRAME_HEAD]), "big")
    if kind not in (BATCH_FRAME, END_FRAME, FAILED_FRAME):
        raise WireError("a part of the export begins with unknown bytes")
    return kind, length
