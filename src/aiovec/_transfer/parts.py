"""Files that appear under their name when they are complete."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from ..backend.files import create_like, flush_folder, rename_new
from ..backend.foreign import kinds, source_for
from ..errors import ConfigError

if TYPE_CHECKING:
    from .._store.store import VectorStore


class PartFile:
    """A file that is written beside its name, and renamed when it is done.

    Without ``replaces`` it takes the name from no other file: ConfigError.
    """

    def __init__(self, path: Path, *, replaces: bool = True) -> None:
        self.path = path
        self.replaces = replaces
        self.is_named = False
        self.part = path.with_name(f".{path.name[:200]}.{uuid.uuid4().hex[:8]}.part")

    def begin(self) -> Path:
        """Return the path to write to, of a file with the permissions of one that it replaces."""
        create_like(self.part, self.path)
        return self.part

    def flush(self) -> None:
        """Bring what was written to the disk."""
        with open(self.part, "rb+") as file:
            os.fsync(file.fileno())

    def finish(self) -> None:
        """Bring what was written to the disk, then give it its name."""
        self.flush()
        if self.replaces:
            os.replace(self.part, self.path)
        else:
            try:
                rename_new(self.part, self.path)
            except FileExistsError:
                raise _taken(self.path) from None
        self.is_named = True
        flush_folder(self.path.parent)

    def discard(self) -> None:
        with suppress(OSError):
            self.part.unlink()


def finish_together(named: PartFile, beside: Sequence[PartFile], stale: Iterable[Path]) -> None:
    """Give a file and those ``beside`` it their names; delete those that are ``stale``.

    An older file of the name is deleted first, and the new one is renamed last. If the process is
    killed in between, the named file is missing, and no old file stands beside a new one.
    """
    for part in (*beside, named):
        part.flush()
    gone = [path for path in stale if os.path.lexists(path)]
    if not named.replaces:
        _finish_new(named, beside, gone)
        return
    if beside or gone:
        for path in (named.path, *gone):
            path.unlink(missing_ok=True)
        flush_folder(named.path.parent)
    for part in (*beside, named):
        part.finish()


def _finish_new(named: PartFile, beside: Sequence[PartFile], there: Sequence[Path]) -> None:
    """Give files names that are free, or none of them."""
    if there:
        raise _taken(there[0])
    try:
        for part in (*beside, named):
            part.finish()
    except BaseException:
        for part in (*beside, named):
            if part.is_named:
                part.path.unlink(missing_ok=True)
        raise


def _taken(path: Path) -> ConfigError:
    return ConfigError(f"{path} already exists; pass --overwrite to replace it")


def check_apart(store: VectorStore, paths: Iterable[Path]) -> None:
    """Raise ConfigError where a file would take the place of a store or another database."""
    for path in paths:
        if store._owns(path):
            raise ConfigError(f"{path} belongs to the store itself; name another file")
        for file in _databases_of(path):
            if os.path.isfile(file) and source_for(file) is not None:
                what = "is a database" if file == path else f"belongs to the database {file}"
                raise ConfigError(f"{path} {what}, so it is not replaced; name another file")


def _databases_of(path: Path) -> Iterator[Path]:
    """Yield the file itself, and the one whose WAL, shared memory or journal it would be."""
    yield path
    for end in [end for kind in kinds() for end in kind.beside]:
        if path.name.endswith(end) and path.name != end:
            yield path.with_name(path.name.removesuffix(end))
