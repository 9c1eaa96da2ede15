"""The bridge to mem0: its ``Memory`` with the provider "aiovec"."""

from __future__ import annotations

import os
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier
from typing import Any
from zlib import crc32

import pytest

os.environ["MEM0_TELEMETRY"] = "False"  # read when it is imported
pytest.importorskip("mem0", reason="needs aiovec[mem0]")

from mem0 import AsyncMemory, Memory
from mem0.utils.factory import EmbedderFactory, LlmFactory
from tests.docs.blocks import blocks
from tests.harness.cases import case

import aiovec_mem0  # noqa: F401 - makes the provider known
from aiovec import DimensionMismatchError, FilterError, sync
from aiovec_mem0 import AiovecVectorStore

pytestmark = pytest.mark.filterwarnings("default")

DIM = 64
ANA: dict[str, Any] = {"filters": {"user_id": "ana"}}


class Embedder:
    """Replaces a model: texts with common words are near each other."""

    class config:  # noqa: N801 - as mem0 reads it
        embedding_dims = DIM

    def embed(self, text: str, *_: object) -> list[float]:
        vector = [0.001] * DIM
        for word in re.findall(r"\w+", text.lower()):
            vector[crc32(word.encode()) % DIM] += 1
        return vector

    def embed_batch(self, texts: list[str], *_: object) -> list[list[float]]:
        return [self.embed(text) for text in texts]


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.setattr(EmbedderFactory, "create", lambda *_: Embedder())
    monkeypatch.setattr(LlmFactory, "create", lambda *_: None)
    options = {"store": str(tmp_path / "mem0.db"), "embedding_model_dims": DIM}
    return {
        "vector_store": {"provider": "aiovec", "config": options},
        "history_db_path": str(tmp_path / "history.db"),
    }


def memories(found: dict[str, Any]) -> list[str]:
    return [each["memory"] for each in found["results"]]


def test_the_calls_of_a_memory_keep_users_apart(config: dict[str, Any], caplog: Any) -> None:
    memory = Memory.from_config(config)
    assert "does not support keyword search" not in caplog.text
    assert memories(memory.search("tea", **ANA)) == []
    ids = {}
    for user, text in (
        ("ana", "Ana likes green tea."), ("ana", "Ana lives in Lisbon."), ("ben", "Ben likes tea."),
    ):  # fmt: skip
        added = memory.add(text, user_id=user, infer=False)
        ids[text] = added["results"][0]["id"]
    best = memory.search("what tea does Ana like?", explain=True, **ANA)["results"][0]
    assert (best["memory"], best["user_id"]) == ("Ana likes green tea.", "ana")
    assert best["score_details"]["bm25_score"] > 0
    green = ids["Ana likes green tea."]
    assert memory.get(green)["memory"] == "Ana likes green tea."
    assert sorted(memories(memory.get_all(**ANA))) == [
        "Ana likes green tea.", "Ana lives in Lisbon.",
    ]  # fmt: skip
    memory.update(green, "Ana likes black coffee.")
    assert memories(memory.search("black coffee", **ANA))[0] == "Ana likes black coffee."
    memory.delete(green)
    assert memory.get(green) is None
    memory.delete_all(user_id="ana")
    assert memories(memory.search("Ana", **ANA)) == memories(memory.get_all(**ANA)) == []
    assert memories(memory.get_all(filters={"user_id": "ben"})) == ["Ben likes tea."]
    again = Memory.from_config(config)
    assert memories(again.search("tea", filters={"user_id": "ben"})) == ["Ben likes tea."]
    again.reset()
    assert memories(again.get_all(filters={"user_id": "ben"})) == []


async def test_the_asynchronous_memory_uses_it_too(config: dict[str, Any]) -> None:
    memory = AsyncMemory.from_config(config)
    await memory.add("Ana likes tea.", user_id="ana", infer=False)
    assert memories(await memory.search("tea", **ANA)) == ["Ana likes tea."]


def test_the_page_prints_what_it_shows(
    config: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(f"{__name__}.DIM", 1536)
    (code,), (output,) = (blocks("docs/how-to/mem0.md", kind) for kind in ("python", "text"))
    exec(compile(code, "mem0.md", "exec"), {})
    assert capsys.readouterr().out == output


def test_filters_of_mem0_select_what_they_say(store: sync.VectorStore) -> None:
    embed = Embedder().embed
    table = AiovecVectorStore(store, "mem0", DIM)
    payloads = [
        {"data": f"memory {n}", "user_id": "ana", "n": n, "tags": ["even", "odd"][n % 2], "id": n}
        for n in range(6)
    ]
    table.insert([embed("memory")] * 6, payloads, [str(n) for n in range(6)])
    assert [each.payload for each in table.list()[0]] == payloads
    for filters, expected in (
        ({}, "012345"), ({"user_id": "ana"}, "012345"), ({"user_id": "ben"}, ""), ({"n": 3}, "3"),
        ({"n": {"gte": 2, "lt": 4}}, "23"), ({"n": {"in": [1, 9]}}, "1"), ({"n": [1, 2]}, "12"),
        ({"n": {"nin": [1, 2, 3]}}, "045"), ({"n": {"ne": 0}}, "12345"), ({"n": "*"}, "012345"),
        ({"tags": {"eq": "odd"}}, "135"), ({"tags": {"contains": "ve"}}, "024"),
        ({"tags": {"icontains": "VE"}}, "024"), ({"absent": 1}, ""), ({"absent": "*"}, ""),
        ({"OR": [{"n": 1}, {"n": 2}], "$or": [{"n": 1}, {"n": 2}]}, "12"),
        ({"id": 4}, "4"), ({"AND": [{"n": {"gt": 1}}, {"tags": "odd"}]}, "35"),
        ({"NOT": [{"tags": "odd"}]}, "024"),
        ({"$not": [{"n": 0}, {"n": 1}], "user_id": "ana"}, "2345"),
    ):  # fmt: skip
        with case(filters):
            assert "".join(sorted(each.id for each in table.list(filters)[0])) == expected
            found = table.search("", embed("memory"), 10, filters)
            assert "".join(sorted(each.id for each in found)) == expected
            assert all(0.99 < (each.score or 0) <= 1 for each in found)
            words = table.keyword_search("memory 'AND* \"-", 10, filters)
            assert "".join(sorted(each.id for each in words)) == expected
    for wrong in ({"n": {"above": 1}}, {"OR": [{"n": {"above": 1}}]}):
        with case(wrong), pytest.raises(FilterError):
            table.list(wrong)


def test_an_update_brings_back_no_deleted_memory(store: sync.VectorStore) -> None:
    vector, payload = Embedder().embed("tea"), {"data": "tea", "user_id": "ana"}
    table = AiovecVectorStore(store, "mem0", DIM)
    ids = [str(n) for n in range(30)]
    table.insert([vector] * len(ids), [payload] * len(ids), ids)
    both = Barrier(2)

    def update(id: str) -> None:
        both.wait(60)
        table.update(id, vector, payload)

    with ThreadPoolExecutor(1) as pool:
        for id in ids:
            updated = pool.submit(update, id)
            both.wait(60)
            table.delete(id)
            updated.result()
    assert table.list() == [[]]


def test_each_part_of_a_memory_is_replaced_alone(store: sync.VectorStore) -> None:
    embed = Embedder().embed
    with AiovecVectorStore(store, "mem0", DIM) as table:
        assert table.get("a") is None
        table.delete("a")
        table.update("a", payload={"data": "nothing"})
        assert (table.list(), table.col_info()["count"]) == ([[]], 0)
        table.insert([embed("tea"), embed("wool")], [{"data": "tea"}, {"data": "wool"}], ["a", "b"])
        table.update("a", payload={"data": "coffee"})
        first, second = table.search_batch(["", ""], [embed("tea"), embed("wool")], 1)
        assert [(each.id, each.payload) for each in first] == [("a", {"data": "coffee"})]
        assert [each.id for each in second] == ["b"]
        table.update("a", vector=embed("milk"))
        (nearest,) = table.search("", embed("milk"), 1)
        assert (nearest.id, nearest.payload) == ("a", {"data": "coffee"})
        assert [each.id for each in table.keyword_search("coffee")] == ["a"]
        assert table.keyword_search("tea") == []
        assert table.list_cols() == ["mem0"]
        with pytest.raises(DimensionMismatchError):
            table.insert([[1.0] * 3], [{}], ["short"])
        table.delete_col()
        assert table.list_cols() == []
