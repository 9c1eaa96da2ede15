"""db:// places: what lancedb's client of the managed service is told, and how it fails.

The service is a stand-in on loopback; what the real one does is not shown here.
"""

from __future__ import annotations

import json
import traceback
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.contract.base import case

import aiovec
from aiovec import AiovecError, CorruptStoreError, Field, Schema, TableNotFoundError

from .managed_server import Service, managed_service

pytestmark = pytest.mark.slow
KEY = "sk_S3cr3tKeyOfTheService"
SCHEMA = Schema(3, fields={"year": int, "body": Field(str, text=True)})


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch) -> Iterator[Service]:
    monkeypatch.setenv("LANCEDB_API_KEY", KEY)
    with managed_service() as running:
        yield running


def config(folder: Path, host: str) -> Path:
    path = folder / "aiovec.toml"
    path.write_text(
        '[retrieval]\nbackend = "lancedb"\nlancedb_url = "db://my-notes"\n'
        f'[retrieval.lancedb]\nhost = "{host}"\nregion = "eu-west-1"\n'
    )
    return path


async def test_rows_go_there_and_come_back(service: Service, tmp_path: Path) -> None:
    """As far as the stand-in goes: our calls are requests that lancedb's client can make."""
    async with aiovec.connect(config=config(tmp_path, service.host)) as store:
        assert await store.tables() == []
        await store.create_table("notes", SCHEMA)
        rows = [
            {"id": id, "embedding": vector, "year": year, "body": "wool"}
            for id, vector, year in (("a", [1, 0, 0], 2023), ("b", [0, 1, 0], 2024))
        ]
        assert await store.insert("notes", rows) == 2
        assert await store.count("notes") == 2
        hits = await store.search("notes", [0, 2, 0])
        assert [(hit.id, hit["year"]) for hit in hits] == [("b", 2024), ("a", 2023)]
        assert hits[0].score == pytest.approx(1)
        [record] = await store.get("notes", ["a"])
        assert record.vector.tolist() == [1, 0, 0]
        with pytest.raises(aiovec.DuplicateIdError):
            await store.insert("notes", rows[:1])
        found = await store.search_text("notes", 'wool -"a b"', limit=5)
        assert [hit.id for hit in found] == ["a", "b"]
        await store.drop_table("notes")
        with pytest.raises(TableNotFoundError):
            await store.count("notes")
    for request in service.requests:
        assert request.headers["x-lancedb-database"] == "my-notes"
        assert request.headers["x-api-key"] == KEY
    [asked] = [r for r in service.requests if b"full_text_query" in r.body]
    query = json.loads(asked.body)["full_text_query"]["query"]["boolean"]
    assert [one["phrase"]["terms"] for one in query["must_not"]] == ["a b"]


async def test_a_service_that_refuses(service: Service, tmp_path: Path) -> None:
    place = config(tmp_path, service.host)
    for status, says in (
        (401, "rejects these credentials"),
        (404, "does not know this address"),
        (503, "the server fails"),
    ):
        service.status = status
        with case(status), pytest.raises(AiovecError) as caught:
            await aiovec.connect(config=place)
        assert says in str(caught.value)
        assert f"HTTP {status}" in str(caught.value)
        assert "db://my-notes" in str(caught.value)
        assert KEY not in "".join(traceback.format_exception(caught.value))
    service.status = 200
    service.metadata = False  # without it nobody knows the table's metric and fields
    async with aiovec.connect(config=place) as store:
        await store.create_table("notes", SCHEMA)
        with pytest.raises(CorruptStoreError, match="has no aiovec schema"):
            await store.count("notes")
