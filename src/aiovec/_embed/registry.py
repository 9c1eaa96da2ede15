"""The embedders of one store by their names, and how they are made of their settings."""

from __future__ import annotations

import asyncio
import json
import os
import pkgutil
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from .._model.redaction import redacted
from .._model.schema import RECIPE_KEYS, Embed, Schema
from ..backend.embedders import OWN_URL, EmbedderSettings
from ..backend.threads import in_thread
from ..errors import AiovecError, ConfigError, EmbeddingError, ModelMismatchError
from .app_embedders import DEFAULT, check_embedder, embedder
from .batcher import Batcher
from .local import LocalModel
from .openai import OWN_KEY, OpenAIEmbedder, key_name_of
from .protocol import Embedder

if TYPE_CHECKING:
    from ..backend.config import RetrievalSettings
    from ..backend.contract import TableHandle

LARGEST_BATCH = 2048
"""Texts in a request, at most: the event loop puts them together."""

_PACKAGES = {
    "openai": "aiohttp", "fastembed": "fastembed", "sentence-transformers": "sentence_transformers",
}  # fmt: skip
# A model of a public collection, rather than a folder.
_MODEL_NAME = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?\Z")


class Embedders:
    """Finds an embedder: among those that the app gave, in the settings, then in the table."""

    def __init__(self, given: Mapping[str, Embedder | EmbedderSettings]) -> None:
        self._given = dict(given)
        self._batchers: dict[str, Batcher] = {}
        self._made: list[Batcher] = []  # of settings, so this store closes them
        self._making = asyncio.Lock()
        self._closed: Callable[[], AiovecError] | None = None

    def give(self, name: str, given: EmbedderSettings) -> None:
        """Use this embedder from now on, unless one of its name is already in use."""
        self._given[name] = given

    async def check(self, settings: RetrievalSettings) -> None:
        """Make every embedder, so that ConfigError tells early what is wrong with one.

        None is called, no model is loaded and no connection is opened.
        """
        for name in {**settings.embedders, **self._given}:
            await self._batcher(name, self._given.get(name) or settings.embedders[name])

    async def find(self, name: str, settings: RetrievalSettings) -> Batcher | None:
        """Return the embedder of this name; None where there is none."""
        given = self._given.get(name) or settings.embedders.get(name)
        if given is None:
            return None
        found = await self._batcher(name, given)
        await found.learn_dim()
        return found

    async def of_table(
        self, handle: TableHandle, settings: RetrievalSettings, model: str | None
    ) -> Batcher:
        """Return the embedder of a table, whose vectors fit there.

        EmbeddingError where there is none; ModelMismatchError and DimensionMismatchError where it
        makes other vectors than the table, or the ``model`` that the caller names.
        """
        schema = handle.schema
        if schema.embed is None:
            raise ValueError(f"the table {handle.name!r} makes no vectors of texts")
        found = await self.find(schema.embed.using, settings)
        if found is None:
            found = await self._of_recipe(handle.name, schema, schema.embed)
        found.check_fits(handle.name, schema)
        if model is not None and model != found.model:
            raise ModelMismatchError(handle.name, found.model, model)
        return found

    async def can_embed(self, schema: Schema, settings: RetrievalSettings) -> bool:
        """Return whether the store can make vectors of texts for a table."""
        if schema.embed is None:
            return False
        if schema.embed.using in {**settings.embedders, **self._given}:
            return True
        return (await in_thread(_recipe_of, schema, schema.embed))[1] is not None

    async def completed(self, table: str, schema: Schema, settings: RetrievalSettings) -> Schema:
        """Return the schema of a new table with the length, model and recipe of its embedder.

        EmbeddingError where there is no embedder to tell the length.
        """
        embed = schema.embed
        if embed is None:
            return schema
        found = await self.find(embed.using, settings)
        if found is None and schema.dim:
            return schema
        if found is None:
            why = "to tell the length of its vectors, and this store has none"
            raise _missing(table, schema, embed, why, "pass Schema(dim=...), or give it by ")
        whole = replace(
            schema,
            dim=schema.dim or found.dim,
            model=schema.model or found.model,
            embed=replace(embed, recipe=found.recipe or embed.recipe),
        )
        found.check_fits(table, whole)
        return whole

    async def close(self, error: Callable[[], AiovecError]) -> None:
        """End what is under way with an error; later calls raise it too."""
        self._closed = error
        for batcher in self._batchers.values():
            batcher.close(error)
        for batcher in self._made:
            await batcher.close_service()

    async def _of_recipe(self, table: str, schema: Schema, embed: Embed) -> Batcher:
        """Return the embedder that a table describes; EmbeddingError if it is not used."""
        key = json.dumps([schema.model, schema.dim, embed.to_dict()])
        if key not in self._batchers:
            fault, recipe = await in_thread(_recipe_of, schema, embed)
            if recipe is None:
                raise _missing(table, schema, embed, fault)
            return await self._batcher(embed.using, recipe, key)
        return self._batchers[key]

    async def _batcher(
        self, name: str, given: Embedder | EmbedderSettings, of_table: str = ""
    ) -> Batcher:
        """Return an embedder, made at its first use. One ``of_table`` is kept by this key."""
        key = of_table or name
        async with self._making:
            if key not in self._batchers:
                if callable(given):
                    self._batchers[key] = Batcher(name, given, _limits_of(given))
                else:
                    make = partial(_batcher, name, given, offline=bool(of_table))
                    self._batchers[key] = await in_thread(make)
                    self._made.append(self._batchers[key])
            if self._closed is not None:  # perhaps while it was made
                raise self._closed()
            return self._batchers[key]


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
    found = _batcher(name, section)
    if not found.dim:
        place = f"retrieval.embedders.{name}.dim"
        raise ConfigError(f"{place} is needed here", key=place, accepted="a length of vectors")
    return found


def _batcher(name: str, settings: EmbedderSettings, *, offline: bool = False) -> Batcher:
    recipe = settings.model_dump(include=set(RECIPE_KEYS), exclude_defaults=True)
    recipe["kind"] = settings.kind
    if "base_url" in recipe:
        recipe["base_url"] = redacted(settings.base_url)
    return Batcher(name, made(name, settings, offline=offline), settings, recipe)


def _limits_of(embedder: object) -> EmbedderSettings:
    """Return the bounds for an app's own embedder, which may name a ``batch_size``."""
    size = getattr(embedder, "batch_size", None)
    if isinstance(size, int) and not isinstance(size, bool) and size > 0:
        return EmbedderSettings(batch_size=min(size, LARGEST_BATCH))
    return EmbedderSettings()


def made(name: str, settings: EmbedderSettings, *, offline: bool = False) -> Embedder:
    """Return the embedder that a section describes; ``offline``, it downloads no model.

    ConfigError where the section does not suit its kind, its package is missing, or its callable
    cannot be imported. May import the app's code, so it belongs into a thread.
    """
    if settings.kind == "demo":
        from .._demo.embedder import HashingEmbedder

        return HashingEmbedder()
    if ":" in settings.kind:
        found = load(settings.kind)
        if settings.model or settings.dim:
            model = settings.model or getattr(found, "model", "")
            return embedder(found, model=model, dim=settings.dim or getattr(found, "dim", None))
        return check_embedder(name, found)
    for key in ("model", "dim"):
        if not getattr(settings, key):
            place = f"retrieval.embedders.{name}.{key}"
            raise ConfigError(
                f"{place}: the kind {settings.kind!r} needs it", key=place,
                accepted="the model's name" if key == "model" else "the length of its vectors",
            )  # fmt: skip
    package = _PACKAGES[settings.kind]
    if sys.modules.get(package) is None and find_spec(package) is None:
        raise ConfigError(
            f"the embedder {name!r} needs {package}; install it with: "
            f'pip install "aiovec[{settings.kind}]"',
            key=f"retrieval.embedders.{name}.kind",
        )  # fmt: skip
    if settings.kind == "openai":
        return OpenAIEmbedder(settings)
    return LocalModel(settings, offline=offline)


def load(path: str) -> Any:
    """Return what ``package.module:name`` names, also in the current folder.

    A class is called without arguments. ConfigError where there is no such thing.
    """
    folder = os.getcwd()  # first, as with python -m: a console script has its own folder there
    sys.path.insert(0, folder)
    try:
        found = pkgutil.resolve_name(path)
        return found() if isinstance(found, type) else found
    except Exception as exc:  # an app's module may raise anything
        raise ConfigError(f"{path} cannot be imported: {exc}", key="kind") from exc
    finally:
        if folder in sys.path:
            sys.path.remove(folder)


# The recipe of a table. Its file or server may be a stranger's, who must not learn a text or a key.


def _recipe_of(schema: Schema, embed: Embed) -> tuple[str, EmbedderSettings | None]:
    """Return the embedder that a table describes, or why it is not used by itself. Reads the disk.

    It is used if it needs no network and runs nothing that the table brings, or if it is the
    service that its kind has by default, with the key of that service.
    """
    from ..backend.config import embedder_section

    if embed.recipe is None:
        return "which this store does not have", None
    keys = {**embed.recipe, "model": schema.model or "", "dim": schema.dim}
    try:
        found = embedder_section(embed.using, keys, "the table's own description")
    except ConfigError:
        return "which the table does not describe correctly", None
    if found.kind == "demo":
        return "", found
    described = f"which it describes as {found.kind!r}"
    if found.kind == "openai":
        if found.base_url.rstrip("/") != OWN_URL:
            host = redacted(found.base_url)
            return f"{described} at {host}; no text goes to a host that only a table names", None
        if key_name_of(found) != OWN_KEY:
            key = found.api_key_env
            return f"{described}; the key in {key} is not used, as only a table names it", None
    elif found.kind not in _PACKAGES:
        return f"{described}; no code is run that only a table names", None
    elif not _MODEL_NAME.match(found.model) or os.path.exists(found.model):
        return f"{described}; no model is loaded from a folder that only a table names", None
    return "", found


def _missing(
    table: str, schema: Schema, embed: Embed, why: str, before: str = "give it by "
) -> EmbeddingError:
    option = "embedder=..." if embed.using == DEFAULT else f"embedders={{{embed.using!r}: ...}}"
    cure = f"{before}connect({option}) or by [retrieval.embedders.{embed.using}] in the TOML file"
    return EmbeddingError(embed.using, why, model=schema.model, table=table, cure=cure)
