"""Find and open the store that a command names."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, TypeVar

import typer

from .._store.connect import Opening
from .._store.store import VectorStore
from ..backend.origin import Origin
from ..backend.plugins import backend_names
from ..errors import ConfigError, TableNotFoundError
from .output import progress

_T = TypeVar("_T")

Store = Annotated[
    str | None,
    typer.Argument(
        metavar="STORE",
        help="A target such as notes.db or, with --config, the name of a backend.",
        show_default=False,
    ),
]
Config = Annotated[
    str | None,
    typer.Option(
        "--config",
        metavar="FILE",
        help="The TOML file. Default: $AIOVEC_CONFIG, else ./aiovec.toml.",
        show_default=False,
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print the facts as JSON.")]


class NoStoreError(ConfigError):
    """There is no store where a command needs one."""

    def __init__(self, path: Path) -> None:
        super().__init__(f"there is no store at {path}", key="target", accepted="a store's path")


def store_and(first: str | None, second: str | None, last: str) -> tuple[str | None, str]:
    """Return the store and the last argument of ``[STORE] LAST``; a single argument is LAST."""
    if first is None:
        raise typer.BadParameter(f"pass [STORE] {last}")
    return (None, first) if second is None else (first, second)


def expanded(path: str) -> Path:
    """The path of a file, with ``~`` expanded. ConfigError where there is no such home folder."""
    found = os.path.expanduser(path)
    if found.startswith("~") and found == path:
        raise ConfigError(
            f"{path} starts with the home folder of a user who does not exist; write ./{path} for "
            "a path in this folder",
            accepted="a path",
        )
    return Path(found)


def source_of(store: str | None, config: str | None, *, read_only: bool = False) -> Origin:
    """Where the store that a command names comes from."""
    if store is not None and config is not None and store in backend_names():
        return Origin(None, config, backend=store, read_only=read_only)
    return Origin(store, config, read_only=read_only)


@asynccontextmanager
async def opened(
    store: str | None, config: str | None, *, reading: bool = False
) -> AsyncIterator[VectorStore]:
    """The store that a command names, which must be there.

    A command that is only ``reading`` works where nothing can be written, too.
    """
    source = await asyncio.to_thread(_existing, store, config, reading)
    async with Opening(lambda: source) as opened_store:
        yield opened_store


async def open_or_create(source: Origin) -> VectorStore:
    """Open a store; one that does not exist is created."""
    return await Opening(lambda: source)


async def of_each_table(
    vectors: VectorStore,
    named: Sequence[str] | None,
    look: Callable[[str], Awaitable[_T]],
    title: str,
) -> list[_T]:
    """Return the result of ``look`` for each named table, or for all of them.

    ``title`` is the text of the progress bar.

    One of all that another process drops meanwhile is left out.
    """
    names = named or await vectors.tables()
    found = []
    with progress("tables") as bar:
        task = bar.add_task(title, total=len(names))
        for name in names:
            try:
                found.append(await look(name))
            except TableNotFoundError:
                if named:
                    raise
            bar.advance(task)
    return found


def _existing(store: str | None, config: str | None, reading: bool) -> Origin:
    """Return the source of an existing store. Opening would create one if a name is mistyped."""
    source = source_of(store, config)
    path = source.location().path
    if path is not None and not path.exists():
        raise NoStoreError(path)
    if reading and path is not None and not _is_writable(path):
        return source_of(store, config, read_only=True)
    return source


def _is_writable(path: Path) -> bool:
    folder = path if path.is_dir() else Path(os.path.realpath(path)).parent
    return os.access(path, os.W_OK) and os.access(folder, os.W_OK)
