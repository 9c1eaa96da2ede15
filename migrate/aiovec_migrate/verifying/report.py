"""The proof that a store is a copy of another: every row, the schema, and what searches find."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace

from aiovec.backend.contract import Backend
from aiovec.errors import MigrationError, TableNotFoundError

from ..ends import OpenTable
from ..host import Host
from .compare import (
    Difference,
    Leave,
    NoLeaveError,
    Progress,
    Side,
    Sides,
    Transform,
    always,
    both,
    check_same_model,
    no_progress,
    unaltered,
)
from .hashes import LIMITS, Digest, Limits
from .searches import Nearest, Sample, Searches, compared_searches, measured_recall, sampled
from .words import Keywords, compared_keywords

# A report names its fields for those who read it later.
_FORMAT = 1

TableListener = Callable[[str], None]
"""Told the name of each table when its turn comes."""


def no_table(name: str) -> None:
    """Tells nobody."""


@dataclass(frozen=True, slots=True)
class VerifyOptions:
    """The options of a verification.

    ``repair`` writes what differs again. ``ignore_vector`` leaves the vectors' bits out, as when
    the target has those of another model. ``searches`` is how many vectors are sampled for
    searches of the ``limit`` nearest; with all of them the recall is measured, and exact searches
    are compared for about a second, as are keyword searches for words of so many rows. ``named``
    bounds the ids in the report.
    """

    repair: bool = False
    ignore_vector: bool = False
    note: str = ""
    """A note for the readers of the report."""
    searches: int = 32
    limit: int = 10
    named: int = 100
    seed: int = 0


@dataclass(frozen=True, slots=True)
class TableReport:
    """The result for one table.

    ``schema`` lists in words what differs in the schema or in the metadata of exported batches.
    ``repaired`` is what was found, and done about it, before ``rows`` was found. ``problem`` says
    why the table could not be compared at all.
    """

    table: str
    rows: Difference
    schema: tuple[str, ...] = ()
    repaired: Difference | None = None
    searches: Searches | None = None
    keywords: Keywords | None = None
    problem: str = ""
    seconds: float = 0.0

    @property
    def equal(self) -> bool:
        """True if nothing differs. A low recall is no difference."""
        answers = (self.searches, self.keywords)
        unlike = any(found is not None and found.unlike for found in answers)
        counts = self.rows.source_rows == self.rows.target_rows
        return counts and not (self.problem or self.schema or self.rows.total or unlike)


@dataclass(frozen=True, slots=True)
class VerifyReport:
    """The result of a verification. ``to_json`` and ``to_text`` are for keeping."""

    source: str
    target: str
    started: str
    seconds: float
    tables: tuple[TableReport, ...]
    ignored_vector: bool = False
    note: str = ""

    @property
    def equal(self) -> bool:
        """The verdict."""
        return all(table.equal for table in self.tables)

    def to_dict(self) -> dict[str, object]:
        """The report as JSON values."""
        tables = [{**asdict(table), "equal": table.equal} for table in self.tables]
        form = {**asdict(self), "tables": tables}
        return {"format": _FORMAT, "equal": self.equal, **form}

    def to_json(self) -> str:
        """The report as JSON text."""
        return json.dumps(self.to_dict(), ensure_ascii=False, indent=2)

    def to_text(self) -> str:
        """The report for reading."""
        lines = [
            f"source    {self.source}",
            f"target    {self.target}",
            f"started   {self.started}",
            f"took      {self.seconds:.1f} s",
        ]
        if self.ignored_vector:
            lines.append("vectors   not compared: the target's are of another model")
        if self.note:
            lines.append(f"note      {self.note}")
        for table in self.tables:
            lines += ["", *_table_lines(table)]
        lines += ["", f"verdict   {_verdict(self)}"]
        return "\n".join(lines) + "\n"


def _verdict(report: VerifyReport) -> str:
    if not report.equal:
        names = [table.table for table in report.tables if not table.equal]
        return "NOT EQUAL: " + ", ".join(names)
    rows = sum(table.rows.source_rows for table in report.tables)
    repaired = any(table.repaired for table in report.tables)
    return f"equal, {rows:,} rows" + (", after repair" if repaired else "")


def _table_lines(table: TableReport) -> list[str]:
    lines = [f"table {table.table}: " + ("equal" if table.equal else "NOT EQUAL")]
    if table.problem:
        return [*lines, f"  {table.problem}"]
    rows = table.rows
    lines.append(
        f"  rows      {rows.source_rows:,} in the source, {rows.target_rows:,} in the target"
    )
    lines += [f"  schema    {words}" for words in table.schema] or ["  schema    the same"]
    if table.repaired is not None:
        done = table.repaired
        lines.append(f"  repaired  {done.copied:,} rows written again, {done.deleted:,} deleted")
        lines += _named_lines(done)
    lines.append(f"  differ    {rows.total:,} rows")
    lines += _named_lines(rows)
    if table.searches is not None:
        lines += _search_lines(table.searches)
    if table.keywords is not None:
        lines += _keyword_lines(table.keywords)
    return lines


def _named_lines(rows: Difference) -> list[str]:
    lines = []
    for words, count, ids in (
        ("missing in the target", rows.missing, rows.missing_ids),
        ("only in the target", rows.extra, rows.extra_ids),
        ("different", rows.different, rows.different_ids),
    ):
        if count:
            more = f" and {count - len(ids):,} more" if count > len(ids) else ""
            lines.append(f"    {words}: " + ", ".join(map(repr, ids)) + more)
    return lines


def _search_lines(searches: Searches) -> list[str]:
    lines = []
    if searches.asked:
        answer = f"{searches.unlike:,} of {searches.asked:,} gave other results"
        if searches.moving:
            answer += f", {searches.moving:,} met differing rows"
        lines.append(f"  searches  {answer}")
    if searches.recall is not None:
        lines.append(f"  recall    {searches.recall:.3f} of the {searches.limit} nearest")
    return lines


def _keyword_lines(keywords: Keywords) -> list[str]:
    if not keywords.asked:
        return []
    answer = f"{keywords.unlike:,} of {keywords.asked:,} gave other results"
    if keywords.moving:
        answer += f", {keywords.moving:,} met differing rows"
    lines = [f"  words     {answer}"]
    if keywords.unlike:
        words, ids = (
            ", ".join(map(repr, found)) for found in (keywords.unlike_words, keywords.unlike_ids)
        )
        lines.append(f"    {words}: only one store found {ids}")
    return lines


async def verify(
    source: Backend,
    target: Backend,
    tables: Sequence[str] | None = None,
    *,
    host: Host,
    options: VerifyOptions | None = None,
    transform: Transform | None = None,
    progress: Progress = no_progress,
    begins: TableListener = no_table,
    limits: Limits = LIMITS,
    leave: Leave = always,
) -> VerifyReport:
    """Compare tables; None: all of the source's, and the target's that the source does not have.

    Where the source takes writes meanwhile, rows that were written last may seem to differ: look
    at them again with ``verify_ids``. A repair then has to be followed by the changes since
    before it began. ``transform`` makes the vectors of repaired rows where they are not the
    source's. A repair asks for ``leave`` before each write.
    """
    options = options or VerifyOptions()
    if options.repair and options.ignore_vector and transform is None:
        raise MigrationError(
            "rows whose vectors are of another model cannot be repaired without that model"
        )
    started, begun = host.wall(), host.now()
    mine, theirs = await both(source.tables(), target.tables())
    if tables is None:
        tables = sorted({*mine, *theirs})
    reports = []
    for table in tables:
        begins(table)
        at = host.now()
        absent = "the source" if table not in mine else "the target" if table not in theirs else ""
        if absent:
            report = _unseen(table, f"the table does not exist in {absent}")
        else:
            try:
                report = await _verify_table(
                    source, target, table, host, options, transform, progress, limits, leave
                )
            except NoLeaveError:
                raise
            except (MigrationError, TableNotFoundError) as exc:
                report = _unseen(table, str(exc))
        reports.append(replace(report, seconds=round(host.now() - at, 3)))
    return VerifyReport(
        f"{source.target} ({source.name})",
        f"{target.target} ({target.name})",
        started.isoformat(timespec="seconds"),
        round(host.now() - begun, 3),
        tuple(reports),
        options.ignore_vector,
        options.note,
    )


def _unseen(table: str, problem: str) -> TableReport:
    return TableReport(table, Difference(0, 0), problem=problem)


async def _verify_table(
    source: Backend,
    target: Backend,
    table: str,
    host: Host,
    options: VerifyOptions,
    transform: Transform | None,
    progress: Progress,
    limits: Limits,
    leave: Leave,
) -> TableReport:
    vector = not options.ignore_vector
    mine, theirs = await both(OpenTable.open(source, table), OpenTable.open(target, table))
    if options.repair:
        check_same_model(mine, theirs, transform)
    sides = await Sides.of(mine, theirs, host=host, vector=vector, progress=progress)
    repaired: Difference | None = None
    with unaltered(table):
        rows_there = await target.count(sides.target.handle, None)
        sample = await sampled(sides.target, options.searches, rows_there, options.seed)
        nearest = await _nearest(sides, sample, options.limit)
        found = await sides.compared(limits, nearest.add if nearest else None)
        rows = await sides.named(found, options.named)
        if rows.total and options.repair:
            deleted = await sides.delete_extra(found, leave)
            copied = await sides.copy(found, transform, leave)
            repaired = replace(rows, copied=copied, deleted=deleted)
            nearest = await _nearest(sides, sample, options.limit)
            found = await sides.compared(limits, nearest.add if nearest else None)
            rows = await sides.named(found, options.named)
        schema = schema_differences(sides, found.source, found.target, vector=vector)
        searches = await _searches(sides, sample, nearest, options)
        keywords = await compared_keywords(sides, options.searches, rows.source_rows)
    return TableReport(table, rows, tuple(schema), repaired, searches, keywords)


async def _nearest(sides: Sides, sample: Sample, limit: int) -> Nearest | None:
    """Return the yardstick of the target's recall; None if it has no index."""
    if not len(sample.ids) or not await _has_index(sides.target):
        return None
    return Nearest(sides.target.schema, sample, limit)


async def _searches(
    sides: Sides, sample: Sample, nearest: Nearest | None, options: VerifyOptions
) -> Searches | None:
    if not len(sample.ids):
        return None
    searches = Searches(0, options.limit)
    if not options.ignore_vector:
        searches = await compared_searches(sides, sample, options.limit)
    if nearest is not None:
        recall = await measured_recall(sides.target, sample, nearest, options.limit)
        searches = replace(searches, recall=recall)
    return searches


async def _has_index(side: Side) -> bool:
    if not side.backend.supports("indexes"):
        return False
    found = await side.backend.indexes(side.handle)
    return any(index.column == side.schema.vector for index in found)


def schema_differences(sides: Sides, source: Digest, target: Digest, *, vector: bool) -> list[str]:
    """Return the differences of the schemas, and of the types and metadata of the batches."""
    found = sides.source.schema.differences(sides.target.schema)
    if not vector:
        # What the target has with its own model.
        own = ("dim is", "model is", "quantized is", "embed is")
        found = [words for words in found if not words.startswith(own)]
    if not found and source.layout is not None and target.layout is not None:
        for one, other in zip(source.layout, target.layout, strict=False):
            if not one.equals(other, check_metadata=True):
                found.append(f"column {one.name!r} comes as {one}, not {other}")
        if source.layout.names != target.layout.names:
            found.append(f"columns {source.layout.names} came, not {target.layout.names}")
        if vector and source.layout.metadata != target.layout.metadata:
            found.append("the batches' Arrow metadata are not the same")
    return found
