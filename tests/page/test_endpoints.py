"""The page's files, and the endpoints under ``/page``."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from tests.server.apps import Wrapped, client_of

import aiovec

DIM = 8


@pytest.fixture
async def client(store: aiovec.VectorStore) -> AsyncIterator[httpx.AsyncClient]:
    async with client_of(store, page_writes=True) as made:
        yield made


async def fill(store: aiovec.VectorStore, rows: int) -> None:
    fields: dict[str, Any] = {"kind": str, "body": aiovec.Field(str, text=True), "tags": list[str]}
    await store.create_table("notes", aiovec.Schema(DIM, fields=fields))
    vectors = np.random.default_rng(3).normal(size=(rows, DIM)).astype(np.float32)
    made = [
        {
            "id": f"n{n:05d}",
            "embedding": vectors[n],
            "kind": f"k{n % 10}" if n % 11 else None,
            "body": f"note {n}",
            "tags": ["a", "b"][: n % 3],
        }
        for n in range(rows)
    ]
    await store.insert("notes", made)


async def files(client: httpx.AsyncClient) -> dict[str, httpx.Response]:
    """Return the page and each file that it names, directly or not."""
    responses: dict[str, httpx.Response] = {}
    waiting = ["/"]
    while waiting:
        path = waiting.pop()
        responses[path] = answer = await client.get(path)
        assert answer.status_code == 200, path
        names = re.findall(r"""["'](?:/?assets|\.)/([\w.-]+)["']""", answer.text)
        waiting += [
            asset for asset in {f"/assets/{name}" for name in names} if asset not in responses
        ]
    return responses


async def test_the_files_of_the_page_load_nothing_from_elsewhere(client: httpx.AsyncClient) -> None:
    forbidden = re.compile(
        r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|createContextualFragment|"
        r"DOMParser|\beval\(|new Function|javascript:"
    )
    responses = await files(client)
    assert len(responses) > 5
    for path, answer in responses.items():
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["referrer-policy"] == "no-referrer"
        assert answer.headers["cache-control"] == "no-cache"
        policy = {part.strip() for part in answer.headers["content-security-policy"].split(";")}
        assert policy == {
            "default-src 'none'", "script-src 'self'", "style-src 'self'", "connect-src 'self'",
            "img-src 'self' data:", "base-uri 'none'", "form-action 'none'",
            "frame-ancestors 'none'", "require-trusted-types-for 'script'", "trusted-types 'none'",
        }  # fmt: skip
        assert not forbidden.search(answer.text), path
        hosts = set(re.findall(r"(?:https?:)?//[a-z0-9.-]+\.[a-z]{2,}", answer.text))
        assert hosts <= {"http://www.w3.org"}, path  # the name of SVG, which nobody fetches
    page = responses["/"].text
    assert not re.search(r"<script(?![^>]* src=)|<style| style=", page)


async def test_an_unchanged_file_gets_304_and_an_unknown_one_404(client: httpx.AsyncClient) -> None:
    first = await client.get("/assets/main.js")
    again = await client.get("/assets/main.js", headers={"if-none-match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    for path in ("/assets/", "/assets/nothing.js", "/assets/..%2fmaps.py"):
        assert (await client.get(path)).status_code in (404, 405), path


async def test_the_overview_describes_each_table(
    client: httpx.AsyncClient, store: aiovec.VectorStore
) -> None:
    answer = (await client.get("/page/overview")).json()
    assert answer == {
        "version": aiovec.__version__,
        "backend": "sqlite",
        "writes": True,
        "tables": [],
        "total": 0,
    }
    await fill(store, 30)
    (table,) = (await client.get("/page/overview")).json()["tables"]
    assert (table["name"], table["rows"], table["label"]) == ("notes", 30, "body")
    assert table["bytes"] > 0
    assert table["can"] == {"words": True, "meaning": False, "optimize": True}
    assert table["schema"]["dim"] == DIM
    assert (await client.get("/page/tables/notes")).json() == table
    for n in range(29):
        await store.create_table(f"t{n:02d}", aiovec.Schema(2))
    parts = [(await client.get(f"/page/overview?offset={n}")).json() for n in (0, 25)]
    names = [table["name"] for part in parts for table in part["tables"]]
    assert names == ["notes", *(f"t{n:02d}" for n in range(29))]
    assert {part["total"] for part in parts} == {30}
    for text in ("-1", "x", "1.5", "99999999999999999999", ""):
        answer = await client.get("/page/overview", params={"offset": text})
        assert answer.status_code == 422
    for path in ("about", "overview", "tables/notes", "tables/gone"):
        text = (await client.get(f"/page/{path}")).text
        assert "store.db" not in text
        assert "/tmp" not in text
    for path in ("/page/tables/gone", "/page/tables/gone/map"):
        assert (await client.get(path)).status_code == 404


async def test_a_damaged_table_does_not_hide_the_others(store: aiovec.VectorStore) -> None:
    await fill(store, 3)
    await store.create_table("broken", aiovec.Schema(2))

    async def stats(table: str) -> aiovec.TableStats:
        if table == "broken":
            raise aiovec.CorruptStoreError(store.target, "it is damaged")
        return await store.stats(table)

    async with client_of(Wrapped(store, stats=stats)) as client:
        broken, notes = (await client.get("/page/overview")).json()["tables"]
    assert "damaged" in broken["detail"]
    assert "store.db" not in broken["detail"]
    assert notes["rows"] == 3


async def test_writes_are_offered_only_where_they_are_allowed(store: aiovec.VectorStore) -> None:
    await fill(store, 3)
    async with client_of(store, page_writes=False) as client:
        assert (await client.get("/page/about")).json()["writes"] is False
    async with (
        aiovec.connect(store.target, read_only=True) as reader,
        client_of(reader, page_writes=True) as client,
    ):
        assert (await client.get("/page/about")).json()["writes"] is False
        assert (await client.get("/page/tables/notes")).json()["can"]["optimize"] is False


async def get_map(client: httpx.AsyncClient, **query: Any) -> Any:
    answer = await client.get("/page/tables/notes/map", params=query)
    assert answer.status_code == 200, answer.text
    return json.loads(answer.content)


async def test_the_map_shows_a_sample_of_the_rows_in_groups(
    client: httpx.AsyncClient, store: aiovec.VectorStore
) -> None:
    await fill(store, 0)
    made = await get_map(client, color="tags")
    assert (made["rows"], made["ids"], made["groups"]) == (0, [], [])
    await store.drop_table("notes")
    await fill(store, 1_500)
    made = await get_map(client, rows=150)
    assert (made["rows"], made["total"]) == (150, 1_500)
    assert made["color"] == "tags"  # the first field of a few values
    assert (await get_map(client, rows=150, color="-"))["color"] is None
    numbers = {int(id[1:]) for id in made["ids"]}  # the sample is spread over the table
    assert len(numbers) == 150
    assert min(numbers) < 150
    assert max(numbers) > 1_350
    assert {number % 20 for number in numbers} == set(range(20))
    made = await get_map(client, rows=2_000, color="kind")
    assert made["rows"] == len(made["x"]) == len(made["y"]) == len(made["members"]) == 1_500
    assert sum(group["rows"] for group in made["groups"]) == 1_500
    assert "(null)" in {group["name"] for group in made["groups"]}
    assert made["labels"][0] == "note 0"
    assert made == await get_map(client, rows=2_000, color="kind") | {"seconds": made["seconds"]}
    groups = (await get_map(client, color="tags"))["groups"]
    assert {group["name"] for group in groups} == {"(empty)", "a", "a, b"}
    for query in ({"rows": 0}, {"rows": 2001}, {"rows": "many"}, {"color": "nothing"}):
        answer = await client.get("/page/tables/notes/map", params=query)
        assert answer.status_code == 422
        assert next(iter(query)) in answer.json()["detail"]


async def test_the_map_counts_rows_without_a_vector(
    client: httpx.AsyncClient, store: aiovec.VectorStore
) -> None:
    await store.create_table("notes", aiovec.Schema(2, vector_nullable=True))
    await store.insert("notes", [{"id": "a"}, {"id": "b", "embedding": [1, 0], "odd": "x" * 9999}])
    made = await get_map(client)
    assert (made["ids"], made["without"], made["labels"]) == (["b"], 1, [None])


async def test_the_recall_of_an_index_is_shown(tmp_path: Path) -> None:
    async with aiovec.connect(f"lancedb://{tmp_path / 'lance'}") as store:
        await fill(store, 512)
        async with client_of(store) as client:
            assert (await client.get("/page/tables/notes")).json()["approximate"] is False
            await store.create_index("notes", kind="ivf_flat", num_partitions=4)
            table = (await client.get("/page/tables/notes")).json()
            assert table["approximate"] is True
            assert 0 < table["recall"] <= 1
