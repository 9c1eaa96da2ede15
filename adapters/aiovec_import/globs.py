"""Find the files that paths, globs and URLs name."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Sequence
from fnmatch import fnmatchcase

import pyarrow as pa
from pyarrow import fs

from aiovec.backend import installed, redacted
from aiovec.backend.paths import is_url
from aiovec.errors import ConfigError

from .files import reading
from .sources import GROUP, kind_in

_MAGIC = re.compile(r"[*?[]")


def files_of(sources: Sequence[str]) -> dict[str, str]:
    """Return the files that sources name, each with its size and modification time as one string.

    Globs are expanded. A source that is not a file, such as ``chroma:DIR`` or ``-``, is returned
    unchanged, with an empty string. Raises ConfigError if a glob or a bucket's URL matches no file.
    """
    versions: dict[str, str] = {}
    for source in sources:
        with reading(redacted(source)):
            if kind_in(source):
                versions[source] = ""
            else:
                versions |= _in_bucket(source) if is_url(source) else _in_folder(source)
    return versions


def file_system_of(url: str) -> tuple[fs.FileSystem, str]:
    """Return the file system of a URL, and the path in that file system."""
    try:
        place, path = fs.FileSystem.from_uri(url)
    except pa.ArrowInvalid as exc:
        if "Unrecognized filesystem" not in str(exc):
            raise
        scheme = url.partition("://")[0]
        raise ConfigError(
            f"{redacted(url)}: import does not read {scheme}:// addresses; it reads files, also at "
            f"s3:// and gs://, and the stores {', '.join(installed(GROUP))}. Download the file, or "
            "export the table as CSV or Parquet"
        ) from exc
    return place, path


def _in_folder(source: str) -> dict[str, str]:
    path = os.path.expanduser(source)
    if os.path.lexists(path) or not _MAGIC.search(path):
        return {source: _version_of(path) if os.path.isfile(path) else ""}
    matches = sorted(file for file in glob.glob(path, recursive=True) if os.path.isfile(file))
    return _some({file: _version_of(file) for file in matches}, source)


def _version_of(path: str) -> str:
    status = os.stat(path)
    return f"{status.st_size} {status.st_mtime_ns}"


def _in_bucket(url: str) -> dict[str, str]:
    plain = _MAGIC.split(url)[0]
    single = plain == url
    begin = url if single else plain.rpartition("/")[0]
    place, path = file_system_of(begin)
    prefix = begin.removesuffix(path)
    below = fs.FileSelector(path, recursive=True, allow_not_found=True)
    infos = [place.get_file_info(path)] if single else place.get_file_info(below)
    files = {
        f"{prefix}{info.path}": f"{info.size} {info.mtime_ns}"
        for info in infos if info.type == fs.FileType.File
    }  # fmt: skip
    return _some(
        {info: files[info] for info in sorted(files) if single or fnmatchcase(info, url)}, url
    )


def _some(files: dict[str, str], source: str) -> dict[str, str]:
    if not files:
        raise ConfigError(f"no file matches {redacted(source)}", key="SOURCE")
    return files
