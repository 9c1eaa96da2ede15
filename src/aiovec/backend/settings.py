"""Base class and value types of the sections of the TOML file."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, ClassVar, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, WithJsonSchema

from .._model.redaction import shown_value


class Section(BaseModel):
    """A section in which every key must be known. It may hold secrets, so its repr shows no
    values.

    ``former`` has keys of earlier versions, each with what to write in its place.

    Validators are built at the first validation: most processes validate no section, or only one.
    """

    model_config = ConfigDict(
        frozen=True, hide_input_in_errors=True, extra="forbid", allow_inf_nan=False,
        defer_build=True,
    )  # fmt: skip
    former: ClassVar[Mapping[str, str]] = {}

    @classmethod
    def defaults(cls, **checked: Any) -> Self:
        """Return the section with all defaults but for keys with ``checked`` values.

        For these no validator needs to be built, which is slow and reads the disk.
        """
        return cls.model_construct(**checked)

    def __repr_args__(self) -> Iterator[tuple[str | None, Any]]:
        for name, value in super().__repr_args__():
            yield name, shown_value(name or "", value)


class BackendSettings(Section):
    """The section ``[retrieval.<name>]`` of a backend; each key has a default."""


class AnySettings(BackendSettings):
    """The section of a backend whose package declares no keys; values are kept unchanged."""

    model_config = ConfigDict(extra="allow")


_MEMORY = re.compile(r"^(auto|[0-9]+ ?([KMG]i?B)?)$")
_UNITS = {"": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}


def matching(pattern: re.Pattern[str], accepted: str) -> AfterValidator:
    """Return a validator of texts; ``accepted`` describes the pattern for readers."""

    def check(text: str) -> str:
        if not pattern.match(text):
            raise ValueError(accepted)
        return text

    return AfterValidator(check)


MemorySize = Annotated[
    str,
    matching(_MEMORY, "'auto' or a size such as '512 MiB'"),
    WithJsonSchema({"type": "string", "pattern": _MEMORY.pattern}),
]
"""``"auto"`` or a size, as in "512 MiB"."""


def parsed_size(size: str) -> int | None:
    """Return a ``MemorySize`` in bytes; None for "auto"."""
    if size == "auto":
        return None
    digits = size.rstrip("KMGiB ")
    return int(digits) * _UNITS[size[len(digits) :].strip()]
