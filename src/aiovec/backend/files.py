"""Names in a folder: what they lead to, made to last, and those that killed processes have left."""

from __future__ import annotations

import errno
import os
import re
import shutil
import stat
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ..errors import AiovecError, StoreFullError

# What systems say that flush no folder: Windows opens none, some network drives take no flush.
_UNABLE = {
    errno.EACCES,
    errno.EBADF,
    errno.EINVAL,
    errno.EPERM,
    *(getattr(errno, name) for name in ("ENOTSUP", "EOPNOTSUPP") if hasattr(errno, name)),
}


# What the system says of a name that leads to nothing. Not every one has every code.
_GONE = {getattr(errno, name, None) for name in ("ENOENT", "ENOTDIR", "ELOOP", "ESTALE")}
NO_ROOM = {getattr(errno, name, None) for name in ("ENOSPC", "EDQUOT", "EFBIG")} - {None}
"""Error numbers of a full disk, a used-up quota and a file that may not grow."""
# Seconds for which nobody writes to a file that is being made.
_ABANDONED = 3600.0
# And to a folder, all of which is read before it gets its name.
_FOLDER_ABANDONED = 24 * 3600.0
_OF_A_FOLDER = re.compile("[0-9a-f]{12}")


def look_at(path: str | Path) -> os.stat_result | None:
    """Return the status of a file; None if it does not exist. AiovecError if it cannot be read."""
    try:
        return os.stat(path)
    except OSError as exc:
        if exc.errno in _GONE:
            return None
        raise AiovecError(
            f"whether {path} is still what the store has open cannot be seen ({exc.strerror}); "
            "nothing of this call was done, try again"
        ) from exc


def create_like(new: Path, model: str | Path, *, replaces: bool) -> None:
    """Create an empty file that nobody reads who could not read the ``model``, if that is there.

    What ``replaces`` the model gets its owner and permissions, as far as may be. A copy gets no
    more than a new file does. Its owner can write to either.
    """
    try:
        found = os.stat(model)
    except OSError:
        return
    if sys.platform == "win32" or not stat.S_ISREG(found.st_mode):
        return
    mode = (found.st_mode & 0o777) | 0o600
    descriptor = os.open(new, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600 if replaces else mode)
    try:
        if not replaces:  # without what the process keeps from new files
            mode = stat.S_IMODE(os.fstat(descriptor).st_mode)
        give_permissions(descriptor, model, mode, owner=replaces)
    finally:
        os.close(descriptor)


def give_permissions(descriptor: int, model: str | Path, mode: int, *, owner: bool) -> None:
    """Let those use an open file or folder who may use the ``model``: its group and its lists of
    users, and its owner if that is asked for.

    Of the ``mode`` the group gets nothing where it is another one than the model's, or where the
    lists cannot be copied.
    """
    found = os.stat(model)
    if not _has_lists_of(model, descriptor):
        mode &= ~0o070
    for user in (found.st_uid, -1) if owner else (-1,):
        with suppress(OSError):
            os.fchown(descriptor, user, found.st_gid)
            break
    if os.fstat(descriptor).st_gid != found.st_gid:
        mode &= ~0o070
    with suppress(OSError):  # a file system without permissions
        os.fchmod(descriptor, stat.S_IMODE(mode))


def _has_lists_of(model: str | Path, descriptor: int) -> bool:
    """Copy the model's lists of users, beside which the mode's bits of the group are the most that
    any of these may."""
    names = ["system.posix_acl_access"]
    if stat.S_ISDIR(os.fstat(descriptor).st_mode):
        names.append("system.posix_acl_default")
    for name in names:
        try:
            found = os.getxattr(model, name)
        except AttributeError:  # the system knows none
            return True
        except OSError:  # it has none, and the copy may have that of the folder around
            with suppress(OSError):
                os.removexattr(descriptor, name)
            continue
        try:
            os.setxattr(descriptor, name, found)
        except OSError:
            return False
    return True


def rename_new(old: Path, new: Path) -> None:
    """Give a file its name; FileExistsError if another has taken it meanwhile."""
    try:
        os.link(old, new)
    except FileExistsError:
        raise
    except OSError:  # a file system without links
        if os.path.lexists(new):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(new)) from None
        old.rename(new)
    else:
        with suppress(OSError):
            old.unlink()


def flush_folder(folder: Path) -> None:
    """Bring the names in a folder to the disk, where the system can. Waits for the disk."""
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
    """Remove the unfinished files and folders of these names that no process can still write."""
    now = time.time()
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith(begin) and entry.name.endswith(end):
                with suppress(OSError):
                    if entry.is_dir(follow_symlinks=False):
                        middle = entry.name[len(begin) : len(entry.name) - len(end)]
                        # A user's folder may have a name that begins alike.
                        if _OF_A_FOLDER.fullmatch(middle) and _newest(entry.path) < (
                            now - _FOLDER_ABANDONED
                        ):
                            shutil.rmtree(entry.path, ignore_errors=True)
                    elif entry.stat(follow_symlinks=False).st_mtime < now - _ABANDONED:
                        os.unlink(entry.path)


def _newest(folder: str) -> float:
    """When anything in the folder was last changed."""
    inside = (os.path.join(at, name) for at, _, names in os.walk(folder) for name in names)
    return max(os.lstat(path).st_mtime for path in (folder, *inside))


@contextmanager
def writing_to(path: str | Path) -> Iterator[None]:
    """Let a failure to write name the file."""
    try:
        yield
    except BrokenPipeError:  # whoever reads standard output has seen enough
        raise
    except OSError as exc:
        if exc.errno in NO_ROOM:
            raise StoreFullError(str(path), exc.strerror or str(exc)) from exc
        raise AiovecError(f"{path} cannot be written: {exc.strerror or exc}") from exc
