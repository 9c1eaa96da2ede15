"""The embedders of one store by name, and their creation from settings.

The module of a kind is imported when the first embedder of that kind is created.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import sys
from collections.abc import Mapping
from dataclasses import replace
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from .._model.schema import RECIPE_KEYS, Embed, Schema
from .._tools.redaction import redacted
from ..backend.threads import in_thread
from ..errors import ConfigError, EmbeddingError, ModelMismatchError, StoreClosedError
from .app_embedders import DEFAULT, check_embedder, embedder
from .protocol import Embedder

if TYPE_CHECKING:
    from ..backend.config import RetrievalSettings
    from ..backend.contract import TableHandle
    from ..backend.embedders import EmbedderSettings
    from .batcher import Batcher

_PACKAGES = {"openai": "aiohttp", "fastembed": "fastembed", "onnx": "onnxruntime"}
_PACKAGES["sentence-transformers"] = "sentence_transformers"
# The default model: 67 MB, for English, MIT license. It reads the first 512 tokens of a text.
_FASTEMBED = {"model": "BAAI/bge-small-en-v1.5", "dim": 384}
# The name of a public model, not a folder.
_MODEL_NAME = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?\Z")


class Embedders:
    """Finds an embedder in the app's arguments, the settings or the table's recipe, in this
    order."""

    def __init__(self, of_app: Mapping[str, Embedder | EmbedderSettings]) -> None:
        self._of_app = dict(of_app)
        self._batchers: dict[str, Batcher] = {}
        self._making = asyncio.Lock()
        self._closed: str | None = None

    def give(self, name: str, settings: EmbedderSettings) -> None:
        """Use these settings for the embedder ``name``, unless it was already created."""
        self._of_app[name] = settings

    async def check(self, settings: RetrievalSettings) -> None:
        """Create every embedder, so that a wrong setting raises ConfigError early.

        Calls no embedder, loads no model and opens no connection.
        """
        for name, option in {**settings.embedders, **self._of_app}.items():
            await self._batcher(name, option)

    async def find(self, name: str, settings: RetrievalSettings) -> Batcher | None:
        """Return the embedder with this name, or None."""
        option = self._of_app.get(name) or settings.embedders.get(name)
        if option is None:
            return None
        embedder = self._batchers.get(name) or await self._batcher(name, option)
        if not embedder.dim:
            await embedder.learn_dim()
        return embedder

    async def of_table(
        self, handle: TableHandle, settings: RetrievalSettings, model: str | None
    ) -> Batcher:
        """Return the embedder of a table.

        Raises EmbeddingError if the store has no embedder for the table, and ModelMismatchError or
        DimensionMismatchError if the embedder's vectors do not fit the table, or if its model is
        not the caller's ``model``.
        """
        schema = handle.schema
        if schema.embed is None:
            raise ValueError(f"the table {handle.name!r} embeds no texts")
        embedder = await self.find(schema.embed.using, settings)
        if embedder is None:
            embedder = await self._of_recipe(handle.name, schema, schema.embed)
        embedder.check_fits(handle.name, schema)
        if model is not None and model != embedder.model:
            raise ModelMismatchError(handle.name, embedder.model, model)
        return embedder

    async def can_embed(self, schema: Schema, settings: RetrievalSettings) -> bool:
        """Return whether the store can embed texts for a table."""
        if schema.embed is None:
            return False
        if schema.embed.using in {**settings.embedders, **self._of_app}:
            return True
        return (await in_thread(_recipe_of, schema, schema.embed))[1] is not None

    async def tokenizer(
        self, schema: Schema, settings: RetrievalSettings
    ) -> tuple[Any, int | None]:
        """Return the tokenizer and token limit of a table's model; each is None if unknown."""
        if schema.embed is None or not await self.can_embed(schema, settings):
            return None, None
        embedder = await self.find(schema.embed.using, settings)
        return await (embedder or await self._of_recipe("", schema, schema.embed)).tokenizer()

    async def completed(self, table: str, schema: Schema, settings: RetrievalSettings) -> Schema:
        """Return a new table's schema, with the vector length, model and recipe of its embedder.

        Raises EmbeddingError if neither the schema nor an embedder determines the length.
        """
        embed = schema.embed
        if embed is None:
            return schema
        embedder = await self.find(embed.using, settings)
        if embedder is None and schema.dim:
            return schema
        if embedder is None:
            why = "for the length of its vectors, and this store does not have it"
            raise _missing(table, schema, embed, why, "pass Schema(dim=...) or ")
        whole = replace(
            schema,
            dim=schema.dim or embedder.dim,
            model=schema.model or embedder.model,
            embed=replace(
                embed,
                recipe=embedder.recipe or embed.recipe,
                weight=embedder.weight(schema.analyzer) if embed.weight is None else embed.weight,
            ),
        )
        embedder.check_fits(table, replace(whole, embed=embed))
        return whole

    async def close(self, target: str) -> None:
        """End the running calls with StoreClosedError; later calls raise it too."""
        self._closed = target
        for batcher in self._batchers.values():
            batcher.close(target)
        for batcher in [*self._batchers.values()]:
            await batcher.close_service()

    async def _of_recipe(self, table: str, schema: Schema, embed: Embed) -> Batcher:
        """Return the embedder that a table describes, or raise EmbeddingError if it must not be
        used."""
        key = json.dumps([schema.model, schema.dim, embed.to_dict()])
        if key not in self._batchers:
            fault, recipe = await in_thread(_recipe_of, schema, embed)
            if recipe is None:
                raise _missing(table, schema, embed, fault)
            return await self._batcher(embed.using, recipe, key)
        return self._batchers[key]

    async def _batcher(
        self, name: str, option: Embedder | EmbedderSettings, of_table: str = ""
    ) -> Batcher:
        """Return an embedder, creating it on first use.

        ``of_table`` is the key of an embedder made from a table's recipe.
        """
        from .batcher import Batcher

        key = of_table or name
        async with self._making:
            if key not in self._batchers:
                if callable(option):
                    self._batchers[key] = Batcher(name, option, _limits_of(option))
                else:
                    self._batchers[key] = await in_thread(_batcher, name, option, bool(of_table))
            if self._closed is not None:  # perhaps while the embedder was created
                raise StoreClosedError(self._closed)
            return self._batchers[key]


def configured_embedder(name: str, settings: RetrievalSettings) -> Batcher:
    """Return the embedder of ``[retrieval.embedders.<name>]``, which the caller must close.

    Raises ConfigError if the section is missing or unusable. May import the app's code.
    """
    section = settings.embedders.get(name)
    if section is None:
        listed = ", ".join(sorted(settings.embedders)) or "none"
        raise ConfigError(
            f"the TOML file has no embedder {name!r}; it has: {listed}",
            key=f"retrieval.embedders.{name}",
        )
    embedder = _batcher(name, section)
    if not embedder.dim:
        place = f"retrieval.embedders.{name}.dim"
        raise ConfigError(f"{place} is missing; set it to the length of the vectors", key=place)
    return embedder


def _batcher(name: str, settings: EmbedderSettings, offline: bool = False) -> Batcher:
    from .batcher import Batcher
    from .onnx import PACKAGE

    recipe = {name: value for name, value in vars(settings).items() if name in RECIPE_KEYS}
    recipe = {name: value for name, value in recipe.items() if value != settings.keys[name].default}
    recipe["kind"] = settings.kind
    # The schema has the model; that of an ONNX file is a digest, which does not say where it is.
    if settings.kind != "onnx" or not PACKAGE.match(settings.model):
        recipe.pop("model", None)
    if "base_url" in recipe:
        recipe["base_url"] = redacted(settings.base_url)
    return Batcher(name, embedder_of(name, settings, offline=offline), settings, recipe)


def _limits_of(embedder: object) -> EmbedderSettings:
    """Return the limits for an app's embedder, which may have a ``batch_size``."""
    from ..backend.embedders import EmbedderSettings

    size = getattr(embedder, "batch_size", None)
    if isinstance(size, int) and not isinstance(size, bool) and size > 0:
        return EmbedderSettings(batch_size=min(size, 2048))  # the maximum in settings
    return EmbedderSettings()


def embedder_of(name: str, settings: EmbedderSettings, *, offline: bool = False) -> Embedder:
    """Create the embedder of a section; if ``offline``, it downloads no model.

    Raises ConfigError if the section does not fit its kind, its package is missing, or its callable
    cannot be imported. May import the app's code, so call it in a thread.
    """
    if settings.kind == "demo":
        from .hashing import HashingEmbedder

        return HashingEmbedder()
    if settings.kind == "local":
        from .static import StaticModel

        return StaticModel(name, settings)
    if ":" in settings.kind:
        loaded = load(settings.kind)
        if settings.model or settings.dim:
            model = settings.model or getattr(loaded, "model", "")
            return embedder(loaded, model=model, dim=settings.dim or getattr(loaded, "dim", None))
        return check_embedder(name, loaded)
    if settings.kind == "fastembed" and not (settings.model or settings.dim):
        settings = settings.changed(**_FASTEMBED)
    for key in ("model", "dim") if settings.kind != "onnx" else ("model",):
        if not getattr(settings, key):
            place = f"retrieval.embedders.{name}.{key}"
            raise ConfigError(f"{place} is missing; the kind {settings.kind!r} needs it", key=place)
    package = _PACKAGES[settings.kind]
    if sys.modules.get(package) is None and find_spec(package) is None:
        raise ConfigError(
            f"the embedder {name!r} needs {package}; install it with: "
            f'pip install "aiovec[{settings.kind}]"',
            key=f"retrieval.embedders.{name}.kind",
        )
    if settings.kind == "openai":
        from .openai import OpenAIEmbedder

        return OpenAIEmbedder(settings)
    if settings.kind == "onnx":
        from .onnx import OnnxModel

        return OnnxModel(name, settings)
    from .local import LocalModel

    return LocalModel(settings, offline=offline)


def load(path: str) -> Any:
    """Import the object ``package.module:name``, looking in the current folder first.

    If it is a class, return an instance. Raises ConfigError if the import fails.
    """
    from pkgutil import resolve_name

    # As with python -m, the current folder goes first; a console script has its own folder there.
    folder = os.getcwd()
    sys.path.insert(0, folder)
    try:
        named = resolve_name(path)
        return named() if isinstance(named, type) else named
    except Exception as exc:  # an app's module may raise anything
        raise ConfigError(f"{path} cannot be imported: {exc}", key="kind") from exc
    finally:
        if folder in sys.path:
            sys.path.remove(folder)


# The recipe of a table. The table's file or server may be untrusted, so its recipe must not choose
# where texts or keys are sent.


def _recipe_of(schema: Schema, embed: Embed) -> tuple[str, EmbedderSettings | None]:
    """Return the settings that a table describes, or the reason not to use them. Reads the disk.

    Settings can be used if they need no network and run no code that the table names, or if they
    name the default service of their kind and its default environment variable for the key.
    """
    if embed.recipe is None:
        return "which this store does not have", None
    from ..backend.config import embedder_section
    from ..backend.embedders import OWN_URL
    from .onnx import PACKAGE
    from .openai import OWN_KEY, key_name_of
    from .static import BUILT_IN

    keys = {"model": schema.model or "", **embed.recipe, "dim": schema.dim}
    try:
        section = embedder_section(embed.using, keys, "the table's own description")
    except ConfigError:
        return "which the table does not describe correctly", None
    if section.kind == "demo" or (section.kind == "local" and section.model in ("", BUILT_IN)):
        return "", section
    if section.kind == "onnx" and PACKAGE.match(section.model):
        return "", section
    described = f"which it describes as {section.kind!r}"
    if section.kind == "openai":
        if section.base_url.rstrip("/") != OWN_URL:
            host = redacted(section.base_url)
            return f"{described} at {host}; no text goes to a host that only a table names", None
        if key_name_of(section) != OWN_KEY:
            key = section.api_key_env
            return f"{described}; the key in {key} is not used, as only a table names it", None
    elif section.kind not in (*_PACKAGES, "local"):
        return f"{described}; no code is run that only a table names", None
    elif (
        section.kind in ("local", "onnx")
        or not _MODEL_NAME.match(section.model)
        or os.path.exists(section.model)
    ):
        return f"{described}; no model is loaded from a folder that only a table names", None
    return "", section


def _missing(
    table: str, schema: Schema, embed: Embed, why: str, before: str = "pass "
) -> EmbeddingError:
    option = "embedder=..." if embed.using == DEFAULT else f"embedders={{{embed.using!r}: ...}}"
    fix = f"{before}connect({option}) or add [retrieval.embedders.{embed.using}] to the TOML file"
    return EmbeddingError(embed.using, why, model=schema.model, table=table, fix=fix)
