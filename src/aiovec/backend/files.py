"""Files: status, flushing, locks, unfinished files of killed processes, and schema files."""

from __future__ import annotations

import errno
import os
import re
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from .._model.schema import Schema
from ..errors import AiovecError, ConfigError, StoreFullError


def _numbers(*names: str) -> frozenset[int]:
    """Return the error numbers that the system has for these names."""
    return frozenset(getattr(errno, name) for name in names if hasattr(errno, name))


# Error numbers from systems that cannot flush a folder: Windows cannot open it, and some network
# drives refuse to flush it.
_UNABLE = _numbers("EACCES", "EBADF", "EINVAL", "EPERM", "ENOTSUP", "EOPNOTSUPP")
# Error numbers for a path that does not exist.
_GONE = _numbers("ENOENT", "ENOTDIR", "ELOOP", "ESTALE")
NO_ROOM = _numbers("ENOSPC", "EDQUOT", "EFBIG")
"""Error numbers for a full disk, an exceeded quota, or a file at its size limit."""
# Seconds without a write after which an unfinished file or folder counts as abandoned. Reading a
# folder's files, before the folder is renamed, can take a long time.
_ABANDONED, _FOLDER_ABANDONED = 3600.0, 24 * 3600.0
_OF_A_FOLDER = re.compile("[0-9a-f]{12}")


def look_at(path: str | Path) -> os.stat_result | None:
    """Return a file's status; None if it does not exist. Raises AiovecError if the check fails."""
    try:
        return os.stat(path)
    except OSError as exc:
        if exc.errno in _GONE:
            return None
        raise AiovecError(
            f"cannot check that {path} is still the open store ({exc.strerror}); nothing was done, "
            "try again"
        ) from exc


def create_like(new: Path, model: str | Path) -> None:
    """Create an empty file with the permissions of ``model``; ignore errors, such as a missing
    ``model``.

    So only users who can read ``model`` can read the new file. The umask applies, and the owner can
    write.
    """
    with suppress(OSError):
        mode = os.stat(model).st_mode & 0o777
        os.close(os.open(new, os.O_CREAT | os.O_EXCL | os.O_WRONLY, mode | 0o600))


def rename_new(old: Path, new: Path) -> None:
    """Rename a file; raise FileExistsError if another file has taken the name."""
    try:
        os.link(old, new)
    except OSError:  # the name is taken, or the file system has no links
        if os.path.lexists(new):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(new)) from None
        old.rename(new)
    else:
        with suppress(OSError):
            old.unlink()


def flush_folder(folder: Path) -> None:
    """Flush a folder's entries to disk, if the system can. Blocks."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as exc:
        if exc.errno not in _UNABLE:
            raise


def remove_abandoned(folder: Path, begin: str, end: str) -> None:
    """Remove files and folders named ``begin…end`` that a killed process left unfinished."""
    now = time.time()
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            if not (entry.name.startswith(begin) and entry.name.endswith(end)):
                continue
            with suppress(OSError):
                age = now - entry.stat(follow_symlinks=False).st_mtime
                if not entry.is_dir(follow_symlinks=False):
                    if age > _ABANDONED:
                        os.unlink(entry.path)
                    continue
                middle = entry.name[len(begin) : len(entry.name) - len(end)]
                # A user's folder may have a similar name.
                if age > _FOLDER_ABANDONED and _OF_A_FOLDER.fullmatch(middle):
                    shutil.rmtree(entry.path, ignore_errors=True)


@contextmanager
def writing_to(path: str | Path) -> Iterator[None]:
    """Turn an OSError in the block into an AiovecError that names the file."""
    try:
        yield
    except BrokenPipeError:  # the reader of standard output has closed it
        raise
    except OSError as exc:
        if exc.errno in NO_ROOM:
            raise StoreFullError(str(path), exc.strerror or str(exc)) from exc
        raise AiovecError(f"{path} cannot be written: {exc.strerror or exc}") from exc


def schema_in(path: Path) -> Schema:
    """Read a schema from a JSON file."""
    try:
        return Schema.from_json(path.read_text("utf-8-sig"))
    except OSError as exc:
        hint = "; --schema takes the path of a JSON file" if str(path).startswith("{") else ""
        raise ConfigError(
            f"the schema {path} cannot be read: {exc.strerror or exc}{hint}", file=str(path)
        ) from exc
    except (AiovecError, ValueError, TypeError, RecursionError) as exc:
        raise ConfigError(f"{path} is not a schema: {exc}", file=str(path)) from exc


if sys.platform == "win32":
    import msvcrt

    def try_lock(number: int) -> bool:
        """Lock a file by its descriptor; return False if another process holds the lock.

        The lock belongs to the open file, not to the process, and ends when the file is closed.
        """
        os.lseek(number, 0, os.SEEK_SET)
        try:
            msvcrt.locking(number, msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        return True

    def unlock(number: int) -> None:
        """Release the lock before the file is closed."""
        os.lseek(number, 0, os.SEEK_SET)
        with suppress(OSError):  # not locked if another process holds it
            msvcrt.locking(number, msvcrt.LK_UNLCK, 1)

else:
    import fcntl

    def try_lock(number: int) -> bool:
        """Lock a file by its descriptor; return False if another process holds the lock.

        The lock belongs to the open file, not to the process, and ends when the file is closed.
        """
        try:
            fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def unlock(number: int) -> None:
        """Release the lock before the file is closed."""
        fcntl.flock(number, fcntl.LOCK_UN)


def lock_file(path: Path, *, create: bool = True, patience: float = 0.0) -> int | None:
    """Lock the file at this path, and return its descriptor, which holds the lock while open.

    Return None if another process still holds it after ``patience`` seconds. A missing file is
    created; without ``create``, it raises FileNotFoundError.
    """
    until = time.monotonic() + patience
    retry = create
    while True:
        try:
            number = os.open(path, os.O_RDWR | (os.O_CREAT if create else 0), 0o666)
        except FileNotFoundError:  # the folder is missing, or the path is a link to nowhere
            if not retry:
                raise
            retry = False
            path.parent.mkdir(parents=True, exist_ok=True)
            continue
        held = kept = False
        try:
            held = try_lock(number)
            # If this file was just removed or replaced, other processes open the new file.
            kept = held and _is_at(number, path)
        finally:
            if not kept:
                os.close(number)
        if kept:
            return number
        if not held:
            if time.monotonic() >= until:
                return None
            time.sleep(0.002)


def _is_at(number: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(number), os.stat(path))
    except FileNotFoundError:
        return False


def unlock_file(number: int) -> None:
    """Release the lock of a file, and close the file."""
    try:
        unlock(number)  # now, even if a forked child has a copy of the descriptor
    finally:
        os.close(number)
