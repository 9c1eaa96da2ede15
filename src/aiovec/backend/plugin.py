"""A backend before it is opened: which targets it answers to, its settings, its doctor; and those
that are installed.

An entry point of the group ``aiovec.backends`` names a subclass of ``BackendPlugin``. The core, the
command line and the migrator know a backend by this class alone.
"""

from __future__ import annotations

import os
import sys
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar

from .._model.redaction import redacted
from ..errors import BackendNotInstalledError, ConfigError, UnsupportedError
from .contract import Backend

if TYPE_CHECKING:
    from importlib import metadata

    from .config import RetrievalSettings
    from .doctor import Finding
    from .settings import BackendSettings


@dataclass(frozen=True, slots=True)
class Location:
    """Where a store keeps its data."""

    backend: str
    address: str = field(repr=False)  # may hold secrets
    """An absolute path, or a URL: the argument of ``BackendPlugin.create``."""

    path: Path | None = None
    """The file or folder on this machine; None for a store elsewhere, or in memory."""

    folder: Path | None = None
    """The folder with the store's files; None if ``path`` is None."""

    in_memory: bool = False
    """The store keeps nothing, and no other process can see it."""

    def __str__(self) -> str:
        return redacted(self.address)

    def same_as(self, other: Location) -> bool:
        """Return whether both are the same place. Reads the disk."""
        if self.backend != other.backend or (self.path is None) != (other.path is None):
            return False
        if self.path is None or other.path is None:
            return self.address.rstrip("/") == other.address.rstrip("/")
        return os.path.realpath(self.path) == os.path.realpath(other.path)


@dataclass(frozen=True, slots=True)
class AddressKey:
    """The key in ``[retrieval]`` that says where a backend stores."""

    name: str
    default: str
    description: str
    pattern: str | None = None


class BackendPlugin(ABC):
    """A backend before it is opened. Importing its module imports no driver."""

    name: ClassVar[str]
    """The backend's name: in the TOML, as a URL scheme, and as the entry point's name."""

    schemes: ClassVar[tuple[str, ...]] = ()
    """The URL schemes that it accepts besides its name."""

    takes_paths: ClassVar[bool] = False
    """A target without a scheme, a path, means this backend. Only one backend may say so."""

    install: ClassVar[str] = ""
    """The requirement for ``pip install`` that brings it; empty means its distribution's name."""

    address_key: ClassVar[AddressKey | None] = None
    """The key in ``[retrieval]`` with its address; None means ``url`` in its own section."""

    delegates: ClassVar[frozenset[str]] = frozenset()
    """Backends whose URLs ``address_key`` also accepts; such a URL opens that backend."""

    requires: ClassVar[tuple[str, ...]] = ()
    """The modules that an extra brings and without which no store can be opened."""

    settings: ClassVar[type[BackendSettings]]
    """The model of ``[retrieval.<name>]``. Without one, the section's keys are kept unchecked."""

    @abstractmethod
    def create(self, address: str, settings: Any) -> Backend:
        """Return the backend for a location's address, not open yet.

        ``settings`` is an instance of ``self.settings``. Does no I/O, but may import the driver: a
        ModuleNotFoundError becomes a BackendNotInstalledError.
        """

    def locate(self, target: str, base: Path | None = None) -> Location:
        """Return the location that a target names.

        ``target`` is a URL with one of the schemes or, if ``takes_paths``, a path; a value of
        ``address_key`` may always be a path. Relative paths count from ``base``, or from the
        current folder. Raises ConfigError for a target that cannot be a store. May read the disk,
        and creates nothing.
        """
        return Location(self.name, target)

    def locate_configured(self, settings: Any, file: Path | None) -> Location | None:
        """Return the location if settings other than the address give it.

        ``settings`` is the ``[retrieval]`` of the TOML file ``file``.
        """
        return None

    def exists(self, location: Location) -> bool:
        """Return whether a store may exist there, so that opening it creates nothing."""
        return location.path is None or location.path.exists()

    def claims(self, folder: Path) -> str | None:
        """Return the target that opens a folder as this backend's store; None if it is no store.

        Called before a path becomes a new store of the backend that takes paths. If the folder
        does not exist, its name may decide.
        """
        return None

    def findings(self, location: Location | None) -> Sequence[Finding]:
        """Return what ``aiovec doctor`` shows about this backend and, if given, about a store.

        Opens nothing for writing and raises nothing: a failure is a finding too.
        """
        return []


# Those that are installed

GROUP = "aiovec.backends"

KEYS = frozenset({"backend", "dim", "server", "embedders"})
"""The keys of ``[retrieval]`` that belong to no backend, so that none can have such a name."""


def installed(group: str) -> Mapping[str, metadata.EntryPoint]:
    """Return the entry points of a group, sorted by name.

    Of two with one name, the first on the path wins, as with modules.
    """
    return _entry_points(group, tuple(sys.path))


# Opening a store needs them several times, and reading them takes milliseconds: a file per package.
@lru_cache(maxsize=8)
def _entry_points(group: str, _path: tuple[str, ...]) -> Mapping[str, metadata.EntryPoint]:
    from importlib import metadata  # a slow import, so not when aiovec is imported

    found: dict[str, metadata.EntryPoint] = {}
    for entry_point in metadata.entry_points(group=group):
        found.setdefault(entry_point.name, entry_point)
    return MappingProxyType(dict(sorted(found.items())))


@dataclass(frozen=True, slots=True)
class InstalledBackend:
    """The entry point of a backend and, unless it cannot be used, its plugin."""

    name: str
    entry_point: metadata.EntryPoint
    plugin: BackendPlugin | None
    error: ConfigError | BackendNotInstalledError | None = None

    @property
    def install(self) -> str:
        """The requirement for ``pip install`` that brings it."""
        if self.plugin is not None and self.plugin.install:
            return self.plugin.install
        return self.name if self.entry_point.dist is None else self.entry_point.dist.name

    def usable(self) -> BackendPlugin:
        """Return the plugin, or raise the error of a backend that cannot be used."""
        if self.plugin is not None:
            return self.plugin
        raise self.error or self.unusable("it cannot be loaded")

    def unusable(self, reason: object) -> ConfigError:
        return ConfigError(
            f"the backend {self.name!r} ({self.entry_point.value}) is unusable: {reason}"
        )


def backends() -> list[InstalledBackend]:
    """Return the installed backends: first the one that takes paths, then by name."""
    found = [_loaded(name, entry_point) for name, entry_point in installed(GROUP).items()]
    return sorted(found, key=lambda one: one.plugin is None or not one.plugin.takes_paths)


def _loaded(name: str, entry_point: metadata.EntryPoint) -> InstalledBackend:
    found = InstalledBackend(name, entry_point, None)
    error: ConfigError | BackendNotInstalledError
    try:
        if name in KEYS:
            raise ValueError(f"retrieval.{name} is a key of every TOML file")
        made = entry_point.load()
        if isinstance(made, type) and issubclass(made, BackendPlugin) and made.name == name:
            return replace(found, plugin=_plugin(made))
        raise TypeError(f"it is no subclass of BackendPlugin whose name is {name!r}")
    except ModuleNotFoundError as exc:
        error = BackendNotInstalledError(name, found.install)
        error.__cause__ = exc
    except Exception as exc:  # noqa: BLE001 - one broken backend must not hide the others
        error = found.unusable(exc)
        error.__cause__ = exc
    return replace(found, error=error)


@lru_cache(maxsize=64)
def _plugin(kind: type[BackendPlugin]) -> BackendPlugin:
    return kind()


def plugins() -> Iterator[BackendPlugin]:
    """Yield the plugins of the backends that can be used, in the order of ``backends``."""
    for backend in backends():
        if backend.plugin is not None:
            yield backend.plugin


def backend_names() -> list[str]:
    """Return the names of the installed backends, in the order of ``backends``."""
    return [backend.name for backend in backends()]


def plugin_of(name: str) -> BackendPlugin:
    """Return the plugin of a backend.

    Raises BackendNotInstalledError if a module of it is missing, ConfigError if no backend has
    this name or its entry point names no plugin.
    """
    return _backend(name).usable()


def _backend(name: str) -> InstalledBackend:
    found = backends()
    for backend in found:
        if backend.name == name:
            return backend
    names = ", ".join(backend.name for backend in found)
    raise ConfigError(f"there is no backend {name!r}; the backends are: {names}", accepted=names)


def create_backend(
    location: Location, settings: RetrievalSettings, *, read_only: bool = False
) -> Backend:
    """Return the backend of a location, not open yet.

    Raises BackendNotInstalledError if it, or a module that it needs, is missing; ConfigError if no
    backend has this name or the plugin gives none; UnsupportedError if the backend has no
    ``read_only``.
    """
    installed_backend = _backend(location.backend)
    plugin = installed_backend.usable()
    try:
        backend = plugin.create(location.address, settings.of(plugin))
    except ModuleNotFoundError as exc:
        raise BackendNotInstalledError(plugin.name, installed_backend.install) from exc
    except (ImportError, AttributeError, TypeError) as exc:
        raise installed_backend.unusable(exc) from exc
    if not isinstance(backend, Backend):
        raise installed_backend.unusable(f"it gives {type(backend).__name__}, not a Backend")
    if read_only:
        if not backend.supports("read-only"):
            raise UnsupportedError("read-only", backend.name, "open it without read_only=True")
        backend.read_only = True
    return backend
