"""The rows' undeclared keys: checked, and as JSON text."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from .._core.schema import Schema
from ..errors import InvalidRowError
from .columns import Place, encodable, text_array

_INT64 = range(-(2**63), 2**63)
_DEEPEST = 100


def payload_column(
    extra: Sequence[Mapping[str, Any] | None], schema: Schema, place: Place
) -> pa.Array | None:
    """The rows' undeclared keys as JSON text; None where there are none at all."""
    texts: list[str | None] = []
    for row, keys in enumerate(extra):
        if not keys:
            texts.append(None)
            continue
        number, id = place(row)
        if not schema.payload:
            raise InvalidRowError(
                "the table keeps only declared fields (payload=False)",
                row=number, id=id, field=str(next(iter(keys))),
            )  # fmt: skip
        for key, value in keys.items():
            _check_json(key, value, number, id)
        texts.append(json_text(keys))
    if not any(texts):
        return None
    return text_array("payload", texts, place)


def json_text(value: Mapping[str, Any]) -> str:
    """JSON as it is stored: compact, in Unicode as it is, keys in their order."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)


_JSON_PLAIN = frozenset((str, bool, type(None)))


def _check_json(key: Any, value: Any, row: int | None, id: str | None) -> None:
    """Refuse what JSON cannot carry there and back unchanged."""

    def refuse(reason: str) -> InvalidRowError:
        return InvalidRowError(reason, row=row, id=id, field=str(key))

    if not isinstance(key, str):
        raise refuse(f"a key is text, not {type(key).__name__}")
    encodable(key, lambda: refuse("the key is not valid Unicode"))
    waiting: list[tuple[Any, int]] = [(value, 0)]
    while waiting:
        item, depth = waiting.pop()
        kind = type(item)
        if kind is str:
            encodable(item, lambda: refuse("the text is not valid Unicode (a lone surrogate)"))
        elif kind in _JSON_PLAIN:
            continue
        elif kind is int:
            if item not in _INT64:
                raise refuse("an integer is beyond 64 bits")
        elif kind is float:
            if not math.isfinite(item):
                raise refuse("NaN and infinity are not JSON")
        elif depth > _DEEPEST:
            raise refuse(f"is nested deeper than {_DEEPEST} levels")
        elif kind is list:
            waiting.extend((part, depth + 1) for part in item)
        elif kind is dict:
            for name, part in item.items():
                if type(name) is not str:
                    raise refuse(f"a key is text, not {type(name).__name__}")
                waiting.append((name, depth))
                waiting.append((part, depth + 1))
        else:
            raise refuse(
                f"{kind.__name__} is not JSON (text, numbers, booleans, None, lists, dicts); "
                "declare a field for it, or convert it"
            )


def arrow_payload(column: pa.Array, schema: Schema, place: Place) -> pa.Array:
    """A payload column of ``arrow_data.plain``: JSON text, an object for each row, or null."""
    if not (pa.types.is_string(column.type) or pa.types.is_null(column.type)):
        raise InvalidRowError(
            f"the payload column is JSON text, not {column.type}", row=place(0)[0], field="payload"
        )
    if column.null_count == len(column):
        return pa.nulls(len(column), pa.utf8())
    texts: list[str | None] = []
    for row, text in enumerate(column.to_pylist()):
        number, id = place(row)
        if text is None:
            texts.append(None)
            continue
        try:
            value = json.loads(text)
        except (ValueError, RecursionError) as exc:
            raise InvalidRowError(f"is no JSON: {exc}", row=number, id=id, field="payload") from exc
        if not isinstance(value, dict):
            raise InvalidRowError(
                "the payload is a JSON object", row=number, id=id, field="payload"
            )
        if value and not schema.payload:
            raise InvalidRowError(
                "the table keeps only declared fields (payload=False)",
                row=number, id=id, field="payload",
            )  # fmt: skip
        for key, part in value.items():
            if key in ("id", schema.vector):
                raise InvalidRowError(
                    f"the key {key!r} is the row's own", row=number, id=id, field="payload"
                )
            _check_json(key, part, number, id)
        texts.append(json_text(value) if value else None)
    return pa.array(texts, type=pa.utf8())
