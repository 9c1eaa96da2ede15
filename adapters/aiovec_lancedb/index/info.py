"""The indexes of a table in the words of the contract."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from aiovec.backend.contract import IndexInfo, TableStats

from ..layout import tuned_in
from ..session import Opened
from .effort import Effort, Tuned, unmeasured_effort
from .kinds import Kind, kind_of_type

_SCALAR = {"BTree": "btree", "Bitmap": "bitmap", "LabelList": "label_list", "FTS": "text"}
# Details of the build that say nothing about the index.
_LEFT_OUT = ("runtime_hints",)
_IN_USE = "vector index in use"


@dataclass(frozen=True, slots=True)
class InUse:
    """The index over the vectors, with its note.

    Upkeep splits and joins partitions but keeps their size, so a measurement holds until the table
    has grown.
    """

    name: str
    kind: Kind
    segments: int
    rows_unindexed: int
    partition_size: int | None
    """The size of partitions that upkeep aims at; without it, upkeep joins nearly all of them."""
    tuned: Tuned
    ours: bool
    """True if aiovec built it, so that upkeep may build it again."""

    def effort(self, target: float) -> Effort:
        """Return the least effort known to reach this recall."""
        rung = self.tuned.rung(target)
        if rung is None:
            return unmeasured_effort(graph=self.kind.graph, whole=self.kind.whole)
        return rung.effort

    @property
    def measured_by(self) -> str:
        """The number of questions behind the recall, and their origin."""
        return f"{self.tuned.questions} {self.tuned.whose}"

    def recall(self, target: float) -> float | None:
        """Return the recall measured for that effort; None if it was not measured."""
        rung = self.tuned.rung(target)
        return None if rung is None or not self.tuned.rows else rung.recall


async def vector_index(table: Opened) -> InUse | None:
    """Return the index over the vectors; None without one."""
    if _IN_USE not in table.answers:
        table.answers[_IN_USE] = _in_use(await table.indexes(), table)
    in_use: InUse | None = table.answers[_IN_USE]
    return in_use


def _in_use(indices: list[Any], table: Opened) -> InUse | None:
    note = tuned_in(table.arrow, table.schema)
    for index in indices:
        kind = kind_of_type(index.index_type)
        if kind is not None and index.columns == [table.schema.vector]:
            ours = note.kind == kind.name
            return InUse(
                name=index.name,
                kind=kind,
                segments=int(index.num_segments or 1),
                rows_unindexed=int(index.num_unindexed_rows or 0),
                partition_size=(index.index_details or {}).get("target_partition_size"),
                tuned=note if ours else Tuned(target=note.target),
                ours=ours,
            )
    return None


async def unindexed_rows(table: Opened) -> dict[str, int]:
    """Return for each indexed column the number of rows that one of its indexes does not cover."""
    rows: dict[str, int] = {}
    for index in await table.indexes():
        if len(index.columns) == 1:
            column = index.columns[0]
            rows[column] = max(rows.get(column, 0), int(index.num_unindexed_rows or 0))
    return rows


async def has_id_index(table: Opened) -> bool:
    """Return whether the ids have an index."""
    return any(index.columns == ["id"] for index in await table.indexes())


async def infos_of(table: Opened, target: float) -> list[IndexInfo]:
    """Return the indexes over vectors and fields, by name.

    The index over the ids is left out: upkeep builds it without being asked, like a file's own.
    """
    in_use = await vector_index(table)
    indices = [index for index in await table.indexes() if index.columns != ["id"]]
    infos = [_info(index, in_use, target) for index in indices]
    return sorted(infos, key=lambda info: info.name)


def _info(index: Any, in_use: InUse | None, target: float) -> IndexInfo:
    details = index.index_details or {}
    parameters = {name: value for name, value in details.items() if name not in _LEFT_OUT}
    kind, recall = _SCALAR.get(index.index_type, index.index_type), None
    if in_use is not None and index.name == in_use.name:
        kind, tuned = in_use.kind.name, in_use.tuned
        # Options of the build that Lance does not report.
        parameters |= {name: value for name, value in tuned.options.items() if name not in details}
        recall = in_use.recall(tuned.target or target)
        if recall is not None:
            parameters["measured_at_rows"] = tuned.rows
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
    table: Opened,
    target: float,
    doing: str | None,
    failure: str | None,
    optimized: datetime | None,
) -> TableStats:
    """Return the facts of a table, including the work under way and the last failed build."""
    sizes = await table.stats()
    rows = int(sizes["num_rows"])
    details: dict[str, Any] = {
        "fragments": int(sizes["fragment_stats"]["num_fragments"]),
        "versions": len(await table.session.listed_versions(table)),
    }
    index = await vector_index(table)
    words = ["none"] if index is None else [index.kind.name]
    if index is not None:
        target = index.tuned.target or target
        recall = index.recall(target)
        effort = index.effort(target).shown()
        details |= {"recall_target": target, "recall": recall, "effort": effort}
        measured = "not measured yet"
        if recall is not None:
            details["recall_by"] = index.measured_by
            measured = f"{recall:.3f} by {index.measured_by}"
        words.append(f"recall {measured} (target {target:g})")
        if not index.tuned.is_usable(target):
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
