"""One event loop after another, as scripts, test suites and task queues use a store."""

from __future__ import annotations

import asyncio
import gc
import sys
import threading
import time
import weakref
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, TypeVar

import pytest
from tests.contract.base import ContractBase
from tests.harness.values import DIM, SMALL, small_rows, vectors

from aiovec import VectorStore
from aiovec.errors import AiovecError

_T = TypeVar("_T")

# A call that hangs ends the test.
_PATIENCE = 60.0

# Tasks of a closed loop to which something still refers: let go of later, they would complain in
# the middle of another test.
_kept: list[asyncio.Future[Any] | None] = []


def in_a_loop(call: Callable[[], Coroutine[Any, Any, _T]]) -> _T:
    """The call's result, in an event loop of its own that ends behind it."""

    async def run() -> _T:
        async with asyncio.timeout(_PATIENCE):
            return await call()

    return asyncio.run(run())


class LoopsContract(ContractBase):
    """B19b: a store is opened in one event loop and used from the next ones."""

    def opened(self, path: Path) -> VectorStore:
        store = in_a_loop(lambda: self.open(path))
        in_a_loop(lambda: self.table(store, SMALL, small_rows(1_500)))
        return store

    def test_a_loop_for_each_call(self, tmp_path: Path) -> None:
        store = in_a_loop(lambda: self.open(tmp_path))
        query = vectors(1)[0]

        async def exported() -> int:
            return sum([len(batch) async for batch in store.export("notes", batch_size=7)])

        for turn in range(2):
            in_a_loop(lambda: store.create_table("notes", SMALL))
            assert in_a_loop(lambda: store.insert("notes", small_rows(300))) == 300
            assert len(in_a_loop(lambda: store.search("notes", query, limit=300))) == 300
            assert in_a_loop(lambda: store.upsert("notes", small_rows(310))) == 310
            assert in_a_loop(lambda: store.update("notes", {"year": 1}, ids=["r0001"])) == 1
            assert in_a_loop(lambda: store.delete("notes", ["r0002"])) == 1
            assert in_a_loop(exported) == 309
            in_a_loop(lambda: store.optimize("notes"))
            assert len(in_a_loop(lambda: store.find("notes", limit=400))) == 309
            assert in_a_loop(lambda: store.count("notes")) == 309, turn
            in_a_loop(lambda: store.drop_table("notes"))
        in_a_loop(store.close)
        in_a_loop(store.close)

    async def _crowd(self, store: VectorStore, turn: int) -> list[asyncio.Future[Any]]:
        """Calls under way: more of each kind than there are connections or threads for them."""

        async def export() -> None:
            async for _ in store.export("notes", batch_size=10):
                await asyncio.sleep(0.001)

        query = vectors(1)[0]
        calls: list[Coroutine[Any, Any, Any]] = []
        for n in range(12):
            rows = [
                {"id": f"{turn}-{n}-{i}", "embedding": [1.0] * DIM, "year": 10_000 + n}
                for i in range(50)
            ]
            calls += [
                store.insert("notes", rows),
                store.search("notes", query, limit=500),
                store.search_many("notes", vectors(20), limit=50),
                store.find("notes", "name LIKE '%n%'", order_by="year", limit=500),
                store.count("notes", "year > 3"),
                export(),
            ]
        calls.append(store.optimize("notes"))
        return [asyncio.ensure_future(call) for call in calls]

    async def _works(self, store: VectorStore, turn: int) -> None:
        """Every kind of call, many at once, and every write of the loop before whole or undone."""
        number = await store.count("notes")
        for n in range(12):
            for before in range(turn + 1):
                found = await store.get("notes", [f"{before}-{n}-{i}" for i in range(50)])
                assert len(found) in (0, 50)
        await asyncio.sleep(0.05)
        assert await store.count("notes") == number
        new = [f"after{turn}-{n}" for n in range(40)]
        await asyncio.gather(
            *(store.insert("notes", [{"id": id, "embedding": [2.0] * DIM}]) for id in new),
            *(store.count("notes") for _ in range(40)),
            *(store.search("notes", vectors(1)[0], limit=10) for _ in range(40)),
        )
        assert await store.count("notes") == number + len(new)
        batches = [batch async for batch in store.export("notes")]
        assert sum(map(len, batches)) == number + len(new)
        assert len(await store.search("notes", vectors(1)[0], limit=9_000)) == number + len(new)
        await store.optimize("notes")

    @pytest.mark.parametrize("after", [0.0, 0.002, 0.02])
    def test_a_loop_that_ends_while_calls_run(
        self, tmp_path: Path, after: float, caplog: pytest.LogCaptureFixture
    ) -> None:
        """As ``asyncio.run`` ends one: every task is cancelled, those of the store too.

        And none is left behind: asyncio would complain of it on the user's standard error.
        """
        store = self.opened(tmp_path)
        for turn in range(2):

            async def leave(turn: int = turn) -> None:
                await self._crowd(store, turn)
                await asyncio.sleep(after)

            in_a_loop(leave)
            in_a_loop(lambda turn=turn: self._works(store, turn))  # type: ignore[misc]
        in_a_loop(lambda: leave(3))
        in_a_loop(store.close)
        gc.collect()
        assert [line for line in caplog.messages if "pending" in line] == []

    def test_a_loop_that_is_closed_without_an_end(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Nothing is cancelled then: the tasks just never go on."""
        # What awaits in a ``finally`` when its loop is closed under it cannot end well.
        monkeypatch.setattr(sys, "unraisablehook", lambda _: None)
        store = self.opened(tmp_path)
        left = [task for turn in range(2) for task in self._close_under(store, turn)]
        in_a_loop(store.close)
        del store
        # Here, where it is expected, when threads have let go of it. Of some tasks they never do,
        # nor does anyio, whose weak dictionary of tasks refers to those in a cancel scope.
        unchanged, before = 0, len(left)
        while before and unchanged < 20:
            gc.collect()
            time.sleep(0.05)
            there = sum(task() is not None for task in left)
            unchanged = unchanged + 1 if there == before else 0
            before = there
        _kept.extend(task() for task in left)

    def _close_under(self, store: VectorStore, turn: int) -> list[weakref.ref[asyncio.Future[Any]]]:
        loop = asyncio.new_event_loop()
        loop.set_exception_handler(lambda *_: None)  # that tasks are destroyed
        left = loop.run_until_complete(self._crowd(store, turn))
        for _ in range(turn * 20):
            loop.run_until_complete(asyncio.sleep(0.001))
        loop.close()
        # A thread of the store may just be committing what the loop had handed to it.
        row = {"id": "behind it", "embedding": [1.0] * DIM}
        in_a_loop(lambda: store.upsert("notes", [row]))
        time.sleep(0.1)
        in_a_loop(lambda: self._works(store, turn))
        return [weakref.ref(task) for task in left]

    def test_a_loop_that_ends_while_the_store_closes(self, tmp_path: Path) -> None:
        store = self.opened(tmp_path)

        async def leave() -> None:
            await self._crowd(store, 0)
            closing = asyncio.ensure_future(store.close())
            await asyncio.sleep(0)
            closing.cancel()

        in_a_loop(leave)
        in_a_loop(store.close)

    def test_two_loops_at_once_are_refused(self, tmp_path: Path) -> None:
        store = self.opened(tmp_path)
        begun, end = threading.Event(), threading.Event()

        async def use() -> None:
            await store.count("notes")
            begun.set()
            while not end.is_set():  # noqa: ASYNC110 - it is of another thread
                await asyncio.sleep(0.01)

        other = threading.Thread(target=in_a_loop, args=(use,))
        other.start()
        try:
            assert begun.wait(_PATIENCE)

            async def export() -> None:
                await anext(aiter(store.export("notes")))

            calls: list[Callable[[], Coroutine[Any, Any, Any]]] = [
                lambda: store.count("notes"),
                lambda: store.insert("notes", small_rows(1, start=5_000)),
                export,
                store.close,
            ]
            for call in calls:
                with pytest.raises(AiovecError, match="another event loop"):
                    in_a_loop(call)
        finally:
            end.set()
            other.join()
        assert in_a_loop(lambda: store.count("notes")) == 1_500
        in_a_loop(store.close)
