"""Plugins: a backend's targets, settings and doctor findings, and the list of installed plugins.

The core, the command line and the migrator know a backend only through a subclass of
``BackendPlugin``. Another package registers its plugin as an entry point in ``aiovec.backends``.
"""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn

from .._tools.packages import installed
from ..errors import AiovecError, BackendNotInstalledError, ConfigError

if TYPE_CHECKING:
    from .contract import Backend
    from .settings import BackendSettings


@dataclass(frozen=True, slots=True)
class Finding:
    """One fact that ``aiovec doctor`` reports, with a ``fix`` if it is a fault or could be better.

    A store or server that was not ``checked`` may have faults.
    """

    subject: str
    value: str
    ok: bool = True
    fix: str | None = None
    checked: bool = True


class BackendPlugin(ABC):
    """Describes a backend and creates it.

    Every process that opens a store imports the plugin's module, which should therefore import
    neither the driver nor, if that is slow, the settings.
    """

    name: str
    """The backend's name: in the TOML file, as a URL scheme, and as the entry point's name."""

    schemes: ClassVar[tuple[str, ...]] = ()
    """The URL schemes that the backend accepts besides its name."""

    install: str = ""
    """The ``pip install`` requirement of the backend. Default: its distribution's name."""

    address_field: ClassVar[Any] = ""
    """The default of the backend's address key in ``[retrieval]``: a plain value, or
    ``settings.key`` with rules."""

    delegates: ClassVar[frozenset[str]] = frozenset()
    """Backends whose URLs ``address_key`` also accepts; such a URL opens that backend."""

    memory: ClassVar[str] = ":memory:"
    """The prefix, in lower case, of the addresses of in-memory stores."""

    @property
    def value(self) -> str:
        """The plugin's class, as the value of an entry point."""
        return f"{type(self).__module__}:{type(self).__qualname__}"

    @property
    def address_key(self) -> str:
        """The name of the backend's address key. A class may set it as an attribute."""
        return f"{self.name}_url"

    @property
    def settings(self) -> type[BackendSettings]:
        """The class of ``[retrieval.<name>]``. By default, the section's keys are kept unchecked.

        A plugin class may set ``settings`` as an attribute; a property can import the settings when
        they are needed.
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

        ``target`` is a URL with one of the schemes or, for the backend that opens plain paths, a
        path; a value of ``address_key`` may always be a path. Relative paths start at ``base``, or
        at the current folder. Raises ConfigError for a target that cannot be a store. May read the
        disk, but creates nothing.
        """
        return target

    def address_in(self, settings: Any, file: Path) -> str:
        """Return the target that a TOML ``file`` sets; ``settings`` is its ``[retrieval]``."""
        return str(getattr(settings, self.address_key))

    def exists(self, path: Path) -> bool:
        """Return whether a store may exist at a path."""
        return path.exists()

    def claims(self, folder: Path) -> str | None:
        """Return the target that opens a folder as this backend's store; None if the folder
        is not a store.

        Called before the backend for plain paths creates a new store there. The result for a folder
        that does not exist may depend on its name.
        """
        return None

    def findings(self, address: str | None) -> Sequence[Finding]:
        """Return the findings of ``aiovec doctor`` about this backend and, if given, about a store.

        Opens nothing for writing, and raises nothing: a failure becomes a finding.
        """
        return []


class _Unusable(BackendPlugin):
    """Replaces the plugin of a backend that cannot be used.

    ``create``, ``locate`` and ``findings`` raise the error that says why.
    """

    def __init__(self, name: str, install: str, error: AiovecError) -> None:
        self.name, self.install = name, install
        self._error = error

    def create(self, *_: Any, **__: Any) -> NoReturn:
        raise self._error.with_traceback(None)  # without the traceback of an earlier call

    locate = findings = create


# Installed plugins

GROUP = "aiovec.backends"

OF_PATHS = "sqlite"
"""The backend for targets that are paths."""

# The backends of this distribution. They are not entry points, which take longer to find.
_OURS = {
    "sqlite": "aiovec_sqlite.plugin:SqlitePlugin",
    "lancedb": "aiovec_lancedb.plugin:LancedbPlugin",
    "remote": "aiovec_remote.plugin:RemotePlugin",
}

KEYS = frozenset({"backend", "dim", "server", "embedders"})
"""The keys of ``[retrieval]`` that belong to no backend. No backend can have one of these names."""


def backends() -> tuple[BackendPlugin, ...]:
    """Return the plugins of the installed backends: aiovec's own backends first, then the others
    sorted by name.

    A broken backend's plugin is included, and raises the backend's error when it is used.
    """
    return tuple(map(plugin_of, backend_names()))


def backend_names() -> list[str]:
    """Return the names of the installed backends, in the order of ``backends``."""
    return [*_OURS, *(name for name in installed(GROUP) if name not in _OURS)]


def plugin_of(name: str) -> BackendPlugin:
    """Return the plugin of a backend. Raises ConfigError if no backend has this name."""
    if name in _OURS:  # without reading the entry points of other packages
        return _plugin(name, _OURS[name], "aiovec", ())
    entry_point = installed(GROUP).get(name)
    if entry_point is None:
        names = ", ".join(backend_names())
        raise ConfigError(f"there is no backend {name!r}; the backends are: {names}")
    distribution = name if entry_point.dist is None else entry_point.dist.name
    return _plugin(name, entry_point.value, distribution, tuple(sys.path))


@lru_cache(maxsize=16)
def _plugin(name: str, value: str, distribution: str, _path: tuple[str, ...]) -> BackendPlugin:
    """Return an instance of the plugin class that ``value`` names as "module:name"."""
    try:
        if name in KEYS:
            raise ValueError(f"retrieval.{name} is a key of every TOML file")
        kind = resolve_name(value)
        if not (isinstance(kind, type) and issubclass(kind, BackendPlugin) and kind.name == name):
            raise TypeError(f"it is not a subclass of BackendPlugin with the name {name!r}")
        plugin: BackendPlugin = kind()
        plugin.install = plugin.install or distribution
        return plugin
    except ModuleNotFoundError as exc:
        error: AiovecError = BackendNotInstalledError(name, distribution)
        error.__cause__ = exc
    except Exception as exc:  # noqa: BLE001 - one broken backend must not hide the others
        error = unusable(name, value, exc)
        error.__cause__ = exc
    return _Unusable(name, distribution, error)


def unusable(name: str, value: str, reason: object) -> ConfigError:
    """Return the error for a backend whose package is broken; ``value`` names its class."""
    return ConfigError(f"the backend {name!r} ({value}) is unusable: {reason}")
