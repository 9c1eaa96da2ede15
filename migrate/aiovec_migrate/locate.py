"""What a store's name means, and whether it is there: found without making or opening anything."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from aiovec.backend import (
    CONFIG_FILE,
    CONFIG_VARIABLE,
    MEMORY,
    Backend,
    Origin,
    backend_names,
    create_backend,
    is_url,
    load_settings,
    redacted,
)
from aiovec.errors import ConfigError, MigrationError

from .state import Identity

if TYPE_CHECKING:
    from aiovec.backend import Backend, RetrievalSettings


PathText = str | os.PathLike[str]


@dataclass(frozen=True, slots=True)
class Place:
    """A store that a migration reads or writes.

    ``configured`` is its name in the TOML, empty where it was named by a target. Of a store that is
    ``missing`` the backend is not open, for that would make it.
    """

    backend: Backend
    configured: str = ""
    missing: bool = False

    @property
    def identity(self) -> Identity:
        return Identity(self.backend.name, self.backend.target)

    def __str__(self) -> str:
        return str(self.identity)


_IN_MEMORY = {"sqlite": MEMORY, "lancedb": "memory://"}


@dataclass(frozen=True, slots=True)
class Located:
    """A store's backend and what that is told; ``configured`` as in ``Place``."""

    name: str
    told: str = field(repr=False)  # may hold secrets
    configured: str
    settings: RetrievalSettings

    def backend(self) -> Backend:
        """The backend, not open. May import its driver."""
        return create_backend(self.name, self.told, self.settings)

    def in_memory(self) -> Backend | None:
        """A store of the same sort that keeps nothing on disk; None where there is none."""
        told = _IN_MEMORY.get(self.name)
        if told is None or not (self.name == "sqlite" or self.path is not None):
            return None
        return create_backend(self.name, told, self.settings)

    @property
    def path(self) -> Path | None:
        """The file or folder on this machine."""
        on_disk = self.name in _IN_MEMORY and self.told != MEMORY and not is_url(self.told)
        return Path(self.told) if on_disk else None

    def same_as(self, other: Located) -> bool:
        mine, theirs = self.path, other.path
        if self.name != other.name or (mine is None) != (theirs is None):
            return False
        if mine is None or theirs is None:
            return self.told.rstrip("/") == other.told.rstrip("/")
        return os.path.realpath(mine) == os.path.realpath(theirs)


def is_there(place: Located) -> bool:
    """Whether a store may be there, so that opening it makes nothing."""
    path = place.path
    if path is None:
        return True
    if place.name == "sqlite":
        return path.is_file() and path.stat().st_size > 0
    return path.is_dir() and any(path.iterdir())


def locate(text: PathText | None, config: PathText | None) -> Located:
    """What a target, the name of a backend in the TOML, or None for its present one, comes to."""
    named = text is None or (isinstance(text, str) and text in backend_names())
    if not named and isinstance(text, str):
        _check_meant(text)
    if named:
        source = Origin(None, config, backend=None if text is None else str(text))
    else:
        source = Origin(text, config)
    name, told = source.place()
    if told == MEMORY or told.lower().startswith("memory://"):
        raise MigrationError("a store in memory cannot be migrated: no other process sees it")
    if not named and redacted(told) != told:
        raise MigrationError(
            f"{redacted(told)}: the journal keeps no user, password or query of an address; "
            "configure the store in the TOML file and name its backend, such as lancedb"
        )
    file = config_file(config) if named or config is not None else None
    settings = load_settings(file).settings.retrieval
    configured = "" if not named else settings.backend if text is None else str(text)
    return Located(name, told, configured, settings)


def _check_meant(text: str) -> None:
    """Raise ConfigError for a bare word that is neither a backend nor a path that exists.

    ``connect`` makes a folder of that name. Where stores are moved it is a mistyped backend.
    """
    bare = not is_url(text) and not re.search(r"[./\\~:]", text)
    if bare and not os.path.exists(text):
        known = ", ".join(backend_names())
        raise ConfigError(
            f"{text!r} is neither a backend ({known}) nor a store; for a new store in a folder of "
            f"this name write ./{text}",
            key="target",
            accepted=f"{known}, or a path",
        )


def config_file(config: PathText | None) -> Path | None:
    """The TOML file: the one that is named, else as ``aiovec.connect`` finds it."""
    if config is not None:
        return Path(os.path.abspath(os.path.expanduser(config)))
    named = os.environ.get(CONFIG_VARIABLE)
    file = Path(os.path.abspath(os.path.expanduser(named or CONFIG_FILE)))
    return file if named or file.exists() else None


def configured_name(place: Located, file: Path) -> str:
    """The name under which the TOML configures this place; empty where it does not."""
    for name in [place.configured, place.name, *backend_names()]:
        if not name:
            continue
        try:
            found = locate(name, file)
        except (ConfigError, MigrationError):
            continue
        if found.same_as(place):
            return name
    return ""


def configured(file: Path | None) -> list[str]:
    """The names of the backends that the TOML configures and that have a store."""
    if file is None or not file.exists():
        return []
    found = []
    for name in backend_names():
        with suppress(ConfigError, MigrationError):
            place = locate(name, file)
            # Where a server is, and not the store itself, is no mark that could be read.
            if is_there(place) and not place.told.lower().startswith(("http://", "https://")):
                found.append(name)
    return found


def nearest_folder(path: Path) -> Path:
    """The folder that holds the path, or the lowest one above it that exists."""
    return next(folder for folder in _above(path) if folder.is_dir())


def _above(path: Path) -> Iterator[Path]:
    absolute = Path(os.path.abspath(path))
    if absolute.is_dir():
        yield absolute
    yield from absolute.parents


def free_room(place: Located) -> int | None:
    """The bytes that are free where the store lies or would; None where nobody can say."""
    path = place.path
    return None if path is None else shutil.disk_usage(nearest_folder(path)).free


def unwritable(place: Located) -> str | None:
    """Why this user cannot write to the store; None where nothing speaks against it."""
    path = place.path
    if path is None:
        return None
    effective = bool(os.supports_effective_ids)  # it lists os.access or nothing
    folder = nearest_folder(path if place.name != "sqlite" else path.parent)
    if not os.access(folder, os.W_OK | os.X_OK, effective_ids=effective):
        return f"this user may not write in {folder}"
    if path.is_file() and not os.access(path, os.W_OK, effective_ids=effective):
        return f"this user may not write to {path}"
    start = path if place.name != "sqlite" else path.parent
    there = next(above for above in (start, *start.parents) if above.exists())
    return None if there.is_dir() else f"{there} is not a folder"
