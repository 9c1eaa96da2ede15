"""Spans and metrics of the texts that an embedder makes vectors of."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from opentelemetry.trace import SpanKind, StatusCode
from tests.telemetry.conftest import Metrics, Spans

import aiovec
from aiovec import Embed, EmbeddingError, Field, Schema, VectorStore


class Letters:
    """Counts letters; waits for ever where the text says so, and refuses another one."""

    model, dim = "a-model", 2

    def __init__(self) -> None:
        self.waiting = asyncio.Event()

    async def __call__(self, texts: list[str]) -> list[list[float]]:
        if "wait" in texts:
            self.waiting.set()
            await asyncio.sleep(3600)
        if "bad" in texts:
            raise ValueError("a secret text")
        return [[1.0 + len(text), 1.0] for text in texts]


@pytest.fixture
def letters() -> Letters:
    return Letters()


@pytest.fixture
async def store(letters: Letters, tmp_path: Path) -> AsyncIterator[VectorStore]:
    # A place of its own: the process counts for all tests, by the store.
    target = tmp_path / "notes.db"
    async with aiovec.connect(target, embedders={"letters": letters}) as opened:
        schema = Schema(
            2, fields={"body": Field(str, text=True)}, embed=Embed("body", using="letters")
        )
        await opened.create_table("notes", schema)
        yield opened


async def test_documents_and_queries(store: VectorStore, spans: Spans, measured: Metrics) -> None:
    spans.forget()
    calls = {
        "insert": lambda: store.insert("notes", [{"id": id, "body": f"of {id}"} for id in "abc"]),
        "update": lambda: store.update("notes", {"body": "other"}, ids=["a"]),
        "search": lambda: store.search("notes", "words"),
        "search_many": lambda: store.search_many("notes", ["one", [1.0, 2.0], "two"]),
        "search_hybrid": lambda: store.search_hybrid("notes", "both"),
    }
    kinds = {"insert": ("document", 3), "update": ("document", 1), "search_many": ("query", 2)}
    for name, call in calls.items():
        spans.forget()
        await call()
        kind, texts = kinds.get(name, ("query", 1))
        (made,) = [span for span in spans.ours() if span.name == "embed notes"]
        (around,) = [span for span in spans.ours() if span.name == f"{name} notes"]
        assert made.kind is SpanKind.INTERNAL
        assert made.parent is not None
        assert made.parent.span_id == around.context.span_id, name
        assert dict(made.attributes or {}) == {
            "db.system.name": "sqlite", "db.namespace": store.target, "db.collection.name": "notes",
            "aiovec.embedding.name": "letters", "aiovec.embedding.kind": kind,
            "aiovec.embedding.texts": texts,
        }, name  # fmt: skip
    spans.forget()
    # With vectors nothing is embedded.
    await store.insert("notes", [{"id": "v", "embedding": [1, 2], "body": "x"}])
    await store.search("notes", [1.0, 2.0])
    assert [span.name for span in spans.ours()] == ["insert notes", "search notes"]
    for kind, count, texts in (("document", 2, 4), ("query", 3, 4)):
        own = {"db__namespace": store.target, "aiovec__embedding__kind": kind}
        of_store = {**own, "aiovec__embedding__name": "letters", "db__collection__name": "notes"}
        (took,) = measured.points("aiovec.embedding.duration", **of_store)
        (counted,) = measured.points("aiovec.embedding.texts", **of_store)
        assert (took.count, counted.count, counted.sum) == (count, count, texts)
        assert took.sum > 0


async def test_failures_tell_their_class_alone(
    store: VectorStore, spans: Spans, measured: Metrics
) -> None:
    spans.forget()
    with pytest.raises(EmbeddingError, match="a secret text"):
        await store.search("notes", "bad")
    failed, around = spans.ours()
    assert (failed.name, around.name) == ("embed notes", "search notes")
    for span in (failed, around):
        assert span.status.status_code is StatusCode.ERROR
        assert span.status.description is None
        assert (span.attributes or {})["error.type"] == "EmbeddingError"
        assert not span.events
    assert "secret" not in failed.to_json()
    assert "a-model" not in failed.to_json()
    (point,) = measured.points(
        "aiovec.embedding.duration", error__type="EmbeddingError", db__namespace=store.target
    )
    assert point.count >= 1


async def test_a_cancelled_call(store: VectorStore, letters: Letters, spans: Spans) -> None:
    spans.forget()
    call = asyncio.ensure_future(store.search("notes", "wait"))
    await asyncio.wait_for(letters.waiting.wait(), 20)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    waited, around = spans.ours()
    for span in (waited, around):
        assert (span.attributes or {})["aiovec.cancelled"] is True
        assert span.status.status_code is StatusCode.UNSET
