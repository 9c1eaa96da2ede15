"""The embedders of one store by their names."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from .._core.schema import Embed
from ..errors import (
    AiovecError,
    EmbeddingError,
    ModelMismatchError,
)
from .batcher import Batcher, Limits
from .protocol import AnyEmbedder

if TYPE_CHECKING:
    from .._core.contract import TableHandle
    from .._settings.load import RetrievalSettings


class Embedders:
    """Finds an embedder by name: among those that the app gave, then in the settings."""

    def __init__(self, given: Mapping[str, AnyEmbedder]) -> None:
        self._given = given
        self._batchers: dict[str, Batcher] = {}
        self._closed: Callable[[], AiovecError] | None = None

    async def find(self, name: str, settings: RetrievalSettings) -> Batcher | None:
        """Return the embedder, made at its first use; None where there is none of this name."""
        if self._closed is not None:
            raise self._closed()
        known = self._batchers.get(name)
        if known is not None:
            return known
        embedder = self._given.get(name)
        if embedder is None:
            return None
        made = self._batchers[name] = Batcher(name, embedder, limits_of(embedder))
        return made

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
                f"the table {handle.name!r} makes vectors of its field {embed.field!r} by the "
                f"embedder {embed.using!r}, and this store has none of this name; give it by "
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
        for batcher in self._batchers.values():
            batcher.close(error)


def limits_of(embedder: object) -> Limits:
    """Return the bounds for an app's own embedder, which may name a ``batch_size``."""
    size = getattr(embedder, "batch_size", None)
    if isinstance(size, int) and not isinstance(size, bool) and size > 0:
        return Limits(batch_size=size)
    return Limits()
