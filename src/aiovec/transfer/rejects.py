"""The rows that could not be taken, one line of JSON for each."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import IO

from ..sources import Reject
from .parts import PartFile, writing_to


class RejectsFile:
    """Appears under its name at the end, and only where there are rejects.

    ``first`` is the first of them, for a message.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.count = 0
        self.first: Reject | None = None
        self._part = PartFile(path)
        self._file: IO[str] | None = None

    def open(self) -> None:
        """Fails here, before the first row, where the file cannot be written."""
        with writing_to(self.path):
            self._file = self._part.part.open("w", encoding="utf-8", newline="\n")

    def write(self, table: str, place: str, rejects: Iterable[Reject]) -> None:
        with writing_to(self.path):
            for reject in rejects:
                self.first = self.first or reject
                self.count += 1
                if self._file is not None:
                    entry = {"table": table, place: reject.row, "id": reject.id,
                             "reason": reject.reason}  # fmt: skip
                    text = json.dumps(entry, ensure_ascii=False)
                    # A lone surrogate, such as an id of bytes that are no text may hold.
                    self._file.write(text.encode("utf-8", "replace").decode() + "\n")

    def close(self) -> None:
        """May be called twice."""
        if self._file is None:
            return
        file, self._file = self._file, None
        with writing_to(self.path):
            file.close()
            if self.count:
                self._part.finish()
            else:
                self._part.discard()
