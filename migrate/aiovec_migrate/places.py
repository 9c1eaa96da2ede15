"""Find the store that a name means, and whether it exists, without making or opening anything."""

from __future__ import annotations

import os
import re
import shutil
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from aiovec.backend.config import load_settings
from aiovec.backend.contract import Backend
from aiovec.backend.locate import is_url
from aiovec.backend.marks import MoveRecord
from aiovec.backend.origin import CONFIG_FILE, CONFIG_VARIABLE, Origin
from aiovec.backend.plugin import Location, backend_names, create_backend, plugin_of
from aiovec.backend.threads import to_its_end
from aiovec.errors import ConfigError, MigrationError

from .host import Host

if TYPE_CHECKING:
    from aiovec.backend.config import RetrievalSettings


PathText = str | os.PathLike[str]


@dataclass(frozen=True, slots=True)
class Place:
    """A store that a migration reads or writes.

    ``configured`` is its name in the TOML, empty where that does not know it. Of a store that is
    ``missing`` the backend is not open, for that would make it.
    """

    backend: Backend
    configured: str = ""
    missing: bool = False

    def __str__(self) -> str:
        return f"{self.backend.target} ({self.backend.name})"

    @property
    def keeps_marks(self) -> bool:
        """True if it can be marked, so that all its users heed a migration."""
        return self.backend.supports("moves")

    async def record(self) -> MoveRecord:
        """What it keeps about migrations; an empty record where it keeps nothing."""
        if self.missing or not self.keeps_marks:
            return MoveRecord()
        return await self.backend.move_record()


@dataclass(frozen=True, slots=True)
class Located:
    """The place of a store, with the settings; ``configured`` as in ``Place``."""

    location: Location
    configured: str
    settings: RetrievalSettings

    @property
    def path(self) -> Path | None:
        """The file or folder on this machine."""
        return self.location.path

    def backend(self) -> Backend:
        """Return the backend, not open. May import its driver."""
        return create_backend(self.location, self.settings)

    def exists(self) -> bool:
        """Return whether a store may exist there, so that opening it makes nothing new."""
        return plugin_of(self.location.backend).exists(self.location)

    def free_room(self) -> int | None:
        """Return the bytes that are free where the store lies or would; None if unknown."""
        return None if self.path is None else shutil.disk_usage(_lowest_folder(self.path)).free

    def unwritable(self) -> str:
        """Return why this user cannot write to the store; empty where nothing speaks against it."""
        path = self.path
        if path is None:
            return ""
        effective = bool(os.supports_effective_ids)  # it lists os.access or nothing
        start = self.location.folder or path
        folder = _lowest_folder(start)
        if not os.access(folder, os.W_OK | os.X_OK, effective_ids=effective):
            return f"this user may not write in {folder}"
        if path.is_file() and not os.access(path, os.W_OK, effective_ids=effective):
            return f"this user may not write to {path}"
        there = next(above for above in (start, *start.parents) if above.exists())
        return "" if there.is_dir() else f"{there} is not a folder"


def _lowest_folder(path: Path) -> Path:
    """Return the path if it is a folder, or the lowest one above it that exists."""
    absolute = Path(os.path.abspath(path))
    return next(folder for folder in (absolute, *absolute.parents) if folder.is_dir())


def locate(text: PathText | None, config: Path | None) -> Located:
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
            f"{location}: the mark of a migration does not store the user, password or query of an "
            f"address; configure the store in the TOML file and name its backend, "
            f"{location.backend}"
        )
    settings = load_settings(config)
    if named:
        return Located(location, settings.backend if text is None else str(text), settings)
    return Located(location, _configured_name(location, config), settings)


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
    """Return the TOML file: the one that is named, else as ``aiovec.connect`` finds it."""
    if config is not None:
        return Path(os.path.abspath(os.path.expanduser(config)))
    named = os.environ.get(CONFIG_VARIABLE)
    file = Path(os.path.abspath(os.path.expanduser(named or CONFIG_FILE)))
    return file if named or file.exists() else None


def _configured_name(location: Location, file: Path | None) -> str:
    """Return the name under which the TOML configures this place; empty where it does not."""
    if file is None or not file.exists():
        return ""
    for name in [location.backend, *backend_names()]:
        with suppress(ConfigError, MigrationError):
            if locate(name, file).location.same_as(location):
                return name
    return ""


def configured(file: Path | None) -> list[str]:
    """Return the names of the backends that the TOML configures and that have a store.

    A store that is not on this machine may always exist, so it must be named there.
    """
    if file is None or not file.exists():
        return []
    found = []
    for name in backend_names():
        with suppress(ConfigError, MigrationError):
            place = locate(name, file)
            key = plugin_of(name).address_key
            named = place.settings.backend == name or (
                key is not None and key.name in place.settings.model_fields_set
            )
            if place.location.backend == name and place.exists() and (place.path or named):
                found.append(name)
    return found


async def open_place(stack: AsyncExitStack, found: Located, host: Host, *, make: bool) -> Place:
    """Open a store until the stack ends. One that does not exist is missing, unless ``make``."""
    backend = await host.in_thread(found.backend)
    if not make and not await host.in_thread(found.exists):
        return Place(backend, found.configured, missing=True)
    stack.push_async_callback(_close, backend)
    await backend.open()
    return Place(backend, found.configured)


async def _close(backend: Backend) -> None:
    await to_its_end(backend.close())
