"""Estimates of the cost of work, to decide whether it is short enough for the event loop."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from datetime import date
from enum import Enum
from itertools import chain, islice
from typing import Any
from uuid import UUID

import numpy as np

from .._model.records import Hit, Record
from .._model.schema import Schema
from .._tools.lazy_arrow import is_array, is_table
from .rows import Batch
from .threads import INLINE_LIMIT, arrow_is_ready

# How many numbers in an array, and how many bytes of text or Arrow buffers, cost as much as one
# value; and the cost of a column without rows.
_NUMBERS, _BYTES, _COLUMN = 16, 128, 40
# Longer lists are sampled, every 17th item; a prime step avoids aliasing with periodic data.
_FEW, _STEP = 64, 17
_SINGLE = frozenset((int, float, bool, type(None)))
_NUMERIC = frozenset((int, float))


def cost_of(*things: Any) -> int:
    """Return an estimate of the number of Python values that these objects hold in total.

    Counting stops beyond ``INLINE_LIMIT``. An object of an unknown class may hold anything, so it
    costs more than the limit.
    """
    total = 0
    waiting = list(things)
    while waiting and total <= INLINE_LIMIT:
        item = waiting.pop()
        total += 1
        if type(item) in _SINGLE:
            continue
        if isinstance(item, (str, bytes, bytearray)):
            total += len(item) // _BYTES
        elif isinstance(item, (list, tuple)):
            # Long lists are sampled: reading all of a vector takes as long as packing it.
            sample = item if len(item) <= _FEW else item[::_STEP]
            if len(item) <= _NUMBERS * INLINE_LIMIT and _NUMERIC.issuperset(map(type, sample)):
                total += len(item) // _NUMBERS
            else:
                total += len(item)
                waiting += item[:INLINE_LIMIT]
        elif isinstance(item, np.ndarray) and item.dtype != object:
            total += item.size // _NUMBERS
        elif isinstance(item, (Record, Hit)):
            waiting += (item.vector, item.fields)
        elif isinstance(item, Mapping):
            total += len(item)
            waiting += islice(chain.from_iterable(item.items()), INLINE_LIMIT)
        elif isinstance(item, Batch):
            total += len(item.ids) * (4 + len(item.fields))
            waiting += (item.payloads, item.vectors)
        elif is_array(item) and arrow_is_ready.is_set():
            total += len(item) + item.get_total_buffer_size() // _BYTES
        elif is_table(item):
            # The buffers may be damaged, so only the sizes of rows and buffers are read.
            total += (item.num_rows + _COLUMN) * item.num_columns
            total += item.get_total_buffer_size() // _BYTES
        elif isinstance(item, Schema):
            total += _COLUMN * len(item.fields)
        elif isinstance(item, (np.generic, Enum, date, UUID)):
            continue
        elif is_dataclass(item) and not isinstance(item, type):
            waiting += (getattr(item, field.name) for field in fields(item))
        else:
            total += INLINE_LIMIT
    return total


def cost_of_text(text: object, levels: int = 2) -> int:
    """Return the cost of a filter, or of the words of a search.

    Lists within lists are examined to a depth of ``levels``: two for a list of filters that are
    lists of conditions. Counting stops beyond ``INLINE_LIMIT``, since a list may contain itself.
    """
    if text is None:
        return 0
    if isinstance(text, (list, tuple)) and levels:
        total = 0
        for item in text:
            if total > INLINE_LIMIT:
                break
            total += 1 + cost_of_text(item, levels - 1)
        return total
    # Parsing a text is slower than copying it.
    return len(text) // 2 if isinstance(text, str) else cost_of(text)
