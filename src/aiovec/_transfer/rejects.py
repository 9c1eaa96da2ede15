"""The list of the rows that were not imported, one line of JSON for each."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import IO

from ..backend.files import writing_to
from ..backend.foreign import Reject


class RejectsFile:
    """The list of the latest import, which removes an earlier one."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.count = 0
        self._file: IO[str] | None = None

    def write(self, table: str, place: str, rejects: Iterable[Reject]) -> None:
        """List rows of a table; ``place`` is the word for their place in the source."""
        with writing_to(self.path):
            for one in rejects:
                if self._file is None:
                    # An id of bytes that are no text may hold lone surrogates.
                    self._file = self.path.open("w", encoding="utf-8", errors="replace")
                entry = {"table": table, place: one.row, "id": one.id, "reason": one.reason}
                self._file.write(json.dumps(entry, ensure_ascii=False) + "\n")
                self.count += 1

    def close(self, done: bool) -> None:
        """Complete the list. ``done`` says that all rows were read."""
        with writing_to(self.path):
            if self._file is not None:
                self._file.close()
            elif done:
                self.path.unlink(missing_ok=True)
