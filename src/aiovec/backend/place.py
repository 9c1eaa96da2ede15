"""The place of a store, found from a target, or from a TOML file and the environment."""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass, field, replace
from pathlib import Path

from .._tools.messages import shown
from .._tools.redaction import URL, redacted
from ..errors import BackendNotInstalledError, ConfigError, InvalidArgumentError, UnsupportedError
from .config import RetrievalSettings, load_settings
from .contract import Backend
from .paths import PathText, is_url, local_path, text_of
from .plugin import OF_PATHS, BackendPlugin, backends, plugin_of, unusable

CONFIG_VARIABLE = "AIOVEC_CONFIG"
CONFIG_FILE = "aiovec.toml"

# The variables that set the backend in use, with precedence over the TOML file.
_CHOOSING = frozenset({"AIOVEC_RETRIEVAL__BACKEND", "AIOVEC_RETRIEVAL"})


@dataclass(frozen=True, slots=True)
class Place:
    """A backend, an address and the settings: everything needed to open a store.

    Its repr shows only ``configured`` and ``file``: the other fields may hold secrets.
    """

    plugin: BackendPlugin = field(repr=False)
    address: str = field(repr=False)
    """An absolute path, or a URL: the argument of ``BackendPlugin.create``."""

    settings: RetrievalSettings = field(repr=False)
    """The settings of ``[retrieval]``."""

    configured: str = ""
    """The name of the backend in the TOML file; empty if a target names the place."""

    file: Path | None = None
    """The TOML file that selects this place, so that a store opened from it follows a migration."""

    @property
    def backend(self) -> str:
        """The name of the backend."""
        return self.plugin.name

    @property
    def path(self) -> Path | None:
        """The file or folder on this machine; None for a store elsewhere, or in memory."""
        return Path(self.address) if os.path.isabs(self.address) else None

    @property
    def in_memory(self) -> bool:
        """True if the store is not persistent, and no other process can see it."""
        return self.address.lower().startswith(self.plugin.memory)

    def __str__(self) -> str:
        return redacted(self.address)

    def same_as(self, other: Place) -> bool:
        """Return whether ``other`` is the same place. Reads the disk."""
        path, other_path = self.path, other.path
        if self.backend != other.backend or (path is None) != (other_path is None):
            return False
        if path is None or other_path is None:
            return self.address.rstrip("/") == other.address.rstrip("/")
        return os.path.realpath(path) == os.path.realpath(other_path)

    def exists(self) -> bool:
        """Return whether a store may exist at this place. Reads the disk."""
        path = self.path
        try:
            return path is None or self.plugin.exists(path)
        except OSError:  # opening the store reports the reason
            return True

    def create(self, read_only: bool = False) -> Backend:
        """Create the backend without opening it. Blocks: it may import the driver and try it.

        Raises BackendNotInstalledError if one of its modules is missing, ConfigError if the plugin
        is broken, and UnsupportedError if the backend does not support ``read_only``.
        """
        plugin = self.plugin
        settings = getattr(self.settings, plugin.name, None) or plugin.settings()
        try:
            backend = plugin.create(self.address, settings)
        except ModuleNotFoundError as exc:
            raise BackendNotInstalledError(plugin.name, plugin.install) from exc
        except (ImportError, AttributeError, TypeError) as exc:
            raise unusable(plugin.name, plugin.value, exc) from exc
        if not isinstance(backend, Backend):
            raise unusable(
                plugin.name, plugin.value, f"it returns {type(backend).__name__}, not a Backend"
            )
        if read_only:
            if not backend.supports("read-only"):
                raise UnsupportedError("read-only", backend.name, "open it without read_only=True")
            backend.read_only = True
        return backend

    def after_move(self, backend: str, config: str) -> Place | None:
        """Return the place to which a migration has moved the apps of the TOML file ``config``.

        Return None if this place comes from a target, a named backend or another file, or if an
        environment variable sets it: then calls raise StoreMovedError instead.
        """
        if not (backend and config and self.file):
            return None
        pinned = {name.upper() for name in os.environ} & _CHOOSING
        if pinned or os.path.realpath(self.file) != os.path.realpath(config):
            return None
        return replace(find_place(config=self.file, backend=backend), file=self.file)


def find_place(
    target: PathText | None = None,
    config: PathText | None = None,
    *,
    backend: str = "",
    environment: bool = True,
) -> Place:
    """Find the place of a store. Reads the disk, so call it in a thread; creates nothing.

    ``target`` is a path, or a URL of an installed backend; then the TOML file ``config`` only gives
    the settings. Without a target, the file names the place; ``backend`` selects one of its
    backends instead of the one in use. Without ``config`` either, the file is ``$AIOVEC_CONFIG``,
    else ``./aiovec.toml``. The environment takes precedence over the file, unless ``environment``
    is False.

    Raises ConfigError for a target, a file or a setting that cannot be used, and
    BackendNotInstalledError for a backend whose package is missing.
    """
    # Absolute, so that a later change of the current folder does not matter.
    file = None if config is None else Path(local_path(text_of(config, "config")))
    if target is not None:
        settings = load_settings(file, environment=environment)
        return Place(*_located(target), settings)
    file = file or _usual_file()
    settings = load_settings(file, environment=environment)
    name = backend or settings.backend
    plugin, address = _configured(plugin_of(name), settings, file)
    return Place(plugin, address, settings, name, None if backend else file)


def _usual_file() -> Path:
    """Return the default TOML file."""
    named = os.environ.get(CONFIG_VARIABLE)
    file = Path(local_path(named or CONFIG_FILE))
    if file.exists():
        return file
    if named:
        reason = f"{CONFIG_VARIABLE} names this file, but it does not exist"
        raise ConfigError(f"{file}: {reason}", file=str(file), key=CONFIG_VARIABLE)
    raise ConfigError(
        "no store is named: pass a target, as in connect('notes.db'), or "
        f"config='{CONFIG_FILE}', or set {CONFIG_VARIABLE}, or put {CONFIG_FILE} into the "
        f"current folder ({file.parent})"
    )


def _located(target: PathText) -> tuple[BackendPlugin, str]:
    """Return the backend of a target, and its address."""
    text = text_of(target, "target")
    plugin = _plugin_of(text) if isinstance(target, str) else None
    plugin = plugin or plugin_of(OF_PATHS)
    return plugin, plugin.locate(text)


def _configured(
    plugin: BackendPlugin, settings: RetrievalSettings, file: Path
) -> tuple[BackendPlugin, str]:
    """Return the backend and the address from a backend's address key in the TOML file. The key may
    hold the URL of another backend."""
    key = f"retrieval.{plugin.address_key}"
    text = plugin.address_in(settings, file)
    if not text:
        reason = f"{key} is missing: it says where the {plugin.name} store is"
        raise ConfigError(f"{file}: {reason}", file=str(file), key=key)
    meant = _plugin_of(text) or plugin
    if meant.name not in {plugin.name, *plugin.delegates}:
        of_paths = plugin.name == OF_PATHS
        accepted = "a path" if of_paths else f"an address of the {plugin.name} backend"
        reason = f"{key} must be {accepted}, not {redacted(text)!r}"
        raise ConfigError(f"{file}: {reason}", file=str(file), key=key)
    return meant, meant.locate(text, file.parent)


def _plugin_of(text: str) -> BackendPlugin | None:
    """Return the backend for the scheme of a URL; None for a path."""
    if text[:5].lower() == "file:":
        raise ConfigError(
            f"{redacted(text)}: a file: URI is not a target; write only the path, and pass "
            "read_only=True to open it for reading only (a file of this name is ./file:...)",
            key="target",
        )
    try:
        os.fsencode(text)
    except UnicodeEncodeError as exc:
        raise ConfigError(
            f"{redacted(text)!r}: is not valid Unicode (a lone surrogate)", key="target"
        ) from exc
    url = URL.match(text)
    if url is None:
        return None
    scheme = url[1].lower()
    plugins = backends()
    names = {plugin.name: plugin for plugin in plugins}
    if scheme in names:  # first, so that no other backend can take over a name
        return names[scheme]
    for plugin in plugins:
        if scheme in plugin.schemes:
            return plugin
    known = [known for plugin in plugins for known in (plugin.name, *plugin.schemes)]
    accepted = "a path, :memory:, " + ", ".join(f"{name}://" for name in known)
    if scheme.startswith("sqlite+"):
        accepted = "the path alone: a driver belongs to a URL of SQLAlchemy"
    raise ConfigError(
        f"{redacted(text)}: no installed backend has the scheme {scheme}://; a target is "
        f"{accepted}",
        key="target",
    )


# Copies of a store


def path_of_copy(text: str, argument: str) -> str:
    """Return the path of a backup, from a path or from the URL that opens the backup.

    Raises InvalidArgumentError for a remote URL, which would become a folder named "s3:".
    """
    if not is_url(text):
        return text
    _, address = _located(text)
    if not os.path.isabs(address):
        reason = (
            f"{argument} must be a path on this machine, not {shown(redacted(text))}; afterwards, "
            "copy the backup like any other folder or file"
        )
        raise InvalidArgumentError(argument, redacted(text), reason=reason)
    return address


def new_path_of(path: str | Path) -> Path:
    """Return the absolute path for a new copy, or raise InvalidArgumentError. Reads the disk."""
    if not isinstance(path, (str, Path)):
        raise InvalidArgumentError("path", path, "text or a pathlib.Path")
    try:
        target = Path(path_of_copy(path, "path") if isinstance(path, str) else path)
        target = target.expanduser().absolute()
        target.lstat()
    except (OSError, RuntimeError, ValueError) as exc:
        if isinstance(exc, InvalidArgumentError):
            raise
        if not isinstance(exc, OSError) or exc.errno == errno.ENAMETOOLONG:
            reason = f"path cannot be used: {exc}"
            raise InvalidArgumentError("path", path, reason=reason) from exc
    if not target.name:  # the root
        raise InvalidArgumentError("path", path, "a path that does not exist yet")
    return target
