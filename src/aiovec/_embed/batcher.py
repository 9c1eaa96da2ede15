"""One embedder of a store, with shared requests, retries, checks and a cache.

The texts of a call join the request that is collecting texts for the same purpose, if that request
has room for them. A request collects texts until a slot for requests is free, and for a few
milliseconds more while other requests run.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field
from hashlib import blake2b
from itertools import islice
from typing import Any

import numpy as np

from .._model.arrays import Float32Array
from .._model.schema import Schema
from ..backend.cost import cost_of
from ..backend.embedders import EmbedderSettings
from ..backend.threads import hop, in_daemon_thread, in_thread
from ..errors import DimensionMismatchError, EmbeddingError, ModelMismatchError, StoreClosedError
from .failures import Failure, failure_of
from .local import LocalModel
from .onnx import OnnxModel
from .protocol import WEIGHT, Embedder, Purpose, is_async, takes_kind

# Seconds between retries: doubled each time, and reduced at random by up to half, so that clients
# of a busy service do not retry at the same moment.
_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 20.0


_Outcomes = dict[bytes, Float32Array | Failure]


# The weight of an English model's vectors beside texts of another language: of six languages, no
# weight from 0 to 0.3 was worse by 0.01, and 0.5 lost 0.05 (``bench quality``).
_FOREIGN = 0.2


@dataclass(slots=True, eq=False)
class _Request:
    """The texts of one request by key, and the number of calls that wait for it."""

    texts: dict[bytes, str] = field(default_factory=dict)
    calls: int = 0
    task: asyncio.Task[_Outcomes] = field(init=False)


class Batcher:
    """An embedder of a store, called within the limits of its settings.

    It belongs to the event loop of the store.
    """

    def __init__(
        self,
        name: str,
        embedder: Embedder,
        limits: EmbedderSettings,
        recipe: Mapping[str, str | int] | None = None,
    ) -> None:
        self.name = name
        self.model = embedder.model
        self.dim = getattr(embedder, "dim", None) or 0
        """The length of the vectors. Without a ``dim``, it is 0 until ``learn_dim`` sets it."""
        self.recipe = recipe
        """The settings that a table stores; None for an embedder that the app passes."""
        self._weight: float = getattr(embedder, "weight", WEIGHT)
        self._embedder = embedder
        self._limits = limits
        self._by_kind = takes_kind(embedder)
        self._local = embedder if isinstance(embedder, (LocalModel, OnnxModel)) else None
        # A plain function runs in a thread, one call at a time.
        self._one_at_a_time = None if is_async(embedder) else self._lanes(1)
        # A local model is loaded without a time limit, because it may have to be downloaded.
        self._prepare = self._local.prepare if self._local else None
        self._cache: OrderedDict[bytes, Float32Array] = OrderedDict()
        self._gathering: dict[Purpose, _Request] = {}
        self._requests: set[_Request] = set()
        self._slots = self._lanes(1 if self._one_at_a_time else limits.concurrency)
        self._closed: str | None = None

    def __repr__(self) -> str:
        return f"<embedder {self.name!r} ({self.model})>"

    def _lanes(self, count: int) -> dict[Purpose, asyncio.Semaphore]:
        """Return the slots for requests of each purpose.

        Those of an ONNX model are separate, so that a search does not wait for an import.
        """
        slots = asyncio.Semaphore(count)
        separate = isinstance(self._embedder, OnnxModel)
        return {"document": slots, "query": asyncio.Semaphore(count) if separate else slots}

    def weight(self, analyzer: str) -> float:
        """Return the weight of the vectors in hybrid searches of a table with this analyzer."""
        from .static import BUILT_IN, ENGLISH

        return self._weight if self.model != BUILT_IN or analyzer in ENGLISH else _FOREIGN

    async def tokenizer(self) -> tuple[Any, int | None]:
        """Return the model's tokenizer and token limit; each is None if unknown."""
        if self._local is None:
            return None, None
        try:
            return await in_daemon_thread(self._local.tokenizer)
        except Exception as exc:  # a model that cannot be downloaded, or loaded
            raise self.error_of(failure_of(exc), None) from exc

    async def learn_dim(self) -> None:
        """Embed a short text to learn the length of the vectors."""
        self.dim = len((await self.embed(["How long is a vector?"], "document"))[0])

    def check_fits(self, table: str, schema: Schema) -> None:
        """Raise ModelMismatchError or DimensionMismatchError if the vectors do not fit the
        schema."""
        kind = str(self.recipe["kind"]) if self.recipe else None
        if schema.model is not None and schema.model != self.model:
            declared = None if schema.embed is None else schema.embed.kind
            raise ModelMismatchError(table, schema.model, self.model, embedder=kind, own=declared)
        if schema.dim != self.dim:
            raise DimensionMismatchError(schema.dim, self.dim, embedder=kind or self.name)

    async def embed(self, texts: Sequence[str], kind: Purpose) -> Float32Array:
        """Return a vector for each text, or raise EmbeddingError, whose ``row`` is the position of
        the text that failed.

        If this call is cancelled, its requests are cancelled too, unless other calls share them.
        """
        keys, cached, missing = await hop(cost_of(texts), self._look_up, texts, kind)
        if self._closed is not None:
            raise StoreClosedError(self._closed)
        if missing:
            cached |= await self._vectors_of(texts, missing, kind)
        cost = len(keys) * (1 + self.dim // 256)  # copying numbers from an array is fast
        return await hop(cost, np.stack, [cached[key] for key in keys])

    def close(self, target: str) -> None:
        """End the running calls with StoreClosedError; later calls raise it too."""
        self._closed = target
        for request in self._requests:
            request.task.cancel()

    async def close_service(self) -> None:
        """Close the connections of an embedder made from settings; an app closes its own."""
        close = getattr(self._embedder, "close", None)
        if self.recipe is not None and close is not None and is_async(close):
            await close()

    def error_of(self, failure: Failure, row: int | None) -> EmbeddingError:
        """Return the error that a user gets for a failure."""
        facts: dict[str, Any] = {"status": failure.status, "retryable": failure.retryable}
        error = EmbeddingError(self.name, failure.reason, model=self.model, row=row, **facts)
        error.__cause__ = failure.cause
        return error

    def _look_up(
        self, texts: Sequence[str], kind: Purpose
    ) -> tuple[list[bytes], dict[bytes, Float32Array], dict[bytes, int]]:
        """Return the key of each text, the cached vectors, and the first position of each uncached
        text."""
        person = kind.encode()
        cached: dict[bytes, Float32Array] = {}
        missing: dict[bytes, int] = {}
        keys = []
        for index, text in enumerate(texts):
            # A digest, so that a long text takes no more memory than a short one.
            key = blake2b(text.encode(), digest_size=20, person=person).digest()
            keys.append(key)
            vector = self._cache.get(key)
            if vector is None:
                missing.setdefault(key, index)
                continue
            cached[key] = vector
            # This may run in a thread, while the loop drops the entry.
            with contextlib.suppress(KeyError):
                self._cache.move_to_end(key)
        return keys, cached, missing

    def _keep(self, outcomes: _Outcomes) -> None:
        # An entry takes 4 bytes per number, and about 400 for its key, array and dict slot.
        most = self._limits.cache_mb * 2**20 // (4 * self.dim + 400)
        for key, vector in outcomes.items():
            # Zero vectors are not cached: tables may refuse them, and a retry must call the
            # embedder again.
            if most and not isinstance(vector, Failure) and vector.any():
                self._cache[key] = vector.copy()  # a copy, so that the whole batch is not kept
                if len(self._cache) > most:
                    self._cache.popitem(last=False)

    # Requests

    async def _vectors_of(
        self, texts: Sequence[str], missing: dict[bytes, int], kind: Purpose
    ) -> dict[bytes, Float32Array]:
        """Return the vectors of the texts at these positions, by key."""
        size = self._limits.batch_size
        items = list(missing.items())
        parts = [dict(items[start : start + size]) for start in range(0, len(items), size)]
        requests = [self._join({key: texts[at] for key, at in p.items()}, kind) for p in parts]
        vectors_by_key: dict[bytes, Float32Array] = {}
        try:
            for part, request in zip(parts, requests, strict=True):
                await asyncio.wait([request.task])
                if self._closed is not None:
                    raise StoreClosedError(self._closed)
                outcomes = request.task.result()
                for key, index in part.items():
                    outcome = outcomes[key]
                    if isinstance(outcome, Failure):
                        raise self.error_of(outcome, index)
                    vectors_by_key[key] = outcome
        finally:
            for request in requests:
                request.calls -= 1
                if not request.calls:
                    request.task.cancel()
                    self._leave(request, kind)
        return vectors_by_key

    def _join(self, texts: dict[bytes, str], kind: Purpose) -> _Request:
        """Add texts to a request that has room for them, or to a new one; return the request."""
        request = self._gathering.get(kind)
        if request is None or len(request.texts) + len(texts) > self._limits.batch_size:
            request = self._gathering[kind] = _Request()
            request.task = asyncio.create_task(self._send(request, kind))
            self._requests.add(request)
        request.texts |= texts
        request.calls += 1
        return request

    def _leave(self, request: _Request, kind: Purpose) -> None:
        self._requests.discard(request)
        if self._gathering.get(kind) is request:
            del self._gathering[kind]

    async def _send(self, request: _Request, kind: Purpose) -> _Outcomes:
        """Embed the texts of a request when a slot is free."""
        texts = request.texts
        try:
            async with self._slots[kind]:
                # A request waits only if it has room for more texts and other requests are running.
                if len(texts) < self._limits.batch_size:
                    # Services take 20 ms or more for a request, so it pays to wait 5 ms for more
                    # texts: 64 concurrent inserts make a few requests instead of 64.
                    await asyncio.sleep(0.005 if len(self._requests) > 1 else 0)
                if self._gathering.get(kind) is request:
                    del self._gathering[kind]
                if self._prepare is not None:
                    await in_daemon_thread(self._prepare)
                    self._prepare = None
                until = asyncio.get_running_loop().time() + self._limits.total_timeout
                outcomes = await self._outcomes(texts, kind, until)
        except Exception as exc:  # noqa: BLE001 - the library of a model may raise anything
            return dict.fromkeys(texts, failure_of(exc))
        finally:
            self._leave(request, kind)
        self._keep(outcomes)
        return outcomes

    async def _outcomes(self, texts: dict[bytes, str], kind: Purpose, until: float) -> _Outcomes:
        """Return the vector of each text, or its failure; a refused batch is retried in halves."""
        try:
            matrix = await self._with_retries(list(texts.values()), kind, until)
        except Failure as failure:
            if not failure.divisible or len(texts) == 1:
                return dict.fromkeys(texts, failure)
        else:
            finite = np.atleast_1d(np.isfinite(matrix).all(axis=1))
            return {
                key: vector if fine else Failure("its vector has NaN or infinity in it")
                for key, vector, fine in zip(texts, matrix, finite, strict=True)
            }
        items, half = list(texts.items()), len(texts) // 2
        first = await self._outcomes(dict(items[:half]), kind, until)
        return first | await self._outcomes(dict(items[half:]), kind, until)

    async def _with_retries(self, texts: list[str], kind: Purpose, until: float) -> Float32Array:
        """Return the vectors of texts, retrying if that can help, or raise Failure."""
        clock = asyncio.get_running_loop().time
        attempt, pause = 0, _FIRST_PAUSE
        while True:
            try:
                return await self._attempt(texts, kind, until)
            except Failure as failure:
                wait = max(pause * random.uniform(0.5, 1.0), failure.retry_after or 0.0)
                late = attempt >= self._limits.retries or clock() + wait >= until
                if late or not failure.retryable:
                    raise
            await asyncio.sleep(wait)
            attempt, pause = attempt + 1, min(_LONGEST_PAUSE, 2 * pause)

    def _call(self, texts: list[str], kind: Purpose) -> Any:
        return self._embedder(texts, **({"kind": kind} if self._by_kind else {}))

    def _call_and_check(self, texts: list[str], kind: Purpose) -> Float32Array:
        count = len(texts)  # the embedder may change the list
        return _checked_matrix(self._call(texts, kind), count, self.dim)

    async def _attempt(self, texts: list[str], kind: Purpose, until: float) -> Float32Array:
        """Return the vectors of texts from one call of the embedder, or raise Failure."""
        limits = self._limits
        rest = until - asyncio.get_running_loop().time()
        # A local model always answers, and a retry would have to wait for the first attempt.
        seconds = None if self._local else min(limits.timeout, rest)
        prefix = limits.query_prefix if kind == "query" else limits.document_prefix
        failure: Failure
        try:
            async with asyncio.timeout(seconds) as timer:
                # A copy, since the embedder may change the list.
                prefixed = [prefix + text for text in texts]
                if (lanes := self._one_at_a_time) is not None:
                    check = self._call_and_check
                    return await in_daemon_thread(check, prefixed, kind, slots=lanes[kind])
                answer = await self._call(prefixed, kind)
                # An iterator may compute its vectors as it is read.
                if isinstance(answer, Iterator):
                    return await in_thread(_checked_matrix, answer, len(texts), self.dim)
                size = len(texts) * self.dim
                return await hop(size // 16, _checked_matrix, answer, len(texts), self.dim)
        except asyncio.CancelledError:
            if asyncio.current_task().cancelling():  # type: ignore[union-attr]
                raise
            failure = Failure("it cancelled itself", retryable=True)
        except Exception as exc:  # noqa: BLE001 - an embedder may raise anything
            failure = failure_of(exc)
            if timer.expired():
                bound = f"total_timeout of {limits.total_timeout:g}"
                if rest > limits.timeout:
                    bound = f"timeout of {limits.timeout:g}"
                failure = Failure(f"there was no answer within the {bound} s", retryable=True)
        raise failure


def _checked_matrix(answer: Any, count: int, dim: int) -> Float32Array:
    """Return one row for each of ``count`` texts, or raise Failure with the reason.

    If ``dim`` is 0, any length is accepted. Rows with NaN or infinity are returned, because only
    their texts fail. If ``answer`` is an iterator, reading it may be slow.
    """
    try:
        if isinstance(answer, (Mapping, Set)):
            raise TypeError(type(answer).__name__)
        array = np.asarray(
            answer if isinstance(answer, np.ndarray) else list(islice(answer, count + 1))
        )
    except (TypeError, ValueError, OverflowError, RuntimeError) as exc:
        raise Failure(f"it returned no list of vectors: {exc}"[:300]) from exc
    # None, huge integers and vectors of different lengths make an array of objects.
    right = array.ndim == 2 and len(array) == count and array.dtype.kind in "fiu"
    if right and dim and array.shape[1] != dim:
        length = array.shape[1]
        raise Failure(
            f"the model makes vectors of {length} numbers, but dim is {dim}: set dim = {length}"
        )
    if not right:
        raise Failure(
            f"it returned an array of {array.dtype} and the shape {array.shape} for {count} texts, "
            f"not a vector of {dim or 'some'} numbers for each"
        )
    with np.errstate(over="ignore"):  # float32 overflows to infinity, which callers report
        # A copy, since the embedder may reuse its array.
        return np.array(array, dtype=np.float32, order="C")
