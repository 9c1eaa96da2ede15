"""The searches of a store that are at work at once.

Of thousands that are asked for at once a backend works on a few dozen. What a search holds while it
waits deep inside (its frames, its query, its options) is some eighty objects, and Python's garbage
collector looks through all of them, on the event loop: with 5,000 waiting it held the loop for
0.3 s at a time. So searches wait before anything is made of them.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from .._telemetry.events import Operation, watch
from .waiting import Admission, Patience, Share

if TYPE_CHECKING:
    from .engine import Engine

# As many as fill the batches that all cores work on, and the next ones; of a backend that waits for
# the network or the disk, as many as it may have under way.
AT_ONCE = max(96, 32 * (os.cpu_count() or 1))


def search_admission() -> Admission:
    return Admission("other searches of this process take too long", calls=AT_ONCE)


class SearchTurn(Share):
    """A search's place, held by ``async with``, and left sooner by ``give_back``.

    One that ``embeds`` takes it by ``take_late`` when its embedder has answered: no other search
    waits for that.
    """

    __slots__ = ("_embeds", "_engine", "began", "name", "table")

    def __init__(
        self, admission: Admission, engine: Engine, name: str, table: str, *, embeds: bool
    ) -> None:
        patience = Patience(engine.backend.busy_timeout, new_call=True)
        super().__init__(admission, 0, patience)
        self.began = patience.began
        self._engine = engine
        self.name = name
        self.table = table
        self._embeds = embeds

    async def __aenter__(self) -> SearchTurn:
        if not self._embeds:
            try:
                await self.take()
            except BaseException:
                with watch(Operation(self.name, self.table, began=self.began), self._engine.place):
                    raise
        return self

    async def take_late(self) -> None:
        """Take it now, unless an attempt before has. What it waits counts from the step's start."""
        if self._state is None:
            self.patience = Patience(self._engine.backend.busy_timeout)
            await self.take()
