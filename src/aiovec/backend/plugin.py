"""Plugins: the targets, settings and doctor of a backend, and the list of installed plugins.

The core, the command line and the migrator know a backend only through a subclass of
``BackendPlugin``. An entry point of the group ``aiovec.backends`` names that of another package.
"""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn

from .._tools.packages import entry_points
from ..errors import AiovecError, BackendNotInstalledError, ConfigError

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

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

    install: str = ""
    """The requirement for ``pip install`` that brings it. Default: the name of its distribution."""

    address_field: ClassVar[Any] = ""
    """The default of the key in ``[retrieval]`` with its address, or its description and bounds
    too, as ``settings.key`` returns them."""

    delegates: ClassVar[frozenset[str]] = frozenset()
    """Backends whose URLs ``address_key`` also accepts; such a URL opens that backend."""

    memory: ClassVar[str] = ":memory:"
    """The prefix, in lower case, of the address of a store in memory."""

    @property
    def address_key(self) -> str:
        """The name of that key. An attribute of the class replaces it."""
        return f"{self.name}_url"

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

        ``target`` is a URL with one of the schemes, or a path for the backend of paths; a value
        of ``address_key`` may always be a path. Relative paths count from ``base``, or from the
        current folder. Raises ConfigError for a target that cannot be a store. May read the disk,
        and creates nothing.
        """
        return target

    def address_in(self, settings: Any, file: Path) -> str:
        """Return the target that a TOML ``file`` sets; ``settings`` is its ``[retrieval]``."""
        return str(getattr(settings, self.address_key))

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

    def create(self, *_: Any, **__: Any) -> NoReturn:
        raise self._error.with_traceback(None)  # of the last time that it was raised

    locate = findings = create


# Installed plugins

GROUP = "aiovec.backends"

OF_PATHS = "sqlite"
"""The backend of targets that are paths."""

# The backends of this distribution. They are no entry points, which take longer to find.
_OURS = {
    "sqlite": "aiovec_sqlite.plugin:SqlitePlugin",
    "lancedb": "aiovec_lancedb.plugin:LancedbPlugin",
    "remote": "aiovec_remote.plugin:RemotePlugin",
}

KEYS = frozenset({"backend", "dim", "server", "embedders"})
"""The keys of ``[retrieval]`` that belong to no backend, and cannot be the name of one."""


def installed(group: str) -> Mapping[str, EntryPoint]:
    """Return the entry points of a group, sorted by name, as they were when first asked for."""
    return _installed(group, tuple(sys.path))


@lru_cache(maxsize=8)
def _installed(group: str, _path: tuple[str, ...]) -> Mapping[str, EntryPoint]:
    return entry_points(group)


def unusable(name: str, reason: object) -> ConfigError:
    """Return the error for a backend whose package is broken."""
    value = _OURS.get(name) or installed(GROUP)[name].value
    return ConfigError(f"the backend {name!r} ({value}) is unusable: {reason}")


def backends() -> tuple[BackendPlugin, ...]:
    """Return the plugins of the installed backends: ours, the one of paths first, then by name.

    The plugin of a broken backend is among them, and raises its error when it is used.
    """
    return tuple(map(plugin_of, backend_names()))


def backend_names() -> list[str]:
    """Return the names of the installed backends, in the order of ``backends``."""
    return [*_OURS, *(name for name in installed(GROUP) if name not in _OURS)]


def plugin_of(name: str) -> BackendPlugin:
    """Return the plugin of a backend. Raises ConfigError if no backend has this name."""
    plugin = plugin_named(name)
    if plugin is None:
        names = ", ".join(backend_names())
        raise ConfigError(f"there is no backend {name!r}; the backends are: {names}")
    return plugin


def plugin_named(name: str) -> BackendPlugin | None:
    """Return the plugin of a backend; None if no backend has this name."""
    path = tuple(sys.path)
    return _plugin(name, path) if name in _OURS or name in _installed(GROUP, path) else None


@lru_cache(maxsize=16)
def _plugin(name: str, path: tuple[str, ...]) -> BackendPlugin:
    entry_point = None if name in _OURS else _installed(GROUP, path)[name]
    distribution = "aiovec"
    if entry_point is not None:
        distribution = name if entry_point.dist is None else entry_point.dist.name
    try:
        if name in KEYS:
            raise ValueError(f"retrieval.{name} is a key of every TOML file")
        if entry_point is None:
            module, _, name_of_kind = _OURS[name].partition(":")
            kind = getattr(import_module(module), name_of_kind)
        else:
            kind = entry_point.load()
        if not (isinstance(kind, type) and issubclass(kind, BackendPlugin) and kind.name == name):
            raise TypeError(f"it is not a subclass of BackendPlugin with the name {name!r}")
        plugin: BackendPlugin = kind()
        plugin.install = plugin.install or distribution
        return plugin
    except ModuleNotFoundError as exc:
        error: AiovecError = BackendNotInstalledError(name, distribution)
        error.__cause__ = exc
    except Exception as exc:  # noqa: BLE001 - one broken backend must not hide the others
        error = unusable(name, exc)
        error.__cause__ = exc
    return _Unusable(name, distribution, error)
