"""What a call that failed leaves is gone when its caller lets go of the error.

An error refers to the frames that it came through; where one of these refers to the error, only the
garbage collector frees them, with all that they hold: rows, queries, and connections.
"""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest

import aiovec
from aiovec import AiovecError, Embed, Field, Schema, VectorStore
from aiovec.backend import Admission, Patience

ROW = {"id": "a", "embedding": [1.0, 0.0], "body": "word", "year": 1}
MANY = [{**ROW, "id": f"{n}", "year": "none"} for n in range(3000)]
Call = Callable[[VectorStore], Awaitable[Any]]


async def exported(store: VectorStore) -> None:
    async with aclosing(store.export("notes", where="nothing = 1")) as batches:
        async for _ in batches:
            pass


class AppError(ValueError):
    """What a function of the app raises."""


class Embedder:
    name, model, dim = "app", "m", 2

    async def __call__(self, texts: list[str]) -> list[list[float]]:
        raise AppError


def raises(*_: object) -> Any:
    raise AppError


CALLS: dict[str, Call] = {
    "an id that exists": lambda s: s.insert("notes", [ROW]),
    "a row that does not fit": lambda s: s.insert("notes", [{**ROW, "year": "none"}]),
    "many rows that do not fit": lambda s: s.insert("notes", MANY),
    "a vector that is too long": lambda s: s.search("notes", [1.0, 2.0, 3.0]),
    "a filter that does not fit": lambda s: s.search("notes", [1.0, 0.0], where="nothing = 1"),
    "no such table": lambda s: s.count("absent"),
    "a table that exists": lambda s: s.create_table("notes", Schema(3)),
    "a patch that does not fit": lambda s: s.update("notes", {"payload.a.b": 1}, where="TRUE"),
    "an export": exported,
    "a row of which none is like": lambda s: s.search_like("notes", "absent"),
    "a field that exists": lambda s: s.add_field("notes", "year", int),
    "a backup in a place that is taken": lambda s: s.backup("/"),
    "both searches of a hybrid one": lambda s: s.search_hybrid(
        "notes", "word", [1.0, 0.0], where="nothing = 1"
    ),
    "what embeds": lambda s: s.search("embedded", "word"),
    "rows of which none are embedded": lambda s: s.insert("embedded", [{"id": "a", "body": "b"}]),
    "what reranks": lambda s: s.search("notes", [1.0, 0.0], rerank=raises),
}  # fmt: skip


@pytest.fixture(params=["sqlite", "memory", "lancedb"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[VectorStore]:
    targets = {
        "sqlite": f"{tmp_path}/s.db",
        "memory": ":memory:",
        "lancedb": f"lancedb://{tmp_path}/s",
    }
    async with aiovec.connect(targets[request.param], embedders={"app": Embedder()}) as opened:
        fields = {"body": Field(str, text=True), "year": int}
        await opened.create_table("notes", Schema(2, fields=fields, payload=True))
        await opened.insert("notes", [{**ROW, "a": 1}])
        embed = Embed("body", using="app")
        await opened.create_table("embedded", Schema(2, fields={"body": str}, embed=embed))
        yield opened


@pytest.fixture
def uncollected() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


async def left_by(call: Awaitable[object]) -> str:
    """What refers to the error of a call that failed, once its caller has let go of it."""
    error: Any = None
    try:
        await call
    except (AiovecError, AppError) as exc:
        error = weakref.ref(exc)
    assert error is not None, "the call did not fail"
    for _ in range(2000):  # threads let go of what they were asked for last
        if error() is None:
            return ""
        await asyncio.sleep(0.005)
    return "; ".join(f"{type(one)} {str(one)[:300]}" for one in gc.get_referrers(error()))


@pytest.mark.usefixtures("uncollected")
@pytest.mark.parametrize("kind", CALLS)
async def test_an_error_is_gone_with_its_caller(store: VectorStore, kind: str) -> None:
    assert await left_by(CALLS[kind](store)) == ""


@pytest.mark.usefixtures("uncollected")
async def test_a_call_that_waited_too_long_leaves_nothing() -> None:
    """Under load there are thousands of them."""
    admission = Admission("full", calls=1)
    held = await admission.share().take()
    assert await left_by(admission.share(0, Patience(0)).take()) == ""
    held.give_back()
    assert admission.free()


@pytest.mark.usefixtures("uncollected")
async def test_a_task_is_gone_whatever_its_call_has_begun(store: VectorStore) -> None:
    """Timers, and tasks in the background, have the context of the call that began them."""

    async def call() -> list[Any]:
        await store.search("notes", [1.0, 0.0])
        await store.upsert("notes", [ROW])
        return [await store.get("notes", ["a"])]

    task = asyncio.ensure_future(call())
    assert len(await task) == 1
    gone = weakref.ref(task)
    del task
    for _ in range(200):
        if gone() is None:
            break
        await asyncio.sleep(0.01)
    assert gone() is None, gc.get_referrers(gone())
