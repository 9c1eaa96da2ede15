"""From a target or a TOML file to the place of a store, its settings and its backend."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import ConfigError
from .locate import local_path, locate, locate_configured, locate_path
from .plugin import create_backend, plugin_of

if TYPE_CHECKING:
    from .config import RetrievalSettings
    from .contract import Backend
    from .plugin import Location

CONFIG_VARIABLE = "AIOVEC_CONFIG"
CONFIG_FILE = "aiovec.toml"

PathText = str | os.PathLike[str]

# The variables that say which backend is used, whatever the TOML file says.
_CHOOSING = frozenset({"AIOVEC_RETRIEVAL__BACKEND", "AIOVEC_RETRIEVAL"})


@dataclass(frozen=True, slots=True)
class Resolved:
    """The backend that a target or a TOML file names, not open yet.

    ``configured`` is its name in the TOML file, empty where a target was named.
    """

    location: Location
    settings: RetrievalSettings
    backend: Backend
    configured: str = ""

    def exists(self) -> bool:
        """Return whether a store may exist there, so that opening it makes nothing new."""
        try:
            return plugin_of(self.location.backend).exists(self.location)
        except OSError:  # opening it tells why it cannot be looked at
            return True


class Origin:
    """Where a store comes from. Every method does I/O and belongs into a thread.

    ``backend`` names one that the TOML file configures, in place of the one that it says. With
    ``follow`` a copy that takes the store's place is opened in its stead.
    """

    def __init__(
        self,
        target: PathText | None,
        config: PathText | None,
        *,
        backend: str | None = None,
        read_only: bool = False,
        follow: bool = False,
    ) -> None:
        for name, value in (("read_only", read_only), ("follow", follow)):
            if not isinstance(value, bool):
                raise ConfigError(f"{name} must be True or False, not {value!r}", key=name)
        if follow and not read_only:
            raise ConfigError("follow=True is for copies: pass read_only=True too", key="follow")
        self._read_only = read_only
        self.follow = follow
        self._target = target
        self._config = config
        self._backend = backend
        self._file: Path | None = None

    def location(self) -> Location:
        """Return where the store lies. Nothing is made or opened."""
        return self._read()[0]

    def settings(self) -> RetrievalSettings:
        """The settings that are in force. Nothing is made or opened."""
        return self._read()[1]

    def resolve(self) -> Resolved:
        """Return the backend of the target, or the one that the TOML file names now."""
        return self._resolved(None)

    def resolve_moved(self, backend: str, config: str) -> Resolved | None:
        """Return where a store has moved that its users reach by the TOML file ``config``.

        None where they named a target or another file, or where an environment variable keeps its
        users where they are: then they have to be told.
        """
        if self._target is not None or self._backend is not None:
            return None
        if not (backend and config and self._file):
            return None
        pinned = {name.upper() for name in os.environ} & _CHOOSING
        if pinned or os.path.realpath(self._file) != os.path.realpath(config):
            return None
        return self._resolved(backend)

    def _read(self, backend: str | None = None) -> tuple[Location, RetrievalSettings, str]:
        """Return the place, the settings, and the name of the backend in the TOML file."""
        from .config import load_settings

        if self._file is None:
            # Once, so that a change of the current folder does not lead elsewhere.
            self._file = self._config_file()
        retrieval = load_settings(self._file)
        if self._target is not None:
            return _located(self._target), retrieval, ""
        wanted = backend or self._backend or retrieval.backend
        return locate_configured(plugin_of(wanted), retrieval, self._file), retrieval, wanted

    def _resolved(self, backend: str | None) -> Resolved:
        location, settings, configured = self._read(backend)
        made = create_backend(location, settings, read_only=self._read_only)
        return Resolved(location, settings, made, configured)

    def _config_file(self) -> Path | None:
        """The TOML file as an absolute path; None where the target needs none."""
        if self._config is not None:
            return Path(local_path(text_of(self._config, "config")))
        if self._target is not None:
            return None
        named = os.environ.get(CONFIG_VARIABLE)
        file = Path(local_path(named or CONFIG_FILE))
        if named:
            if not file.exists():
                raise ConfigError(
                    f"{file}: {CONFIG_VARIABLE} names this file, but there is none",
                    file=str(file),
                    key=CONFIG_VARIABLE,
                    accepted="a TOML file",
                )
        elif not file.exists():
            raise ConfigError(
                "nothing says what to open: pass a target, as in connect('notes.db'), or "
                f"config='{CONFIG_FILE}', or set {CONFIG_VARIABLE}, or put {CONFIG_FILE} into the "
                f"current folder ({file.parent})",
                accepted=f"a target, config=, {CONFIG_VARIABLE} or ./{CONFIG_FILE}",
            )
        return file


def text_of(path: object, argument: str) -> str:
    if not isinstance(path, (str, os.PathLike)):
        raise ConfigError(
            f"{argument} must be a path or text, not {type(path).__name__}", key=argument
        )
    text = os.fsdecode(path)
    if not text:
        raise ConfigError(f"{argument} is empty", key=argument)
    return text


def _located(target: PathText) -> Location:
    """Return the location of a target that a user gave."""
    text = text_of(target, "target")
    return locate(text) if isinstance(target, str) else locate_path(text)
