"""A backend before it is opened: which targets it answers to, its settings, and its doctor.

An entry point of the group ``aiovec.backends`` names a subclass of ``BackendPlugin``. The core, the
command line and the migrator know a backend by this class alone.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from .._model.redaction import redacted

if TYPE_CHECKING:
    from .contract import Backend
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
