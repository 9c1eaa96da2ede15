"""The numbers that a store's work goes by, each with its reason."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class ExportLimits:
    """Limits of what an export reads at once."""

    block_bytes: int = 32 * 2**20
    """Bytes of a block, at most. Smaller ones are slower, for each costs a query."""
    row_bytes: int = 512
    """The fewest bytes that count for a row without its vector."""
    first_rows: int = 512
    """Rows of the first block, whose rows tell how large they are. Their size in Lance's files does
    not: a text of 100 KB that many rows have lies there once."""
    growth: int = 16
    """The rows that a block may have, as a multiple of those of the block before."""
    looked_up: int = 10_000
    """Ids in one query: each takes 10 µs to parse."""
    sorted_ids: int = 500_000
    """In the order of ids: ids that are sorted at once, about."""
    sample: int = 100_000
    """In the order of ids: ids that are kept of a larger table, to part it by."""
    one_moment: float = 5.0
    """Seconds in which a backup looks for a moment at which no table is written to, before it holds
    writers off for one."""


@dataclass(frozen=True, slots=True)
class ReadLimits:
    """Limits of what a reader keeps of tables."""

    few: int = 1000
    """Reads of no more rows than this are not counted, unless these are large."""
    few_bytes: int = 2 * 2**20
    sizes_for: float = 10.0
    """Seconds for which the size of a table's rows is taken as known."""
    most_kept: int = 64
    """Tables of which a version is kept."""
    candidate_bytes: int = 64 * 2**20
    """Bytes of vectors that one query may bring into memory. Beyond, a search measures every row,
    block by block."""
    too_young: int = 100_000_000
    """A file younger than this many nanoseconds may be replaced by another with the same times:
    those of a file come from a clock that moves on every few milliseconds."""


@dataclass(frozen=True, slots=True)
class Limits:
    """All limits of one store."""

    export: ExportLimits = field(default_factory=ExportLimits)
    read: ReadLimits = field(default_factory=ReadLimits)
