"""Engines: workers, perhaps on other machines, that do the long work on a table.

The entry point in the group ``aiovec.engines`` has the engine's name and refers to a function. The
function takes the address of the workers, or None for workers on this machine, and the place of the
store, and returns an ``Engine``, which works on tables of the backends that it knows. For a place
of another backend, the function raises UnsupportedError before it connects.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from .._model.schema import Schema
from .._tools.packages import installed
from ..errors import BackendNotInstalledError, ConfigError
from .contract import Backend, TableHandle

if TYPE_CHECKING:
    import pyarrow as pa

    from .place import Place

GROUP = "aiovec.engines"

ReadSource = Callable[[str, Schema], "Iterator[pa.Table]"]
"""A function that yields the rows of a file, checked against the schema. Its AiovecErrors name the
file and the row. The function can be pickled, and blocks."""

Seen = Callable[[int, int], None]
"""A function that is called with the numbers of files and rows read so far."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """The outcome of a load: the number of rows that it added.

    If an earlier attempt with the same ``run`` added them, ``rows`` is 0, and ``existing`` is the
    number of rows in the table.
    """

    rows: int
    existing: int = 0


class Engine(Protocol):
    """The interface of an engine, which does the long work on tables.

    Every method raises UnsupportedError for a backend that the engine does not know.
    """

    def close(self) -> None:
        """Disconnect from the workers, and stop the workers that this engine started. Blocks."""

    async def load(
        self,
        backend: Backend,
        table: TableHandle,
        run: str,
        sources: Sequence[str],
        read: ReadSource,
        seen: Seen,
    ) -> Loaded:
        """Add the rows of all sources to a table in one commit, or add no rows.

        No other process can write to the table during the load. A table whose last load was this
        ``run`` is not changed. Raises DuplicateIdError if an id occurs twice, or exists already.
        """

    async def index(
        self, backend: Backend, table: TableHandle, kind: str, options: Mapping[str, Any]
    ) -> None:
        """Build the vector index, like ``Backend.create_index``."""

    async def optimize(self, backend: Backend, table: TableHandle) -> None:
        """Compact a table, then bring all its indexes up to date."""


def engine_named(name: str, address: str | None, place: Place) -> Engine:
    """Return an installed engine, connected to its workers, for the store at a place. Blocks.

    Call it before the store is opened: an engine may fork the process, which not every backend
    survives.
    """
    entry_point = installed(GROUP).get(name)
    if entry_point is None:
        accepted = ", ".join(installed(GROUP)) or "none"
        raise ConfigError(
            f"there is no engine {name!r}; the installed engines: {accepted}", key="--engine"
        )
    try:
        connect: Callable[[str | None, Place], Engine] = entry_point.load()
    except ImportError as exc:
        raise BackendNotInstalledError(name, f"aiovec[{name}]") from exc
    return connect(address, place)
