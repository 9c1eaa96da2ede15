"""Find documents among files and in folders, and read them one after another."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from pathlib import Path

from aiovec.backend import Schema
from aiovec.backend.paths import is_url
from aiovec.documents import SCHEMA, SUFFIXES, read_document, text_of_name
from aiovec.errors import ConfigError, DocumentError

from .ignoring import Globs, Rules, is_ignored, rules_above, rules_in
from .sources import Chunk, ForeignTable, Reader, Reject, Wanted, in_parts, source_for

_KINDS_SHOWN = 10

KINDS = ", ".join(sorted(SUFFIXES))
"""The suffixes of documents, for messages."""


@dataclass
class Documents(Reader):
    """Document files by source, and the number of files left out, by suffix or reason."""

    form = "documents"
    place = "document"

    files: dict[str, Path] = field(default_factory=dict)
    left_out: Counter[str] = field(default_factory=Counter)

    def tables(self) -> list[ForeignTable]:
        return [ForeignTable("documents", "", self.form, len(self.files), SCHEMA, texts=True)]

    def read(self, table: ForeignTable, schema: Schema, size: int) -> Iterator[Chunk]:
        return self.chunks_of(self.files, size)

    def chunks_of(self, sources: Iterable[str], size: int) -> Iterator[Chunk]:
        """Yield the contents and modification times of documents, up to ``size`` at a time."""
        for part in in_parts(map(self._read, sources), size):
            rejects = [each for each in part if isinstance(each, Reject)]
            rows = [each for each in part if not isinstance(each, Reject)]
            yield Chunk(rows, [source for source, *_ in rows], rejects)

    def _read(self, source: str) -> tuple[tuple[str, bytes, datetime] | Reject, int]:
        try:
            data, modified = read_document(self.files[source], source)
        except DocumentError as exc:
            return Reject(source, source, exc.reason), 0
        return (source, data, modified), len(data)

    def has(self, source: str) -> bool:
        """Return whether a document exists, or is in a folder that cannot be read."""
        return source in self.files or source.startswith(self._unread)

    @cached_property
    def _unread(self) -> tuple[str, ...]:
        return tuple(source for source in self.files if source.endswith("/"))

    def close(self) -> None:
        """Do nothing: each document is closed once it has been read."""


def in_words(left_out: Mapping[str, int]) -> str:
    """Describe the files left out, as in ``20 files: 16 .odt, 3 .csv, 1 by .gitignore``.

    An excluded folder counts as one file.
    """
    kinds = sorted(left_out.items(), key=lambda kind: (-kind[1], kind[0]))
    named = [f"{count:,} {suffix or 'without a suffix'}" for suffix, count in kinds]
    if len(named) > _KINDS_SHOWN:
        named[_KINDS_SHOWN:] = [f"{sum(n for _, n in kinds[_KINDS_SHOWN:]):,} of other kinds"]
    total = sum(left_out.values())
    return f"{total:,} file{'s' * (total != 1)}: {', '.join(named)}"


def documents_of(wanted: Wanted) -> Documents | None:
    """Return the documents among the sources; None if they have rows instead. This blocks.

    A folder has rows if it is another program's store and no documents are found in it.
    """
    if wanted.form or wanted.query or any(map(is_url, wanted.sources)):
        return None
    found, path = documents_in(wanted), Path(wanted.sources[0]).expanduser()
    is_theirs = not found.files and (not path.is_dir() or source_for(path)[0] is not None)
    return None if is_theirs else found


def documents_in(wanted: Wanted) -> Documents:
    """Find the documents among the sources, if any. This blocks.

    The search is recursive and follows links. It leaves out names that begin with a dot, files that
    a ``.gitignore`` or ``exclude`` matches, and files that ``include`` does not match. An
    unreadable subfolder is listed like a document, with a slash after its name; reading it fails.
    """
    found = Documents()
    globs = Globs(wanted.include) if wanted.include else None, Globs(wanted.exclude)
    empty = []
    for place in wanted.sources:
        path = Path(os.path.expanduser(place))
        is_file = path.suffix.lower() in SUFFIXES and not path.is_dir()
        below = {path.name: path} if is_file else _walked(path, found.left_out, *globs)
        empty += [] if below else [place]
        for name, file in below.items():
            source = wanted.base + text_of_name(name)
            known = found.files.setdefault(source, file)
            if known != file and os.path.realpath(known) != os.path.realpath(file):
                raise ConfigError(
                    f"{known} and {file} would both be the source {source!r}; import the folder "
                    "above them, or each by itself with a different --base"
                )
    if found.files and empty:
        raise ConfigError(f"{empty[0]} is not a document ({KINDS}), nor a folder with documents")
    return found


def _walked(
    top: Path, left_out: Counter[str], include: Globs | None, exclude: Globs
) -> dict[str, Path]:
    """Return the documents and unreadable subfolders of a folder, by relative path.

    A folder that several links lead to is searched once. Other files are counted in ``left_out``.
    """
    files: dict[str, Path] = {}
    unread, seen = [], set()
    rules_of = {os.path.dirname(top): rules_above(top)}

    def is_wanted(path: str, rules: Rules) -> bool:
        for says_no, reason in (
            (exclude.say(path), "by --exclude"),
            (is_ignored(path, rules), "by .gitignore"),
            (include and path[-1] != "/" and not include.name(path), "by --include"),
        ):
            if says_no:
                left_out[reason] += 1
                return False
        return True

    for folder, folders, names in os.walk(
        top, onerror=lambda exc: unread.append(Path(exc.filename)), followlinks=True
    ):
        status = os.stat(folder)
        if (status.st_dev, status.st_ino) in seen:
            folders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        at = "".join(f"{name}/" for name in Path(folder).relative_to(top).parts)
        rules = rules_of[os.path.dirname(folder)] + rules_in(Path(folder), "", len(at))
        rules_of[folder] = rules
        shown = sorted(name for name in folders if not name.startswith("."))
        folders[:] = [name for name in shown if is_wanted(f"{at}{name}/", rules)]
        for path in (Path(folder, name) for name in sorted(names) if not name.startswith(".")):
            if path.suffix.lower() in SUFFIXES:
                files |= {at + path.name: path} if is_wanted(at + path.name, rules) else {}
            elif os.path.exists(path):
                left_out[path.suffix.lower()] += 1
            elif os.path.islink(path):  # perhaps to a folder that is not mounted now
                unread.append(path)
    return files and files | {f"{path.relative_to(top).as_posix()}/": path for path in unread}
