"""Indexes over fields, as the schema says: they make filters faster, and never change an answer.

They are made with their columns, when these are empty. Rows that come later are scanned until
upkeep brings them in, and the vector index is the only one that has to wait for rows.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from aiovec.schema import Field

from .driver import indexing
from .session import Session


def config_of(field: Field) -> Any:
    """What lancedb's ``create_index`` takes for the field; None where it gets no index.

    Lance has no bitmaps over floats and times, and the one index that helps CONTAINS is over lists.
    """
    if field.kind == "list[text]":
        return indexing.LabelList()
    if field.index == "bitmap" and field.kind not in ("float", "datetime"):
        return indexing.Bitmap()
    return None if field.index is None else indexing.BTree()


async def index_fields(session: Session, lance: Any, fields: Mapping[str, Field]) -> None:
    """Make the indexes that the fields want, of those that the table does not have yet."""
    wanted = {name: config_of(field) for name, field in fields.items()}
    wanted = {name: config for name, config in wanted.items() if config is not None}
    if not wanted:
        return
    there = {tuple(index.columns) for index in await session.run(lance.list_indices())}
    for name, config in wanted.items():
        if (name,) not in there:
            await session.run(lance.create_index(name, config=config))
