"""Whether LanceDB would serve a SQLite table better: now, soon, or from how many rows on.

Only judgement, no I/O: ``advising`` in a running store and ``aiovec advise`` bring the facts.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal

from .memory import size_text

if TYPE_CHECKING:
    from .._settings.load import AdviseSettings
    from .contract import TableStats

Verdict = Literal["now", "soon", "later"]

# What a search in memory takes beside its scan, and for each component that it scans: the fixed
# and the growing part of the table in docs/adr/0002 (``python -m bench search``). They stand
# in for tables too small to measure how their searches grow.
_CALL_MS = 1.2
_SCAN_MS = 7.2e-8
_TOO_SMALL = 5_000
# A search that reads the file instead takes so many times as long (``python -m bench search``:
# sqlite-vec 108 ms, aiovec 7.07 ms for 100,000 x 768).
_FILE_TIMES = 15

# What LanceDB would take. A search by the tuned index, rather too much: 7.85 ms at 117,659 x 384
# (``python -m bench lancedb``).
_LANCE_SEARCH_MS = 8.0
# The index that "auto" builds takes four bits a component and these bytes for each row: 420 for one
# of 768 dimensions (``python -m bench migrate --peers all``).
_CODE_BITS, _BYTES_A_CODE = 4, 36
# Building and tuning it: 22.4 s for 117,659 x 384 (``python -m bench lancedb``). It holds the rows
# that it learns from twice, and codes: 395 MB for 100,000 x 768 (``python -m bench migrate``).
_BUILD_SECONDS_A_COMPONENT = 5e-7
_LEARNT_FROM, _LEARNT_A_PARTITION, _MOST_CODES = 65_536, 64, 512 * 2**20
# Copying by ``aiovec migrate``: rows of 768 components with their fields a second
# (``python -m bench migrate``).
_COPIED_ROWS, _COPIED_DIM = 60_000, 768
# What the package itself takes once it is loaded and has opened a store (``python -m bench
# migrate``: both stores open, less a process with SQLite alone).
_PACKAGE_BYTES = 80 * 2**20

_SECONDS_A_DAY = 86_400
# Younger tables tell nothing of how they grow: they are being filled for the first time.
YOUNGEST_DAYS = 1.0


@dataclass(frozen=True, slots=True)
class SearchTimes:
    """What searches of a table took. ``growing`` is the part of it that grows with the rows."""

    p50_ms: float
    p95_ms: float
    searches: int
    growing: float
    source: str


@dataclass(frozen=True, slots=True)
class Growth:
    """How many rows come a day, and how that is known."""

    rows_a_day: float
    known_by: str


@dataclass(frozen=True, slots=True)
class Scan:
    """What the copy that searches scan takes, or would, beside what it may take."""

    bytes: int
    budget: int

    @property
    def over(self) -> bool:
        return self.bytes > self.budget


@dataclass(frozen=True, slots=True)
class TableFacts:
    """What is known of a table. What is None is not known, or there is no such thing."""

    table: str
    rows: int
    dim: int
    bytes: int
    searches: SearchTimes | None = None
    growth: Growth | None = None
    scan: Scan | None = None


@dataclass(frozen=True, slots=True)
class Cost:
    """What a table of so many rows takes on LanceDB.

    Memory is that of one process: when it searches, and on top of that while it builds the index.
    The disk holds earlier versions besides, for as long as ``keep_versions`` says.
    """

    rows: int
    memory_bytes: int
    build_memory_bytes: int
    disk_bytes: int
    copy_seconds: float
    build_seconds: float
    search_ms: float


@dataclass(frozen=True, slots=True)
class Advice:
    """The judgement on one table.

    ``at_rows`` is how many rows it takes until LanceDB serves it better, None where that is beyond
    reckoning, and ``in_days`` when the table will have them at its present growth. ``why`` has what
    led to it, in sentences.
    """

    facts: TableFacts
    verdict: Verdict
    at_rows: int | None
    in_days: float | None
    why: tuple[str, ...]
    cost: Cost

    @property
    def sentence(self) -> str:
        """The judgement in one sentence, without the table's name."""
        if self.verdict == "now":
            return "LanceDB would serve it better now: " + "; ".join(self.why)
        if self.verdict == "soon":
            days = _counted(math.ceil(self.in_days or 0), "day")
            return f"LanceDB will serve it better in {days}: " + "; ".join(self.why)
        if self.at_rows is None:
            return "SQLite serves it well, also with any number of rows that can be foreseen"
        rows = _round(self.at_rows)
        when = f"SQLite serves it well; LanceDB would serve it better from some {rows} rows"
        if self.in_days is None:
            return when
        return f"{when}, at its present growth in some {_time(self.in_days)}"

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "sentence": self.sentence}


@dataclass(frozen=True, slots=True)
class _Line:
    """The p95 of searches as a function of the rows."""

    fixed_ms: float
    ms_a_row: float

    def at(self, rows: float) -> float:
        return self.fixed_ms + self.ms_a_row * rows

    def rows_at(self, ms: float) -> int | None:
        if self.fixed_ms > ms:
            return 0
        if self.ms_a_row <= 0:
            return None
        return math.floor((ms - self.fixed_ms) / self.ms_a_row) + 1


def judge(facts: TableFacts, limits: AdviseSettings) -> Advice:
    """What is to be said of a table with these facts."""
    p95 = None if facts.searches is None else facts.searches.p95_ms
    too_slow = p95 is not None and facts.rows > limits.rows and p95 > limits.p95_ms
    too_large = facts.scan is not None and facts.scan.over
    at_rows = facts.rows if too_slow or too_large else _crossing(facts, limits)
    growth = 0.0 if facts.growth is None else facts.growth.rows_a_day
    in_days = None
    if at_rows is not None and growth > 0:
        in_days = max(0, at_rows - facts.rows) / growth
    verdict: Verdict = "later"
    why: list[str] = []
    if too_slow or too_large:
        verdict, in_days = "now", 0.0
        if too_slow:
            why.append(_slow(facts, limits))
        if too_large:
            why.append(_large(facts))
    elif in_days is not None and growth > limits.rows_a_day and in_days <= limits.days:
        verdict = "soon"
        why.append(_growing(facts, limits, at_rows or 0))
    return Advice(facts, verdict, at_rows, in_days, tuple(why), cost_of(facts))


def cost_of(facts: TableFacts) -> Cost:
    """What the table would take on LanceDB as it is now."""
    components = facts.rows * facts.dim
    index = components * _CODE_BITS // 8 + facts.rows * _BYTES_A_CODE
    fields = max(0, facts.bytes - 4 * components)
    copied = _COPIED_ROWS * _COPIED_DIM / max(facts.dim, 1)
    learnt = max(_LEARNT_FROM, _LEARNT_A_PARTITION * math.isqrt(facts.rows))
    learning = 2 * 4 * facts.dim * min(facts.rows, learnt)
    return Cost(
        rows=facts.rows,
        memory_bytes=_PACKAGE_BYTES + index,
        build_memory_bytes=learning + min(2 * index, _MOST_CODES),
        disk_bytes=4 * components + fields + index,
        copy_seconds=facts.rows / copied,
        build_seconds=components * _BUILD_SECONDS_A_COMPONENT,
        search_ms=_LANCE_SEARCH_MS,
    )


def expected_p95(facts: TableFacts, rows: int) -> float:
    """What the p95 will be with so many rows, as far as it can be told."""
    return _line(facts).at(rows)


def _line(facts: TableFacts) -> _Line:
    times = facts.searches
    if times is not None and facts.rows >= _TOO_SMALL:
        # By the median: what makes some searches slow is the machine's other work, not the rows.
        grows = times.p50_ms * times.growing
        return _Line(times.p95_ms - grows, grows / facts.rows)
    # Nothing that grows can be seen in few rows.
    fixed = _CALL_MS if times is None else times.p95_ms
    in_memory = facts.scan is not None
    return _Line(fixed, _SCAN_MS * facts.dim * (1 if in_memory else _FILE_TIMES))


def _crossing(facts: TableFacts, limits: AdviseSettings) -> int | None:
    """From how many rows on the table is too large or too slow; None for never."""
    found = []
    slow = _line(facts).rows_at(limits.p95_ms)
    if slow is not None:
        found.append(max(slow, limits.rows + 1))
    if facts.scan is not None and facts.scan.bytes:
        found.append(facts.scan.budget * facts.rows // facts.scan.bytes + 1)
    # What is measured and what is reckoned from it may differ by a little.
    return max(min(found), facts.rows + 1) if found else None


def _slow(facts: TableFacts, limits: AdviseSettings) -> str:
    times = facts.searches
    took = "" if times is None else f"{times.p95_ms:,.0f} ms (p95 of {times.searches:,})"
    return (
        f"{facts.rows:,} rows are searched in {took}, beyond {limits.rows:,} rows and "
        f"{limits.p95_ms:g} ms"
    )


def _large(facts: TableFacts) -> str:
    scan = facts.scan or Scan(0, 0)
    return (
        f"its copy in memory would take {size_text(scan.bytes)}, and scan_memory is "
        f"{size_text(scan.budget)}, so searches read the file"
    )


def _growing(facts: TableFacts, limits: AdviseSettings, at_rows: int) -> str:
    growth = facts.growth or Growth(0.0, "")
    expected = expected_p95(facts, at_rows)
    then = (
        f"searches are expected to take {expected:,.0f} ms (p95)"
        if expected >= limits.p95_ms
        else "its copy in memory is expected to be larger than scan_memory"
    )
    return (
        f"it has {facts.rows:,} rows and grows by {_round(growth.rows_a_day)} a day "
        f"({growth.known_by}), and from {_round(at_rows)} rows on {then}"
    )


# Facts from what a store tells of itself


def facts_of(
    stats: TableStats, dim: int, searches: SearchTimes | None, growth: Growth | None
) -> TableFacts:
    """The facts of a table, with what its backend tells in ``stats``."""
    budget, expected = stats.details.get("scan_budget"), stats.details.get("scan_expected")
    scan = None
    if isinstance(budget, int) and isinstance(expected, int):
        scan = Scan(max(expected, stats.scan_memory), budget)
    return TableFacts(stats.table, stats.rows, dim, stats.bytes, searches, growth, scan)


def times_of(seconds: list[float], stats: TableStats, source: str) -> SearchTimes | None:
    """What these searches tell, with what the store's telemetry says of their stages."""
    if not seconds:
        return None
    ordered = sorted(1000 * one for one in seconds)
    mean = sum(ordered) / len(ordered)
    return SearchTimes(
        p50_ms=ordered[math.ceil(0.50 * len(ordered)) - 1],
        p95_ms=ordered[math.ceil(0.95 * len(ordered)) - 1],
        searches=len(ordered),
        growing=_growing_part(stats.details.get("searches"), mean),
        source=source,
    )


def _growing_part(stages: object, mean_ms: float) -> float:
    """The part of a search that grows with the rows. Without stages, all of it."""
    if not isinstance(stages, Mapping) or not stages.get("searches"):
        return 1.0
    told = {name: float(ms) for name, ms in stages.items() if str(name).endswith("_ms")}
    # Who waits in the queue waits for the same work of others.
    queue = told.pop("queue_ms", 0.0)
    whole = max(sum(told.values()), mean_ms - queue)
    grows = told.get("scan_ms", 0.0) + told.get("filter_ms", 0.0)
    return min(1.0, grows / whole) if whole > 0 else 1.0


def mean_growth(stats: TableStats, now: datetime) -> Growth | None:
    """The rows of a table over the days since it was made; None where that is not known."""
    created = stats.details.get("created")
    if not isinstance(created, str):
        return None
    try:
        made = datetime.fromisoformat(created)
    except ValueError:
        return None
    if made.tzinfo is None:
        made = made.replace(tzinfo=UTC)
    return growth_since(stats.rows, made, now, "the mean since the table was made, {days} ago")


def growth_since(rows: int, since: datetime, now: datetime, known_by: str) -> Growth | None:
    """So many rows since then; None where that is too short a time. {days} in the text is it."""
    days = (now - since).total_seconds() / _SECONDS_A_DAY
    if days < YOUNGEST_DAYS:
        return None
    return Growth(rows / days, known_by.format(days=_time(days)))


# Figures for people


def _round(number: float) -> str:
    """With two digits that count: what is estimated is not known better."""
    if number < 10:
        return f"{number:.2g}"
    digits = 1 - math.floor(math.log10(number))
    return f"{int(round(number, digits)):,}"


def _time(days: float) -> str:
    if days < 60:
        return _counted(max(1, round(days)), "day")
    if days < 730:
        return _counted(round(days / 30.4), "month")
    years = days / 365.25
    return "hundreds of years" if years >= 100 else _counted(round(years), "year")


def _counted(number: int, noun: str) -> str:
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"
