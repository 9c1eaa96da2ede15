"""Files that appear under their name when they are complete."""

from __future__ import annotations

import errno
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ..errors import AiovecError, StoreFullError

# Not every system has every code.
_FULL = {getattr(errno, name, None) for name in ("ENOSPC", "EDQUOT", "EFBIG")} - {None}


class PartFile:
    """A file that is written beside its name, and renamed when it is done."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.part = path.with_name(f".{path.name[:200]}.{uuid.uuid4().hex[:8]}.part")

    def finish(self) -> None:
        """Bring what was written to the disk, then give it its name."""
        with open(self.part, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(self.part, self.path)

    def discard(self) -> None:
        with suppress(OSError):
            self.part.unlink()


@contextmanager
def writing_to(path: Path) -> Iterator[None]:
    """Let a failure to write name the file."""
    try:
        yield
    except OSError as exc:
        if exc.errno in _FULL:
            raise StoreFullError(str(path), exc.strerror or str(exc)) from exc
        raise AiovecError(f"{path} cannot be written: {exc.strerror or exc}") from exc
