"""The searches of a store that are at work at once.

Of thousands that are asked for at once a backend works on a few dozen. What a search holds while it
waits deep inside (its frames, its query, its options) is some eighty objects, and Python's garbage
collector looks through all of them, on the event loop: with 5,000 waiting it held the loop for
0.3 s at a time. So searches wait before anything is made of them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .._telemetry.spans import span
from ..backend.limits import Deadline, Gate, Place, current_deadline

if TYPE_CHECKING:
    from .._telemetry.calls import Operation
    from .current import Engine


class SearchTurns:
    """The searches of a store: those by words alone take little, and have a queue of their own."""

    __slots__ = ("by_vectors", "by_words")

    def __init__(self) -> None:
        reason = "other searches of this process take too long"
        self.by_vectors, self.by_words = Gate(reason), Gate(reason)

    def of(self, engine: Engine, operation: Operation, *, embeds: bool = False) -> SearchTurn:
        """The turn of a search, to be held while it is at work."""
        searches = self.by_words if operation.name == "search_text" else self.by_vectors
        searches.calls = engine.backend.searches_at_once
        return SearchTurn(searches, engine, operation, embeds=embeds)

    def place_by_words(self, engine: Engine) -> Place:
        """A place among the searches by words, for a part of another search."""
        self.by_words.calls = engine.backend.searches_at_once
        return self.by_words.enter(current_deadline(engine.backend.busy_timeout))

    def close(self, error: Exception) -> None:
        """Have those that wait end with the error."""
        self.by_vectors.close(error)
        self.by_words.close(error)


class SearchTurn(Place):
    """A search's place, held by ``async with``, and left sooner by ``leave``.

    One that ``embeds`` takes it by ``take_late`` when its embedder has answered: no other search
    waits for that.
    """

    __slots__ = ("_embeds", "_engine", "operation")

    def __init__(self, gate: Gate, engine: Engine, operation: Operation, *, embeds: bool) -> None:
        super().__init__(gate, Deadline.after(engine.backend.busy_timeout), 0)
        operation.began = self.deadline.began
        self.operation = operation
        self._engine = engine
        self._embeds = embeds

    async def __aenter__(self) -> SearchTurn:
        if not self._embeds:
            try:
                await self.take()
            except BaseException:
                with span(self.operation, self._engine.place):
                    raise
        return self

    async def take_late(self) -> None:
        """Take it now, where it is not held. What it waits counts from the step's start."""
        if not self.is_held:
            self.deadline = current_deadline(self._engine.backend.busy_timeout)
            await self.take()
