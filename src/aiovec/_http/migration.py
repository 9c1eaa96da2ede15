"""A migration as an open store knows of it, for those who watch from outside."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .._telemetry.calls import Operation
from ..backend.contract import moves_of
from ..backend.marks import MoveRecord

if TYPE_CHECKING:
    from .._store.current import Engine
    from .._store.store import VectorStore


async def move_record_of(store: VectorStore) -> MoveRecord:
    """Return the record that the store in use keeps of migrations; an empty one if it keeps none.

    It holds places of this machine: choose what leaves.
    """

    async def read(engine: Engine) -> MoveRecord:
        moves = moves_of(engine.backend)
        return MoveRecord() if moves is None else await moves.move_record()

    return await store._call(Operation("ping"), read)
