"""Which store a command means, and how it is opened."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated

import typer

from ..connect import Opening, Source
from ..errors import ConfigError
from ..plugins import backend_names
from ..store import VectorStore
from ..targets import MEMORY, is_url

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
        help="The TOML file. Without it: $AIOVEC_CONFIG, else ./aiovec.toml.",
        show_default=False,
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print the facts as JSON.")]


def store_and(first: str | None, second: str | None, last: str) -> tuple[str | None, str]:
    """What ``[STORE] LAST`` means: one argument alone is LAST."""
    if first is None:
        raise typer.BadParameter(f"give {last}, and before it a STORE if you like")
    return (None, first) if second is None else (first, second)


def source_of(store: str | None, config: str | None) -> Source:
    """Where the store that a command names comes from."""
    if store is not None and config is not None and store in backend_names():
        return Source(None, config, backend=store)
    return Source(store, config)


@asynccontextmanager
async def opened(store: str | None, config: str | None) -> AsyncIterator[VectorStore]:
    """The store that a command names, which must be there."""
    source = await asyncio.to_thread(_existing, store, config)
    async with Opening(source) as opened_store:
        yield opened_store


def _existing(store: str | None, config: str | None) -> Source:
    """The source of a store that is there. Opening would make one where a name is mistyped."""
    source = source_of(store, config)
    backend, target = source.place()
    on_disk = backend in ("sqlite", "lancedb") and target != MEMORY and not is_url(target)
    if on_disk and not os.path.exists(target):
        raise ConfigError(f"there is no store at {target}", key="target", accepted="a store's path")
    return source
