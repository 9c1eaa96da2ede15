"""Ask Lance for the rows that match a keyword query."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from aiovec.backend.contract import Columns
from aiovec.backend.threads import in_thread

from ..driver import FullTextQuery
from ..layout import column_names
from ..reads import MOST, filtered
from ..session import Opened, Session

if TYPE_CHECKING:
    from lancedb.query import AsyncFTSQuery

SCORE = "_score"
"""The column that Lance adds: BM25, higher is better."""
ALL = MOST
"""A limit that takes all rows."""
MORE = 64
"""Rows that are asked for beyond the limit, so that those of equal score are among them."""
TIMES = 8
"""The factor by which more are asked for where they are not."""


async def ask(
    session: Session,
    table: Opened,
    query: FullTextQuery,
    columns: Columns,
    where: str | None,
    limit: int,
) -> pa.Table:
    """Return the best rows that match, with their score."""
    names = [*column_names(table.schema, columns), SCORE]

    def build() -> AsyncFTSQuery:
        with session.translated():
            built = table.lance.query().nearest_to_text(query)
            return built.select(names).limit(min(limit, MOST))

    # One condition or a thousand words: it becomes JSON on the way.
    return await session.fetch(await filtered(await in_thread(build), where))


def none_left_out(rows: pa.Table, matches: pa.Table, limit: int, asked: int) -> bool:
    """Return whether no other row can be among the first matches; equal ones are in order of id.

    Lance was asked for so many rows and gave these, of which some match.
    """
    if rows.num_rows < asked:
        return True
    if matches.num_rows < limit:
        return False
    last = np.sort(matches.column(SCORE).to_numpy())[-limit]
    return bool(last > rows.column(SCORE).to_numpy().min())


def ranking(ids: Sequence[str] | pa.ChunkedArray, scores: Any) -> pa.Table:
    """Ids and their scores, as ``ask`` gives them."""
    columns = {"id": pa.array(ids) if isinstance(ids, list) else ids, SCORE: scores}
    return pa.table(columns).cast(_RANKING)


_RANKING = pa.schema([pa.field("id", pa.utf8()), pa.field(SCORE, pa.float64())])
