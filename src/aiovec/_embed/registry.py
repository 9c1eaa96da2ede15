"""The embedders of one store by their names."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from .._model.schema import Embed
from ..backend.pool import in_thread
from ..backend.threads import PerLoop
from ..errors import (
    AiovecError,
    ConfigError,
    EmbeddingError,
    ModelMismatchError,
)
from .batcher import LARGEST_BATCH, Batcher, Limits
from .making import made
from .protocol import AnyEmbedder

if TYPE_CHECKING:
    from ..backend.config import RetrievalSettings
    from ..backend.contract import TableHandle
    from ..backend.embedders import EmbedderSettings


class Embedders:
    """Finds an embedder by name: among those that the app gave, then in the settings."""

    def __init__(self, given: Mapping[str, AnyEmbedder | EmbedderSettings]) -> None:
        self._given: dict[str, AnyEmbedder] = {}
        self._described: dict[str, EmbedderSettings] = {}
        for name, one in given.items():
            if callable(one):
                self._given[name] = one
            else:
                self._described[name] = one
        self._batchers: dict[str, Batcher] = {}
        # Those that sections describe or did before, with their sections and what has to be closed.
        self._sections: dict[str, EmbedderSettings] = {}
        self._services: list[Batcher] = []
        self._making: PerLoop[asyncio.Lock] = PerLoop(asyncio.Lock)
        self._closed: Callable[[], AiovecError] | None = None

    async def find(self, name: str, settings: RetrievalSettings) -> Batcher | None:
        """Return the embedder, made at its first use; None where there is none of this name."""
        self._check_open()
        given = self._given.get(name)
        if given is not None:
            if name not in self._batchers:
                self._batchers[name] = Batcher(name, given, limits_of(given))
            return self._batchers[name]
        section = self._described.get(name) or settings.embedders.get(name)
        if section is None:
            return None
        async with self._making():
            if self._sections.get(name) != section:
                made_now = await in_thread(_made, name, section)
                self._check_open()
                self._batchers[name] = made_now
                self._sections[name] = section
                self._services.append(made_now)
            return self._batchers[name]

    def _check_open(self) -> None:
        if self._closed is not None:
            raise self._closed()

    async def of_table(
        self, handle: TableHandle, embed: Embed, settings: RetrievalSettings, model: str | None
    ) -> Batcher:
        """Return the embedder of a table, whose vectors fit there.

        EmbeddingError where there is none; ModelMismatchError and DimensionMismatchError where it
        makes other vectors than the table, or the ``model`` that the caller names.
        """
        found = await self.find(embed.using, settings)
        if found is None:
            raise EmbeddingError(
                embed.using,
                f"this store has no embedder of this name, by which the table {handle.name!r} "
                f"makes vectors of its field {embed.field!r}; give it by "
                f"connect(embedders={{{embed.using!r}: ...}}) or by "
                f"[retrieval.embedders.{embed.using}] in the TOML file, or pass vectors",
                model=handle.schema.model,
            )
        found.check_fits(handle.name, handle.schema)
        if model is not None and model != found.model:
            raise ModelMismatchError(handle.name, found.model, model)
        return found

    async def close(self, error: Callable[[], AiovecError]) -> None:
        """End what is under way with an error. May be called again, on another event loop."""
        self._closed = error
        for batcher in {*self._batchers.values(), *self._services}:
            batcher.close(error)
        for service in self._services:
            await service.close_service()


def configured_embedder(name: str, settings: RetrievalSettings) -> Batcher:
    """Return the embedder of ``[retrieval.embedders.<name>]``, to be closed by who asks for it.

    ConfigError where there is no such section, or nothing can be made of it. May import the app's
    code.
    """
    section = settings.embedders.get(name)
    if section is None:
        listed = ", ".join(sorted(settings.embedders)) or "none"
        raise ConfigError(
            f"the TOML file has no embedder {name!r}; it has: {listed}",
            key=f"retrieval.embedders.{name}", accepted="the name of an embedder",
        )  # fmt: skip
    return _made(name, section)


def _made(name: str, section: EmbedderSettings) -> Batcher:
    embedder, limits = made(name, section)
    return Batcher(name, embedder, limits)


def limits_of(embedder: object) -> Limits:
    """Return the bounds for an app's own embedder, which may name a ``batch_size``."""
    size = getattr(embedder, "batch_size", None)
    if isinstance(size, int) and not isinstance(size, bool) and size > 0:
        return Limits(batch_size=min(size, LARGEST_BATCH))
    return Limits()
