"""Notes by which a migration reaches the readers and writers of the tables of a store."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, ClassVar

from aiovec.backend.contract import StaleTableError
from aiovec.errors import CorruptStoreError

from .layout import LEFT, MOVING, is_moving
from .locks.moves import Fence
from .session import Session
from .writer import WriteOperation


@dataclass(frozen=True, slots=True, eq=False)
class Sign(WriteOperation):
    """Sets the sign by which reads of a table know that there is a mark to heed.

    Where there is none, it removes the sign. It takes its turn among the writes of the table, and
    so returns behind all that came before.
    """

    brings_files: ClassVar[bool] = False

    table: str
    fence: Fence

    async def do(self, session: Session, others: Sequence[WriteOperation]) -> list[Any]:
        with suppress(StaleTableError):
            lance, arrow = await session.open_any(self.table)
            # As it is now: another run may have begun, or ended, since the caller's look.
            moving = await self.fence.concerns_reads()
            if is_moving(arrow) != moving:
                metadata = {MOVING: "1" if moving else None}
                await session.run(lance.update_field_metadata({"path": "id", "metadata": metadata}))
        return [None]


@dataclass(frozen=True, slots=True, eq=False)
class MakeStale(WriteOperation):
    """Makes every handle on a table out of date."""

    brings_files: ClassVar[bool] = False

    table: str

    async def do(self, session: Session, others: Sequence[WriteOperation]) -> list[Any]:
        # It was dropped meanwhile, or nobody can write to it anyway.
        with suppress(StaleTableError, CorruptStoreError):
            lance, arrow = await session.open_any(self.table)
            if arrow.get_field_index("id") >= 0:  # another program's table may have none
                metadata = {LEFT: uuid.uuid4().hex}
                await session.run(lance.update_field_metadata({"path": "id", "metadata": metadata}))
        return [None]
