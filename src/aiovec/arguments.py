"""Checks of arguments that several methods share."""

from __future__ import annotations

import math
from typing import TypeVar

from .backend import Backend, TableHandle, Tuning
from .errors import InvalidArgumentError, ModelMismatchError, UnsupportedError
from .schema import Schema

_T = TypeVar("_T")


def check_count(argument: str, value: object, *, least: int = 1) -> None:
    """A whole number of at least ``least``, or InvalidArgumentError."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise InvalidArgumentError(argument, value, f"a whole number of at least {least}")


def check_tuning(tuning: Tuning, dim: int) -> None:
    """What an approximate search may be told on vectors of this length."""
    for name in ("nprobes", "ef", "refine"):
        effort = getattr(tuning, name)
        if effort is not None:
            check_count(f"tuning.{name}", effort)
    recall = tuning.recall
    if recall is not None and (
        isinstance(recall, bool) or not isinstance(recall, (int, float)) or not 0 < recall <= 1
    ):
        raise InvalidArgumentError("tuning.recall", recall, "a number above 0 and up to 1")
    dims, oversample = tuning.dims, tuning.oversample
    if dims is not None and (
        isinstance(dims, bool) or not isinstance(dims, int) or not 1 <= dims <= dim
    ):
        raise InvalidArgumentError("tuning.dims", dims, f"a whole number from 1 to {dim}")
    if oversample is not None and (
        isinstance(oversample, bool)
        or not isinstance(oversample, (int, float))
        or not 1 <= oversample < math.inf
    ):
        raise InvalidArgumentError("tuning.oversample", oversample, "a number of at least 1")


def check_model(handle: TableHandle, model: str | None) -> None:
    """No vectors of one model for a table of another; a table without a model takes any."""
    expected = handle.schema.model
    if model is not None and expected is not None and model != expected:
        raise ModelMismatchError(handle.name, expected, model)


def order_field(schema: Schema, order_by: str | None) -> str:
    """The field to order by, "id" where none is named."""
    if order_by is None or order_by == "id":
        return "id"
    able = [name for name, field in schema.fields.items() if field.kind != "list[text]"]
    if order_by not in able:
        raise InvalidArgumentError("order_by", order_by, "one of " + ", ".join(["id", *able]))
    return order_by


def ability_of(backend: Backend, interface: type[_T], ability: str) -> _T:
    """The backend as what has this ability, or UnsupportedError."""
    if not isinstance(backend, interface):
        raise UnsupportedError(ability, backend.name)
    return backend
