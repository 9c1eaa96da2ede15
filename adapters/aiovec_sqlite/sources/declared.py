"""What a virtual table of sqlite-vec declares, read from the statement that made it."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Literal

ElementType = Literal["float32", "int8", "bit"]

_MADE_BY = re.compile(
    r"^\s*CREATE\s+VIRTUAL\s+TABLE\s+.*?\bUSING\s+[\"'`\[]?(\w+)[\"'`\]]?\s*\((.*)\)\s*;?\s*$",
    re.IGNORECASE | re.DOTALL,
)
_OPTION = re.compile(r"^\s*(\w+)\s*=", re.DOTALL)
_VECTOR = re.compile(
    r"^\s*(\w+)\s+(float|f32|int8|i8|bit)\s*\[\s*(\d+)\s*\](.*)$", re.IGNORECASE | re.DOTALL
)
_METRIC = re.compile(r"distance_metric\s*=\s*(\w+)", re.IGNORECASE)
_PLAIN = re.compile(
    r"^\s*(\+?)\s*(\w+)\s+(\w+)(?:\s+(partition\s+key|primary\s+key))?\s*$",
    re.IGNORECASE | re.DOTALL,
)
_ELEMENTS: dict[str, ElementType] = {
    "float": "float32", "f32": "float32", "int8": "int8", "i8": "int8", "bit": "bit",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class VectorColumn:
    name: str
    element: ElementType
    dim: int
    metric: str


@dataclass(frozen=True, slots=True)
class PlainColumn:
    """A metadata, partition or auxiliary column; its type in lower case."""

    name: str
    type: str
    is_partition: bool = False


@dataclass(frozen=True, slots=True)
class Vec0:
    """A vec0 table. ``key`` is its primary key's name, rowid where it declares none."""

    vectors: tuple[VectorColumn, ...]
    columns: tuple[PlainColumn, ...]
    key: str = field(default="rowid")


def module_of(sql: str | None) -> str | None:
    """The name of the module that a virtual table uses, in lower case."""
    made = _MADE_BY.match(sql or "")
    return made[1].lower() if made else None


def vec0_of(sql: str) -> Vec0 | None:
    """The columns that a statement with vec0 declares; None where they cannot be read."""
    made = _MADE_BY.match(sql)
    if made is None:
        return None
    vectors: list[VectorColumn] = []
    columns: list[PlainColumn] = []
    key = "rowid"
    for argument in _arguments(made[2]):
        vector = _VECTOR.match(argument)
        if vector is not None:
            metric = _METRIC.search(vector[4])
            vectors.append(
                VectorColumn(
                    vector[1], _ELEMENTS[vector[2].lower()], int(vector[3]),
                    metric[1].lower() if metric else "l2",
                )
            )  # fmt: skip
            continue
        if _OPTION.match(argument):
            continue
        plain = _PLAIN.match(argument)
        if plain is None:
            return None
        role = (plain[4] or "").lower()
        if role.startswith("primary"):
            key = plain[2]
        else:
            columns.append(
                PlainColumn(plain[2], plain[3].lower(), is_partition=role.startswith("partition"))
            )
    return Vec0(tuple(vectors), tuple(columns), key)


def _arguments(text: str) -> list[str]:
    """The arguments between the parentheses. vec0 takes no quotes in them."""
    text = re.sub(r"--[^\n]*", "", text)
    text = re.sub(r"/\*.*?\*/", "", text, flags=re.DOTALL)
    return [part.strip() for part in text.split(",") if part.strip()]
