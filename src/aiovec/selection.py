"""Which parts of a row a call returns, and how they become a record's fields."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .backend import Columns, Rows
from .errors import CorruptStoreError, InvalidNameError
from .records import Record
from .schema import Schema

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

_PAYLOAD = "payload"


@dataclass(frozen=True, slots=True)
class Selection:
    """What the backend reads (``columns``) and what of it the user gets.

    ``keys`` are the payload's keys that are wanted, None for all of them.
    """

    columns: Columns
    vector_name: str
    keys: frozenset[str] | None = None
    shows_vector: bool = False

    @classmethod
    def everything(cls, schema: Schema) -> Selection:
        columns = Columns(tuple(schema.fields), payload=schema.payload, vector=True)
        return cls(columns, schema.vector, shows_vector=True)

    def fields_of(self, rows: Rows, i: int) -> dict[str, Any]:
        """One row's fields, flat. A declared field wins over a payload's key of the same name."""
        fields = {name: values[i] for name, values in rows.fields.items()}
        text = rows.payloads[i] if rows.payloads is not None else None
        if text is None:
            return fields
        try:
            payload = dict(json.loads(text))
        except (ValueError, TypeError) as exc:
            raise CorruptStoreError(
                f"row {rows.ids[i]!r}", "its payload is no JSON object; restore it from a backup"
            ) from exc
        if self.keys is not None:
            payload = {key: value for key, value in payload.items() if key in self.keys}
        return {**fields, **payload, **fields}

    def vector_of(self, rows: Rows, i: int) -> npt.NDArray[np.float32] | None:
        return rows.vectors[i] if self.shows_vector and rows.vectors is not None else None

    def records(self, rows: Rows) -> list[Record]:
        return [
            Record(id, self.vector_of(rows, i), self.fields_of(rows, i), self.vector_name)
            for i, id in enumerate(rows.ids)
        ]


def select_columns(
    schema: Schema,
    select: Iterable[str] | None,
    *,
    include_vector: bool = False,
    needs_vector: bool = False,
    whole_payload: bool = False,
) -> Selection:
    """The selection for ``select``: fields, the vector's name, "payload" or "payload.<key>".

    None selects every field and the payload. ``needs_vector`` reads the vector for the caller's
    own use; ``whole_payload`` allows no single keys.
    """
    if select is None:
        columns = Columns(
            tuple(schema.fields), payload=schema.payload, vector=include_vector or needs_vector
        )
        return Selection(columns, schema.vector, shows_vector=include_vector)
    if isinstance(select, str):
        select = [select]
    fields: list[str] = []
    keys: set[str] = set()
    payload = False
    vector = include_vector
    for name in select:
        if not isinstance(name, str):
            raise _unknown(name, schema, whole_payload)
        if name in schema.fields:
            fields.append(name)
        elif name == schema.vector:
            vector = True
        elif name == _PAYLOAD and schema.payload:
            payload = True
        elif name.startswith(f"{_PAYLOAD}.") and schema.payload and not whole_payload:
            keys.add(name.partition(".")[2])
        elif name != "id":
            raise _unknown(name, schema, whole_payload)
    columns = Columns(
        tuple(dict.fromkeys(fields)),
        payload=payload or bool(keys),
        vector=vector or needs_vector,
    )
    wanted = None if payload or not keys else frozenset(keys)
    return Selection(columns, schema.vector, wanted, shows_vector=vector)


def _unknown(name: object, schema: Schema, whole_payload: bool) -> InvalidNameError:
    able = ["id", schema.vector, *schema.fields]
    if schema.payload:
        able.append(_PAYLOAD if whole_payload else "payload, payload.<key>")
    return InvalidNameError(name, "selected column", f"there are {', '.join(able)}")
