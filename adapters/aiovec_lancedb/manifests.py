"""The versions of a table in a folder, and the files that their manifests list.

A manifest is a Protocol Buffer, which contains strings unchanged: the names of the row files and
the transaction file. It also contains the UUID of each index, as bytes.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from uuid import UUID

from aiovec.backend.files import remove_abandoned

_NEWEST = 2**64 - 1
# The suffix of a file that is being written.
_UNFINISHED = "#1"


class Manifests:
    """The versions of one table. Every method reads the disk."""

    def __init__(self, folder: Path, table: str) -> None:
        self._folder = folder / f"{table}.lance"

    def times(self) -> list[tuple[int, float]]:
        """Return the number of each version and the time of its manifest."""
        times = []
        for number, name in self._versions():
            with suppress(FileNotFoundError):  # upkeep has removed it
                times.append((number, (self._folder / "_versions" / name).stat().st_mtime))
        return times

    def empty_version(self) -> str | None:
        """If the newest manifest is empty, as after a power cut, return what the user can do; None
        otherwise."""
        versions = self._versions()
        if not versions or self._manifest(versions[0][1]):
            return None
        path = self._folder / "_versions" / versions[0][1]
        left = f" to return to version {versions[1][0]}" if len(versions) > 1 else ""
        return f"remove {path}{left}"

    def keep_newest(self) -> None:
        """Remove all manifests except the newest one."""
        for _, name in self._versions()[1:]:
            (self._folder / "_versions" / name).unlink(missing_ok=True)

    def remove_unfinished(self) -> None:
        """Remove the unfinished files of killed processes. Lance ignores these files."""
        indexes = [f"_indices/{name}" for name in self._listed("_indices")]
        for folder in ("data", "_deletions", "_transactions", "_versions", *indexes):
            remove_abandoned(self._folder / folder, "", _UNFINISHED)

    def _listed(self, folder: str) -> list[str]:
        with suppress(FileNotFoundError, NotADirectoryError):
            return os.listdir(self._folder / folder)
        return []

    def _manifest(self, name: str) -> bytes:
        return (self._folder / "_versions" / name).read_bytes()

    def _versions(self) -> list[tuple[int, str]]:
        """Return each version's number and the name of its manifest, the newest first."""
        named = [(version_of(f"_versions/{name}"), name) for name in self._listed("_versions")]
        return sorted(((number, name) for number, name in named if number), reverse=True)


def version_of(name: str) -> int | None:
    """Return the version number of a manifest, from its path in the table; None for other files."""
    folder, _, file = name.partition("/")
    stem, _, suffix = file.partition(".")
    if folder != "_versions" or suffix != "manifest" or not stem.isdigit():
        return None
    # Names of twenty digits count down, so that the newest comes first in a listing.
    return _NEWEST - int(stem) if len(stem) == 20 else int(stem)


def needs(manifest: bytes, name: str) -> bool:
    """Return whether the version with this manifest may need the table's file ``name``.

    Deletion files, which are small, always count as needed.
    """
    folder, _, file = name.partition("/")
    if folder == "_indices":
        return _has_index(manifest, file.partition("/")[0])
    return folder == "_deletions" or (folder == "data" and file.encode() in manifest)


def _has_index(manifest: bytes, name: str) -> bool:
    """Return whether a manifest has the index whose folder has this name."""
    try:
        return UUID(name).bytes in manifest
    except ValueError:
        return False
