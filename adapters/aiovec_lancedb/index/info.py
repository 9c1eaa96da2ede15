"""The indexes of a table in the words of the contract."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from aiovec.backend.contract import IndexInfo, TableStats
from aiovec.errors import AiovecError

from ..session import Opened, Session
from .effort import EVERY_PARTITION, LIMITS, Effort, Tuned
from .kinds import Kind, kind_of_type

_SCALAR = {"BTree": "btree", "Bitmap": "bitmap", "LabelList": "label_list", "FTS": "text"}
# Details of the building that tell nothing of the index.
_LEFT_OUT = ("runtime_hints",)
_IN_USE = "vector index in use"


@dataclass(frozen=True, slots=True)
class InUse:
    """The index over the vectors, and what is known of this very index."""

    name: str
    kind: Kind
    uuid: str | None
    segments: int
    rows_unindexed: int
    partition_size: int | None
    """The size of partitions that upkeep aims at; without one it joins nearly all of them."""
    tuned: Tuned
    ours: bool
    """True if aiovec built it, so that it may be built anew."""


async def vector_index(session: Session, table: Opened) -> InUse | None:
    """The index over the vectors; None where there is none."""
    if _IN_USE not in table.known:
        table.known[_IN_USE] = _in_use(await session.indices(table), table)
    found: InUse | None = table.known[_IN_USE]
    return found


def seen_index(table: Opened) -> InUse | None:
    """The same, where it was asked for before."""
    found: InUse | None = table.known.get(_IN_USE)
    return found


def _in_use(indices: list[Any], table: Opened) -> InUse | None:
    for index in indices:
        kind = kind_of_type(index.index_type)
        if kind is not None and index.columns == [table.schema.vector]:
            size = (index.index_details or {}).get("target_partition_size")
            tuned, ours = _tuned_for(table.tuned or Tuned(), kind, index.index_uuid, size)
            return InUse(
                name=index.name,
                kind=kind,
                uuid=index.index_uuid,
                segments=int(index.num_segments or 1),
                rows_unindexed=int(index.num_unindexed_rows or 0),
                partition_size=size,
                tuned=tuned,
                ours=ours,
            )
    return None


def _tuned_for(note: Tuned, kind: Kind, uuid: str | None, size: int | None) -> tuple[Tuned, bool]:
    """Return the table's note about the index, and whether aiovec built it.

    A note is written after the index was committed, and the process may have ended in between.
    So it counts for the index that it names alone.
    """
    shape = {"graph": kind.graph, "whole": kind.whole}
    if note.kind == kind.name and note.uuid == uuid:
        return note, True
    intent = note.intent
    if intent is not None and intent.kind == kind.name:
        known: dict[str, Any] = {"auto": intent.auto, "target": intent.target, "uuid": uuid}
        known |= {"options": intent.options, "built_rows": intent.rows}
        return Tuned.unmeasured(kind.name, **shape, **known), True
    if note.kind == kind.name and uuid is not None:
        if note.uuid is not None and note.options.get("target_partition_size") == size:
            return note.renewed(uuid), True
        if note.uuid is None:  # an earlier release of aiovec wrote it
            known = {"auto": note.auto, "target": note.target, "uuid": uuid}
            known |= {"options": note.options, "built_rows": note.built_rows}
            return Tuned.unmeasured(kind.name, **shape, **known), True
    return Tuned.unmeasured(kind.name, **shape, uuid=uuid, target=note.target), False


async def partitions_of(session: Session, table: Opened) -> int | None:
    """Return the number of partitions of the index; None if Lance does not say.

    Lance tells it only of a search that it did, so it does one through all partitions.
    """
    probe = table.lance.query().nearest_to(np.ones(table.schema.dim, dtype=np.float32))
    probe = probe.column(table.schema.vector).distance_type(table.schema.metric)
    probe = probe.nprobes(EVERY_PARTITION).limit(1).select(["_distance"])
    try:
        plan = await session.run(probe.analyze_plan())
    except AiovecError:
        return None
    searched, deltas = (re.search(rf"\b{name}=(\d+)", plan) for name in _METRICS)
    if searched is None or deltas is None:
        return None
    return int(searched[1]) // max(1, int(deltas[1])) or None


_METRICS = ("partitions_searched", "deltas_searched")


async def unindexed_rows(session: Session, table: Opened) -> dict[str, int]:
    """For each column that has an index, the rows that one of its indexes does not cover."""
    rows: dict[str, int] = {}
    for index in await session.indices(table):
        if len(index.columns) == 1:
            column = index.columns[0]
            rows[column] = max(rows.get(column, 0), int(index.num_unindexed_rows or 0))
    return rows


async def has_id_index(session: Session, table: Opened) -> bool:
    return any(index.columns == ["id"] for index in await session.indices(table))


async def infos_of(session: Session, table: Opened) -> list[IndexInfo]:
    """The indexes over vectors and fields, by their names.

    That over the ids is none of them: it comes and stays by itself, as a file's own would.
    """
    in_use = await vector_index(session, table)
    indices = [index for index in await session.indices(table) if index.columns != ["id"]]
    found = [_info(index, in_use) for index in indices]
    return sorted(found, key=lambda info: info.name)


def _info(index: Any, in_use: InUse | None) -> IndexInfo:
    details = index.index_details or {}
    parameters = {name: value for name, value in details.items() if name not in _LEFT_OUT}
    kind, recall = _SCALAR.get(index.index_type, index.index_type), None
    if in_use is not None and index.name == in_use.name:
        kind, tuned = in_use.kind.name, in_use.tuned
        # Options of the build beside what the index turned out as, of which partitions are one.
        parameters |= {name: value for name, value in tuned.options.items() if name not in details}
        parameters.pop("num_partitions", None)
        if tuned.partitions is not None:
            parameters["num_partitions"] = tuned.partitions
        recall = tuned.recall
        if recall is not None:
            parameters["measured_at_rows"] = tuned.rows
    return IndexInfo(
        name=index.name,
        kind=kind,
        column=index.columns[0],
        parameters=parameters,
        rows_indexed=int(index.num_indexed_rows or 0),
        rows_unindexed=int(index.num_unindexed_rows or 0),
        recall=recall,
    )


async def with_index(
    session: Session,
    table: Opened,
    stats: TableStats,
    *,
    target_of: Callable[[Tuned], float],
    doing: str | None,
    failure: str | None,
) -> TableStats:
    """The facts with those of the vector index: what is under way, and why the last try failed."""
    index = await vector_index(session, table)
    words = ["none"] if index is None else [index.kind.name]
    details = dict(stats.details)
    if index is not None:
        tuned, target = index.tuned, target_of(index.tuned)
        effort: Effort = tuned.effort(LIMITS[0], target)[0]
        details |= {"recall_target": target, "recall": tuned.recall, "effort": effort.shown()}
        found = "not measured yet" if tuned.recall is None else f"{tuned.recall:.3f}"
        words.append(f"recall {found} (target {target:g})")
    if doing is not None:
        words.append(doing)
    if failure is not None:
        details["index_failure"] = failure
    if await has_id_index(session, table):
        details["unindexed_ids"] = (await unindexed_rows(session, table))["id"]
    unindexed = stats.rows if index is None else index.rows_unindexed
    return replace(stats, index=", ".join(words), unindexed_rows=unindexed, details=details)
