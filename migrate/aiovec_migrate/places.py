"""Find the store that a name stands for, check whether it exists, and open it."""

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
from aiovec.backend.threads import in_thread, to_its_end
from aiovec.errors import ConfigError, MigrationError


@dataclass(frozen=True, slots=True)
class OpenPlace:
    """A store that a migration reads or writes.

    ``configured`` is the store's name in the TOML, or empty. The backend of a ``missing`` store is
    not open, because opening it would create the store.
    """

    backend: Backend
    configured: str = ""
    missing: bool = False
    path: Path | None = None

    def __str__(self) -> str:
        return f"{self.backend.target} ({self.backend.name})"

    @property
    def keeps_marks(self) -> bool:
        """True if the store can be marked, so that all its users respect a migration."""
        return self.backend.supports("moves")

    def is_at(self, address: str) -> bool:
        """Return whether ``address`` is the store's address or target."""
        return address in (self.backend.address, self.backend.target)

    async def record(self) -> MoveRecord:
        """Return the store's record of migrations; an empty record if the store keeps none."""
        if self.missing or not self.keeps_marks:
            return MoveRecord()
        return await self.backend.move_record()

    async def act(self) -> None:
        """If the store has a mark, act on behalf of the run that set the mark.

        The store may refuse access to everyone else.
        """
        if (mark := (await self.record()).mark) is not None:
            self.backend.act_for(mark.run)


def free_room(place: Place) -> int | None:
    """Return the free bytes on the store's disk; None if unknown."""
    return None if place.path is None else shutil.disk_usage(_lowest_folder(place.path)).free


def unwritable(place: Place) -> str:
    """Return the reason why this user cannot write to the store, or "" if there is none."""
    path = place.path
    if path is None:
        return ""
    effective = bool(os.supports_effective_ids)  # empty on Windows; elsewhere it has os.access
    folder = _lowest_folder(path)
    if not os.access(folder, os.W_OK | os.X_OK, effective_ids=effective):
        return f"this user may not write in {folder}"
    if path.is_file() and not os.access(path, os.W_OK, effective_ids=effective):
        return f"this user may not write to {path}"
    if path.is_file() and path.stat().st_size and not place.exists():
        return f"{path} is a file, but not a store of {place.backend}"
    parent = next(above for above in path.parents if above.exists())
    return "" if parent.is_dir() else f"{parent} is not a folder"


def _lowest_folder(path: Path) -> Path:
    """Return the path if it is a folder, or else its nearest parent that is a folder."""
    absolute = Path(os.path.abspath(path))
    return next(folder for folder in (absolute, *absolute.parents) if folder.is_dir())


def locate(text: PathText | None, config: Path | None) -> Place:
    """Return the place of a target or a named backend; for None, the TOML's current backend."""
    named = text is None or (isinstance(text, str) and text in backend_names())
    if not named and isinstance(text, str):
        _check_meant(text)
    if named and config is None:
        fault = "no store is named: pass --from STORE"
        if text is not None:
            fault = f"{text!r} is only the name of a backend: pass the address of its store"
        raise ConfigError(
            f"{fault}, or name a TOML file with --config or ${CONFIG_VARIABLE}", key="--from"
        )
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
    """Raise ConfigError for a bare word that is neither a backend nor an existing path.

    ``connect`` would create a folder with this name, but here it is probably a mistyped backend.
    """
    bare = not is_url(text) and not re.search(r"[./\\~:]", text)
    if bare and not os.path.exists(text):
        known = ", ".join(backend_names())
        raise ConfigError(
            f"{text!r} is neither a backend ({known}) nor a store; write ./{text} for a new store "
            "in a folder of this name",
            key="target",
        )


def config_file(config: PathText | None) -> Path | None:
    """Return the TOML file: ``config``, or else the file that ``aiovec.connect`` finds, if any."""
    if config is not None:
        return Path(os.path.abspath(os.path.expanduser(config)))
    named = os.environ.get(CONFIG_VARIABLE)
    file = Path(os.path.abspath(os.path.expanduser(named or CONFIG_FILE)))
    return file if named or file.exists() else None


def _configured_name(place: Place, file: Path | None) -> str:
    """Return the name of the TOML's backend whose store is at this place, or ""."""
    if file is None or not file.exists():
        return ""
    for name in [place.backend, *backend_names()]:
        with suppress(ConfigError, MigrationError):
            if locate(name, file).same_as(place):
                return name
    return ""


def configured(file: Path | None) -> list[str]:
    """Return the names of the TOML's backends whose stores exist.

    Stores on other machines are not checked: they are listed if the TOML names them.
    """
    if file is None or not file.exists():
        return []
    configured_names = []
    for name in backend_names():
        with suppress(ConfigError, MigrationError):
            place = locate(name, file)
            settings = place.settings
            named = settings.backend == name or (place.plugin.address_key in vars(settings))
            if place.backend == name and place.exists() and (place.path or named):
                configured_names.append(name)
    return configured_names


async def open_place(stack: AsyncExitStack, located: Place, *, make: bool) -> OpenPlace:
    """Open a store, which the stack will close.

    If the store does not exist, create it if ``make`` is True, else return it as missing.
    """
    place = await in_thread(unopened, located)
    if not make and not await in_thread(located.exists):
        return replace(place, missing=True)
    stack.push_async_callback(_close, place.backend)
    await place.backend.open()
    return place


def unopened(located: Place) -> OpenPlace:
    """Return the store at a place without opening it."""
    return OpenPlace(located.create(), located.configured, path=located.path)


async def _close(backend: Backend) -> None:
    await to_its_end(backend.close())
