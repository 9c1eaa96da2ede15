"""The numbers that a store's work goes by, each with its reason."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class UpkeepLimits:
    """When a table is tidied, and how long that may take."""

    commits: int = 64
    """Commits after which a table is looked at. A look takes a few milliseconds."""
    quiet: float = 1.0
    """Seconds without a commit after which it is looked at as well."""

    # Rewriting small files costs as much as the bytes of all that are not full, so more of these
    # let more files gather: while there are writes, and in the quiet behind them.
    files: int = 64
    bytes_a_file: int = 16 * 2**20
    most_files: int = 512
    files_in_quiet: int = 4
    bytes_a_file_in_quiet: int = 64 * 2**20
    most_files_in_quiet: int = 16

    over: int = 16
    """Versions beyond those to keep that are left in the quiet."""
    unindexed: int = 500
    """Rows that an index may leave uncovered before it is renewed: a scan takes no time yet."""
    unindexed_share: float = 0.02
    """The share of all rows that it may leave uncovered beyond these."""
    soon_done: int = 64 * 2**20
    """Bytes of a table that is rewritten while its writers wait: that takes less than a second."""
    long: float = 10.0
    """Seconds that a compaction beside the writes may take, and one more for ``bytes_a_second``."""
    bytes_a_second: int = 8 * 2**20
    attempts: int = 2
    """Attempts beside the writes that were in vain, after which the writers have to wait."""
    patience: float = 0.5
    """The share of ``busy_timeout`` for which a compaction may keep writers waiting."""
    rest: float = 4.0
    """A table rests this many times as long as its upkeep took, whichever process did it: a fifth
    of the time goes into it."""
    poll: float = 0.05
    """Seconds between tries for a lock of upkeep that somebody else has."""
    look_every: float = 0.1
    """Seconds between looks at tables that were opened: each takes a few milliseconds."""


@dataclass(frozen=True, slots=True)
class IndexLimits:
    """When an index is built or measured without a call for it."""

    grown: float = 1.5
    """A table is measured again when it has grown by this: recall falls with the rows."""
    outgrown: float = 4.0
    """An index of "auto" is built anew when the table has so many times the rows of its build."""
    most_segments: int = 32
    """Parts of an index, each searched by itself, that upkeep may add before it is built anew.
    Upkeep adds one for a fiftieth more rows. It merges them when it splits a partition, which in
    graphs of one partition never happens."""
    ids_from: int = 20_000
    """Rows from which the ids get an index. The time of a call by id without it grows with the
    rows: of 400,000 a get of one id took 20 ms, and 2.3 ms with it (``python -m bench lancedb``
    compares)."""
    texts_from: int = 20_000
    """Rows that an index for keyword search leaves out, from which it is built anew with all rows,
    beside the writes. Of fewer, compactions bring them in. A search reads what it leaves out:
    20,000 short texts in some 30 ms."""
    texts_share: float = 0.1
    """The share of all rows that it leaves out, from which it is built anew. A compaction rewrites
    the whole index however few rows are new: for 64,000 texts of 20 words it took 1.5 s of the
    processor, and a build 0.4 s."""
    look_after: int = 256
    """Rows that are written before a look at whether they matter."""
    rest: float = 4.0
    """An index is measured anew without a call for it after this many times the seconds that the
    last measuring took."""
    lull: float = 1.0
    """Seconds without a write after which a build begins by itself: it would slow the writes down,
    and the index of a table that is being filled would be old at once."""
    longest_wait: float = 30.0
    """The most seconds for which writes put a build off."""
    bytes_a_second: int = 32 * 2**20
    """Bytes of vectors that "auto" indexes and measures in a second (``python -m bench lancedb``).
    A close begins no build that would take longer than it may wait: it would be in vain each time.
    """

    # Recall is measured with one question of each of two forms for so many rows.
    rows_a_question: int = 50
    least_questions: int = 32
    most_questions: int = 96


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

    upkeep: UpkeepLimits = field(default_factory=UpkeepLimits)
    index: IndexLimits = field(default_factory=IndexLimits)
    export: ExportLimits = field(default_factory=ExportLimits)
    read: ReadLimits = field(default_factory=ReadLimits)
