"""Plugins: the targets, settings and doctor of a backend, and the list of installed plugins.

An entry point of the group ``aiovec.backends`` names a subclass of ``BackendPlugin``. The core, the
command line and the migrator know a backend only through this class.
"""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn

from ..errors import AiovecError, BackendNotInstalledError, ConfigError

if TYPE_CHECKING:
    from importlib import metadata

    from .contract import Backend
    from .settings import BackendSettings


@dataclass(frozen=True, slots=True)
class Finding:
    """One fact of ``aiovec doctor``. If it is not ``ok``, or could be better, ``cure`` says how to
    fix it.

    A store or server that was not ``checked`` may have faults.
    """

    subject: str
    value: str
    ok: bool = True
    cure: str | None = None
    checked: bool = True


class BackendPlugin(ABC):
    """Describes a backend and creates it.

    Every process that opens a store imports its module, which should therefore import neither the
    driver nor, if that is slow, the settings.
    """

    name: str
    """The backend's name: in the TOML, as a URL scheme, and as the entry point's name."""

    schemes: ClassVar[tuple[str, ...]] = ()
    """The URL schemes that it accepts besides its name."""

    takes_paths: ClassVar[bool] = False
    """True if paths, as targets, mean this backend. Only one backend may set it."""

    install: str = ""
    """The requirement for ``pip install`` that brings it. Default: the name of its distribution."""

    address_key: ClassVar[str] = ""
    """The key in ``[retrieval]`` with its address. Default: ``url`` in its own section."""

    address_field: ClassVar[Any] = None
    """The default, description and bounds of that key, as a ``pydantic.Field``."""

    delegates: ClassVar[frozenset[str]] = frozenset()
    """Backends whose URLs ``address_key`` also accepts; such a URL opens that backend."""

    memory: ClassVar[str] = ":memory:"
    """The prefix, in lower case, of the address of a store in memory."""

    @property
    def settings(self) -> type[BackendSettings]:
        """The model of ``[retrieval.<name>]``. Without one, the section's keys are kept unchecked.

        An attribute of the class will do; a property may import the model when it is needed.
        """
        from .settings import AnySettings

        return AnySettings

    @abstractmethod
    def create(self, address: str, settings: Any) -> Backend:
        """Create the backend of a store at this address, without opening it.

        ``settings`` is an instance of ``self.settings``. Does no I/O, but may import the driver: a
        ModuleNotFoundError becomes a BackendNotInstalledError.
        """

    def locate(self, target: str, base: Path | None = None) -> str:
        """Return the address of a target: an absolute path, or a URL.

        ``target`` is a URL with one of the schemes or, if ``takes_paths``, a path; a value of
        ``address_key`` may always be a path. Relative paths count from ``base``, or from the
        current folder. Raises ConfigError for a target that cannot be a store. May read the disk,
        and creates nothing.
        """
        return target

    def address_in(self, settings: Any, file: Path) -> str:
        """Return the target that a TOML ``file`` sets; ``settings`` is its ``[retrieval]``."""
        if self.address_key:
            return str(getattr(settings, self.address_key))
        return str(getattr(getattr(settings, self.name, None), "url", ""))

    def exists(self, path: Path) -> bool:
        """Return whether a store may exist at a path, so that opening it creates nothing."""
        return path.exists()

    def claims(self, folder: Path) -> str | None:
        """Return the target that opens a folder as this backend's store; None if it is not one.

        Called before the backend that takes paths creates a new store there. For a folder that does
        not exist, the name may decide.
        """
        return None

    def findings(self, address: str | None) -> Sequence[Finding]:
        """Return the findings of ``aiovec doctor`` about this backend and, if given, about a store.

        Opens nothing for writing, and raises nothing: a failure becomes a finding.
        """
        return []


class _Unusable(BackendPlugin):
    """Stands for an installed backend that cannot be used; its methods raise the reason."""

    def __init__(self, name: str, install: str, error: AiovecError) -> None:
        self.name, self.install = name, install
        self._error = error

    def create(self, address: str, settings: Any) -> NoReturn:
        raise self._error.with_traceback(None)  # of the last time that it was raised

    def locate(self, target: str, base: Path | None = None) -> NoReturn:
        raise self._error.with_traceback(None)

    def findings(self, address: str | None) -> NoReturn:
        raise self._error.with_traceback(None)


# Installed plugins

GROUP = "aiovec.backends"

KEYS = frozenset({"backend", "dim", "server", "embedders"})
"""The keys of ``[retrieval]`` that belong to no backend, and cannot be the name of one."""


def installed(group: str) -> Mapping[str, metadata.EntryPoint]:
    """Return the entry points of a group, sorted by name.

    If two have the same name, the first on the path wins, as with modules.
    """
    return _entry_points(group, tuple(sys.path))


# Cached, since opening a store needs them several times and reading them takes milliseconds.
@lru_cache(maxsize=8)
def _entry_points(group: str, _path: tuple[str, ...]) -> Mapping[str, metadata.EntryPoint]:
    from importlib import metadata  # a slow import, so not when aiovec is imported

    first: dict[str, metadata.EntryPoint] = {}
    for entry_point in metadata.entry_points(group=group):
        first.setdefault(entry_point.name, entry_point)
    return MappingProxyType(dict(sorted(first.items())))


def unusable(name: str, reason: object) -> ConfigError:
    """Return the error for a backend whose package is broken."""
    value = installed(GROUP)[name].value
    return ConfigError(f"the backend {name!r} ({value}) is unusable: {reason}")


def backends() -> tuple[BackendPlugin, ...]:
    """Return the plugins of the installed backends, first the one that takes paths, then by name.

    The plugin of a broken backend is among them, and raises its error when it is used.
    """
    return _backends(tuple(sys.path))


@lru_cache(maxsize=8)
def _backends(_path: tuple[str, ...]) -> tuple[BackendPlugin, ...]:
    plugins = [_loaded(name, entry_point) for name, entry_point in installed(GROUP).items()]
    return tuple(sorted(plugins, key=lambda plugin: not plugin.takes_paths))


def _loaded(name: str, entry_point: metadata.EntryPoint) -> BackendPlugin:
    try:
        if name in KEYS:
            raise ValueError(f"retrieval.{name} is a key of every TOML file")
        kind = entry_point.load()
        if not (isinstance(kind, type) and issubclass(kind, BackendPlugin) and kind.name == name):
            raise TypeError(f"it is not a subclass of BackendPlugin with the name {name!r}")
        plugin: BackendPlugin = kind()
        plugin.install = plugin.install or _distribution(entry_point)
        return plugin
    except ModuleNotFoundError as exc:
        error: AiovecError = BackendNotInstalledError(name, _distribution(entry_point))
        error.__cause__ = exc
    except Exception as exc:  # noqa: BLE001 - one broken backend must not hide the others
        error = unusable(name, exc)
        error.__cause__ = exc
    return _Unusable(name, _distribution(entry_point), error)


def _distribution(entry_point: metadata.EntryPoint) -> str:
    return entry_point.name if entry_point.dist is None else entry_point.dist.name


def backend_names() -> list[str]:
    """Return the names of the installed backends, in the order of ``backends``."""
    return [plugin.name for plugin in backends()]


def plugin_of(name: str) -> BackendPlugin:
    """Return the plugin of a backend. Raises ConfigError if no backend has this name."""
    plugins = {plugin.name: plugin for plugin in backends()}
    if name not in plugins:
        names = ", ".join(plugins)
        raise ConfigError(
            f"there is no backend {name!r}; the backends are: {names}", accepted=names
        )
    return plugins[name]
