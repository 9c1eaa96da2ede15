"""The shared knowledge of a soak: the possible rows, who wrote what, and when."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from aiovec import Field, Hit, Record, Schema
from aiovec.backend import Float32Array, Float64Array, Metric

if TYPE_CHECKING:
    from tests.soak.client import Client


# The rows that nobody changes belong to this owner.
BASE = "base"
# Hits with these distances are right: tolerance times the size of what a distance comes from.
TOLERANCE = 1e-5
# Seconds after which a call that has not ended never will.
_PATIENCE = 100.0


def soak_schema(dim: int = 48, *, metric: Metric = "cosine", **options: Any) -> Schema:
    """A schema that can be soaked: the fields ``owner``, ``version``, ``touched``, and a payload.

    ``options`` are those of Schema; its fields come beside these, or in their place.
    """
    fields = {
        "owner": Field(str, index="btree"),
        "version": int,
        "touched": Field(int, index="btree"),
        **options.pop("fields", {}),
    }
    return Schema(dim, metric=metric, fields=fields, **options)


class State(NamedTuple):
    """A row: the write of its vector, and the last write of its fields. The rest follows."""

    version: int
    touched: int


def owner_of(id: str) -> str:
    return id.partition("/")[0]


def vector_of(id: str, version: int, dim: int) -> Float32Array:
    """The vector that a version of a row must have. Now and then rows of all owners share one."""
    key = f"{id}\0{version}" if version % 7 else f"shared {version % 5}"
    seed = int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest())
    return np.random.default_rng(seed).standard_normal(dim, dtype=np.float32)


def changed_fields(id: str, state: State) -> dict[str, Any]:
    """The values that each write sets, an update too. Half of them alone would show."""
    return {"touched": state.touched, "note": f"{id} {state.touched}"}


def row_of(id: str, state: State, schema: Schema) -> dict[str, Any]:
    return {
        "id": id,
        schema.vector: vector_of(id, state.version, schema.dim),
        "owner": owner_of(id),
        "version": state.version,
        **changed_fields(id, state),
    }


def state_of(found: Hit | Record, schema: Schema) -> State:
    """The state that a row came in; fails where it is not one that was ever written."""
    id = found.id
    state = State(found["version"], found["touched"])
    fields = {key: value for key, value in found.fields.items() if value is not None}
    wanted = row_of(id, state, schema)
    vector = wanted.pop(schema.vector)
    assert fields == {k: v for k, v in wanted.items() if k != "id"}, f"{id}: {fields}"
    assert found.vector is not None, f"{id} came without its vector"
    assert found.vector.tobytes() == vector.tobytes(), f"{id}: another vector than {state}'s"
    return state


def distances(metric: Metric, rows: Float64Array, query: Float64Array) -> Float64Array:
    """As the contract defines them, computed in float64."""
    products: Float64Array = rows @ query
    if metric == "dot":
        return -products
    if metric == "l2":
        lengths: Float64Array = np.linalg.norm(rows - query, axis=1)
        return lengths
    sizes = np.linalg.norm(rows, axis=1) * np.linalg.norm(query)
    cosines: Float64Array = 1 - products / sizes
    return cosines


def scale_of(metric: Metric, query: Float64Array) -> float:
    """The size of the numbers that distances to this query come from."""
    # No row here is longer than twice the usual length of its dimension.
    size = 2 * float(np.sqrt(len(query)))
    length = float(np.linalg.norm(query))
    return 1.0 if metric == "cosine" else length + size if metric == "l2" else length * size


class Written(NamedTuple):
    """The number of a row's last acknowledged write or deletion, and the moment of that."""

    number: int
    at: int


class Gate:
    """Lets calls begin, until it is closed; then the last one that is inside can be awaited."""

    def __init__(self) -> None:
        self._open = asyncio.Event()
        self._empty = asyncio.Event()
        self._inside = 0
        self.open()

    @asynccontextmanager
    async def inside(self) -> AsyncIterator[None]:
        while not self._open.is_set():
            await self._open.wait()
        self._inside += 1
        try:
            yield
        finally:
            self._inside -= 1
            if not self._inside:
                self._empty.set()

    async def close(self) -> None:
        self._open.clear()
        while self._inside:
            self._empty.clear()
            await self._empty.wait()

    def open(self) -> None:
        self._open.set()


class Base:
    """The rows of a table that nobody changes."""

    def __init__(self, schema: Schema, count: int) -> None:
        self.states = {f"{BASE}/{n:06}": State(n % 90, 0) for n in range(count)}
        self.ids = list(self.states)
        self.rows = [row_of(id, state, schema) for id, state in self.states.items()]
        vectors = [row[schema.vector] for row in self.rows]
        self.vectors = np.array(vectors, dtype=np.float64).reshape(count, schema.dim)


class World:
    """One process's knowledge: its clients by owner, a clock, and what was counted."""

    def __init__(self, schemas: Mapping[str, Schema], base_rows: int, *, exact: bool) -> None:
        self.schemas = dict(schemas)
        self.base = {name: Base(schema, base_rows) for name, schema in schemas.items()}
        self.exact = exact
        self.clients: dict[str, Client] = {}
        self.counts: Counter[str] = Counter()
        self.gate = Gate()
        # What other processes wrote to rows named "mark", as they told: the owner's last number.
        self.marks: dict[str, tuple[str, int]] = {}
        self.over = False
        self._clock = itertools.count()

    def now(self) -> int:
        """A moment; each is later than the one before."""
        return next(self._clock)

    async def pause(self) -> None:
        """Let no call begin, and wait for those that run."""
        try:
            async with asyncio.timeout(_PATIENCE):
                await self.gate.close()
        except TimeoutError:
            doing = [client.doing for client in self.clients.values() if client.doing]
            raise AssertionError(f"these calls do not end: {doing}") from None

    def check_hits(
        self,
        table: str,
        query: Float32Array,
        hits: list[Hit],
        limit: int,
        began: int,
    ) -> dict[str, State]:
        """Check a search's hits while everybody writes; return their states by id."""
        schema = self.schemas[table]
        states = {hit.id: state_of(hit, schema) for hit in hits}
        assert len(states) == len(hits) <= limit, f"an id came twice, or too many: {len(hits)}"
        for id, state in states.items():
            self._check_age(table, id, state, began)
        point = query.astype(np.float64)
        vectors = np.array([hit.vector for hit in hits], dtype=np.float64).reshape(-1, schema.dim)
        true = distances(schema.metric, vectors, point)
        told = np.array([hit.distance for hit in hits])
        slack = TOLERANCE * scale_of(schema.metric, point)
        assert (np.abs(told - true) <= slack).all(), f"distances {told} instead of {true}"
        keys = [(-hit.score, hit.distance, hit.id) for hit in hits]
        assert keys == sorted(keys), f"not in order: {keys}"
        self.counts["checked hits"] += len(hits)
        return states

    def _check_age(self, table: str, id: str, state: State, began: int) -> None:
        """No hit is older than what was acknowledged before the search began."""
        owner = owner_of(id)
        if owner == BASE:
            assert self.base[table].states[id] == state, f"{id} was never {state}"
        elif owner in self.clients:
            client = self.clients[owner]
            assert not client.gone_for_good(id, began), f"{id} had been deleted for good"
            written = client.written.get(id)
            if written is not None and written.at < began:
                # It may be newer: a write can be seen before its caller hears of it.
                assert state.touched >= written.number, (
                    f"{id} came as {state} though {written} had been acknowledged"
                )
