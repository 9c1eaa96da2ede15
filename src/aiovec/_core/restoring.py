"""Putting a backup in the place of a store."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import ConfigError, UnsupportedError
from .contract import Restores
from .threads import in_daemon_thread, to_its_end

if TYPE_CHECKING:
    from .connect import Origin, PathText
    from .contract import Backend


async def restore(
    backup: PathText,
    target: PathText | None = None,
    *,
    config: PathText | None = None,
    overwrite: bool = False,
) -> Path | None:
    """Put a backup in the place of a store; return where the old store was kept, if there was one.

    ``backup`` is what ``VectorStore.backup`` wrote, ``target`` and ``config`` are as for
    ``connect``. The backup is copied and checked first, and then replaces the store in one step,
    with the files that belonged to the old one, such as a WAL. The old store is renamed, not
    deleted, unless ``overwrite`` is true.

    StoreBusyError where a process uses the store; CorruptStoreError where the backup is damaged or
    is no store, or the target is something else than a store (``overwrite`` replaces that too);
    UnsupportedError where the backend cannot do it.
    """
    from .connect import Origin

    source = Origin(target, config)
    path, backend = await in_daemon_thread(lambda: _resolved(backup, source))
    if not isinstance(backend, Restores):
        raise UnsupportedError("restore", backend.name)
    return await to_its_end(backend.restore_from(path, overwrite=overwrite))


def _resolved(backup: PathText, source: Origin) -> tuple[Path, Backend]:
    path = Path(os.path.abspath(os.path.expanduser(os.fsdecode(backup))))
    if not path.exists():
        raise ConfigError(f"there is no backup at {path}", key="backup", accepted="a path")
    return path, source.resolve_first().backend
