"""Check that all files that a commit refers to were written completely, in a folder.

LanceDB 0.40 does not notice when the last write to a local file fails, because the disk was full or
failed for a moment. The commit succeeds, and refers to a truncated file. So each file that a write
has brought is checked before the write is acknowledged. Manifests need no check: LanceDB reports
when it cannot write one.
"""

from __future__ import annotations

import os
import re
import shutil
from contextlib import suppress
from pathlib import Path
from uuid import UUID

# The files of rows, of deletions, and of indexes.
_FILE = re.compile(
    r"data/[^/]+\.lance|_deletions/\d+-\d+-\d+\.(arrow|bin)"
    r"|_indices/[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}/[^/]+\.(lance|idx)"
)
# The ends of complete files, for the types that have a fixed end.
_ENDS = {".lance": b"LANC", ".idx": b"LANC", ".arrow": b"ARROW1"}
_NEWEST = 2**64 - 1
# In a manifest, the name of a file of rows or of a transaction. A byte before it may look like a
# part of it, so names are compared by their ends, which are random.
_NAME = re.compile(rb"[\w-]+\.(?:lance|txn)")
_END = 30


class TableFiles:
    """The files of one table. Every method reads the disk."""

    def __init__(self, folder: Path, table: str) -> None:
        self._table = table
        self._folder = folder / f"{table}.lance"
        self._whole: set[str] = set()

    def cut_short(self) -> list[str]:
        """Return the truncated files of the newest version.

        Files that were found complete before are not checked again.
        """
        names = self._names()
        cut = {name for name in names - self._whole if not self._is_whole(name)}
        self._whole = names - cut
        if not cut:
            return []
        # Another process may be writing a file. The files of a version are complete before it
        # exists, so they are checked again after reading the manifest.
        versions = self._versions()
        newest = self._manifest(versions[0][1]) if versions else b""
        return sorted(name for name in cut if refers_to(newest, name) and not self._is_whole(name))

    def newest(self) -> int:
        """Return the number of the newest version; 0 if there is none."""
        return max((number for number, _ in self._versions()), default=0)

    def times(self) -> list[tuple[int, float]]:
        """Return the number of each version and the time of its manifest."""
        times = []
        for number, name in self._versions():
            with suppress(FileNotFoundError):  # upkeep has removed it
                times.append((number, (self._folder / "_versions" / name).stat().st_mtime))
        return times

    def empty_version(self) -> str | None:
        """Return in words what to do if the newest manifest is empty, as after a power cut."""
        versions = self._versions()
        if not versions or self._manifest(versions[0][1]):
            return None
        path = self._folder / "_versions" / versions[0][1]
        left = f" to return to version {versions[1][0]}" if len(versions) > 1 else ""
        return f"remove {path}{left}"

    def remove_before(self, first: int, files: int = 0) -> bool:
        """Remove the versions before the first to keep, and the files that only these refer to.

        Needs no room on the disk. Return False, and remove nothing, if a version has a name of its
        own, or if fewer than ``files`` files of rows are found in the newest one: then this code
        cannot read the manifests. Files of deletions stay, which are small.
        """
        versions = [(number, name, self._manifest(name)) for number, name in self._versions()]
        in_newest = _NAME.findall(versions[0][2]) if versions else []
        if (self._folder / "_refs").exists() or len(in_newest) < files:
            return False
        old = [manifest for number, _, manifest in versions if number < first]
        kept = [manifest for number, _, manifest in versions if number >= first]
        for folder in ("data", "_transactions"):
            gone = _ends(old) - _ends(kept)
            for name in self._listed(folder):
                if len(name) > _END and name[-_END:] in gone:
                    (self._folder / folder / name).unlink(missing_ok=True)
        for name in self._listed("_indices"):
            in_old, in_kept = (
                any(refers_to(manifest, f"_indices/{name}/") for manifest in manifests)
                for manifests in (old, kept)
            )
            if in_old and not in_kept:
                shutil.rmtree(self._folder / "_indices" / name, ignore_errors=True)
        for number, name, _ in reversed(versions):
            if number < first:
                (self._folder / "_versions" / name).unlink(missing_ok=True)
        return True

    def version_without(self, names: list[str], last: int = _NEWEST) -> int | None:
        """Return the newest version, up to ``last``, that has none of these files."""
        for number, name in self._versions():
            if number <= last:
                manifest = self._manifest(name)
                if not any(refers_to(manifest, file) for file in names):
                    return number
        return None

    def cure(self, cut: list[str]) -> str:
        """Return advice on how to get a table without these files."""
        if all(map(is_index, cut)):
            return "the next write to the table drops this index, and upkeep builds it anew"
        version = self.version_without(cut)
        if version is None:
            return "restore the folder from a backup"
        return f"go back to the version before: await store.revert({self._table!r}, {version})"

    def _names(self) -> set[str]:
        """Return the paths of the files, relative to the table's folder."""
        indexes = [f"_indices/{index}" for index in self._listed("_indices")]
        folders = ["data", "_deletions", *indexes]
        return {f"{folder}/{name}" for folder in folders for name in self._listed(folder)}

    def _listed(self, folder: str) -> list[str]:
        try:
            return os.listdir(f"{self._folder}/{folder}")
        except (FileNotFoundError, NotADirectoryError):
            return []

    def _is_whole(self, name: str) -> bool:
        path = self._folder / name
        if not _FILE.fullmatch(name):
            return True  # not a file of Lance
        try:
            if path.suffix not in _ENDS:
                return _is_whole_bitmap(path.read_bytes())
            end = _ENDS[path.suffix]
            with path.open("rb") as file:
                file.seek(max(0, file.seek(0, os.SEEK_END) - len(end)))
                return file.read() == end
        except FileNotFoundError:
            return True  # upkeep has removed it

    def _manifest(self, name: str) -> bytes:
        return (self._folder / "_versions" / name).read_bytes()

    def _versions(self) -> list[tuple[int, str]]:
        """Return each version's number and the name of its manifest, the newest first."""
        named = [(version_of(f"_versions/{name}"), name) for name in self._listed("_versions")]
        return sorted(((number, name) for number, name in named if number), reverse=True)


def version_of(name: str) -> int | None:
    """Return the number of the version whose manifest this file is; None for any other file."""
    folder, _, file = name.partition("/")
    stem, _, suffix = file.partition(".")
    if folder != "_versions" or suffix != "manifest" or not stem.isdigit():
        return None
    # Names of twenty digits count down, so that the newest comes first in a listing.
    return _NEWEST - int(stem) if len(stem) == 20 else int(stem)


def _ends(manifests: list[bytes]) -> set[str]:
    """Return the ends of the names of files in these manifests."""
    return {name[-_END:].decode() for manifest in manifests for name in _NAME.findall(manifest)}


def is_index(name: str) -> bool:
    """Return whether the file belongs to an index, which holds no rows."""
    return name.startswith("_indices/")


def index_of(name: str) -> str:
    """Return the UUID of the index that a file belongs to."""
    return name.split("/")[1]


def refers_to(manifest: bytes, name: str) -> bool:
    """Return whether a version has this file, judging by the reference in its manifest's bytes.

    That is the name of a file of rows, the UUID of an index, or the last number in the name of a
    file of deletions, in Protocol Buffers; other data may look like the number.
    """
    folder, _, file = name.partition("/")
    try:
        if folder == "data":
            return file.encode() in manifest
        if folder == "_indices":
            return UUID(index_of(name)).bytes in manifest
        number = int(Path(file).stem.rpartition("-")[2]) if folder == "_deletions" else -1
    except ValueError:  # not a file of Lance
        return False
    if number < 0:
        return False
    reference = bytearray()
    while number > 0x7F:
        reference.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*reference, number]) in manifest


def _is_whole_bitmap(content: bytes) -> bool:
    """Return whether a Roaring bitmap, of many deleted rows, has the size that its header states.

    The header has the number of containers, the key and size of each, and the start of each.
    """

    def number(place: int, size: int) -> int:
        return int.from_bytes(content[place : place + size], "little")

    count = number(4, 4)
    if len(content) < 8 + 8 * count:
        return False
    if number(0, 4) != _PLAIN_BITMAP or not count:
        return bool(content)
    values = number(8 + 4 * (count - 1) + 2, 2) + 1
    start = number(8 + 4 * count + 4 * (count - 1), 4)
    return len(content) == start + (2 * values if values <= _MOST_LISTED else _BITS)


# In the format of Roaring bitmaps: the first number of a bitmap without runs, the values up to
# which a container lists them, and the bytes of a container with a bit for each value.
_PLAIN_BITMAP = 12346
_MOST_LISTED = 4096
_BITS = 8192
