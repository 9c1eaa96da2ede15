"""Find the store that a name means, and whether it exists, without making or opening anything."""

from __future__ import annotations

import os
import re
import shutil
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from aiovec.backend.contract import Backend
from aiovec.backend.marks import MoveRecord
from aiovec.backend.paths import PathText, is_url
from aiovec.backend.place import CONFIG_FILE, CONFIG_VARIABLE, Place, find_place
from aiovec.backend.plugin import backend_names
from aiovec.backend.threads import to_its_end
from aiovec.errors import ConfigError, MigrationError

from .host import Host


@dataclass(frozen=True, slots=True)
class OpenPlace:
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


def free_room(place: Place) -> int | None:
    """Return the bytes that are free where the store lies or would; None if unknown."""
    return None if place.path is None else shutil.disk_usage(_lowest_folder(place.path)).free


def unwritable(place: Place) -> str:
    """Return why this user cannot write to the store; empty where nothing speaks against it."""
    path = place.path
    if path is None:
        return ""
    effective = bool(os.supports_effective_ids)  # it lists os.access or nothing
    folder = _lowest_folder(path)
    if not os.access(folder, os.W_OK | os.X_OK, effective_ids=effective):
        return f"this user may not write in {folder}"
    if path.is_file() and not os.access(path, os.W_OK, effective_ids=effective):
        return f"this user may not write to {path}"
    there = next(above for above in path.parents if above.exists())
    return "" if there.is_dir() else f"{there} is not a folder"


def _lowest_folder(path: Path) -> Path:
    """Return the path if it is a folder, or the lowest one above it that exists."""
    absolute = Path(os.path.abspath(path))
    return next(folder for folder in (absolute, *absolute.parents) if folder.is_dir())


def locate(text: PathText | None, config: Path | None) -> Place:
    """Return the place of a target, of a backend by its name, or of the TOML's current backend."""
    named = text is None or (isinstance(text, str) and text in backend_names())
    if not named and isinstance(text, str):
        _check_meant(text)
    if named:
        place = find_place(config=config, backend=str(text or ""))
    else:
        place = find_place(text, config)
    if place.in_memory:
        raise MigrationError(
            "a store in memory cannot be migrated, because only its own process can read it"
        )
    if named:
        return place
    if str(place) != place.address:
        raise MigrationError(
            f"{place}: the mark of a migration does not store the user, password or query of an "
            f"address; configure the store in the TOML file and name its backend, {place.backend}"
        )
    return replace(place, configured=_configured_name(place, config))


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


def _configured_name(place: Place, file: Path | None) -> str:
    """Return the name under which the TOML configures this place; empty where it does not."""
    if file is None or not file.exists():
        return ""
    for name in [place.backend, *backend_names()]:
        with suppress(ConfigError, MigrationError):
            if locate(name, file).same_as(place):
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
            settings = place.settings
            named = settings.backend == name or (
                place.plugin.address_key in settings.model_fields_set
            )
            if place.backend == name and place.exists() and (place.path or named):
                found.append(name)
    return found


async def open_place(stack: AsyncExitStack, found: Place, host: Host, *, make: bool) -> OpenPlace:
    """Open a store until the stack ends. One that does not exist is missing, unless ``make``."""
    backend = await host.in_thread(found.create)
    if not make and not await host.in_thread(found.exists):
        return OpenPlace(backend, found.configured, missing=True)
    stack.push_async_callback(_close, backend)
    await backend.open()
    return OpenPlace(backend, found.configured)


async def _close(backend: Backend) -> None:
    await to_its_end(backend.close())
