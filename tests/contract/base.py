"""The base of every part of the contract suite: the factory, the fixtures, the deviations."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import pytest
import pytest_asyncio
from tests.harness.values import DIM, SMALL, small_rows

from aiovec import Schema, VectorStore
from aiovec._core.contract import abilities
from aiovec._input import rows as _rows  # noqa: F401 - imported here, before a loop runs, as connect does
from aiovec.backend import Backend, RetrievalSettings

ABILITIES = tuple(abilities())


LOOP_TIME = "loop time"
"""The deviation of a backend whose calls may hold the event loop."""


async def open_store(backend: Backend, *, dim: int = DIM) -> VectorStore:
    """A store over a backend, as ``aiovec.connect`` would open it."""
    try:
        await backend.open()
    except BaseException:
        await backend.close()
        raise
    return VectorStore(backend, RetrievalSettings(dim=dim))


@contextmanager
def case(name: object) -> Iterator[None]:
    """One of many cases that a test goes through on one store: a failure tells which it is."""
    try:
        yield
    except BaseException as exc:
        exc.add_note(f"in the case {name!r}")
        raise


class ContractBase(ABC):
    """One part of the suite: ``make_backend`` gives the backend that its tests run on."""

    deviations: ClassVar[Mapping[str, str]] = {}
    """Where the backend knowingly differs: a test's name or an ability, and the reason."""

    persistent: ClassVar[bool] = True
    renames_tables: ClassVar[bool] = True
    """True if ``rename_table`` is possible where ``make_backend`` lays the tables."""
    """True if a backend made anew for the same path finds what was written before."""

    @abstractmethod
    def make_backend(self, path: Path) -> Backend:
        """A backend, not yet open, that keeps its data under ``path``, an empty directory."""

    def make_forgetful_backend(self, path: Path) -> Backend | None:
        """A backend whose change feed forgets deletions soon, or None where it cannot be had."""
        return None

    def open_backup(self, path: Path) -> Backend | None:
        """A backend over what ``backup(path)`` wrote, not yet open; None where it has none."""
        return None

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        # So that the suite runs in both modes of pytest-asyncio.
        for name, test in vars(cls).items():
            if name.startswith("test_") and inspect.iscoroutinefunction(test):
                pytest.mark.asyncio(test)
        _refuse_hidden_tests(cls)

    @pytest.fixture(autouse=True)
    def _skip_declared_deviations(self, request: pytest.FixtureRequest) -> None:
        reason = self.deviations.get(request.function.__name__)
        if reason is not None:
            pytest.skip(reason)

    async def open(self, path: Path, *, dim: int = DIM) -> VectorStore:
        """A store of its own over a new backend for ``path``. The caller closes it."""
        return await open_store(self.make_backend(path), dim=dim)

    @pytest_asyncio.fixture
    async def store(self, tmp_path: Path) -> AsyncIterator[VectorStore]:
        """An empty store."""
        store = await self.open(tmp_path)
        try:
            yield store
        finally:
            await store.close()

    @pytest_asyncio.fixture
    async def notes(self, store: VectorStore) -> VectorStore:
        """A store with a table ``notes`` of ten small rows."""
        await store.create_table("notes", SMALL)
        await store.insert("notes", small_rows(10))
        return store

    async def table(
        self, store: VectorStore, schema: Schema, rows: Any = (), *, name: str = "notes"
    ) -> None:
        """A new table with rows."""
        await self.create(store, name, schema)
        if isinstance(rows, Sequence) and not rows:
            return
        await store.insert(name, rows)

    async def create(self, store: VectorStore, name: str, schema: Schema) -> None:
        """A new table. One that the store refuses is made as a migration makes it."""
        if self.refuses(store, schema):
            await store._follower.engine.backend.create_table(name, schema)
        else:
            await store.create_table(name, schema)

    def refuses(self, store: VectorStore, schema: Schema) -> bool:
        """Return whether the schema has an option that the backend cannot honour."""
        return schema.quantized is not None and not store.supports("quantized")

    def need(self, store: VectorStore, ability: str) -> None:
        """Skip the test where the backend lacks the ability, or declares it a deviation."""
        if ability in self.deviations:
            pytest.skip(self.deviations[ability])
        if not store.supports(ability):
            pytest.skip(f"the {store.backend_name} backend does not support {ability!r}")

    def need_persistence(self) -> None:
        if not self.persistent:
            pytest.skip("this backend keeps nothing once it is closed")


def _refuse_hidden_tests(cls: type) -> None:
    """Two parts of the suite with a test of one name: one of them would never run."""
    owners: dict[str, type] = {}
    for part in cls.__mro__:
        if part.__module__.partition(".")[0] != __name__.partition(".")[0]:
            continue  # whoever runs the suite may replace a test
        for name in vars(part):
            if name.startswith("test_") and owners.setdefault(name, part) is not part:
                raise TypeError(f"{name} of {part.__name__} is hidden by {owners[name].__name__}")
