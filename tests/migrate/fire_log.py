"""What processes of an app have written, kept outside of every store.

Each process has a file of its own. A line goes there before each write, as what it intends, and
another one behind its acknowledgement. A write that was not acknowledged may have been done or not,
until its process reads what became of it and notes that.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.sqlite.support import State

Found = State | None
"""What a row is: None where it does not exist."""


class Log:
    """Writes the file of one process. A line is one ``write``, so a kill does not cut it."""

    def __init__(self, file: Path) -> None:
        self._file = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)

    def _line(self, *facts: Any) -> None:
        os.write(self._file, json.dumps(facts).encode() + b"\n")

    def intends(self, number: int, states: Mapping[str, Found]) -> None:
        self._line("intends", number, {id: _told(state) for id, state in states.items()})

    def acknowledged(self, number: int) -> None:
        self._line("acknowledged", number)

    def refused(self, number: int, error: Exception) -> None:
        self._line("refused", number, type(error).__name__)

    def saw(self, states: Mapping[str, Found]) -> None:
        self._line("saw", {id: _told(state) for id, state in states.items()})

    def note(self, kind: str, text: str) -> None:
        self._line("note", kind, text)


def _told(state: Found) -> list[int] | None:
    return None if state is None else [state.vector_version, state.version]


def _found(told: list[int] | None) -> Found:
    return None if told is None else State(*told)


@dataclass
class History:
    """What each row may be by the lines that were read."""

    file: Path
    possible: dict[str, list[Found]] = field(default_factory=dict)
    """The last state that is certain, and behind it those that writes may have made since."""
    newest: int = 0
    acknowledged: int = 0
    lines: dict[str, int] = field(default_factory=dict)
    versions: dict[str, int] = field(default_factory=dict)
    """The newest that was ever intended for a row; its last write may have been a delete."""
    notes: dict[str, int] = field(default_factory=dict)
    _open: dict[int, dict[str, Found]] = field(default_factory=dict)
    _read: int = 0

    def read(self) -> History:
        """Read the lines that were added."""
        with self.file.open("rb") as file:
            file.seek(self._read)
            lines = file.read()
        lines = lines[: lines.rfind(b"\n") + 1]
        self._read += len(lines)
        for line in lines.splitlines():
            self._add(*json.loads(line))
        return self

    def _add(self, kind: str, *facts: Any) -> None:
        if kind == "intends":
            number, told = facts
            states = {id: _found(state) for id, state in told.items()}
            self.newest = max(self.newest, number)
            self._open[number] = states
            for id, state in states.items():
                self.possible.setdefault(id, [None]).append(state)
                self.lines[id] = self.lines.get(id, 0) + 1
                if state is not None:
                    self.versions[id] = state.version
        elif kind == "acknowledged":
            self.acknowledged += 1
            for id, state in self._open.pop(facts[0]).items():
                self.possible[id] = [state]
        elif kind == "saw":
            for id, state in facts[0].items():
                self.possible[id] = [_found(state)]
        elif kind == "refused":
            del self._open[facts[0]]
        else:
            name = " ".join(facts)
            self.notes[name] = self.notes.get(name, 0) + 1

    def look(self) -> Look:
        self.read()
        possible = {id: list(states) for id, states in self.possible.items()}
        return Look(possible, dict(self.lines), dict(self.versions))


@dataclass(frozen=True)
class Look:
    """What each row may be at one moment, how many lines concern it so far, and the newest version
    of it that any of these tells."""

    possible: Mapping[str, list[Found]]
    lines: Mapping[str, int]
    versions: Mapping[str, int]

    def wrong(self, later: Look, found: Mapping[str, Found], ids: Iterable[str]) -> list[str]:
        """Where what was read between this look and a later one is none of what the log allows."""
        problems = []
        for id in ids:
            state = found.get(id)
            allowed = [*self.possible.get(id, [None]), *later.possible.get(id, [None])]
            if state in allowed:
                continue
            if self.lines.get(id, 0) != later.lines.get(id, 0):
                # Several writes came between the looks, and a read may have met any of them.
                least = min(s.version if s else 0 for s in self.possible.get(id, [None]))
                if state is None or least < state.version <= later.versions.get(id, 0):
                    continue
            problems.append(f"{id} is {state}, and by the log one of {allowed}")
        return problems
