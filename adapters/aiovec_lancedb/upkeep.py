"""What a table holds and costs, and what keeps it small."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from aiovec.backend import TableHandle, TableStats

from .session import Opened, Session
from .tidying import Retention, versions_of

if TYPE_CHECKING:
    from aiovec.backend import LancedbSettings


# How long, at most, a version that was replaced is kept for those who may still be reading it,
# whatever else tells that it may go. A read that takes longer is repeated, and an export pins its
# version. Those of other machines cannot be seen.
_GRACE_ON_A_FOLDER = timedelta(seconds=5)
_GRACE = timedelta(hours=1)


def retention(settings: LancedbSettings, *, on_folder: bool) -> Retention:
    return Retention(
        settings.kept_versions(),
        settings.max_versions,
        _GRACE_ON_A_FOLDER if on_folder else _GRACE,
    )


class Tidied(NamedTuple):
    """A tidying that is done: when it ended, and how many seconds it took."""

    at: datetime
    took: float


class Log:
    """When each table was last tidied: in a file beside the tables, or as long as the store."""

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._known: dict[str, tuple[str, Tidied]] = {}

    def note(self, handle: TableHandle, took: float) -> None:
        """It is done now. Writes to the disk."""
        tidied = Tidied(datetime.now(UTC), took)
        if self._folder is None:
            self._known[handle.name] = _incarnation(handle), tidied
            return
        path = self._folder / f"{handle.name}.optimized"
        partial = path.with_name(f"{path.name}.{os.getpid()}")
        with suppress(OSError):  # the next one may write it
            text = f"{_incarnation(handle)} {tidied.at.isoformat()} {took:.3f}"
            partial.write_text(text, encoding="ascii")
            partial.replace(path)

    def last(self, handle: TableHandle) -> Tidied | None:
        """Reads the disk."""
        if self._folder is None:
            of, tidied = self._known.get(handle.name, ("", None))
            return tidied if of == _incarnation(handle) else None
        try:
            text = (self._folder / f"{handle.name}.optimized").read_text(encoding="ascii")
            of, at, took = text.split(" ")
            tidied = Tidied(datetime.fromisoformat(at), float(took))
        except (OSError, ValueError):
            return None
        return tidied if of == _incarnation(handle) else None


def _incarnation(handle: TableHandle) -> str:
    """What tells the table from an earlier one of the same name."""
    token: Any = handle.token
    return str((token[0] or b"").decode())


async def stats(session: Session, table: Opened, backend: str) -> TableStats:
    # A mapping, whatever its annotation says.
    found: Any = await session.run(table.lance.stats())
    versions = await versions_of(session, table)
    return TableStats(
        table=table.name,
        backend=backend,
        rows=int(found["num_rows"]),
        bytes=int(found["total_bytes"]),
        index="none",
        unindexed_rows=int(found["num_rows"]),
        scan_memory=0,
        last_optimize=None,
        details={
            "fragments": int(found["fragment_stats"]["num_fragments"]),
            "versions": len(versions),
        },
    )


async def versions(session: Session, table: Opened) -> list[Mapping[str, Any]]:
    """Every version that is kept, the oldest first, with the time of its commit."""
    return [
        {"version": one.number, "created": one.created} for one in await versions_of(session, table)
    ]
