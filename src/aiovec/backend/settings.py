"""Base class and value types of the sections of the TOML file."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import timedelta
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, WithJsonSchema

from .._model.redaction import shown_value

ACCEPTED = "x-accepted"
"""In the JSON Schema of a text with a pattern: the words for what the pattern accepts."""


class Quiet(BaseModel):
    """Settings may hold secrets, which neither ``repr`` nor an error of pydantic may show."""

    model_config = ConfigDict(frozen=True, hide_input_in_errors=True)

    def __repr_args__(self) -> Iterator[tuple[str | None, Any]]:
        for name, value in super().__repr_args__():
            yield name, shown_value(name or "", value)


class Section(Quiet):
    """A section in which every key is known."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class BackendSettings(Section):
    """The section ``[retrieval.<name>]`` of a backend; each key has a default.

    The docstring of a subclass and the descriptions of its fields are what a reader of the JSON
    schema sees.
    """


class AnySettings(BackendSettings):
    """The section of a backend whose package describes no keys; values are kept as they are."""

    model_config = ConfigDict(extra="allow")


_MEMORY = re.compile(r"^(auto|[0-9]+ ?([KMG]i?B)?)$")
_A_SIZE = "'auto' or a size such as '512 MiB'"
_UNITS = {"": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}


def _memory(text: str) -> str:
    if not _MEMORY.match(text):
        raise ValueError(f"must be {_A_SIZE}")
    return text


MemorySize = Annotated[
    str,
    AfterValidator(_memory),
    WithJsonSchema({"type": "string", "pattern": _MEMORY.pattern, ACCEPTED: _A_SIZE}),
]
"""``"auto"`` or a size, as in "512 MiB"."""


def bytes_of(size: str) -> int | None:
    """Return a ``MemorySize`` in bytes; None for "auto"."""
    if size == "auto":
        return None
    digits = size.rstrip("KMGiB ")
    return int(digits) * _UNITS[size[len(digits) :].strip()]


_DURATION = re.compile(r"^[0-9]+ (second|minute|hour|day)s?$")
_A_TIME = "a time such as '30 minutes' or '1 day'"


def _duration(text: str) -> str:
    if not _DURATION.match(text):
        raise ValueError(f"must be {_A_TIME}")
    return text


Duration = Annotated[
    str,
    AfterValidator(_duration),
    WithJsonSchema({"type": "string", "pattern": _DURATION.pattern, ACCEPTED: _A_TIME}),
]
"""A time, as in "30 minutes" or "1 day"."""


def timedelta_of(duration: str) -> timedelta:
    """Return a ``Duration`` as a timedelta."""
    number, unit = duration.split()
    return timedelta(**{unit.rstrip("s") + "s": int(number)})
