"""The checks of ``insert`` as a pure function, for what loads rows beside a store.

It has no store and no event loop, so it also runs in the workers of another engine.
"""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from .._input.rows import to_batch
from .._model.schema import Schema


def prepare(batch: Any, schema: Schema) -> pa.Table:
    """Return rows, checked as ``insert`` checks them, in the layout of ``schema.to_arrow()``.

    ``batch`` is Arrow data, a frame, a list of mappings or records, or a mapping of columns. Every
    row needs an id, and a vector unless the schema lets it be missing; no embedder is called.
    Raises InvalidRowError, InvalidVectorError or DimensionMismatchError with the row's number. An
    id may occur twice.
    """
    return to_batch(batch, schema).table
