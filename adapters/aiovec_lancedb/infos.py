"""What indexes a table has, in the words of the contract."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from aiovec.backend import IndexInfo, TableStats

from .effort import LIMITS, Tuned
from .kinds import kind_of_type
from .session import Opened, Session

_SCALAR = {"BTree": "btree", "Bitmap": "bitmap", "LabelList": "label_list", "FTS": "text"}
# Details of the building that tell nothing of the index.
_LEFT_OUT = ("runtime_hints",)


async def vector_index(session: Session, table: Opened) -> Any:
    """Lance's own description of the index over the vectors; None where there is none."""
    for index in await session.run(table.lance.list_indices()):
        if kind_of_type(index.index_type) is not None and index.columns == [table.schema.vector]:
            return index
    return None


async def unindexed_rows(session: Session, table: Opened) -> dict[str, int]:
    """For each column that has an index, the rows that it does not cover."""
    return {
        index.columns[0]: int(index.num_unindexed_rows or 0)
        for index in await session.run(table.lance.list_indices())
        if len(index.columns) == 1
    }


async def infos_of(session: Session, table: Opened) -> list[IndexInfo]:
    """All indexes, over vectors and over fields, by their names."""
    found = [_info(index, table.tuned) for index in await session.run(table.lance.list_indices())]
    return sorted(found, key=lambda info: info.name)


def _info(index: Any, tuned: Tuned | None) -> IndexInfo:
    kind = kind_of_type(index.index_type)
    details = index.index_details or {}
    parameters = {name: value for name, value in details.items() if name not in _LEFT_OUT}
    recall = None
    if kind is not None and tuned is not None and tuned.kind == kind.name:
        parameters |= dict(tuned.options)
        recall = tuned.recall
        if recall is not None:
            parameters["measured_at_rows"] = tuned.rows
    return IndexInfo(
        name=index.name,
        kind=kind.name if kind is not None else _SCALAR.get(index.index_type, index.index_type),
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
    target: float,
    doing: str | None,
    failure: str | None,
) -> TableStats:
    """The facts with those of the vector index: what is under way, and why the last try failed."""
    index = await vector_index(session, table)
    tuned = table.tuned
    words = ["none"] if index is None else [_kind_of(index)]
    details = dict(stats.details)
    if index is not None and tuned is not None and tuned.kind == _kind_of(index):
        effort, _ = tuned.effort(LIMITS[0], target)
        details |= {"recall_target": target, "recall": tuned.recall, "effort": effort.shown()}
        found = "not measured yet" if tuned.recall is None else f"{tuned.recall:.3f}"
        words.append(f"recall {found} (target {target:g})")
    if doing is not None:
        words.append(doing)
    if failure is not None:
        details["index_failure"] = failure
    unindexed = stats.rows if index is None else int(index.num_unindexed_rows or 0)
    return replace(stats, index=", ".join(words), unindexed_rows=unindexed, details=details)


def _kind_of(index: Any) -> str:
    kind = kind_of_type(index.index_type)
    return str(index.index_type) if kind is None else kind.name
