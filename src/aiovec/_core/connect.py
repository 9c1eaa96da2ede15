"""From a target or a TOML file to an open store, or to one that a backup replaces."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import json
import os
from collections.abc import Generator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from .._embed.checks import check_embedders
from .._locate import local_path, locate, locate_configured, locate_path, path_of_copy
from .._plugins import create_backend, plugin_of
from ..errors import AiovecError, ConfigError, UnsupportedError
from .contract import Restores
from .threads import in_daemon_thread, to_its_end

if TYPE_CHECKING:
    from .._embed.protocol import AnyEmbedder, EmbedderOption
    from .._settings.embedders import EmbedderSettings
    from .._settings.load import LoadedSettings, RetrievalSettings, Stamp
    from .contract import Backend
    from .plugin import Location
    from .store import VectorStore


CONFIG_VARIABLE = "AIOVEC_CONFIG"
CONFIG_FILE = "aiovec.toml"

PathText = str | os.PathLike[str]

# The variables that say which backend is used, whatever the TOML file says.
_CHOOSING = frozenset({"AIOVEC_RETRIEVAL__BACKEND", "AIOVEC_RETRIEVAL"})

# What a store imports at its first calls. Loaded with the backend, off the event loop.
_HEAVY = ("pyarrow.compute", "aiovec._input.rows", "aiovec._core.store", "aiovec._core.table")


def connect(
    target: PathText | None = None,
    *,
    config: PathText | None = None,
    read_only: bool = False,
    embedders: Mapping[str, EmbedderOption] | None = None,
) -> Opening:
    """Open a store: ``async with connect("notes.db") as store`` or ``await connect("notes.db")``.

    ``target`` is a path, ``":memory:"``, or a URL that an installed backend answers to, such as
    ``lancedb:///path`` or ``s3://…``. A path is a SQLite file, or a folder with one in it.

    ``config`` is a TOML file. Alone, its ``[retrieval]`` says what to open, and the store follows
    it when it is switched to another backend. Beside a target it gives the settings only. With
    neither, the file is ``$AIOVEC_CONFIG``, else ``./aiovec.toml``.

    With ``read_only`` the store must exist and nothing of it is written, so it may lie where this
    process cannot write; a call that writes raises UnsupportedError.

    ``embedders`` make the vectors of tables whose schema has ``embed``, by the names used there;
    they come before those of the TOML file's ``[retrieval.embedders]``. Each is an ``Embedder``, or
    a mapping with the keys of such a section: ``{"default": {"kind": "demo"}}``.

    Nothing is read and nothing is imported until the result is awaited or entered. That raises
    ConfigError for a target or a file that cannot be used, BackendNotInstalledError for a backend
    whose package is missing, and what the backend itself has to say.
    """
    origin = Origin(target, config, read_only=read_only)
    return Opening(origin, None if embedders is None else check_embedders(embedders))


class Opening:
    """A store that is about to be opened, once: await it, or enter it."""

    def __init__(
        self, source: Origin, embedders: Mapping[str, EmbedderOption] | None = None
    ) -> None:
        self._source = source
        self._embedders = embedders
        self._used = False
        self._store: VectorStore | None = None

    def __await__(self) -> Generator[None, None, VectorStore]:
        return self._open().__await__()

    async def __aenter__(self) -> VectorStore:
        self._store = await self._open()
        return self._store

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._store is not None:
            await self._store.__aexit__(kind)

    async def _open(self) -> VectorStore:
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            raise AiovecError(
                "a store runs on an event loop of asyncio, and none runs here; under trio, or "
                "without async, use aiovec.sync in a thread"
            ) from None
        if self._used:
            raise RuntimeError("one connect() opens one store; call connect() again for another")
        self._used = True
        resolved, embedders = await in_daemon_thread(self._resolve)
        from .store import VectorStore

        try:
            await resolved.backend.open()
        except BaseException as exc:
            try:
                await to_its_end(resolved.backend.close())
            except Exception as unclosed:  # noqa: BLE001 - the first failure is the one to tell
                exc.add_note(f"closing it failed too: {unclosed!r}")
            raise
        source = self._source if self._source.follows else None
        return VectorStore(resolved.backend, resolved.settings, source, embedders)

    def _resolve(self) -> tuple[Resolved, dict[str, AnyEmbedder | EmbedderSettings]]:
        resolved = self._source.resolve_first()
        from .._settings.load import embedder_section

        return resolved, {
            name: embedder_section(name, given) if isinstance(given, Mapping) else given
            for name, given in (self._embedders or {}).items()
        }


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
        return loaded.settings.retrieval

    def changed(self) -> bool:
        """Return whether the TOML file changed since it was last read. Costs one ``stat``."""
        if not self.follows or self._file is None:
            return False
        from .._settings.load import stamp_of

        return stamp_of(self._file) != self._stamp

    def resolve_first(self) -> Resolved:
        """Resolve the target or the TOML file, and import the modules that its store will need."""
        for module in _HEAVY:
            importlib.import_module(module)
        # anyio loads this at its first use, which would be on the event loop. It is not public, so
        # where it is called otherwise that first use is just a little slow.
        with contextlib.suppress(ModuleNotFoundError):
            importlib.import_module("anyio._backends._asyncio")
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
        from .._settings.load import load_settings

        if self._file is None:
            # Once, so that a change of the current folder does not lead elsewhere.
            self._file = self._config_file()
        loaded = load_settings(self._file)
        retrieval = loaded.settings.retrieval
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
        return Resolved(identity, loaded.settings.retrieval, backend, loaded.stamp)

    def _backend_of(self, loaded: LoadedSettings, identity: _Identity) -> Backend:
        """Return the backend of a place, not open yet."""
        return create_backend(
            identity.location, loaded.settings.retrieval, read_only=self._read_only
        )

    def _config_file(self) -> Path | None:
        """The TOML file as an absolute path; None where the target needs none."""
        if self._config is not None:
            return Path(local_path(_text_of(self._config, "config")))
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


def _text_of(path: object, argument: str) -> str:
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
    text = _text_of(target, "target")
    return locate(text) if isinstance(target, str) else locate_path(text)


async def restore(
    backup: PathText,
    target: PathText | None = None,
    *,
    config: PathText | None = None,
    overwrite: bool = False,
) -> Path | None:
    """Put a backup in the place of a store; return where the old store was kept, if there was one.

    ``backup`` is what ``VectorStore.backup`` wrote, ``target`` and ``config`` are as for
    ``connect``. The backup is copied and checked first, and then replaces the store in one step,
    with the files that belonged to the old one, such as a WAL. The old store is renamed, not
    deleted, unless ``overwrite`` is true.

    StoreBusyError where a process uses the store; CorruptStoreError where the backup is damaged or
    is no store, or the target is something else than a store (``overwrite`` replaces that too);
    UnsupportedError where the backend cannot do it.
    """
    source = Origin(target, config)
    path, backend = await in_daemon_thread(lambda: _resolved(backup, source))
    if not isinstance(backend, Restores):
        raise UnsupportedError("restore", backend.name)
    return await to_its_end(backend.restore_from(path, overwrite=overwrite))


def _resolved(backup: PathText, source: Origin) -> tuple[Path, Backend]:
    text = _text_of(backup, "backup")
    if isinstance(backup, str):
        text = path_of_copy(text, "backup")
    path = Path(os.path.abspath(os.path.expanduser(text)))
    if not path.exists():
        raise ConfigError(f"there is no backup at {path}", key="backup", accepted="a path")
    return path, source.resolve_first().backend
