"""The bridge to CrewAI: a storage of memories, alone and with CrewAI's own ``Memory``."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from tests.docs.blocks import blocks

pytest.importorskip("crewai.memory.storage.backend", reason="needs aiovec[crewai]")

from crewai.memory.storage.backend import EmbeddingDimensionMismatchError, StorageBackend
from crewai.memory.storage.factory import set_memory_storage_factory
from crewai.memory.types import MemoryRecord
from crewai.memory.unified_memory import Memory

import aiovec
from aiovec import InvalidArgumentError, sync
from aiovec_crewai import AiovecStorage

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("default")]

PAGE = "docs/how-to/crewai.md"
NOW = datetime(2026, 1, 10)  # noqa: DTZ001 - CrewAI's have no zone


def memory(id: str, scope: str, vector: list[float], **fields: Any) -> MemoryRecord:
    return MemoryRecord(id=id, content=f"memory {id}", scope=scope, embedding=vector, **fields)


MEMORIES = [
    memory("a", "/", [1.0, 0.0], categories=["fact", "x"],
           metadata={"who": "ana", "n": [1], "in": {"deep": 1}},
           created_at=NOW, last_accessed=NOW, importance=0.75, source="ana", private=True),
    memory("b", "/crew/agent", [0.875, 0.125], categories=["fact"], metadata={"who": "bo"},
           created_at=NOW - timedelta(days=1)),
    memory("c", "/crew", [0.0, 1.0], created_at=NOW - timedelta(days=2)),
    memory("d", "/crews", [-1.0, 0.0], created_at=NOW - timedelta(days=3)),
]  # fmt: skip


@pytest.fixture
def ours(store: sync.VectorStore) -> AiovecStorage:
    storage = AiovecStorage(store, "My Crew")
    assert storage.search([1.0, 0.0]) == []
    assert storage.count() == storage.delete() == 0
    assert storage.list_records() == storage.list_scopes() == []
    assert storage.get_scope_info("/").record_count == 0
    storage.update(MEMORIES[0])
    storage.save(MEMORIES)
    return storage


def ids(items: list[Any]) -> list[str]:
    return [(each[0] if isinstance(each, tuple) else each).id for each in items]


def test_memories_are_searched_by_vector_scope_category_and_metadata(
    ours: AiovecStorage, store: sync.VectorStore
) -> None:
    assert isinstance(ours, StorageBackend)
    assert ours.get_record("a") == MEMORIES[0]
    assert ours.get_record("none") is None
    matches = ours.search([1.0, 0.0])
    assert ids(matches) == ["a", "b", "c", "d"]
    assert [matches[0][1], matches[3][1]] == [1.0, 0.0]
    assert matches[0][0].embedding == [1.0, 0.0]
    assert ids(ours.search([1.0, 0.0], min_score=0.5)) == ["a", "b"]
    assert ids(ours.search([1.0, 0.0], scope_prefix="crew/")) == ["b", "c"]
    assert ids(ours.search([1.0, 0.0], categories=["x", "y"])) == ["a"]
    assert ids(ours.search([1.0, 0.0], metadata_filter={"who": "bo"}, limit=1)) == ["b"]
    assert ids(ours.search([1.0, 0.0], metadata_filter={"in.deep": 1})) == ["a"]
    assert ours.search([1.0, 0.0], limit=0) == []
    with pytest.raises(EmbeddingDimensionMismatchError):
        ours.search([1.0, 0.0, 0.0])
    again = AiovecStorage(store, "My Crew", metric="dot")  # the table keeps its own
    assert again.search([1.0, 0.0]) == matches
    with pytest.raises(EmbeddingDimensionMismatchError):
        ours.save([memory("e", "/", [1.0])])


def test_scopes_and_categories_are_listed_and_counted(ours: AiovecStorage) -> None:
    assert [ours.count(), ours.count("/"), ours.count("/crew")] == [4, 4, 2]
    assert ids(ours.list_records()) == ["a", "b", "c", "d"]
    assert ids(ours.list_records("/crew", limit=1, offset=1)) == ["c"]
    assert ours.list_scopes() == ["/crew", "/crews"]
    assert ours.list_scopes("/crew") == ["/crew/agent"]
    assert ours.list_categories() == {"fact": 2, "x": 1}
    assert ours.list_categories("/crew") == {"fact": 1}
    info = ours.get_scope_info("/crew")
    assert (info.path, info.record_count, info.categories) == ("/crew", 2, ["fact"])
    assert (info.oldest_record, info.newest_record) == (
        NOW - timedelta(days=2), NOW - timedelta(days=1))  # fmt: skip
    assert info.child_scopes == ["/crew/agent"]


def test_memories_are_updated_touched_and_deleted(ours: AiovecStorage) -> None:
    ours.update(MEMORIES[1].model_copy(update={"content": "new"}))
    ours.touch_records(["b"])
    changed = ours.get_record("b")
    assert changed is not None
    assert (changed.content, changed.embedding) == ("new", [0.875, 0.125])
    assert changed.last_accessed > MEMORIES[1].last_accessed
    assert ours.delete(record_ids=[]) == 0
    assert ours.delete(categories=[]) == 0
    assert ours.delete(record_ids=["a", "none"]) == 1
    assert ours.delete("/crew", categories=["x"]) == 0
    assert ours.delete(older_than=NOW - timedelta(days=2)) == 1
    assert ours.delete(metadata_filter={"who": "bo"}) == 1
    ours.reset("/crews")
    assert ids(ours.list_records()) == ["c"]
    ours.reset()
    ours.save([memory("e", "/", [1.0, 2.0, 3.0])])  # a vector of another model
    for true in ({}, {"$or": [{}, {"who": "bo"}]}):
        with pytest.raises(InvalidArgumentError, match="metadata_filter"):
            ours.delete(metadata_filter=true)
    assert ours.delete() == 1


def test_zeros_are_stored_as_no_vector(store: sync.VectorStore) -> None:
    ours = AiovecStorage(store, zero_as_none=True)
    ours.save([memory("zeros", "/", [0.0, 0.0]), MEMORIES[0]])
    assert ids(ours.search([1.0, 0.0])) == ["a"]
    stored = ours.get_record("zeros")
    assert stored is not None
    assert stored.embedding is None
    with pytest.raises(aiovec.AiovecError, match="does not exist yet"):
        AiovecStorage(store, "new").save([MemoryRecord(content="no vector")])


def test_crewais_memory_stores_and_recalls(tmp_path: Path) -> None:
    words = ["fox", "zebra", "deploy"]

    def embed(texts: list[str]) -> list[list[float]]:
        return [[1.0 + text.count(word) * 9 for word in words] for text in texts]

    path = str(tmp_path / "memory.db")
    set_memory_storage_factory(lambda spec: AiovecStorage(spec) if spec == path else None)
    try:
        memories = Memory(storage=path, embedder=embed)
    finally:
        set_memory_storage_factory(None)
    given = {"categories": ["note"], "importance": 0.5}
    for number, text in enumerate(["the fox sleeps", "a zebra", "the deploy failed"]):
        memories.remember(text, scope=f"/team/{number}", metadata={"n": number}, **given)
    (best, *_) = memories.recall("zebra?", scope="/team", depth="shallow", limit=2)
    assert best.record.content == "a zebra"
    assert memories.list_scopes("/team") == ["/team/0", "/team/1", "/team/2"]
    assert memories.forget(scope="/team/0") == 1
    memories.close()
    assert len(memories.list_records("/team")) == 2  # opened again
    memories.close()
    with sync.connect(path, read_only=True) as store:
        assert store.count("crewai", "scope LIKE '/team/%' AND payload.metadata.n >= 1") == 2


def test_the_code_of_its_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    for block in blocks(PAGE, "python"):
        exec(block, names)
    (shown,) = blocks(PAGE, "text")
    assert names["found"][0].record.content == shown.strip()
