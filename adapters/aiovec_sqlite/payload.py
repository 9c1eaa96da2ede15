"""Where SQL finds the value of a payload key, and its JSON type.

Keys are looked up among those that ``json_each`` gives, not by JSON paths: it unescapes them on
every version of SQLite, while a path misses keys that JSON text holds escaped (SQLite 3.40) and
takes the key ``a\\0b`` for ``a`` (3.53). It binds one parameter for each key, where a path binds
one for each use; a row takes 1.1 µs instead of 0.5.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Location:
    """One key of the payload. ``type`` and ``value`` are SQL that stands within ``select``."""

    path: tuple[str, ...]

    @property
    def type(self) -> str:
        return f"k{len(self.path)}.type"

    @property
    def value(self) -> str:
        return f"k{len(self.path)}.value"

    def select(self, sql: str, mark: str) -> str:
        """``sql`` for the one value at the path, NULL where there is none.

        It binds what ``sql`` binds, then the path, each key at a ``mark``.
        """
        levels = ["json_each(r.payload) AS k1"]
        levels += [
            # Without the CASE, json_each would fail on a text that is no JSON.
            f"json_each(CASE WHEN k{i}.type = 'object' THEN k{i}.value END) AS k{i + 1}"
            for i in range(1, len(self.path))
        ]
        keys = " AND ".join(f"k{i}.key = {mark}" for i in range(1, len(self.path) + 1))
        return f"(SELECT {sql} FROM {', '.join(levels)} WHERE {keys})"
