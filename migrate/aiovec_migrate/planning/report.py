"""The plan of a migration and its obstacles, as text and as JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from aiovec.errors import MigrationError

from ..state import Identity

Obstacle = Literal[
    "dim",
    "missing-table",
    "model",
    "moved",
    "no-config",
    "no-lock",
    "not-configured",
    "not-present",
    "not-writable",
    "null-text",
    "one-way",
    "other-tables",
    "reembed",
    "room",
    "rows",
    "run-open",
    "same-place",
    "schema",
    "toml",
]

OF_A_SWITCH: frozenset[Obstacle] = frozenset(
    {"no-config", "not-configured", "not-present", "other-tables", "toml"}
)
"""Obstacles of the switch alone, which may also have come since a run began."""


@dataclass(frozen=True, slots=True)
class Problem:
    """An obstacle of a run: its kind, its table if it concerns one, and a sentence."""

    kind: Obstacle
    text: str
    table: str | None = None

    def __str__(self) -> str:
        return self.text if self.table is None else f"table {self.table!r}: {self.text}"


@dataclass(frozen=True, slots=True)
class TablePlan:
    """One table: what it holds, and what becomes of it.

    ``arrow`` has each column of the target's table with its Arrow type; ``there`` counts the rows
    of the target's table of this name, None where there is none; ``differences`` are those between
    the schemas. ``index`` says what index the target will build, ``bytes`` what the source's table
    takes, ``seconds`` how long the copy and the verification may take, where it was measured.
    """

    name: str
    rows: int
    bytes: int
    schema: dict[str, Any]
    arrow: tuple[str, ...]
    index: str
    there: int | None = None
    differences: tuple[str, ...] = ()
    seconds: float | None = None
    grows: int = 0
    """Bytes that vectors of another length take beside ``bytes``."""


@dataclass(frozen=True, slots=True)
class Rates:
    """The rates that the probe measured on the largest table, in rows per second.

    ``write`` was measured into memory, so a slow disk makes it less; None where the target's kind
    has no store in memory. ``rows`` is how many were read for it.
    """

    table: str
    rows: int
    read: float
    write: float | None

    def seconds(self, rows: float, *, verify: bool) -> float:
        """Reading and writing overlap; verification reads both sides, at about the same rate."""
        slowest = self.read if self.write is None else min(self.read, self.write)
        return rows / slowest + (rows / self.read if verify else 0.0)


@dataclass(frozen=True, slots=True)
class Plan:
    """All that a run would do. ``problems`` stop it, ``notes`` do not."""

    source: Identity
    target: Identity
    tables: tuple[TablePlan, ...]
    problems: tuple[Problem, ...] = ()
    notes: tuple[str, ...] = ()
    other_tables: tuple[str, ...] = ()
    """Those of the target that stay as they are."""
    target_exists: bool = False
    switch: bool = False
    config: str = ""
    free: int | None = None
    needed: int = 0
    rates: Rates | None = None

    @property
    def ok(self) -> bool:
        return not self.problems

    @property
    def rows(self) -> int:
        return sum(table.rows for table in self.tables)

    @property
    def seconds(self) -> float | None:
        """Estimated seconds of the copy and the verification; None if not measured."""
        parts = [table.seconds for table in self.tables]
        known = [part for part in parts if part is not None]
        return sum(known) if len(known) == len(parts) and known else None

    def check(self) -> None:
        """MigrationError that names every problem, where there is one."""
        if self.problems:
            raise MigrationError("; ".join(map(str, self.problems)))

    def to_dict(self) -> dict[str, Any]:
        return {
            **asdict(self),
            "ok": self.ok,
            "rows": self.rows,
            "bytes": sum(table.bytes for table in self.tables),
            "seconds": self.seconds,
        }

    def to_json(self) -> str:
        return json.dumps(self.to_dict(), ensure_ascii=False, indent=2)

    def to_text(self) -> str:
        return "\n".join(self._lines())

    def _lines(self) -> Sequence[str]:
        exists = "" if self.target_exists else ", which will be created"
        lines = [f"from    {self.source}", f"to      {self.target}{exists}"]
        if self.switch:
            lines.append(f"switch  {self.config} will name the target's backend")
        size = sum(table.bytes for table in self.tables)
        tables = "1 table" if len(self.tables) == 1 else f"{len(self.tables)} tables"
        lines.append(f"moves   {tables}, {self.rows:,} rows, {_size(size)}")
        for table in self.tables:
            lines += ["", *_table_lines(table)]
        lines.append("")
        free = "unknown" if self.free is None else _size(self.free)
        lines.append(f"room    {_size(self.needed)} needed at the target, {free} free")
        lines.append(f"time    {self._time()}")
        if self.other_tables:
            lines.append(f"stays   in the target: {', '.join(self.other_tables)}")
        lines += [f"note    {note}" for note in self.notes]
        lines += [f"problem {problem}" for problem in self.problems]
        if self.problems:
            one = len(self.problems) == 1
            found = "1 problem stops" if one else f"{len(self.problems)} problems stop"
            lines += ["", f"plan: {found} the run"]
        else:
            lines += ["", "plan: nothing stands in the way"]
        return lines

    def _time(self) -> str:
        if self.rates is None or self.seconds is None:
            return "not measured"
        read = f"reading {self.rates.read:,.0f} rows/s"
        if self.rates.write is None:
            return f"{duration(self.seconds)} or more: measured {read}; the target may be slower"
        return (
            f"about {duration(self.seconds)}, without index builds: measured {read} and writing "
            f"{self.rates.write:,.0f} rows/s into memory; a slow disk takes longer"
        )


def _table_lines(table: TablePlan) -> list[str]:
    lines = [f"table   {table.name}: {table.rows:,} rows, {_size(table.bytes)}"]
    schema = table.schema
    model = schema["model"] or "no model"
    lines.append(f"        {schema['dim']} dimensions, {schema['metric']}, {model}")
    lines += [f"        {column}" for column in table.arrow]
    lines.append(f"        index: {table.index}")
    if table.there is not None:
        same = "; ".join(table.differences) or "the same schema"
        lines.append(f"        is in the target already: {table.there:,} rows, {same}")
    return lines


def _size(size: float) -> str:
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:,.0f} {unit}" if unit == "bytes" else f"{size:,.1f} {unit}"
        size /= 1024
    return f"{size:,.1f} TiB"


def duration(seconds: float) -> str:
    """Seconds in the words of people: ``0.4 s``, ``12 s``, ``3 min 20 s``, ``2 h 5 min``."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
