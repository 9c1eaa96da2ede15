"""Check that all files that a commit refers to were written whole, in a folder.

LanceDB 0.40 does not hear of it when the last write to a local file fails: the disk was full, or
failed for a moment. The commit succeeds, and refers to a file that is cut short. So each file that
a write has brought is looked at before the write is acknowledged.
"""

from __future__ import annotations

import os
from pathlib import Path

# How each whole file of data ends.
_END = b"LANC"
_NEWEST = 2**64 - 1


class DataFiles:
    """The files of one table's data. Every method but ``begun`` reads the disk."""

    def __init__(self, folder: Path, table: str) -> None:
        self._folder = folder / f"{table}.lance"
        self._known: set[str] | None = None

    @property
    def begun(self) -> bool:
        return self._known is not None

    def begin(self) -> None:
        """Note what is there before the first write."""
        self._known = set(self._names())

    def cut_short(self) -> list[str]:
        """Those that came since the last look, are not whole, and belong to the newest version."""
        names = set(self._names())
        new = names - (self._known or set())
        self._known = names
        cut = [name for name in new if not self._is_whole(name)]
        if not cut:
            return []
        # One that another process is just writing belongs to no version.
        versions = self._versions()
        newest = versions[0][1].read_bytes() if versions else b""
        cut = [name for name in cut if name.encode() in newest]
        self._known -= set(cut)
        return cut

    def version_without(self, names: list[str]) -> int | None:
        """The newest version that none of these files belongs to."""
        for number, path in self._versions():
            manifest = path.read_bytes()
            if not any(name.encode() in manifest for name in names):
                return number
        return None

    def _names(self) -> list[str]:
        try:
            return os.listdir(self._folder / "data")
        except FileNotFoundError:
            return []

    def _is_whole(self, name: str) -> bool:
        try:
            with (self._folder / "data" / name).open("rb") as file:
                size = file.seek(0, os.SEEK_END)
                if size < len(_END):
                    return False
                file.seek(-len(_END), os.SEEK_END)
                return file.read() == _END
        except FileNotFoundError:
            return True  # upkeep has removed it meanwhile

    def _versions(self) -> list[tuple[int, Path]]:
        """Each version's number and manifest, the newest first."""
        found = []
        for path in (self._folder / "_versions").glob("*.manifest"):
            if path.stem.isdigit():
                number = int(path.stem)
                # Names of twenty digits count down, so that the newest comes first in a listing.
                found.append((_NEWEST - number if len(path.stem) == 20 else number, path))
        return sorted(found, reverse=True)
