"""Changes to a row's payload: keys to set and keys to remove, at any depth."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Final, final

from ..errors import InvalidRowError
from .json_text import json_text

Path = tuple[str, ...]


@final
class Remove:
    """The type of ``REMOVE``."""

    def __repr__(self) -> str:
        return "aiovec.REMOVE"

    def __reduce__(self) -> str:
        return "REMOVE"


REMOVE: Final = Remove()
"""A value for ``update`` that removes its key from the payload."""


@dataclass(frozen=True, slots=True)
class PayloadPatch:
    """An update's changes to the payload of each row: paths of keys, each with a value or REMOVE.

    No path is a prefix of another path.
    """

    changes: tuple[tuple[Path, Any], ...] = ()

    def __bool__(self) -> bool:
        return bool(self.changes)

    def added(self) -> int:
        """Return an estimate of the bytes that the patch adds to a payload."""
        size = 0
        for path, value in self.changes:
            size += 32 + sum(map(len, path))  # 32 bytes for a number and separators
            if value is not None and not isinstance(value, (int, float, Remove)):
                size += len(json_text({"": value}).encode())
        return size

    def apply(self, payload: str | None, id: str) -> str | None:
        """Return the new payload of the row ``id`` as JSON text; None if it is empty.

        Creates missing and null objects on the path of a new value. Raises InvalidRowError if the
        path leads through any other value, and ValueError if ``payload`` is not a JSON object.
        """
        root = json.loads(payload) if payload else {}
        if type(root) is not dict:
            raise ValueError("a payload is not a JSON object")
        for path, value in self.changes:
            if isinstance(value, Remove):
                _remove(root, path)
            else:
                _set(root, path, value, id)
        return json_text(root) if root else None


def _set(root: dict[str, Any], path: Path, value: Any, id: str) -> None:
    parent = root
    for depth, key in enumerate(path[:-1], 1):
        within = parent.get(key)
        if within is None:
            within = parent[key] = {}
        if type(within) is not dict:
            reason = (
                f"{path_text(path[:depth]):.120} is {within!r:.60}, not an object, so no key can "
                "be set within it; set the whole value, or remove it first"
            )
            raise InvalidRowError(reason, id=id, field=path_text(path))
        parent = within
    parent[path[-1]] = value


def _remove(root: dict[str, Any], path: Path) -> None:
    parent: Any = root
    for key in path[:-1]:
        parent = parent.get(key)
        if type(parent) is not dict:
            return
    parent.pop(path[-1], None)


def path_text(path: Path) -> str:
    """Return the path as messages show it."""
    return ".".join(["payload", *path])
