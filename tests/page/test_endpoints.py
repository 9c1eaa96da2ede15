"""The page's files as they are sent, and the endpoints under ``/page``."""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import AsyncIterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

import aiovec
from aiovec.backend import ServerSettings
from aiovec_server import create_app
from aiovec_server.page import maps

STATIC = files("aiovec_server.page").joinpath("static")
NAMES = sorted(entry.name for entry in STATIC.iterdir())
DIM = 8


@pytest.fixture
async def client(store: aiovec.VectorStore) -> AsyncIterator[httpx.AsyncClient]:
    app = create_app(store=store, settings=ServerSettings(allow_writes=True))
    transport = httpx.ASGITransport(app=app, raise_app_exceptions=True)
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:4002") as made:
        yield made


async def fill(store: aiovec.VectorStore, rows: int, table: str = "notes") -> None:
    fields = {"kind": str, "body": aiovec.Field(str, text=True), "year": int, "tags": list[str]}
    await store.create_table(table, aiovec.Schema(DIM, fields=fields))
    vectors = np.random.default_rng(3).normal(size=(rows, DIM)).astype(np.float32)
    await store.insert(
        table,
        [
            {
                "id": f"n{n:05d}",
                "embedding": vectors[n],
                "kind": f"k{n % 10}" if n % 11 else None,
                "body": f"note {n}",
                "year": 2000 + n % 30,
                "tags": ["a", "b"][: n % 3],
            }
            for n in range(rows)
        ],
    )


def address_of(name: str) -> str:
    return "/" if name == "index.html" else f"/assets/{name}"


class TestFiles:
    @pytest.mark.parametrize("name", NAMES)
    async def test_each_file(self, client: httpx.AsyncClient, name: str) -> None:
        answer = await client.get(address_of(name), headers={"accept-encoding": "identity"})
        assert answer.status_code == 200
        assert answer.content == STATIC.joinpath(name).read_bytes()
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["referrer-policy"] == "no-referrer"
        assert answer.headers["cache-control"] == "no-cache"
        policy = dict(
            part.strip().split(" ", 1)
            for part in answer.headers["content-security-policy"].split(";")
        )
        assert policy == {
            "default-src": "'none'",
            "script-src": "'self'",
            "style-src": "'self'",
            "connect-src": "'self'",
            "img-src": "'self' data:",
            "base-uri": "'none'",
            "form-action": "'none'",
            "frame-ancestors": "'none'",
            "require-trusted-types-for": "'script'",
            "trusted-types": "'none'",
        }

    async def test_a_browser_that_has_a_file_gets_no_bytes(self, client: httpx.AsyncClient) -> None:
        first = await client.get("/assets/main.js")
        tags = f'"other", {first.headers["etag"]}'
        again = await client.get("/assets/main.js", headers={"if-none-match": tags})
        assert again.status_code == 304
        assert again.content == b""
        assert again.headers["etag"] == first.headers["etag"]
        other = await client.get("/assets/main.js", headers={"if-none-match": '"other"'})
        assert other.status_code == 200

    async def test_compressed_where_the_client_takes_it(self, client: httpx.AsyncClient) -> None:
        async with client.stream(
            "GET", "/assets/style.css", headers={"accept-encoding": "gzip"}
        ) as answer:
            raw = b"".join([part async for part in answer.aiter_raw()])
        assert answer.headers["content-encoding"] == "gzip"
        assert gzip.decompress(raw) == STATIC.joinpath("style.css").read_bytes()
        refused = await client.get("/assets/style.css", headers={"accept-encoding": "gzip;q=0"})
        assert "content-encoding" not in refused.headers

    @pytest.mark.parametrize(
        "path",
        [
            "/assets/",
            "/assets/nothing.js",
            "/assets/index.html",
            "/assets/../static.py",
            "/assets/..%2fstatic.py",
            "/assets/%2e%2e/__init__.py",
            "/assets/main.js/",
            "/assets//main.js",
        ],
    )
    async def test_no_other_file_can_be_had(self, client: httpx.AsyncClient, path: str) -> None:
        answer = await client.get(path)
        assert answer.status_code in (404, 405)

    async def test_a_head_request(self, client: httpx.AsyncClient) -> None:
        answer = await client.head("/")
        assert answer.status_code == 200
        assert answer.content == b""

    def test_nothing_of_another_host_and_no_markup_of_text(self) -> None:
        forbidden = re.compile(
            r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|createContextualFragment|"
            r"DOMParser|\beval\(|new Function|javascript:"
        )
        for name in NAMES:
            text = STATIC.joinpath(name).read_text("utf-8")
            assert not forbidden.search(text), name
            hosts = set(re.findall(r"(?:https?:)?//[a-z0-9.-]+\.[a-z]{2,}", text))
            assert hosts <= {"http://www.w3.org"}, name  # the name of SVG, which nobody fetches
        page = STATIC.joinpath("index.html").read_text("utf-8")
        assert not re.search(r"<script(?![^>]* src=)", page)
        assert " style=" not in page
        assert "<style" not in page


class TestOverview:
    async def test_an_empty_store(self, client: httpx.AsyncClient) -> None:
        answer = (await client.get("/page/overview")).json()
        assert answer == {"backend": "sqlite", "writes": True, "tables": [], "total": 0}

    async def test_tables(self, client: httpx.AsyncClient, store: aiovec.VectorStore) -> None:
        await fill(store, 30)
        answer = await client.get("/page/overview")
        assert answer.headers["cache-control"] == "no-store"
        (table,) = answer.json()["tables"]
        assert table["name"] == "notes"
        assert table["rows"] == 30
        assert table["bytes"] > 0
        assert table["recall"] is None
        assert table["label"] == "body"
        assert table["can"] == {"words": True, "meaning": False, "optimize": True}
        assert table["schema"]["dim"] == DIM
        assert (await client.get("/page/tables/notes")).json() == table

    async def test_many_tables_come_in_parts(
        self, client: httpx.AsyncClient, store: aiovec.VectorStore
    ) -> None:
        for n in range(30):
            await store.create_table(f"t{n:02d}", aiovec.Schema(2))
        first = (await client.get("/page/overview")).json()
        rest = (await client.get("/page/overview?offset=25")).json()
        names = [table["name"] for table in first["tables"] + rest["tables"]]
        assert names == [f"t{n:02d}" for n in range(30)]
        assert first["total"] == rest["total"] == 30

    @pytest.mark.parametrize("text", ["-1", "x", "1.5", "٣", "99999999999999999999", ""])
    async def test_a_wrong_number(self, client: httpx.AsyncClient, text: str) -> None:
        answer = await client.get("/page/overview", params={"offset": text})
        assert answer.status_code == 422
        assert "offset must be a whole number" in answer.json()["detail"]

    async def test_nothing_of_the_machine_is_told(
        self, client: httpx.AsyncClient, store: aiovec.VectorStore
    ) -> None:
        await fill(store, 3)
        for path in ("about", "overview", "tables/notes", "figures", "tables/gone"):
            text = (await client.get(f"/page/{path}")).text
            assert "store.db" not in text
            assert "/tmp" not in text

    async def test_a_damaged_table_does_not_hide_the_others(
        self,
        client: httpx.AsyncClient,
        store: aiovec.VectorStore,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        await fill(store, 3)
        await store.create_table("broken", aiovec.Schema(2))
        stats = type(store).stats

        async def failing(self: aiovec.VectorStore, table: str) -> aiovec.TableStats:
            if table == "broken":
                raise aiovec.CorruptStoreError(store.target, "it is damaged")
            return await stats(self, table)

        monkeypatch.setattr(aiovec.VectorStore, "stats", failing)
        broken, notes = (await client.get("/page/overview")).json()["tables"]
        assert "damaged" in broken["detail"]
        assert "store.db" not in broken["detail"]
        assert notes["rows"] == 3

    async def test_an_unknown_table(self, client: httpx.AsyncClient) -> None:
        for path in ("/page/tables/gone", "/page/tables/gone/map"):
            answer = await client.get(path)
            assert answer.status_code == 404
            assert "gone" in answer.json()["detail"]

    async def test_a_store_that_is_read_only(self, store: aiovec.VectorStore) -> None:
        await fill(store, 3)
        async with aiovec.connect(store.target, read_only=True) as reader:
            app = create_app(store=reader, settings=ServerSettings(allow_writes=True))
            transport = httpx.ASGITransport(app=app)
            base = "http://127.0.0.1:4002"
            async with httpx.AsyncClient(transport=transport, base_url=base) as client:
                assert (await client.get("/page/about")).json()["writes"] is False
                table = (await client.get("/page/tables/notes")).json()
                assert table["can"]["optimize"] is False

    async def test_writes_are_not_offered_by_default(self, store: aiovec.VectorStore) -> None:
        transport = httpx.ASGITransport(app=create_app(store=store))
        base = "http://127.0.0.1:4002"
        async with httpx.AsyncClient(transport=transport, base_url=base) as client:
            assert (await client.get("/page/about")).json()["writes"] is False


class TestMap:
    async def get(self, client: httpx.AsyncClient, **query: Any) -> Any:
        answer = await client.get("/page/tables/notes/map", params=query)
        assert answer.status_code == 200, answer.text
        return json.loads(answer.content)

    async def test_all_rows(self, client: httpx.AsyncClient, store: aiovec.VectorStore) -> None:
        await fill(store, 40)
        made = await self.get(client, color="kind")
        assert made["rows"] == made["total"] == 40
        assert sorted(made["ids"]) == [f"n{n:05d}" for n in range(40)]
        assert len(made["x"]) == len(made["y"]) == len(made["labels"]) == len(made["members"]) == 40
        assert sum(group["rows"] for group in made["groups"]) == 40
        assert made["groups"][-1]["name"] is None  # more values than colours
        assert made["labels"][0] == "note 0"
        assert made == await self.get(client, color="kind") | {"seconds": made["seconds"]}

    async def test_a_sample_is_spread_over_the_table(
        self, client: httpx.AsyncClient, store: aiovec.VectorStore
    ) -> None:
        await fill(store, 3_000)
        made = await self.get(client, rows=160)
        assert made["rows"] == 160
        assert made["total"] == 3_000
        numbers = [int(id[1:]) for id in made["ids"]]
        assert len(set(numbers)) == 160
        assert min(numbers) < 300
        assert max(numbers) > 2_700

    async def test_a_sample_of_rows_that_come_in_turn(
        self, client: httpx.AsyncClient, store: aiovec.VectorStore
    ) -> None:
        await fill(store, 3_000)
        made = await self.get(client, rows=150)
        assert {int(id[1:]) % 20 for id in made["ids"]} == set(range(20))

    async def test_a_sample_of_the_first_rows_of_a_very_large_table(
        self,
        client: httpx.AsyncClient,
        store: aiovec.VectorStore,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setattr(maps, "WALKED", 1_000)
        await fill(store, 2_500)
        made = await self.get(client, rows=100)
        assert (made["rows"], made["of"], made["total"]) == (100, 1_000, 2_500)
        assert max(int(id[1:]) for id in made["ids"]) < 1_000

    @pytest.mark.parametrize("size", [1, 2, 7, 2_000])
    async def test_samples_of_any_size(
        self, client: httpx.AsyncClient, store: aiovec.VectorStore, size: int
    ) -> None:
        await fill(store, 2_003)
        made = await self.get(client, rows=size)
        assert len(set(made["ids"])) == made["rows"] == size

    async def test_an_empty_table(
        self, client: httpx.AsyncClient, store: aiovec.VectorStore
    ) -> None:
        await fill(store, 0)
        made = await self.get(client, color="tags")
        assert (made["rows"], made["ids"], made["groups"]) == (0, [], [])

    async def test_lists_and_nulls_as_groups(
        self, client: httpx.AsyncClient, store: aiovec.VectorStore
    ) -> None:
        await fill(store, 12)
        made = await self.get(client, color="tags")
        assert {group["name"] for group in made["groups"]} == {"(empty)", "a", "a, b"}
        made = await self.get(client, color="kind")
        assert "(null)" in {group["name"] for group in made["groups"]}

    async def test_rows_without_a_vector(
        self, client: httpx.AsyncClient, store: aiovec.VectorStore
    ) -> None:
        await store.create_table("notes", aiovec.Schema(2, vector_nullable=True))
        await store.insert("notes", [{"id": "a"}, {"id": "b", "embedding": [1, 0]}])
        made = await self.get(client)
        assert (made["ids"], made["without"], made["x"]) == (["b"], 1, [0.0])

    @pytest.mark.parametrize(
        "query", [{"rows": 0}, {"rows": 2001}, {"rows": "many"}, {"color": "nothing"}]
    )
    async def test_wrong_arguments(
        self, client: httpx.AsyncClient, store: aiovec.VectorStore, query: dict[str, str]
    ) -> None:
        await fill(store, 3)
        answer = await client.get("/page/tables/notes/map", params=query)
        assert answer.status_code == 422
        assert next(iter(query)) in answer.json()["detail"]

    async def test_no_field_called_so_may_be_a_key_of_the_payload(
        self, client: httpx.AsyncClient, store: aiovec.VectorStore
    ) -> None:
        await store.create_table("notes", aiovec.Schema(2))
        await store.insert("notes", [{"id": "a", "embedding": [1, 0], "odd": "x" * 100_000}])
        made = await self.get(client)
        assert made["labels"] == [None]


class TestIndexes:
    async def test_recall_is_that_of_the_index_over_the_vectors(self, tmp_path: Path) -> None:
        pytest.importorskip("lancedb")
        async with aiovec.connect(f"lancedb://{tmp_path / 'lance'}") as store:
            await fill(store, 512)
            transport = httpx.ASGITransport(app=create_app(store=store))
            base = "http://127.0.0.1:4002"
            async with httpx.AsyncClient(transport=transport, base_url=base) as client:
                before = (await client.get("/page/tables/notes")).json()
                assert (before["recall"], before["approximate"]) == (None, False)
                assert "body" in [index["column"] for index in before["indexes"]]
                await store.create_index("notes", "ivf_flat", num_partitions=2)
                (table,) = (await client.get("/page/overview")).json()["tables"]
                assert table["approximate"] is True
                assert 0.5 < table["recall"] <= 1
                made = (await client.get("/page/tables/notes/map?rows=100")).json()
                assert made["rows"] == 100


class TestFigures:
    async def test_requests_are_counted_but_those_of_the_page(
        self, client: httpx.AsyncClient, store: aiovec.VectorStore
    ) -> None:
        await fill(store, 3)
        await client.get("/")
        await client.get("/page/overview")
        figures = (await client.get("/page/figures")).json()
        assert sum(figures["all"]["count"]) == 0
        assert figures["running"] == 0
        assert set(figures["kinds"]) == {"search", "read", "write"}
