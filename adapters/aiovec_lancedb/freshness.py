"""Whether a table on a folder got another version: a look at the names in one folder.

Lance asks the same names for the newest version, so this misses nothing that Lance would see. It
costs a third of opening the table anew, and when in doubt it knows nothing.
"""

from __future__ import annotations

import os
import re
import time
from pathlib import Path
from typing import NamedTuple

# Of a version's manifest: its number taken from the largest that 64 bits hold, so the newest one
# comes first. Tables of old versions of Lance had other names.
_NAME = re.compile(r"[0-9]{20}\.manifest\Z")
# A file younger than this many nanoseconds may be replaced by another with the same times: those
# of a file come from a clock that moves on every few milliseconds.
_TOO_YOUNG = 100_000_000


class Mark(NamedTuple):
    """What tells the manifest of the newest version from every other file, also from one of this
    name in a table that was dropped and made anew."""

    name: str
    file: int
    size: int
    changed: tuple[int, int]


def mark_of(folder: Path, table: str) -> Mark | None:
    """The newest version's mark; None where there is no telling. Reads the disk."""
    versions = folder / f"{table}.lance" / "_versions"
    try:
        name = min(os.listdir(versions))
        if not _NAME.match(name):
            return None  # a file on its way, say
        seen = os.stat(versions / name)
    except (OSError, ValueError):
        return None
    if time.time_ns() - max(seen.st_mtime_ns, seen.st_ctime_ns) < _TOO_YOUNG:
        return None
    return Mark(name, seen.st_ino, seen.st_size, (seen.st_mtime_ns, seen.st_ctime_ns))
