"""The files that paths, globs and URLs name."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Sequence
from fnmatch import fnmatchcase

from pyarrow import fs

from aiovec.backend.paths import is_url
from aiovec.errors import ConfigError

from .files import reading
from .sources import source_names

_MAGIC = re.compile(r"[*?[]")


def files_of(sources: Sequence[str]) -> dict[str, int]:
    """Return the sources with their globs replaced by the files that match, and each file's bytes.

    What is no file on this machine, such as ``chroma:DIR`` or ``-``, stays as it is, with no bytes.
    Raises ConfigError if a glob matches no file.
    """
    sizes: dict[str, int] = {}
    for source in sources:
        scheme, colon, _ = source.partition(":")
        with reading(source):
            if colon and scheme in source_names():
                sizes[source] = 0
            else:
                sizes |= _in_bucket(source) if is_url(source) else _in_folder(source)
    return sizes


def _in_folder(source: str) -> dict[str, int]:
    path = os.path.expanduser(source)
    if os.path.lexists(path) or not _MAGIC.search(path):
        return {source: os.path.getsize(path) if os.path.isfile(path) else 0}
    matches = sorted(file for file in glob.glob(path, recursive=True) if os.path.isfile(file))
    return _some({file: os.path.getsize(file) for file in matches}, source)


def _in_bucket(url: str) -> dict[str, int]:
    plain = _MAGIC.split(url)[0]
    single = plain == url
    begin = url if single else plain.rpartition("/")[0]
    place, path = fs.FileSystem.from_uri(begin)
    prefix = begin.removesuffix(path)
    below = fs.FileSelector(path, recursive=True, allow_not_found=True)
    infos = [place.get_file_info(path)] if single else place.get_file_info(below)
    files = {f"{prefix}{info.path}": info.size for info in infos if info.type == fs.FileType.File}
    return _some(
        {info: files[info] for info in sorted(files) if single or fnmatchcase(info, url)}, url
    )


def _some(files: dict[str, int], source: str) -> dict[str, int]:
    if not files:
        raise ConfigError(f"no file matches {source}", key="SOURCE")
    return files
