"""The base of every part of the contract suite: facts about a kind of store, and fixtures."""

from __future__ import annotations

import asyncio
import json
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, ClassVar

import pytest
import pytest_asyncio
from tests.harness.cases import case as case
from tests.harness.values import DIM, SMALL, small_rows

import aiovec
from aiovec import Schema, VectorStore
from aiovec.backend.contract import Backend
from aiovec.backend.place import find_place

ABILITIES = (
    "text", "indexes", "changes", "snapshots", "backup", "moves", "read-only", "restore",
    "once", "power-loss", "quantized", "payload-indexes",
)  # fmt: skip
"""The names that ``VectorStore.supports`` knows."""


def toml_value(value: object) -> str:
    """Return a value as TOML."""
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{key} = {toml_value(item)}" for key, item in value.items()) + " }"
    return json.dumps(value)


class ContractBase(ABC):
    """One part of the suite. The subclass for a kind of store defines the place of its stores."""

    backend: ClassVar[str]
    """The backend's name."""

    tiers: ClassVar[tuple[str | None, str | None]] = (None, None)
    """The tier of tests that are marked ``core``, and of all other tests; None is the default."""

    deviations: ClassVar[Mapping[str, str]] = {}
    """Known differences of the backend: a test's name or an ability, and the reason."""

    keys: ClassVar[Mapping[str, Any]] = {}
    """The keys of the backend's own section of the TOML file."""

    forgetful: ClassVar[Mapping[str, Any]] = {}
    """Keys with which the change feed forgets deletions soon, if the backend has such keys."""

    impatient: ClassVar[Mapping[str, Any]] = {}
    """Keys with which a call does not wait for other processes, if the backend has such keys."""

    one_writer: ClassVar[Mapping[str, Any]] = {}
    """Keys that allow only one write at a time, if the backend has such keys."""

    persistent: ClassVar[bool] = True
    """True if a store keeps its data after it is closed."""

    shared: ClassVar[bool] = True
    """True if several processes may open the same store."""

    renames_tables: ClassVar[bool] = True
    """True if the backend can rename tables."""

    @abstractmethod
    def target(self, path: Path) -> str:
        """Return the target of a store that keeps its data in ``path``, a folder for one test."""

    def connect(
        self, path: Path, *, dim: int = DIM, keys: Mapping[str, Any] | None = None, **options: Any
    ) -> Any:
        """Open the store in ``path`` like an app: await the result, or use it in ``async with``."""
        own = {**self.keys, **(keys or {})}
        config = path / "aiovec.toml"
        config.write_text(
            f"[retrieval]\ndim = {dim}\n[retrieval.{self.backend}]\n"
            + "".join(f"{key} = {toml_value(value)}\n" for key, value in own.items())
        )
        return aiovec.connect(self.target(path), config=config, **options)

    @asynccontextmanager
    async def opened_backend(self, path: Path) -> AsyncIterator[Any]:
        """Open the backend of the store in ``path`` a second time, as a migration does."""

        def make() -> Backend:
            place = find_place(self.target(path))
            return place.plugin.create(place.address, place.plugin.settings(**self.keys))

        backend = await asyncio.to_thread(make)
        await backend.open()
        try:
            yield backend
        finally:
            await backend.close()

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        _refuse_hidden_tests(cls)

    @pytest.fixture(autouse=True)
    def _skip_declared_deviations(self, request: pytest.FixtureRequest) -> None:
        reason = self.deviations.get(request.function.__name__)
        if reason is not None:
            pytest.skip(reason)

    @pytest_asyncio.fixture
    async def store(self, tmp_path: Path) -> AsyncIterator[VectorStore]:
        """Return an empty store."""
        async with self.connect(tmp_path) as store:
            yield store

    @pytest_asyncio.fixture
    async def notes(self, store: VectorStore) -> VectorStore:
        """Return a store with a table ``notes`` of ten small rows."""
        return await filled(store, SMALL, small_rows(10))

    def need(self, store: VectorStore, ability: str) -> None:
        """Skip the test if the backend lacks the ability or declares it as a deviation."""
        if ability in self.deviations:
            pytest.skip(self.deviations[ability])
        if not store.supports(ability):
            pytest.skip(f"the {store.backend_name} backend does not support {ability!r}")

    def need_persistence(self) -> None:
        if not self.persistent:
            pytest.skip("this store keeps nothing once it is closed")

    def need_processes(self) -> None:
        self.need_persistence()
        if not self.shared:
            pytest.skip("one process at a time may have this store open")


async def filled(
    store: VectorStore, schema: Schema, rows: Any = (), *, name: str = "notes"
) -> VectorStore:
    """Create a table with these rows, and return the store."""
    await store.create_table(name, schema)
    if not (isinstance(rows, Sequence) and not rows):
        await store.insert(name, rows)
    return store


def _refuse_hidden_tests(cls: type) -> None:
    """Raise TypeError if two parts of the suite have a test of one name: one would never run."""
    owners: dict[str, type] = {}
    for part in cls.__mro__:
        if not part.__module__.startswith("tests.contract."):
            continue  # a backend's own class may replace a test
        for name in vars(part):
            if name.startswith("test_") and owners.setdefault(name, part) is not part:
                raise TypeError(f"{name} of {part.__name__} is hidden by {owners[name].__name__}")
