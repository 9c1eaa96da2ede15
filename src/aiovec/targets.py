"""What a target's text means: a backend and where that backend finds its data."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from .errors import ConfigError

MEMORY = ":memory:"
STORE_FILE = "vectors.sqlite"

# At least two letters, for C:// is a drive of Windows.
_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)://(.*)", re.DOTALL)

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
    url = _URL.match(text)
    if url is None:
        return "sqlite", text
    scheme, rest = url[1].lower(), url[2]
    if scheme not in ("sqlite", "lancedb"):
        return _SCHEMES.get(scheme, scheme), text
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
        raise ConfigError(f"{text}: names no path; write {scheme}:///path")
    return scheme, path


def _without_slash_before_drive(path: str) -> str:
    """On Windows ``/C:/data`` means ``C:/data``."""
    return path[1:] if os.name == "nt" and re.match(r"/[A-Za-z]:([/\\]|$)", path) else path


def is_url(text: str) -> bool:
    return _URL.match(text) is not None


def local_path(text: str, base: Path) -> str:
    """A path as an absolute one, ``~`` expanded, relative ones counted from ``base``.

    URLs and ``:memory:`` stay as they are.
    """
    if text == MEMORY or is_url(text):
        return text
    trailing = text.endswith(("/", os.sep))
    path = os.path.abspath(os.path.join(base, os.path.expanduser(text)))
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
    return os.path.join(path, STORE_FILE) if is_directory else path


def make_folder_of(file: str) -> None:
    """Create the folders above a SQLite file where they are missing."""
    if file == MEMORY:
        return
    try:
        os.makedirs(os.path.dirname(file), exist_ok=True)
    except OSError as exc:
        raise ConfigError(f"{file!r} cannot hold a store: {exc.strerror or exc}") from exc


def redacted(text: str) -> str:
    """A target without the secrets that a URL may carry: its user, its query, its fragment."""
    url = _URL.match(text)
    if url is None:
        return text
    rest = url[2]
    authority = rest.partition("/")[0]
    # A password may hold a slash, a question mark or an @ that nobody encoded. So where a colon
    # may begin one, all up to the last @ is hidden, even if that hides a part of the path too.
    searched = rest if ":" in authority else authority
    if "@" in searched:
        rest = "***" + rest[searched.rindex("@") :]
    for mark in "?#":
        head, found, _ = rest.partition(mark)
        rest = f"{head}{mark}***" if found else rest
    return f"{url[1]}://{rest}"
