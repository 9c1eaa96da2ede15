"""Checks of arguments that several methods share."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Mapping
from typing import Any

import numpy as np

from ..backend.contract import TableHandle, Tuning
from ..errors import InvalidArgumentError, ModelMismatchError

# Maximum seconds for which a user's iterable is read without a pause.
_LONGEST_READ = 0.002


def count_of(argument: str, value: object, *, least: int = 1) -> int:
    """Return a number of rows as an int, or raise InvalidArgumentError.

    A number above 2**53, more rows than any table has, becomes 2**53: backends count in 64 bits.
    """
    return min(whole_number(argument, value, least=least), 2**53)


def whole_number(argument: str, value: object, *, least: int) -> int:
    """Return a Python or NumPy integer as an int, or raise InvalidArgumentError."""
    count = int(value) if isinstance(value, np.integer) else value
    if isinstance(count, bool) or not isinstance(count, int) or count < least:
        raise InvalidArgumentError(argument, count, f"a whole number of at least {least}")
    return count


def check_words(argument: str, value: object) -> None:
    """Raise InvalidArgumentError for text with a lone surrogate, which cannot be stored or sent."""
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError as exc:
            raise InvalidArgumentError(argument, value, "text in valid Unicode") from exc


def check_flag(argument: str, value: object) -> bool:
    """Return the value as a bool, or raise InvalidArgumentError if it has no truth value."""
    try:
        return bool(value)
    except (TypeError, ValueError) as exc:
        raise InvalidArgumentError(argument, value, "True or False") from exc


def is_iterable(value: object) -> bool:
    """Return whether an object can be iterated; a zero-dimensional array cannot."""
    return isinstance(value, Iterable) and getattr(value, "shape", None) != ()


async def read_all(items: Iterable[Any] | AsyncIterable[Any]) -> list[Any]:
    """Return all items of a user's iterable, read once.

    The iterable runs on the event loop, as its author expects, with pauses for other tasks.
    """
    collected = []
    until = time.monotonic() + _LONGEST_READ
    async for item in items if isinstance(items, AsyncIterable) else _each(items):
        collected.append(item)
        if time.monotonic() > until:
            await asyncio.sleep(0)
            until = time.monotonic() + _LONGEST_READ
    return collected


async def _each(items: Iterable[Any]) -> AsyncIterator[Any]:
    for item in items:
        yield item


def check_tuning(tuning: Tuning, dim: int) -> None:
    """Check the tuning of an approximate search on vectors of this length."""
    for name in ("nprobes", "ef", "refine", "dims"):
        count = getattr(tuning, name)
        if count is not None and count_of(f"tuning.{name}", count) > dim and name == "dims":
            raise InvalidArgumentError("tuning.dims", count, f"a whole number from 1 to {dim}")
    if not isinstance(tuning.others, Mapping):
        raise InvalidArgumentError("tuning.others", tuning.others, "a mapping of names to values")
    measure, oversample = tuning.measure, tuning.oversample
    if not (measure is None or isinstance(measure, bool)):
        raise InvalidArgumentError("tuning.measure", measure, "True or False")
    is_number = isinstance(oversample, (int, float)) and not isinstance(oversample, bool)
    if oversample is not None and not (is_number and 1 <= oversample < math.inf):
        raise InvalidArgumentError("tuning.oversample", oversample, "a number of at least 1")


def check_model(handle: TableHandle, model: str | None) -> None:
    """Raise ModelMismatchError if both the call and the table name a model, and they differ."""
    expected = handle.schema.model
    if model is not None and expected is not None and model != expected:
        raise ModelMismatchError(handle.name, expected, model)
