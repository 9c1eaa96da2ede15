"""db:// places: what lancedb's client of the managed service is told, and how it fails.

The service is a stand-in on loopback; what the real one does is not shown here.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

import aiovec
from aiovec import (
    AiovecError,
    ConfigError,
    CorruptStoreError,
    Field,
    Schema,
    TableNotFoundError,
    UnsupportedError,
)
from aiovec_lancedb import LancedbBackend
from aiovec_lancedb.errors import translated
from aiovec_lancedb.settings import LancedbSettings
from aiovec_lancedb.text.asking import MORE

from .managed_server import Service, managed_service
from .test_s3 import SOON, nobody_listens

KEY = "sk_S3cr3tKeyOfTheService"


@pytest.fixture(autouse=True)
def _key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LANCEDB_API_KEY", KEY)


@pytest.fixture
def service() -> Iterator[Service]:
    with managed_service() as running:
        yield running


def _toml(folder: Path, host: str) -> Path:
    path = folder / "aiovec.toml"
    path.write_text(
        '[retrieval]\nbackend = "lancedb"\nlancedb_url = "db://my-notes"\n'
        f'[retrieval.lancedb]\nhost = "{host}"\nregion = "eu-west-1"\n'
    )
    return path


async def test_uri_key_and_host_arrive(service: Service, tmp_path: Path) -> None:
    path = await asyncio.to_thread(_toml, tmp_path, service.host)
    async with aiovec.connect(config=path) as store:
        assert await store.tables() == []
    assert service.requests
    for request in service.requests:
        assert request.headers["x-lancedb-database"] == "my-notes"
        assert request.headers["x-api-key"] == KEY
        assert f"http://{request.headers['host']}" == service.host


async def test_the_host_from_the_environment(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIOVEC_RETRIEVAL__LANCEDB__HOST", service.host)
    async with aiovec.connect("db://others") as store:
        await store.ping()
    assert {r.headers["x-lancedb-database"] for r in service.requests} == {"others"}


async def test_a_key_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LANCEDB_API_KEY")
    with pytest.raises(ConfigError, match="LANCEDB_API_KEY") as caught:
        await aiovec.connect("db://my-notes")
    assert caught.value.key == "LANCEDB_API_KEY"


async def test_rows_go_there_and_come_back(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As far as the stand-in goes: our calls are requests that lancedb's client can make."""
    monkeypatch.setenv("AIOVEC_RETRIEVAL__LANCEDB__HOST", service.host)
    async with aiovec.connect("db://my-notes") as store:
        await store.create_table("notes", Schema(3, fields={"year": int}))
        rows = [
            {"id": id, "embedding": vector, "year": year}
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
        await store.drop_table("notes")
        with pytest.raises(TableNotFoundError):
            await store.count("notes")


async def test_a_service_that_drops_the_schemas_metadata(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without it nobody knows the table's metric and fields: better an error than a guess."""
    with managed_service(metadata=False) as service:
        monkeypatch.setenv("AIOVEC_RETRIEVAL__LANCEDB__HOST", service.host)
        async with aiovec.connect("db://my-notes") as store:
            await store.create_table("notes", Schema(3))
            with pytest.raises(CorruptStoreError, match="has no aiovec schema"):
                await store.count("notes")


async def told(host: str) -> str:
    backend = LancedbBackend("db://my-notes", LancedbSettings(host=host))
    async with asyncio.timeout(SOON + 30):
        with pytest.raises(AiovecError) as caught:
            await backend.open()
    await backend.close()
    error: BaseException | None = caught.value
    assert "db://my-notes" in str(error)
    while error is not None:
        assert KEY not in f"{error} {error!r}"
        error = error.__cause__ or error.__context__
    return str(caught.value)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("status", "says"),
    [
        (401, "rejects these credentials"),
        (403, "rejects these credentials"),
        (404, "does not know this address"),
        (429, "the server fails"),
        (500, "the server fails"),
        (503, "the server fails"),
    ],
)
async def test_a_service_that_refuses(status: int, says: str) -> None:
    with managed_service(status=status) as service:
        message = await told(service.host)
    assert says in message
    assert f"HTTP {status}" in message


async def test_nobody_listens() -> None:
    assert "cannot be reached" in await told(nobody_listens())


@pytest.mark.slow
async def test_a_service_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LANCE_CLIENT_READ_TIMEOUT", "1")
    with managed_service(hang=True) as service:
        assert "did not answer in time" in await told(service.host)


async def test_what_its_client_cannot_do_is_told_as_that(service: Service) -> None:
    from aiovec_lancedb.driver import lancedb

    database = await lancedb.connect_async("db://my-notes", api_key=KEY, host_override=service.host)
    table = await database.create_table("t", schema=Schema(3).to_arrow())
    with pytest.raises(UnsupportedError, match="optimize") as caught, translated("db://my-notes"):
        await table.optimize()
    assert isinstance(caught.value.__cause__, NotImplementedError)
    assert caught.value.backend == "lancedb"
    database.close()


async def test_keyword_search_is_one_query_of_the_service(service: Service, tmp_path: Path) -> None:
    path = await asyncio.to_thread(_toml, tmp_path, service.host)
    schema = Schema(2, fields={"title": Field(str, text=True), "body": Field(str, text=True)})
    async with aiovec.connect(config=path) as store:
        await store.create_table("notes", schema)
        await store.insert("notes", [{"id": "a", "embedding": [1.0, 2.0], "body": "wool"}])
        hits = await store.search_text("notes", 'wool -"a b"', where="body IS NOT NULL", limit=5)
    assert [hit.id for hit in hits] == ["a"]
    made = {index["column"]: index for index in service.indexes}
    assert set(made) == {"title", "body"}
    assert made["body"]["with_position"]
    assert made["body"]["max_token_length"] is None
    assert not made["body"]["stem"]
    assert not made["body"]["remove_stop_words"]
    (asked,) = [json.loads(r.body) for r in service.requests if r.path.endswith("/query/")]
    # More than the limit: those of equal score are put in order of their ids.
    assert (asked["k"], asked["prefilter"]) == (5 + MORE, True)
    query = asked["full_text_query"]["query"]["boolean"]
    assert [one["match"]["terms"] for one in query["must"][0]["boolean"]["should"]] == ["wool"] * 2
    assert [one["phrase"]["terms"] for one in query["must_not"]] == ["a b"] * 2
