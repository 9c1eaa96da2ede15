"""The progress of a migration away from the store: the store's word, and the run's own notes."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from functools import cache
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any

from aiovec._http.migration import move_record_of
from aiovec.backend.threads import in_thread
from aiovec.errors import AiovecError

if TYPE_CHECKING:
    from aiovec import VectorStore

GROUP = "aiovec.runs"
"""Entry points: functions that tell from a run's journal how far it is."""

Progress = Callable[[str], Awaitable[Mapping[str, Any] | None]]


class Runs:
    """The migrations that a server has seen.

    A store knows the journal of a run only until it is left, so the last one is kept here: then
    the page shows the run to its end.
    """

    def __init__(self) -> None:
        self._journals: dict[str, str] = {}

    async def facts(self, store: VectorStore) -> dict[str, Any]:
        """Return the state of the store, and where it can be read, the progress of the run."""
        record = await move_record_of(store)
        mark = record.mark
        run = record.run if mark is None else mark.run
        if mark is not None and mark.journal:
            self._journals = {run: mark.journal}
        return {
            "state": "none" if mark is None else mark.state,
            "run": run or None,
            "generation": record.generation,
            "progress": await self._progress(run),
        }

    async def _progress(self, run: str) -> Mapping[str, Any] | None:
        journal = self._journals.get(run)
        if journal is None:
            return None
        for progress in await in_thread(_readers):
            try:
                found = await progress(journal)
            except AiovecError:  # damaged, or a later version's: the store's own word has to do
                continue
            if found is not None and found["run"] == run:
                return found
        return None


@cache
def _readers() -> list[Progress]:
    return [entry.load() for entry in entry_points(group=GROUP)]
