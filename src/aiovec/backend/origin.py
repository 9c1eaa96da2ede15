"""From a target or a TOML file to the place of a store, its settings and its backend."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import ConfigError
from .locate import local_path, locate, locate_configured, locate_path
from .plugins import create_backend, plugin_of

if TYPE_CHECKING:
    from .config import LoadedSettings, RetrievalSettings, Stamp
    from .contract import Backend
    from .plugin import Location

CONFIG_VARIABLE = "AIOVEC_CONFIG"
CONFIG_FILE = "aiovec.toml"

PathText = str | os.PathLike[str]

# The variables that say which backend is used, whatever the TOML file says.
_CHOOSING = frozenset({"AIOVEC_RETRIEVAL__BACKEND", "AIOVEC_RETRIEVAL"})


@dataclass(frozen=True, slots=True)
class _Identity:
    """Equal ones are the same place, used in the same way."""

    location: Location
    section: str = field(repr=False)  # may hold secrets
    configured: str = field(default="", compare=False)


@dataclass(frozen=True, slots=True)
class Resolved:
    """The backend that a target or a TOML file names, not open yet."""

    identity: _Identity
    settings: RetrievalSettings
    backend: Backend
    stamp: Stamp | None

    @property
    def location(self) -> Location:
        return self.identity.location

    @property
    def configured(self) -> str:
        """The backend's name in the TOML file, empty where a target was named."""
        return self.identity.configured

    def exists(self) -> bool:
        """Return whether a store may exist there, so that opening it makes nothing new."""
        try:
            return plugin_of(self.location.backend).exists(self.location)
        except OSError:  # opening it tells why it cannot be looked at
            return True


class Origin:
    """Where a store comes from. Every method does I/O and belongs into a thread.

    ``backend`` names one that the TOML file configures, in place of the one that it says.
    """

    def __init__(
        self,
        target: PathText | None,
        config: PathText | None,
        *,
        backend: str | None = None,
        read_only: bool = False,
    ) -> None:
        if not isinstance(read_only, bool):
            raise ConfigError(
                f"read_only must be True or False, not {read_only!r}", key="read_only"
            )
        self._read_only = read_only
        self._target = target
        self._config = config
        self._backend = backend
        self._file: Path | None = None
        self._stamp: Stamp | None = None
        self._identity: _Identity | None = None

    @property
    def follows(self) -> bool:
        """True if the store follows a TOML file; False if its user named a target."""
        return self._target is None and self._backend is None

    def location(self) -> Location:
        """Return where the store lies. Nothing is made or opened."""
        _, identity = self._read()
        return identity.location

    def settings(self) -> RetrievalSettings:
        """The settings that are in force. Nothing is made or opened."""
        loaded, _ = self._read()
        return loaded.retrieval

    def changed(self) -> bool:
        """Return whether the TOML file changed since it was last read. Costs one ``stat``."""
        if not self.follows or self._file is None:
            return False
        from .config import stamp_of

        return stamp_of(self._file) != self._stamp

    def resolve_first(self) -> Resolved:
        """Resolve the target or the TOML file for the first time."""
        resolved = self._create(*self._read())
        self.settle(resolved)
        return resolved

    def resolve(self) -> Resolved | None:
        """Resolve the TOML file again; None if it names the same place and settings.

        Until ``settle`` is called with it, ``changed`` stays true, so that it is tried again.
        """
        loaded, identity = self._read()
        if identity == self._identity:
            self._stamp = loaded.stamp
            return None
        return self._create(loaded, identity)

    def resolve_moved(self, backend: str, config: str) -> Resolved | None:
        """Where a store has moved that its users reach by the TOML file ``config``.

        None where this is another file, or where an environment variable keeps its users where
        they are: then they have to be told.
        """
        if not self._is_led_by(backend, config):
            return None
        loaded, identity = self._read(backend)
        return None if identity == self._identity else self._create(loaded, identity)

    def foresee(self, backend: str, config: str) -> Backend | None:
        """The backend to which a migration is about to lead. Nothing is changed by the question."""
        if not self._is_led_by(backend, config):
            return None
        loaded, identity = self._read(backend)
        if identity == self._identity:
            return None
        return self._backend_of(loaded, identity)

    def _is_led_by(self, backend: str, config: str) -> bool:
        if not (self.follows and backend and self._file and config):
            return False
        pinned = {name.upper() for name in os.environ} & _CHOOSING
        return not pinned and os.path.realpath(self._file) == os.path.realpath(config)

    def leads_to(self, resolved: Resolved) -> bool:
        """Return whether the TOML, as it is now, names this place itself."""
        _, identity = self._read()
        return identity == resolved.identity

    def settle(self, resolved: Resolved) -> None:
        """The store is there now."""
        self._stamp, self._identity = resolved.stamp, resolved.identity

    def _read(self, backend: str | None = None) -> tuple[LoadedSettings, _Identity]:
        from .config import load_settings

        if self._file is None:
            # Once, so that a change of the current folder does not lead elsewhere.
            self._file = self._config_file()
        loaded = load_settings(self._file)
        retrieval = loaded.retrieval
        wanted = ""
        if self._target is None:
            wanted = backend or self._backend or retrieval.backend
            location = locate_configured(plugin_of(wanted), retrieval, self._file)
        else:
            location = _located(self._target)
        section = json.dumps(retrieval.section(location.backend), sort_keys=True, default=str)
        return loaded, _Identity(location, section, wanted)

    def _create(self, loaded: LoadedSettings, identity: _Identity) -> Resolved:
        backend = self._backend_of(loaded, identity)
        return Resolved(identity, loaded.retrieval, backend, loaded.stamp)

    def _backend_of(self, loaded: LoadedSettings, identity: _Identity) -> Backend:
        """Return the backend of a place, not open yet."""
        return create_backend(
            identity.location, loaded.retrieval, read_only=self._read_only
        )

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
