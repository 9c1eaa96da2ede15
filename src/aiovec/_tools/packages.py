"""The entry points of installed packages."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint


def installed(group: str) -> Mapping[str, EntryPoint]:
    """Return the entry points of a group, sorted by name, and cached until ``sys.path`` changes.

    If two entry points have the same name, the first on the path wins, as with modules.
    """
    return _entry_points(group, tuple(sys.path))


@lru_cache(maxsize=8)
def _entry_points(group: str, path: tuple[str, ...]) -> Mapping[str, EntryPoint]:
    first: dict[str, EntryPoint] = {}
    if _may_have(group, path):
        from importlib import metadata

        for entry_point in metadata.entry_points(group=group):
            first.setdefault(entry_point.name, entry_point)
    return MappingProxyType(dict(sorted(first.items())))


def _may_have(group: str, path: Sequence[str]) -> bool:
    """Return whether a package may have entry points of this group.

    Usually no package has any, and ``importlib.metadata`` takes 60 ms of CPU time to find that out.
    """
    head = f"[{group}]".encode()
    for folder in path:
        if os.path.isfile(folder):  # an archive
            return True
        for pattern in ("*-info/entry_points.txt", "*.egg/EGG-INFO/entry_points.txt"):
            for file in Path(folder).glob(pattern):
                with suppress(OSError):
                    if head in file.read_bytes():
                        return True
    return False
