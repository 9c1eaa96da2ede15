"""What a target's text means: a backend and where that backend finds its data."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from ._core.redaction import URL, redacted
from .errors import ConfigError

MEMORY = ":memory:"
STORE_FILE = "vectors.sqlite"
BESIDE = ("-wal", "-shm", "-journal")
"""What SQLite adds to the name of a file for those that it keeps beside it."""

# The schemes of our own backends. Any other is taken for the name of a backend.
_SCHEMES: Mapping[str, str] = MappingProxyType(
    {
        "sqlite": "sqlite",
        "lancedb": "lancedb",
        "memory": "lancedb",
        "s3": "lancedb",
        "gs": "lancedb",
        "az": "lancedb",
        "db": "lancedb",
        "http": "remote",
        "https": "remote",
    }
)
SCHEMES = tuple(_SCHEMES)


def split_target(text: str) -> tuple[str, str]:
    """The backend's name and what it is told: a path, a URL, or ``:memory:``.

    ``sqlite://`` and ``lancedb://`` stand before a path, which is taken as it is; no character of
    it is decoded.
    """
    if text[:5].lower() == "file:":
        raise ConfigError(
            f"{redacted(text)}: SQLite's own URIs are no targets; write the path alone, and pass "
            "read_only=True to open it for reading only (a file of this name is ./file:...)",
            key="target",
            accepted="a path, or sqlite:///path",
        )
    try:
        os.fsencode(text)
    except UnicodeEncodeError as exc:
        raise ConfigError(
            f"{redacted(text)!r}: is not valid Unicode (a lone surrogate)", key="target"
        ) from exc
    url = URL.match(text)
    if url is None:
        return "sqlite", text
    scheme, rest = url[1].lower(), url[2]
    if scheme not in ("sqlite", "lancedb"):
        return _SCHEMES.get(scheme, scheme), text
    user, at, _ = rest.partition("/")[0].rpartition("@")
    if at and ":" in user:
        raise ConfigError(
            f"{redacted(text)}: a {scheme}:// target is a path on this machine, without a user or "
            "a password",
            key="target", accepted=f"{scheme}:///path",
        )  # fmt: skip
    path = _without_slash_before_drive(rest)
    if scheme == "sqlite":
        if "?" in path or "#" in path:
            raise ConfigError(
                f"{redacted(text)}: a sqlite:// target takes no options; they stand in the TOML "
                "file under [retrieval.sqlite]"
            )
        if path == f"/{MEMORY}":
            path = MEMORY
    if not path:
        raise ConfigError(f"{redacted(text)}: names no path; write {scheme}:///path")
    return scheme, path


def _without_slash_before_drive(path: str) -> str:
    """On Windows ``/C:/data`` means ``C:/data``."""
    return path[1:] if os.name == "nt" and re.match(r"/[A-Za-z]:([/\\]|$)", path) else path


def is_url(text: str) -> bool:
    return URL.match(text) is not None


def local_path(text: str, base: Path | None = None) -> str:
    """Return the path as an absolute one, with ``~`` expanded.

    A relative path counts from ``base``, or from the current folder; ConfigError where that was
    removed. URLs and ``:memory:`` stay as they are.
    """
    if text == MEMORY or is_url(text):
        return text
    trailing = text.endswith(("/", os.sep))
    expanded = os.path.expanduser(text)
    if expanded.startswith("~") and expanded == text:
        raise ConfigError(
            f"{text} begins with the home folder of a user that does not exist; write ./{text} "
            "for a path here",
            accepted="a path",
        )
    try:
        path = os.path.abspath(os.path.join(base or "", expanded))
    except FileNotFoundError:
        raise ConfigError(
            f"{text} is relative to the current folder, which was removed; use an absolute path",
            accepted="an absolute path",
        ) from None
    # A slash at the end tells a directory that is not there yet.
    return path + os.sep if trailing and not path.endswith(os.sep) else path


def sqlite_file(path: str) -> str:
    """The file that a SQLite target means.

    A directory holds ``vectors.sqlite``, and a path without a suffix is such a directory, unless
    a file lies there.
    """
    if path == MEMORY:
        return path
    if "\0" in path:
        raise ConfigError(f"{path!r} cannot hold a store: there is a NUL in it")
    is_directory = (
        path.endswith(os.sep)
        or os.path.isdir(path)
        or (not os.path.splitext(path)[1] and not os.path.isfile(path))
    )
    if is_directory:
        return os.path.join(path, STORE_FILE)
    check_free_name(path)
    return path


def check_free_name(path: str) -> None:
    """ConfigError where SQLite takes a file of this name for a part of another database."""
    for end in BESIDE:
        if path.endswith(end):
            raise ConfigError(
                f"{path} is a name that SQLite uses for a part of the database "
                f"{path.removesuffix(end)}, and may remove; choose one that does not end in {end}",
                accepted="another name",
            )


def make_folder_of(file: str) -> None:
    """Create the folders above a SQLite file where they are missing."""
    if file == MEMORY:
        return
    try:
        os.makedirs(os.path.dirname(file), exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise ConfigError(
            f"{file!r} cannot hold a store: a file, and no folder, lies above it"
        ) from None
    except OSError as exc:
        raise ConfigError(f"{file!r} cannot hold a store: {exc.strerror or exc}") from exc
