"""Find the store that a name means, and whether it exists, without making or opening anything."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from aiovec.backend.config import load_settings
from aiovec.backend.contract import Backend
from aiovec.backend.locate import is_url
from aiovec.backend.origin import CONFIG_FILE, CONFIG_VARIABLE, Origin
from aiovec.backend.plugin import Location
from aiovec.backend.plugins import backend_names, create_backend, plugin_of
from aiovec.errors import ConfigError, MigrationError

from .state import Identity

if TYPE_CHECKING:
    from aiovec.backend.config import RetrievalSettings


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


@dataclass(frozen=True, slots=True)
class Located:
    """The place of a store, with the settings; ``configured`` as in ``Place``."""

    location: Location
    configured: str
    settings: RetrievalSettings

    @property
    def name(self) -> str:
        """The backend's name."""
        return self.location.backend

    @property
    def path(self) -> Path | None:
        """The file or folder on this machine."""
        return self.location.path

    def backend(self) -> Backend:
        """Return the backend, not open. May import its driver."""
        return create_backend(self.location, self.settings)

    def in_memory(self) -> Backend | None:
        """Return a store of the same kind that keeps nothing on disk; None if there is none."""
        address = plugin_of(self.name).scratch(self.location)
        if address is None:
            return None
        return create_backend(Location(self.name, address, in_memory=True), self.settings)

    def exists(self) -> bool:
        """Return whether a store may exist there, so that opening it makes nothing new."""
        return plugin_of(self.name).exists(self.location)

    def is_named(self) -> bool:
        """Return whether the settings name it: it is not the backend's default address."""
        key = plugin_of(self.name).address_key
        return self.settings.backend == self.name or (
            key is not None and key.name in self.settings.model_fields_set
        )


def locate(text: PathText | None, config: PathText | None) -> Located:
    """Resolve a target, a backend name, or None (the TOML's current backend) to a place."""
    named = text is None or (isinstance(text, str) and text in backend_names())
    if not named and isinstance(text, str):
        _check_meant(text)
    if named:
        source = Origin(None, config, backend=None if text is None else str(text))
    else:
        source = Origin(text, config)
    location = source.location()
    if location.in_memory:
        raise MigrationError(
            "a store in memory cannot be migrated, because only its own process can read it"
        )
    if not named and str(location) != location.address:
        raise MigrationError(
            f"{location}: the journal does not store the user, password or query of an address; "
            f"configure the store in the TOML file and name its backend, {location.backend}"
        )
    file = config_file(config) if named or config is not None else None
    settings = load_settings(file)
    configured = "" if not named else settings.backend if text is None else str(text)
    return Located(location, configured, settings)


def _check_meant(text: str) -> None:
    """Raise ConfigError for a bare word that is neither a backend nor a path that exists.

    ``connect`` makes a folder of that name. Where stores are moved it is a mistyped backend.
    """
    bare = not is_url(text) and not re.search(r"[./\\~:]", text)
    if bare and not os.path.exists(text):
        known = ", ".join(backend_names())
        raise ConfigError(
            f"{text!r} is neither a backend ({known}) nor a store; write ./{text} for a new store "
            "in a folder of this name",
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


def check_leads(name: str, known: Identity, file: Path | None) -> None:
    """MigrationError where a backend of the TOML is no longer the store that a run knows by it."""
    if name not in backend_names():
        return
    found = locate(name, file)
    given = Identity(found.name, found.backend().target)
    if given != known:
        raise MigrationError(
            f"{file or 'the environment'} leads the backend {name!r} to {given.target}, but this "
            f"run is of {known}: write that address back into the file, or name the TOML file of "
            "the run (--config)"
        )


def configured_name(place: Located, file: Path) -> str:
    """The name under which the TOML configures this place; empty where it does not."""
    for name in [place.configured, place.name, *backend_names()]:
        if not name:
            continue
        try:
            found = locate(name, file)
        except (ConfigError, MigrationError):
            continue
        if found.location.same_as(place.location):
            return name
    return ""


def configured(file: Path | None) -> list[str]:
    """The names of the backends that the TOML configures and that have a store.

    A store that is not on this machine may always exist, so it must be named there.
    """
    if file is None or not file.exists():
        return []
    found = []
    for name in backend_names():
        with suppress(ConfigError, MigrationError):
            place = locate(name, file)
            if place.name == name and place.exists() and (place.path or place.is_named()):
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
    start = place.location.folder or path
    folder = nearest_folder(start)
    if not os.access(folder, os.W_OK | os.X_OK, effective_ids=effective):
        return f"this user may not write in {folder}"
    if path.is_file() and not os.access(path, os.W_OK, effective_ids=effective):
        return f"this user may not write to {path}"
    there = next(above for above in (start, *start.parents) if above.exists())
    return None if there.is_dir() else f"{there} is not a folder"
