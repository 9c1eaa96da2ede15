"""A change of embedding model on the way: every row gets a new vector, computed from a text.

A run stands or falls with this: vectors of two models in one table cannot be compared, and no
search would say so. Therefore a row without a text is never passed over in silence: the plan counts
such rows and refuses, and one that is written while the run is open stops it with its id named.
The run can go on once the row has a text or is deleted. A row that has no vector either, as
``vector_nullable`` allows, has none in the new table.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from aiovec._embed.calling import Caller as EmbedderCaller
from aiovec._embed.failures import failure_of as embedding_failure
from aiovec._embed.registry import configured_embedder
from aiovec._embed.registry import load as load_embedder
from aiovec.backend import Float32Array, Schema
from aiovec.backend.origin import Origin
from aiovec.errors import (
    AiovecError,
    ConfigError,
    InvalidArgumentError,
    InvalidVectorError,
    MigrationError,
)

from .host import Host, RealHost
from .migration import Transform

if TYPE_CHECKING:
    import pyarrow as pa


Embed = Callable[[list[str]], Any]
"""Takes texts and gives, or awaits, one vector for each, in their order.

An async one runs on the event loop, any other in a thread, several calls at once. One that takes
``kind`` gets ``kind="document"``, and what it raises counts as passing or lasting, as with any
embedder.
"""


_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 30.0


class Reembedding(Transform):
    """Computes the vectors of rows anew.

    ``field`` is the text field that is embedded; the target's tables have the ``model`` and, where
    it is given, the ``dim``. Tables that make vectors of texts (``Schema(embed=...)``) get the
    embedder ``using`` in place of their own, where one is named. ``batch_size`` texts go into a
    call, ``concurrency`` calls run at once, and a call whose failure may pass is tried ``attempts``
    times with growing pauses between.
    """

    def __init__(
        self,
        embed: Embed,
        *,
        field: str,
        model: str,
        dim: int | None = None,
        name: str | None = None,
        using: str | None = None,
        batch_size: int = 64,
        concurrency: int = 4,
        attempts: int = 5,
        host: Host | None = None,
    ) -> None:
        if not callable(embed):
            raise InvalidArgumentError("embed", embed, "a callable that takes a list of texts")
        if not model:
            raise InvalidArgumentError("model", model, "the name of the new model")
        for argument, value in (
            ("batch_size", batch_size), ("concurrency", concurrency), ("attempts", attempts),
        ):  # fmt: skip
            if value < 1:
                raise InvalidArgumentError(argument, value, "at least 1")
        self.field = field
        self.model = model
        self.dim = dim
        self.using = using
        of = name or getattr(embed, "__qualname__", type(embed).__name__)
        # The size and number of calls change no vector, so a run may go on with others.
        self.name = f"{of} of {field} as {model}" + (f" ({dim})" if dim is not None else "")
        self._embed = embed
        self._call = EmbedderCaller(embed, at_once=concurrency)
        self._batch_size = batch_size
        self._concurrency = concurrency
        self._attempts = attempts
        self._host = RealHost() if host is None else host
        self._calls: asyncio.Semaphore | None = None
        self._random = random.Random()

    def target_schema(self, schema: Schema) -> Schema:
        """The schema with the new model and length; MigrationError where there is no such field."""
        field = schema.fields.get(self.field)
        if field is None or field.kind != "text":
            texts = [name for name, each in schema.fields.items() if each.kind == "text"]
            what = "not a field" if field is None else "not a text field"
            raise MigrationError(
                f"{self.field!r} is {what}; the text fields are: {', '.join(texts) or 'none'}"
            )
        if schema.embed is not None and schema.embed.field != self.field:
            raise MigrationError(
                f"the table makes its vectors of the field {schema.embed.field!r}, so they cannot "
                f"be computed anew from {self.field!r}"
            )
        dim = schema.dim if self.dim is None else self.dim
        return replace_model(schema, self.model, dim, self.using)

    async def __call__(self, rows: pa.Table) -> pa.Table:
        """Rows in the target's layout, with new vectors."""
        schema = self.target_schema(Schema.from_arrow(rows.schema))
        texts, ids, without = await self._host.in_thread(self._texts, rows)
        parts = [texts[at : at + self._batch_size] for at in range(0, len(texts), self._batch_size)]
        if self._calls is None:
            self._calls = asyncio.Semaphore(self._concurrency)
        tasks = [asyncio.ensure_future(self._vectors(part, schema.dim)) for part in parts]
        try:
            found = await asyncio.gather(*tasks)
        except BaseException:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            raise
        return await self._host.in_thread(_with_vectors, rows, schema, found, ids, without)

    async def close(self) -> None:
        """Let go of the connections of an embedder that the TOML file describes."""
        if isinstance(self._embed, Configured):
            await self._embed.close()

    def _texts(self, rows: pa.Table) -> tuple[list[str], list[str], list[int]]:
        """The texts with the ids of their rows, and the places of rows that get no vector."""
        texts: list[str] = []
        ids: list[str] = []
        without: list[int] = []
        missing: list[str] = []
        vector = rows.column(Schema.from_arrow(rows.schema).vector)
        columns = (rows.column("id"), rows.column(self.field))
        values = zip(*(column.to_pylist() for column in columns), strict=True)
        for place, (id, text) in enumerate(values):
            if text is not None:
                texts.append(text)
                ids.append(id)
            elif vector[place].is_valid:
                missing.append(id)
            else:
                without.append(place)
        if missing:
            listed = ", ".join(map(repr, missing[:5]))
            more = f" and {len(missing) - 5} more" if len(missing) > 5 else ""
            raise MigrationError(
                f"these rows have no {self.field!r} to compute a vector from: {listed}{more}; give "
                "them a text or delete them, and run again"
            )
        return texts, ids, without

    async def _vectors(self, texts: list[str], dim: int) -> Float32Array:
        """The vectors of one call, tried again where it fails."""
        pause = _FIRST_PAUSE
        for attempt in range(1, self._attempts + 1):
            try:
                async with cast("asyncio.Semaphore", self._calls):
                    return await self._call(
                        list(texts),
                        "document",
                        lambda given: _checked(given, len(texts), dim),
                        len(texts) * dim,
                    )
            except AiovecError:
                raise
            except Exception as exc:
                failure = embedding_failure(exc)
                if not failure.retryable:
                    raise MigrationError(
                        f"the embedding {self.name!r} failed in a way that another try would not "
                        f"change: {failure.reason}; mend it and run again to continue"
                    ) from exc
                if attempt == self._attempts:
                    raise MigrationError(
                        f"the embedding {self.name!r} failed {attempt} times, the last time with "
                        f"{failure.reason}; run again to continue"
                    ) from exc
                # Not all at the same moment, for what failed may be a service under load.
                wait = pause * self._random.uniform(0.5, 1.0)
                await self._host.sleep(max(wait, failure.retry_after or 0.0))
                pause = min(_LONGEST_PAUSE, 2 * pause)
        raise MigrationError("the embedding was not called")  # attempts is at least 1


def replace_model(schema: Schema, model: str, dim: int, using: str | None) -> Schema:
    """The schema for vectors of another model, which the embedder ``using`` makes from now on."""
    quantized = schema.quantized if dim % 8 == 0 else None
    embed = schema.embed
    if embed is not None and using is not None:
        embed = replace(embed, using=using)
    return replace(schema, model=model, dim=dim, quantized=quantized, embed=embed)


def load(path: str) -> Embed:
    """The callable that ``module:name`` names, also one in the current folder."""
    module_name, colon, name = path.partition(":")
    if not (module_name and colon and name):
        raise InvalidArgumentError("--reembed", path, "package.module:callable")
    try:
        return load_embedder(path)
    except ConfigError as exc:
        raise MigrationError(str(exc)) from exc


class Configured:
    """The embedder of a section ``[retrieval.embedders.<name>]``, which has its own retries."""

    def __init__(self, name: str, config: str | None) -> None:
        self._embedder = configured_embedder(name, Origin(None, config).settings())
        self.model = self._embedder.model
        self.dim = self._embedder.dim

    async def __call__(self, texts: list[str]) -> Float32Array:
        """Return the vectors of documents."""
        return await self._embedder.embed(texts, "document")

    async def close(self) -> None:
        """Let go of its connections."""
        await self._embedder.close_service()


def _checked(given: object, count: int, dim: int) -> Float32Array:
    """The vectors as one array; an error of ours where they are not what was asked for."""
    if given is None or isinstance(given, (str, bytes)):
        raise MigrationError(f"the embedding gave {type(given).__name__}, not a list of vectors")
    try:
        listed = given if isinstance(given, np.ndarray) else list(cast("Sequence[Any]", given))
        if len(listed) != count:
            raise MigrationError(f"the embedding gave {len(listed)} vectors for {count} texts")
        lengths = {len(vector) for vector in listed}
        if lengths - {dim}:
            (wrong, *_) = lengths - {dim}
            raise MigrationError(
                f"the embedding gave a vector of {wrong} dimensions, not {dim}; pass --dim {wrong}"
            )
        # Too large for float32 is infinity, which is told below.
        with np.errstate(over="ignore"):
            vectors = np.ascontiguousarray(np.asarray(listed, dtype=np.float64), dtype=np.float32)
    except (TypeError, ValueError) as exc:
        if isinstance(exc, AiovecError):
            raise
        raise MigrationError(f"the embedding gave no list of vectors: {exc}") from exc
    return vectors.reshape(count, dim)


def _with_vectors(
    rows: pa.Table,
    schema: Schema,
    parts: Sequence[Float32Array],
    ids: Sequence[str],
    without: Sequence[int],
) -> pa.Table:
    """The rows with vectors, which those at the places ``without`` one do not get."""
    from aiovec.backend import from_matrix

    vectors = np.concatenate(parts) if parts else np.empty((0, schema.dim), dtype=np.float32)
    for row in np.flatnonzero(~np.isfinite(vectors).all(axis=1))[:1]:
        raise InvalidVectorError("holds NaN or infinity, as the embedding gave it", id=ids[row])
    if schema.metric == "cosine":
        for row in np.flatnonzero(~vectors.any(axis=1))[:1]:
            raise InvalidVectorError(
                "is zero, as the embedding gave it, so it has no direction", id=ids[row]
            )
    arrow = schema.to_arrow()
    at = rows.schema.get_field_index(schema.vector)
    field = arrow.field(schema.vector)
    missing = None
    if without:
        missing = np.zeros(rows.num_rows, dtype=np.bool_)
        missing[without] = True
        given, vectors = vectors, np.zeros((rows.num_rows, schema.dim), dtype=np.float32)
        vectors[~missing] = given
    changed = rows.set_column(at, field, from_matrix(vectors, missing))
    return changed.replace_schema_metadata(arrow.metadata)
