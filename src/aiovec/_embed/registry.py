"""The embedders of one store by their names, and how they are made of their settings."""

from __future__ import annotations

import asyncio
import os
import pkgutil
import sys
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from .._model.schema import Embed
from ..backend.embedders import EmbedderSettings
from ..backend.threads import in_thread
from ..errors import AiovecError, ConfigError, EmbeddingError, ModelMismatchError
from .batcher import Batcher
from .checks import check_embedder
from .protocol import Embedder

if TYPE_CHECKING:
    from ..backend.config import RetrievalSettings
    from ..backend.contract import TableHandle

LARGEST_BATCH = 2048
"""Texts in a request, at most: the event loop puts them together."""


class Embedders:
    """Finds an embedder by name: among those that the app gave, then in the settings."""

    def __init__(self, given: Mapping[str, Embedder | EmbedderSettings]) -> None:
        self._given = given
        self._batchers: dict[str, Batcher] = {}
        self._made: list[Batcher] = []  # of settings, so this store closes them
        self._making = asyncio.Lock()
        self._closed: Callable[[], AiovecError] | None = None

    async def find(self, name: str, settings: RetrievalSettings) -> Batcher | None:
        """Return the embedder, made at its first use; None where there is none of this name."""
        async with self._making:
            given = self._given.get(name) or settings.embedders.get(name)
            if name not in self._batchers and given is not None:
                if callable(given):
                    self._batchers[name] = Batcher(name, given, _limits_of(given))
                else:
                    self._batchers[name] = await in_thread(_batcher, name, given)
                    self._made.append(self._batchers[name])
            if self._closed is not None:  # perhaps while it was made
                raise self._closed()
            return self._batchers.get(name)

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
        """End what is under way with an error; later calls raise it too."""
        self._closed = error
        for batcher in self._batchers.values():
            batcher.close(error)
        for batcher in self._made:
            await batcher.close_service()


def configured_embedder(name: str, settings: RetrievalSettings) -> Batcher:
    """Return the embedder of ``[retrieval.embedders.<name>]``, for the caller to close.

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
    return _batcher(name, section)


def _batcher(name: str, settings: EmbedderSettings) -> Batcher:
    return Batcher(name, made(name, settings), settings)


def _limits_of(embedder: object) -> EmbedderSettings:
    """Return the bounds for an app's own embedder, which may name a ``batch_size``."""
    size = getattr(embedder, "batch_size", None)
    if isinstance(size, int) and not isinstance(size, bool) and size > 0:
        return EmbedderSettings(batch_size=min(size, LARGEST_BATCH))
    return EmbedderSettings()


def made(name: str, settings: EmbedderSettings) -> Embedder:
    """Return the embedder that a section describes.

    ConfigError where the section does not suit its kind, or its callable cannot be imported. May
    import the app's code, so it belongs into a thread.
    """
    if settings.kind == "demo":
        from .._demo.embedder import HashingEmbedder

        return HashingEmbedder()
    if ":" in settings.kind:
        found = load(settings.kind)
        if settings.model or settings.dim:
            named: Any = partial(found)  # an object that can have the name and length
            named.model = settings.model or getattr(found, "model", None)
            named.dim = settings.dim or getattr(found, "dim", None)
            found = named
        return check_embedder(name, found)
    for key in ("model", "dim"):
        if not getattr(settings, key):
            place = f"retrieval.embedders.{name}.{key}"
            raise ConfigError(
                f"{place}: the kind {settings.kind!r} needs it", key=place,
                accepted="the model's name" if key == "model" else "the length of its vectors",
            )  # fmt: skip
    if settings.kind == "openai":
        from .openai import OpenAIEmbedder

        return OpenAIEmbedder(settings)
    from .local import LocalModel

    return LocalModel(settings)


def load(path: str) -> Any:
    """Return what ``package.module:name`` names, also in the current folder.

    A class is called without arguments. ConfigError where there is no such thing.
    """
    folder = os.getcwd()  # first, as with python -m: a console script has its own folder there
    sys.path.insert(0, folder)
    try:
        found = pkgutil.resolve_name(path)
    except (ImportError, AttributeError, ValueError) as exc:
        raise ConfigError(f"{path} cannot be imported: {exc}", key="kind") from exc
    finally:
        if folder in sys.path:
            sys.path.remove(folder)
    return found() if isinstance(found, type) else found
