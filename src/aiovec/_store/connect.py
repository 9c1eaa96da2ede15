"""Open a store, or replace one with a backup.

Importing this module imports little: opening a store imports asyncio and, in a thread, NumPy and
the backends.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
from collections.abc import Generator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from .._embed.app_embedders import check_embedders
from .._tools.hints import hints_arguments
from ..errors import AiovecError, ConfigError

if TYPE_CHECKING:
    from .._embed.protocol import Embedder, EmbedderOption
    from ..backend.contract import Backend
    from ..backend.embedders import EmbedderSettings
    from ..backend.paths import PathText
    from ..backend.place import Place
    from .store import VectorStore


# Slow modules that a store would otherwise import during its first calls.
_HEAVY = ("aiovec._input.rows", "aiovec._store.store")


@hints_arguments
def connect(
    target: PathText | None = None,
    *,
    config: PathText | None = None,
    read_only: bool = False,
    follow: bool = False,
    embedder: EmbedderOption | None = None,
    embedders: Mapping[str, EmbedderOption] | None = None,
) -> Opening:
    """Open a store: ``async with connect("notes.db") as store`` or ``await connect("notes.db")``.

    ``target`` is a path, ``":memory:"``, or a URL of an installed backend, such as
    ``lancedb:///path`` or ``s3://…``. A path is a SQLite file, or a folder with one in it.

    ``config`` is a TOML file. Without a target, its ``[retrieval]`` names the store to open, and
    the store follows ``aiovec migrate run --switch`` to another backend; an edit by hand takes
    effect at the next ``connect``. With a target, the file only gives the settings. With neither,
    the file is ``$AIOVEC_CONFIG``, else ``./aiovec.toml``.

    With ``read_only`` the store must exist and nothing is written, so this process needs no write
    permission; a call that writes raises UnsupportedError. If a newer copy replaces the file, calls
    raise StoreReplacedError, unless ``follow`` is set too: then the next call opens the copy.

    ``embedder`` makes the vectors of tables whose schema has ``embed``: ``"demo"``, a mapping with
    the keys of the TOML file's ``[retrieval.embedders.<name>]``, or an ``Embedder``, such as
    ``aiovec.embedder(function, model="my-model")``. ``embedders`` maps the names that schemas use
    to embedders; ``embedder`` is the one named "default". Both arguments take precedence over the
    TOML file, and the TOML file over the embedder settings that a table stores.

    Nothing is read or imported until the result is awaited or entered, which raises ConfigError for
    a target, a file or an embedder that cannot be used, BackendNotInstalledError for a backend
    whose package is missing, and the backend's own errors.
    """
    checked = check_embedders(embedder, embedders)
    return Opening(target, config, checked, read_only=read_only, follow=follow)


def _find(target: PathText | Place | None, config: PathText | None) -> Place:
    from ..backend.place import Place, find_place

    return target if isinstance(target, Place) else find_place(target, config)


async def open_place(place: Place, *, read_only: bool = False, follow: bool = False) -> VectorStore:
    """Open the store at a place, as ``connect`` does."""
    return await Opening(place, read_only=read_only, follow=follow)


class Opening:
    """A store that can be opened once: await it, or enter it.

    When an app opens the store, all embedders are checked. A command passes ``embedders=None``, and
    checks only the embedder that it uses.
    """

    def __init__(
        self,
        target: PathText | Place | None,
        config: PathText | None = None,
        embedders: Mapping[str, Embedder | Mapping[str, object]] | None = None,
        *,
        read_only: bool,
        follow: bool,
    ) -> None:
        self._target = target
        self._config = config
        self._embedders = embedders
        self._read_only = read_only
        self._follow = follow
        self._used = False
        self._store: VectorStore | None = None

    def __await__(self) -> Generator[None, None, VectorStore]:
        return self._open().__await__()

    def __getattr__(self, name: str) -> NoReturn:
        if name.startswith("_"):
            raise AttributeError(name)
        raise AttributeError(
            f"no {name!r} before the store is open: write 'store = await aiovec.connect(...)', or "
            "'async with aiovec.connect(...) as store'"
        )

    if not TYPE_CHECKING:  # type checkers report a plain "with" already

        def __enter__(self) -> NoReturn:
            raise TypeError(
                "write 'async with aiovec.connect(...) as store', or without async "
                "'with aiovec.sync.connect(...) as store'"
            )

        def __exit__(self, *_: object) -> None: ...

    async def __aenter__(self) -> VectorStore:
        self._store = await self._open()
        return self._store

    async def __aexit__(self, *_: object) -> None:
        if self._store is not None:
            await self._store.close()

    async def _open(self) -> VectorStore:
        import asyncio

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
        await _import_in_thread()
        from .._embed.registry import Embedders
        from ..backend.threads import in_daemon_thread
        from .active_backend import close_after
        from .store import VectorStore

        # In a daemon thread: a disk that hangs must not keep the loop or the process from ending.
        place, backend, prepared = await in_daemon_thread(self._prepare)
        embedders = Embedders(prepared)
        if self._embedders is not None:
            await embedders.check(place.settings)
        try:
            await backend.open()
        except BaseException as exc:
            await close_after(backend, exc)
            raise
        return VectorStore(backend, place, embedders, follow=self._follow)

    def _prepare(self) -> tuple[Place, Backend, dict[str, Embedder | EmbedderSettings]]:
        """Return the place, its backend and the embedders. Blocks."""
        from ..backend.config import embedder_section

        for name, value in (("read_only", self._read_only), ("follow", self._follow)):
            if not isinstance(value, bool):
                raise ConfigError(f"{name} must be True or False, not {value!r}", key=name)
        if self._follow and not self._read_only:
            raise ConfigError("follow=True needs read_only=True", key="follow")
        place = _find(self._target, self._config)
        argument = "connect(embedder=...)"
        embedders = {
            name: embedder_section(name, each, argument) if isinstance(each, Mapping) else each
            for name, each in (self._embedders or {}).items()
        }
        return place, place.create(read_only=self._read_only), embedders


async def _import_in_thread() -> None:
    from asyncio import to_thread

    try:
        await to_thread(_import_the_rest)
    except RuntimeError as exc:  # Python starts no threads while the process ends
        raise AiovecError(
            f"no store can be opened while the process ends ({exc}); use one that is already open, "
            "also in atexit functions"
        ) from exc


def _import_the_rest() -> None:
    """Import the modules that a store needs; slow the first time."""
    for module in _HEAVY:
        importlib.import_module(module)
    # Otherwise an app that has imported anyio would load this private module on the event loop when
    # it first uses anyio. If the module's name changes, that use is a little slower.
    with contextlib.suppress(ModuleNotFoundError):
        if "anyio" in sys.modules:
            importlib.import_module("anyio._backends._asyncio")


async def restore(
    backup: PathText,
    target: PathText | None = None,
    *,
    config: PathText | None = None,
    overwrite: bool = False,
) -> Path | None:
    """Replace a store with a backup; return the path to which the old store was renamed, if any.

    ``backup`` is a copy that ``VectorStore.backup`` has written; ``target`` and ``config`` are as
    in ``connect``. The backup is copied and checked first, and then replaces the store and its
    other files, such as a WAL, in one step. The old store is renamed, not deleted, unless
    ``overwrite`` is true.

    Raises StoreBusyError if a process uses the store; CorruptStoreError if the backup is damaged or
    not a store, or if the target is not a store (``overwrite`` replaces it anyway);
    UnsupportedError if the backend cannot restore.
    """
    await _import_in_thread()
    from ..backend.threads import in_daemon_thread

    place = await in_daemon_thread(_find, target, config)
    return await restore_place(backup, place, overwrite=overwrite)


async def restore_place(backup: PathText, place: Place, *, overwrite: bool) -> Path | None:
    """Replace the store at a place with a backup, as ``restore`` does."""
    from ..backend.threads import in_daemon_thread, to_its_end

    path, backend = await in_daemon_thread(_copy_and_backend, backup, place)
    backend.check_able("restore")
    return await to_its_end(backend.restore_from(path, overwrite=overwrite))


def _copy_and_backend(backup: PathText, place: Place) -> tuple[Path, Backend]:
    from ..backend.paths import text_of
    from ..backend.place import path_of_copy

    text = text_of(backup, "backup")
    if isinstance(backup, str):
        text = path_of_copy(text, "backup")
    path = Path(os.path.abspath(os.path.expanduser(text)))
    if not path.exists():
        raise ConfigError(f"there is no backup at {path}", key="backup")
    return path, place.create()
