"""Hybrid search: fuse a vector search and a keyword search of the same version."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

import pyarrow as pa

from aiovec.backend import FusedHit
from aiovec.backend.contract import Columns, FromEach, Query, TableHandle
from aiovec.backend.hybrid import columns_to_read, found, fused
from aiovec.backend.limits import current_deadline
from aiovec.backend.rows import Batch
from aiovec.backend.threads import hop, together

from ..layout import ROW
from ..reads import get_by_number
from ..session import Snapshot
from ..table import Versions
from ..vector_search import Nearest, nearest, searching
from .highlight import snippets_of
from .keyword_search import bytes_of_texts, pairs, ranked

_T = TypeVar("_T")


async def search_hybrid(
    versions: Versions, handle: TableHandle, query: Query, finish: FromEach[_T]
) -> _T:
    """Search by vector and by words; return the result of ``finish`` for the best rows."""
    ids_only, every_row = replace(query, columns=Columns(())), query.exact
    texts = partial(bytes_of_texts, versions, query)
    deadline = current_deadline(None)

    async def half(search: Callable[..., Awaitable[Any]], *arguments: Any, **options: Any) -> Any:
        with deadline.shared():
            return await search(*arguments, **options)

    while True:
        async with searching(versions, handle, [query], every_row=every_row, beside=texts) as table:
            near, (matching, weight) = await together([
                partial(half, nearest, table, ids_only, every_row=every_row),
                partial(half, ranked, table, query, Columns(()), weigh=True),
            ])  # fmt: skip
            if near is not None:
                return await _fused(table, query, near, matching, weight, finish)
        every_row = True


async def _fused(
    table: Snapshot,
    query: Query,
    near: Nearest,
    matching: pa.Table,
    weight: float,
    finish: FromEach[_T],
) -> _T:
    """Fuse the results of both searches, and read the rows of the hits."""
    metric = table.schema.metric
    numbers: dict[str, int] = {}

    def fuse() -> list[FusedHit[str]]:
        for rows in near.rows, matching:
            numbers.update(zip(rows["id"].to_pylist(), rows[ROW].to_pylist(), strict=True))
        by_distance = [*zip(near.distances, near.rows["id"].to_pylist(), strict=True)]
        return fused(query, metric, by_distance, pairs(matching), weight, _ids)

    hits = await hop(len(near.distances) + matching.num_rows, fuse)
    wanted = [numbers[hit.key] for hit in hits]

    def finished(rows: Batch) -> _T:
        return finish([found(query, metric, hits, rows, snippets_of(table.schema, query))])

    return await get_by_number(table, wanted, columns_to_read(query, hits), finished)


def _ids(keys: Sequence[str]) -> dict[str, str]:
    return {key: key for key in keys}
