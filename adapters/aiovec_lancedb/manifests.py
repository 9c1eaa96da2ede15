"""The versions of a table in a folder, and the files that their manifests list.

A manifest is a Protocol Buffer, which contains strings unchanged: the names of the row files and
the transaction file. It also contains the UUID of each index, as bytes.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from uuid import UUID

from aiovec.backend.files import remove_abandoned

_NEWEST = 2**64 - 1
# Matches the name of a row file or transaction file. The preceding byte may look like a part of the
# name, so names are compared by their ends, which are random.
_NAME = re.compile(rb"[\w-]+\.(?:lance|txn)")
_END = 30
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

    def remove_before(self, first: int, files: int = 0) -> bool:
        """Remove the versions before ``first``, and the files that only those versions refer to.

        This needs no disk space. Return False, and remove nothing, if a version has a tag or a
        branch, or if the newest manifest names fewer than ``files`` row files, because then this
        code cannot read the manifests. Deletion files stay; they are small.
        """
        versions = [(number, name, self._manifest(name)) for number, name in self._versions()]
        in_newest = _ends(manifest for *_, manifest in versions[:1])
        readable = sum(name.endswith(".lance") for name in in_newest)
        if (self._folder / "_refs").exists() or readable < files:
            return False
        old = [manifest for number, _, manifest in versions if number < first]
        kept = [manifest for number, _, manifest in versions if number >= first]
        for folder in ("data", "_transactions"):
            gone = _ends(old) - _ends(kept)
            for name in self._listed(folder):
                if len(name) > _END and name[-_END:] in gone:
                    (self._folder / folder / name).unlink(missing_ok=True)
        for name in self._listed("_indices"):
            if _has_index(old, name) and not _has_index(kept, name):
                shutil.rmtree(self._folder / "_indices" / name, ignore_errors=True)
        for number, name, _ in reversed(versions):
            if number < first:
                (self._folder / "_versions" / name).unlink(missing_ok=True)
        return True

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
        return _has_index([manifest], file.partition("/")[0])
    return folder == "_deletions" or (folder == "data" and file.encode() in manifest)


def _ends(manifests: Iterable[bytes]) -> set[str]:
    """Return the last ``_END`` characters of the file names in these manifests."""
    return {name[-_END:].decode() for manifest in manifests for name in _NAME.findall(manifest)}


def _has_index(manifests: Iterable[bytes], name: str) -> bool:
    """Return whether one of the manifests has the index whose folder has this name."""
    try:
        index = UUID(name).bytes
    except ValueError:
        return False
    return any(index in manifest for manifest in manifests)
