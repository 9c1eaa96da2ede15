"""The rows that could not be taken, one line of JSON for each."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from ..backend.files import writing_to
from ..backend.foreign import Reject
from ..errors import AiovecError, ConfigError, StoreFullError
from .parts import PartFile

# A reason may quote a value, so there can be as many as rows. Those beyond are counted together.
_REASONS = 50
_EXAMPLES = 3
_LONGEST_LINE = 2**26
OTHER_REASONS = "other reasons"


@dataclass(slots=True)
class Reason:
    """A reason why rows of a table were not taken, how many, and the first few of them."""

    text: str
    rows: int = 0
    examples: list[Reject] = field(default_factory=list)


class RejectsFile:
    """Appears under its name at the end, and only where there are rejects.

    ``first`` is the first of them, for a message.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.count = 0
        self.first: Reject | None = None
        self._reasons: dict[str, dict[str, Reason]] = {}
        self._part = PartFile(path)
        self._file: IO[str] | None = None

    def open(self) -> None:
        """Fails here, before the first row, where the file cannot be written.

        ConfigError where it would replace anything but an earlier list of rejects.
        """
        if os.path.lexists(self.path) and not _is_list(self.path):
            raise ConfigError(
                f"{self.path} exists and is not a list of rejects, so it is not replaced; name "
                "another file"
            )
        with writing_to(self.path):
            self._file = self._part.begin().open("w", encoding="utf-8", newline="\n")

    def write(self, table: str, place: str, rejects: Iterable[Reject]) -> None:
        with self._writing():
            for reject in rejects:
                self.first = self.first or reject
                self.count += 1
                self._note(table, reject)
                if self._file is not None:
                    entry = {"table": table, place: reject.row, "id": reject.id,
                             "reason": reject.reason}  # fmt: skip
                    self._file.write(_as_text(json.dumps(entry, ensure_ascii=False)) + "\n")

    def _note(self, table: str, reject: Reject) -> None:
        reasons = self._reasons.setdefault(table, {})
        text = _as_text(reject.reason)
        if text not in reasons and len(reasons) >= _REASONS:
            text = OTHER_REASONS
        reason = reasons.setdefault(text, Reason(text))
        reason.rows += 1
        if len(reason.examples) < _EXAMPLES:
            reason.examples.append(reject)

    def reasons(self, table: str) -> list[Reason]:
        """Return why rows of a table were not taken, the most frequent reason first."""
        return sorted(self._reasons.get(table, {}).values(), key=lambda reason: -reason.rows)

    def close(self, *, done: bool = False) -> None:
        """May be called twice. Without rejects an earlier list goes, if all is ``done``."""
        if self._file is None:
            return
        file, self._file = self._file, None
        try:
            with self._writing():
                file.close()
                if self.count:
                    self._part.finish()
        finally:
            self._part.discard()
        if done and not self.count and _is_list(self.path):
            self.path.unlink(missing_ok=True)

    def abandon(self, error: BaseException) -> None:
        """Close behind a failure, which is to be told also where the list cannot be written."""
        try:
            self.close()
        except AiovecError as exc:
            if str(exc) != str(error):
                error.add_note(str(exc))

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """Let a failure tell of the list alone: what the store has is another matter."""
        try:
            with writing_to(self.path):
                yield
        except StoreFullError as exc:
            raise AiovecError(f"there is no room for the list of rejects {self.path}") from exc


def _is_list(path: Path) -> bool:
    """Return whether a file is empty or begins with a line that ``RejectsFile`` wrote."""
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            return False
        with path.open("rb") as file:
            line = file.readline(_LONGEST_LINE)
        return not line or {"table", "id", "reason"} <= json.loads(line).keys()
    except (OSError, ValueError, AttributeError):
        return False


def _as_text(text: str) -> str:
    """Without lone surrogates, which an id of bytes that are no text may hold."""
    return text.encode("utf-8", "replace").decode()
