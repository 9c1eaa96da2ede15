"""Tests of the app, which pass with every backend that aiovec.toml may name."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from app import app

NOTES: list[dict[str, Any]] = [
    {"id": "wal", "text": "SQLite appends to a write-ahead log", "topic": "sql", "year": 2023},
    {"id": "null", "text": "In SQL, NULL is neither true nor false", "topic": "sql", "year": 2025},
    {"id": "loop", "text": "Never block the event loop", "topic": "async", "year": 2024},
    {"id": "task", "text": "An event loop runs one task at a time", "topic": "async"},
]


@pytest.fixture(autouse=True)
def empty_stores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Give each test its own empty stores, one for each backend."""
    monkeypatch.setenv("AIOVEC_RETRIEVAL__SQLITE_PATH", str(tmp_path / "notes.db"))
    monkeypatch.setenv("AIOVEC_RETRIEVAL__LANCEDB_URL", str(tmp_path / "notes.lance"))


@pytest.fixture
def client() -> Iterator[TestClient]:
    with TestClient(app) as client:
        assert client.post("/notes", json=NOTES).json() == {"count": 4}
        yield client


def found(client: TestClient, text: str, **options: object) -> list[str]:
    answer = client.post("/search", json={"text": text, **options})
    assert answer.status_code == 200, answer.text
    return [hit["id"] for hit in answer.json()]


def test_the_best_come_first(client: TestClient) -> None:
    assert set(found(client, "what blocks an event loop?", limit=2)) == {"loop", "task"}
    (best,) = client.post("/search", json={"text": NOTES[0]["text"], "limit": 1}).json()
    assert best.pop("score") == 1.0  # it is first in both lists
    assert best == NOTES[0]


def test_words_and_parts_of_words_are_found(client: TestClient) -> None:
    assert found(client, "write-ahead", limit=1) == ["wal"]
    assert found(client, "logs that are appended", limit=1) == ["wal"]
    assert len(found(client, "(\"'*:-")) == 4  # no question is an error


def test_a_filter_selects_first(client: TestClient) -> None:
    assert set(found(client, "event loop", where="topic = 'sql'")) == {"wal", "null"}
    assert found(client, "event loop", where="year >= 2024 AND topic = 'sql'") == ["null"]
    assert found(client, "event loop", where="year IS NULL") == ["task"]


def test_a_wrong_filter_is_told(client: TestClient) -> None:
    answer = client.post("/search", json={"text": "x", "where": "colour = 'red'"})
    assert answer.status_code == 422
    assert "colour" in answer.json()["detail"]


@pytest.mark.parametrize(
    "wrong", [{"id": "x" * 600}, {"id": "a\0b"}, {"year": 2**70}, {"text": ""}]
)
def test_a_note_that_cannot_be_is_told(client: TestClient, wrong: dict[str, Any]) -> None:
    answer = client.post("/notes", json=[NOTES[0], {**NOTES[1], **wrong}])
    assert answer.status_code == 422
    assert client.get("/count").json() == {"count": 4}


def test_a_note_is_replaced(client: TestClient) -> None:
    client.post("/notes", json=[{"id": "wal", "text": "Something else", "year": 2026}])
    assert client.get("/count").json() == {"count": 4}
    assert found(client, "something else", limit=1) == ["wal"]
    assert client.get("/count", params={"where": "year = 2026"}).json() == {"count": 1}


def test_a_note_is_deleted(client: TestClient) -> None:
    assert client.delete("/notes/loop").json() == {"deleted": 1}
    assert client.delete("/notes/loop").json() == {"deleted": 0}
    assert "loop" not in found(client, "event loop")


def test_notes_outlast_the_app() -> None:
    with TestClient(app) as client:
        client.post("/notes", json=NOTES)
    with TestClient(app) as client:
        assert client.get("/count").json() == {"count": 4}


def test_health(client: TestClient) -> None:
    assert client.get("/health").json()["status"] == "ok"
