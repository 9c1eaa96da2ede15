"""Read a table's indexes and statistics, and return them as the contract's types."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from aiovec.backend.contract import IndexInfo, TableStats

from ..layout import tuned_in
from ..session import Snapshot
from .effort import EVERY_PARTITION, Effort, Tuned
from .kinds import BY_TYPE, Kind

_SCALAR = {"BTree": "btree", "Bitmap": "bitmap", "LabelList": "label_list", "FTS": "text"}
# Details of the build that do not describe the index.
_LEFT_OUT = ("runtime_hints",)
_IN_USE = "vector index in use"
# An index is used if its recall is at most this much below the target. With a worse index, such as
# a graph over rows that nearly all share a vector, searches are exact.
_TOLERATED = 0.1
# The effort for an index that has not been measured.
_UNMEASURED_EF, _UNMEASURED_REFINE = 400, 10


@dataclass(frozen=True, slots=True)
class InUse:
    """The vector index, with the note about it.

    Upkeep splits and joins partitions to keep them near one size, so a growing table gets more
    partitions, and the index must be measured again.
    """

    name: str
    kind: Kind
    segments: int
    rows_unindexed: int
    partition_size: int | None
    """The partition size that upkeep aims for; if None, upkeep joins nearly all partitions."""
    tuned: Tuned
    target: float
    """The recall that searches should reach."""

    @property
    def by_aiovec(self) -> bool:
        """True if aiovec built the index, so that upkeep may rebuild it."""
        return self.tuned.built_rows > 0

    @property
    def effort(self) -> Effort:
        """The effort of a search. Until the index is measured, searches probe every partition."""
        ef = _UNMEASURED_EF if self.kind.graph else None
        refine = None if self.kind.fine else _UNMEASURED_REFINE
        return self.tuned.effort or Effort(nprobes=EVERY_PARTITION, ef=ef, refine=refine)

    @property
    def usable(self) -> bool:
        """True if searches use the index: it has not been measured, or its recall is sufficient."""
        return self.tuned.recall is None or self.tuned.recall >= self.target - _TOLERATED

    @property
    def recall(self) -> float | None:
        """The recall measured with ``effort``; None if the index has not been measured since its
        build."""
        return self.tuned.recall if self.tuned.measured_rows else None

    @property
    def measured_by(self) -> str:
        """The number and the origin of the questions used to measure the recall."""
        return f"{self.tuned.questions} {self.tuned.whose}"


async def vector_index(table: Snapshot) -> InUse | None:
    """Return the index over the vectors, if any."""
    if _IN_USE not in table.answers:
        table.answers[_IN_USE] = _in_use(await table.indexes(), table)
    in_use: InUse | None = table.answers[_IN_USE]
    return in_use


async def usable_index(table: Snapshot) -> InUse | None:
    """Return the index over the vectors if searches use it, else None."""
    index = await vector_index(table)
    return index if index is not None and index.usable else None


def _in_use(indices: list[Any], table: Snapshot) -> InUse | None:
    note = tuned_in(table.arrow, table.schema)
    for index in indices:
        kind = BY_TYPE.get(index.index_type)
        if kind is not None and index.columns == [table.schema.vector]:
            # A build may have been killed after its index was committed, but before its note was.
            tuned = Tuned(target=note.target)
            for noted in (note.begun, note):
                if noted is not None and noted.kind == kind.name:
                    tuned = noted
            return InUse(
                name=index.name,
                kind=kind,
                segments=int(index.num_segments or 1),
                rows_unindexed=int(index.num_unindexed_rows or 0),
                partition_size=(index.index_details or {}).get("target_partition_size"),
                tuned=tuned,
                target=tuned.target or table.session.settings.recall_target,
            )
    return None


async def unindexed_rows(table: Snapshot) -> dict[str, int]:
    """Return, for each indexed column, how many rows its least complete index does not cover."""
    rows: dict[str, int] = {}
    for index in await table.indexes():
        if len(index.columns) == 1:
            column = index.columns[0]
            rows[column] = max(rows.get(column, 0), int(index.num_unindexed_rows or 0))
    return rows


async def has_id_index(table: Snapshot) -> bool:
    """Return whether the table has an index over the ids."""
    return any(index.columns == ["id"] for index in await table.indexes())


async def infos_of(table: Snapshot) -> list[IndexInfo]:
    """Return descriptions of the indexes over vectors and fields, sorted by name.

    The index over the ids is left out, because it is internal: upkeep builds it.
    """
    in_use = await vector_index(table)
    indices = [index for index in await table.indexes() if index.columns != ["id"]]
    infos = [_info(index, in_use) for index in indices]
    return sorted(infos, key=lambda info: info.name)


def _info(index: Any, in_use: InUse | None) -> IndexInfo:
    details = index.index_details or {}
    parameters = {name: value for name, value in details.items() if name not in _LEFT_OUT}
    kind, recall = _SCALAR.get(index.index_type, index.index_type), None
    if in_use is not None and index.name == in_use.name:
        kind, tuned = in_use.kind.name, in_use.tuned
        # Options of the build that Lance does not report.
        parameters |= {name: value for name, value in tuned.options.items() if name not in details}
        recall = in_use.recall
        if recall is not None:
            parameters["measured_at_rows"] = tuned.measured_rows
            parameters["measured_by"] = in_use.measured_by
    return IndexInfo(
        name=index.name,
        kind=kind,
        column=index.columns[0],
        parameters=parameters,
        rows_indexed=int(index.num_indexed_rows or 0),
        rows_unindexed=int(index.num_unindexed_rows or 0),
        recall=recall,
    )


async def stats(
    table: Snapshot, doing: str | None, failure: str | None, optimized: datetime | None
) -> TableStats:
    """Return a table's statistics, including the current work and the last failed build."""
    sizes = await table.stats()
    rows = int(sizes["num_rows"])
    details: dict[str, Any] = {
        "fragments": int(sizes["fragment_stats"]["num_fragments"]),
        "versions": len(await table.session.listed_versions(table)),
    }
    index = await vector_index(table)
    words = ["none"] if index is None else [index.kind.name]
    if index is not None:
        target, recall = index.target, index.recall
        details |= {"recall_target": target, "recall": recall, "effort": index.effort.shown()}
        measured = "not measured yet"
        if recall is not None:
            details["recall_by"] = index.measured_by
            measured = f"{recall:.3f} by {index.measured_by}"
        words.append(f"recall {measured} (target {target:g})")
        if not index.usable:
            words.append("not used, because it finds too little")
    if doing is not None:
        words.append(doing)
    if failure is not None:
        details["index_failure"] = failure
    if await has_id_index(table):
        details["unindexed_ids"] = (await unindexed_rows(table))["id"]
    return TableStats(
        table=table.name,
        backend="lancedb",
        rows=rows,
        bytes=int(sizes["total_bytes"]),
        index=", ".join(words),
        unindexed_rows=rows if index is None else index.rows_unindexed,
        scan_memory=0,
        last_optimize=optimized,
        details=details,
    )
