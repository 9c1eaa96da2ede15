"""The REST endpoints: what they take and what they answer."""

from __future__ import annotations

import inspect
import json
from collections.abc import AsyncIterator
from typing import Any

import pyarrow as pa
import pytest
from fastapi import Depends, FastAPI, HTTPException
from tests.server.apps import ROWS, SCHEMA, Client, notes, serving

import aiovec
from aiovec.asgi import lifespan
from aiovec.backend import Destination
from aiovec_server import create_app, router
from aiovec_server.endpoints import ENDPOINTS, records, rows, searches, tables
from aiovec_server.kinds import Keys


@pytest.fixture
async def client() -> AsyncIterator[Client]:
    async with notes() as made:
        yield made


VECTOR = [1.0, 0.0, 0.5]


async def test_the_classic_endpoints_answer_with_the_bodies_of_the_contract(client: Client) -> None:
    assert await client.ok("GET", "/health") == {
        "status": "ok", "backend": "sqlite", "version": aiovec.__version__,
    }  # fmt: skip
    assert await client.ok("GET", "/tables") == {"tables": [{"name": "notes", "rows": 5}]}
    found = await client.ok(
        "POST", "/tables/notes/search",
        json={"vector": VECTOR, "topK": 2, "filter": "year > 2020"},
    )  # fmt: skip
    assert list(found) == ["hits"]
    assert [hit["id"] for hit in found["hits"]] == ["note-1", "note-2"]
    assert list(found["hits"][0]) == ["id", "score", "distance", "fields"]
    assert found["hits"][0]["fields"] == {
        "year": 2021, "at": "2024-01-02T00:00:00Z", "tags": ["a"],
        "body": "walk number1 by the sea", "kind": "x",
    }  # fmt: skip
    assert await client.ok("GET", "/tables/notes/count") == {"count": 5}
    assert await client.ok("DELETE", "/tables/notes/records/note-1") == {"deleted": 1}
    assert await client.ok("DELETE", "/tables/notes/records/note-1") == {"deleted": 0}
    assert await client.ok("GET", "/tables/notes/count?filter=year%20>%202020") == {"count": 3}
    await client.problem("DELETE", "/tables/notes", 400)
    await client.problem("DELETE", "/tables/notes?confirm=other", 400)
    assert await client.ok("DELETE", "/tables/notes?confirm=notes", 204) is None
    assert await client.ok("GET", "/tables") == {"tables": []}


async def test_a_table_without_a_schema_has_the_configured_one(client: Client) -> None:
    made = await client.ok("POST", "/tables", 201, json={"name": "other"})
    assert made["schema"] == aiovec.Schema.context_vectors().to_dict()
    await client.problem("POST", "/tables", 409, json={"name": "other"})
    await client.ok("POST", "/tables", 201, json={"name": "other", "existOk": True})
    wrong = {"name": "other", "schema": {"dim": 2}, "existOk": True}
    found = await client.problem("POST", "/tables", 409, json=wrong)
    assert found["error"] == "SchemaMismatchError"
    assert found["facts"]["differences"]


async def test_records_are_inserted_or_upserted(client: Client) -> None:
    path = "/tables/notes/records"
    new = [{"id": "note-0", "embedding": [0, 1, 0], "new": 1}]
    found = await client.problem("POST", path, 409, json=new)
    assert found["error"] == "DuplicateIdError"
    assert found["facts"]["ids"] == ["note-0"]
    assert await client.ok("POST", f"{path}?on_conflict=skip", json=new) == {"count": 0}
    assert await client.ok("POST", f"{path}?mode=upsert", json=new) == {"count": 1}
    (row,) = (await client.ok("POST", "/tables/notes/get", json={"ids": "note-0"}))["records"]
    assert row == {
        "id": "note-0", "embedding": [0, 1, 0], "year": None, "at": None, "tags": None,
        "body": None, "new": 1,
    }  # fmt: skip
    assert await client.ok("POST", f"{path}?on_conflict=replace", json=ROWS) == {"count": 5}
    found = await client.problem("POST", f"{path}?on_confict=skip", 422, json=new)
    assert "on_conflict" in found["detail"]
    await client.problem("POST", f"{path}?mode=upsert&mode=insert", 422, json=new)
    await client.problem("POST", f"{path}?mode=upsert&on_conflict=skip", 422, json=new)
    await client.problem("POST", f"{path}?mode=Upsert", 422, json=new)
    found = await client.problem(
        "POST", path, 422, json=[{"id": "n", "embedding": [1, 0, 0]}, {"id": "m", "embedding": [1]}]
    )
    assert (found["error"], found["facts"]["row"]) == ("DimensionMismatchError", 1)
    assert await client.ok("GET", "/tables/notes/count") == {"count": 5}


async def test_searches_of_every_kind(client: Client) -> None:
    async def hits(path: str, **body: Any) -> list[Any]:
        found = await client.ok("POST", f"/tables/notes/{path}", json=body)
        return list(found["hits"])

    (hit,) = await hits("search", vector=VECTOR, top_k=1, includeVector=True, select=["year"])
    assert hit == {
        "id": "note-0", "score": hit["score"], "distance": hit["distance"],
        "fields": {"year": 2020}, "vector": VECTOR,
    }  # fmt: skip
    assert hit["score"] == pytest.approx(1)
    (hit,) = await hits("search_text", query="number3", highlight=True)
    assert hit["id"] == "note-3"
    assert hit["distance"] is None
    assert hit["highlights"] == {"body": "walk <mark>number3</mark> by the sea"}
    found = await hits("search_hybrid", query="number3", vector=VECTOR, topK=3)
    assert {"rank", "score"} == set(found[0]["ranks"]["vector"] or found[0]["ranks"]["text"])
    fusion = {"type": "weighted", "vector": 0, "text": 1}
    (hit,) = await hits("search_hybrid", query="number3", vector=VECTOR, topK=1, fusion=fusion)
    assert hit["id"] == "note-3"
    assert [h["id"] for h in await hits("search_like", id="note-0", topK=2)] == ["note-1", "note-2"]
    assert await hits("search", vector=VECTOR, maxDistance=-1) == []
    grouped = await hits("search", vector=VECTOR, groupBy="payload.kind", perGroup=1)
    assert [hit["id"] for hit in grouped] == ["note-0", "note-1"]
    many = await client.ok(
        "POST", "/tables/notes/search_many",
        json={"vectors": [VECTOR, VECTOR], "topK": 1, "filter": ["year = 2022", None]},
    )  # fmt: skip
    assert [[h["id"] for h in r["hits"]] for r in many["results"]] == [["note-2"], ["note-0"]]


@pytest.mark.parametrize(
    ("path", "body", "words"),
    [
        ("search", {}, "'vector' or 'text'"),
        ("search", {"vector": VECTOR, "text": "x"}, "not both"),
        ("search", {"vector": VECTOR, "topk": 2}, "topK"),
        ("search", {"vector": VECTOR, "topK": 0}, "at least 1"),
        ("search", {"vector": VECTOR, "topK": True}, "at least 1"),
        ("search", {"vector": VECTOR, "topK": 1, "top_k": 1}, "twice"),
        ("search", {"vector": VECTOR, "filter": 3}, "text"),
        ("search", {"vector": VECTOR, "filter": "yeer = 1"}, "year"),
        ("search", {"vector": VECTOR, "exact": "no"}, "true or false"),
        ("search", {"vector": VECTOR, "tuning": {"efs": 1}}, "ef"),
        ("search", {"vector": VECTOR, "tuning": {"ef": "x"}}, "tuning.ef"),
        ("search", {"vector": [1, "2", 3]}, "numbers"),
        ("search", {"vector": [1, 2, True]}, "True"),
        ("search", {"vector": [0, 0, 0]}, "zero"),
        ("search", {"vector": {}}, "list of numbers"),
        ("search", {"text": "words"}, "no embedder"),
        ("search_many", {"texts": ["words"]}, "no embedder"),
        ("search_many", {"vectors": [VECTOR, "words"]}, "no embedder"),
        ("search_hybrid", {"query": "words", "text": "words"}, "no embedder"),
        ("search_hybrid", {"query": "words"}, "missing"),
        ("search", [], "object"),
        ("search_many", {"vectors": [VECTOR], "filter": ["TRUE", "TRUE"]}, "filter"),
        ("search_hybrid", {"query": "x", "vector": VECTOR, "fusion": {"type": "x"}}, "rrf"),
        ("search_hybrid", {"query": "x", "vector": VECTOR, "fusion": {"type": "rrf", "n": 1}}, "k"),
        ("search_text", {}, "query"),
        ("get", {"ids": [1.5]}, "ids"),
        ("delete", {}, "'ids' or 'filter'"),
        ("delete", {"ids": ["x"], "filter": "TRUE"}, "not both"),
        ("update", {"set": {"year": 1}}, "ids or where"),
        ("update", {"set": {"a": 1}, "remove": ["a"], "filter": "TRUE"}, "choose one"),
        ("set_vectors", {"ids": ["note-0"], "vectors": []}, "one for each"),
        ("distinct", {"field": "none"}, "year"),
        ("find", {"orderBy": ["tags"]}, "tags"),
        ("find", {"offset": -1}, "at least 0"),
    ],
)
async def test_a_wrong_body_is_refused_in_words(
    client: Client, path: str, body: Any, words: str
) -> None:
    found = await client.problem("POST", f"/tables/notes/{path}", 422, json=body)
    assert words in found["detail"]
    assert await client.ok("GET", "/tables/notes/count") == {"count": 5}


async def test_a_query_parameter_that_an_endpoint_does_not_know_is_refused(client: Client) -> None:
    """It may be a filter, without which the request would mean every row."""

    async def there() -> Any:
        found = await client.ok("POST", "/tables/notes/find", json={"includeVector": True})
        described = await client.ok("GET", "/tables/notes")
        return found, described, await client.ok("GET", "/tables")

    before = await there()
    places = {"table": "notes", "id": "note-1", "field": "year", "index": "embedding_idx"}
    paths = (await client.ok("GET", "/openapi.json"))["paths"]
    assert len(paths) > 25
    for path, methods in paths.items():
        for method, operation in methods.items():
            given = [each for each in operation.get("parameters", ()) if each["in"] == "query"]
            confirm = "year" if "{field}" in path else "notes"
            query = {each["name"]: confirm for each in given if each["required"]}
            contents = operation.get("requestBody", {}).get("content", {})
            body = contents.get("application/json", {}).get("example")
            for name in ("filter", "dry_run"):
                if name in [each["name"] for each in given]:
                    continue
                found = await client.problem(
                    method.upper(), path.format(**places), 422,
                    params={**query, name: "year = 2020"}, json=body,
                )  # fmt: skip
                assert found["facts"]["argument"] == "the query parameters", (method, path)
                assert found["facts"]["value"] == name
                for each in given:
                    assert each["name"] in found["facts"]["expected"]
    assert (await client.head("/tables?x=1")).status_code == 422
    assert await there() == before


async def test_rows_are_read_changed_and_deleted(client: Client) -> None:
    async def call(path: str, **body: Any) -> Any:
        return await client.ok("POST", f"/tables/notes/{path}", json=body)

    found = await call("get", ids=["note-2", "gone", "note-1"], select=["year"])
    assert found == {
        "records": [
            {"id": "note-2", "embedding": pytest.approx([1, 0.2, 0.5]), "year": 2022},
            {"id": "note-1", "embedding": pytest.approx([1, 0.1, 0.5]), "year": 2021},
        ]
    }
    found = await call("find", filter="year < 2024", orderBy="-year", limit=2, select=["year"])
    assert found == {"records": [{"id": "note-3", "year": 2023}, {"id": "note-2", "year": 2022}]}
    assert await call("exists", ids=["note-4", "gone", "note-0", "note-4"]) == {
        "ids": ["note-4", "note-0"]
    }
    assert await call("distinct", field="payload.kind") == {
        "values": [{"value": "y", "count": 3}, {"value": "x", "count": 2}]
    }
    assert await call("bounds", field="at") == {
        "min": "2024-01-01T00:00:00Z", "max": "2024-01-05T00:00:00Z",
    }  # fmt: skip
    assert await call("bounds", field="payload.none") == {"min": None, "max": None}
    changed = await call(
        "update", set={"year": None, "payload.deep.x": 1}, remove=["payload.kind"], ids=["note-0"]
    )
    assert changed == {"updated": 1}
    (row,) = (await call("get", ids="note-0", includeVector=False))["records"]
    assert row["year"] is None
    assert row["deep"] == {"x": 1}
    assert "kind" not in row
    assert await call("set_vectors", ids=["note-0", "gone"], vectors=[[0, 0, 1]] * 2) == {
        "updated": 1
    }
    assert await call("delete", ids=["note-0", ".."]) == {"deleted": 1}
    assert await call("delete", filter="year >= 2023") == {"deleted": 2}
    assert await call("delete", filter="TRUE") == {"deleted": 2}


async def test_a_whole_number_is_an_id_wherever_ids_are_taken(client: Client) -> None:
    async def call(path: str, **body: Any) -> Any:
        return await client.ok("POST", f"/tables/notes/{path}", json=body)

    rows = [{"id": 7, "embedding": VECTOR, "year": 1}, {"id": "-8", "embedding": VECTOR}]
    assert await client.ok("POST", "/tables/notes/records", json=rows) == {"count": 2}
    for ids in (7, [7], ["7"], [7, "7"]):
        assert {row["id"] for row in (await call("get", ids=ids))["records"]} == {"7"}
        assert await call("exists", ids=ids) == {"ids": ["7"]}
        assert await call("update", ids=ids, set={"year": 2}) == {"updated": 1}
    assert await call("exists", ids=["x", -8, 9, 7, "7"]) == {"ids": ["-8", "7"]}
    assert await call("exists", ids=10**30) == {"ids": []}
    assert await call("set_vectors", ids=[7, "-8"], vectors=[[0, 1, 0]] * 2) == {"updated": 2}
    (hit,) = (await call("search_like", id=7, topK=1))["hits"]
    assert hit["id"] == "-8"
    assert await call("delete", ids=[7, 7, -8]) == {"deleted": 2}
    assert await client.ok("GET", "/tables/notes/count") == {"count": 5}


async def test_what_is_no_id_is_refused_as_the_store_does() -> None:
    wrong: Any
    async with aiovec.connect(":memory:") as store, serving(create_app(store=store)) as client:
        await client.ok("POST", "/tables", 201, json={"name": "notes", "schema": SCHEMA})
        for wrong in (True, 1.0, [False], [7, 1.5], [None], [["a"]], {"a": 1}):
            for path, argument, more in (
                ("get", "ids", {}), ("exists", "ids", {}), ("delete", "ids", {}),
                ("update", "ids", {"set": {"year": 1}}),
                ("set_vectors", "ids", {"vectors": [VECTOR] * 2}), ("search_like", "id", {}),
            ):  # fmt: skip
                call = store.search_like if argument == "id" else store.get
                with pytest.raises(aiovec.InvalidArgumentError) as caught:
                    await call("notes", wrong)
                body = {argument: wrong, **more}
                found = await client.problem("POST", f"/tables/notes/{path}", 422, json=body)
                assert found["error"] == "InvalidArgumentError"
                assert found["facts"]["argument"] == caught.value.argument == argument
        for number in (10**30, 10**600):  # of a row that does not exist, as on the store
            found = await client.problem(
                "POST", "/tables/notes/search_like", 422, json={"id": number}
            )
            assert found["facts"]["argument"] == "id"
            assert await store.get("notes", number) == []
            assert await client.ok("POST", "/tables/notes/get", json={"ids": [number]}) == {
                "records": []
            }
        digits = b'{"ids": [' + b"7" * 5_000 + b"]}"
        headers = {"content-type": "application/json"}
        await client.problem("POST", "/tables/notes/get", 400, content=digits, headers=headers)


async def test_tables_and_fields_change(client: Client) -> None:
    there = await client.ok("GET", "/tables/notes")
    assert there == {
        "name": "notes", "rows": 5, "schema": aiovec.Schema.from_json(SCHEMA).to_dict(),
    }  # fmt: skip
    made = await client.ok(
        "POST", "/tables/notes/fields", 201,
        json={"name": "lang", "field": {"type": "text", "index": "bitmap"}},
    )  # fmt: skip
    assert made["schema"]["fields"]["lang"] == {"type": "text", "index": "bitmap"}
    path = "/tables/notes/fields/lang"
    made = await client.ok("POST", f"{path}/rename", json={"name": "tongue"})
    assert "lang" not in made["schema"]["fields"]
    path = "/tables/notes/fields/tongue"
    made = await client.ok("PUT", f"{path}/index", json={"kind": "btree"})
    assert made["schema"]["fields"]["tongue"]["index"] == "btree"
    made = await client.ok("DELETE", f"{path}/index")
    assert made["schema"]["fields"]["tongue"] == "text"
    await client.problem("DELETE", path, 400)
    made = await client.ok("DELETE", f"{path}?confirm=tongue")
    assert "tongue" not in made["schema"]["fields"]
    made = await client.ok("POST", "/tables/notes/rename", json={"name": "memos"})
    assert made["name"] == "memos"
    await client.problem("GET", "/tables/notes", 404)


async def test_upkeep(client: Client) -> None:
    stats = await client.ok("GET", "/tables/notes/stats")
    assert (stats["table"], stats["rows"]) == ("notes", 5)
    await client.ok("POST", "/tables/notes/optimize", 204)
    for path in ("indexes", "versions"):
        found = await client.problem("GET", f"/tables/notes/{path}", 422)
        assert found["error"] == "UnsupportedError"
    assert await client.ok("GET", "/migration") == {
        "state": "none", "run": None, "to": None, "generation": 0,
    }  # fmt: skip


async def test_indexes_and_versions_of_lancedb(tmp_path: Any) -> None:
    async with notes(f"lancedb://{tmp_path}/store") as client:
        rows = [{"id": str(n), "embedding": [1.0, n / 300, 0.5]} for n in range(300)]
        await client.ok("POST", "/tables/notes/records", json=rows)
        made = await client.ok(
            "POST", "/tables/notes/indexes", 201, json={"kind": "ivf_flat", "numPartitions": 2}
        )
        (index,) = (i for i in made["indexes"] if i["column"] == "embedding")
        assert index["rows_indexed"] == 305
        await client.problem("POST", "/tables/notes/indexes", 422, json={"kind": "none"})
        await client.ok("DELETE", f"/tables/notes/indexes/{index['name']}", 204)
        left = (await client.ok("GET", "/tables/notes/indexes"))["indexes"]
        assert {i["column"] for i in left} <= {"body", "tags"}
        versions = (await client.ok("GET", "/tables/notes/versions"))["versions"]
        assert versions
        await client.ok("POST", "/tables/notes/delete", json={"filter": "TRUE"})
        version = {"version": versions[-1]["version"]}
        await client.ok("POST", "/tables/notes/versions/restore", 204, json=version)
        assert (await client.ok("GET", "/tables/notes/count"))["count"] > 0
        found = await client.problem("POST", "/tables/notes/versions/restore", 422, json={})
        assert found["facts"]["argument"] == "version"
        text = json.dumps(await client.ok("GET", "/tables/notes/stats"))
        assert str(tmp_path) not in text


@pytest.mark.parametrize(
    ("accept", "kind"),
    [
        ("application/json", "application/json"),
        ("*/*", "application/json"),
        ("application/*;q=0.5, application/x-ndjson", "application/x-ndjson"),
        ("application/json;q=0.1, application/vnd.apache.arrow.stream", "arrow"),
        ("application/json;q=0, */*", "application/x-ndjson"),
        ("application/jsonl", "application/x-ndjson"),
        ("", "application/json"),
    ],
)
async def test_answers_by_accept(client: Client, accept: str, kind: str) -> None:
    answer = await client.post(
        "/tables/notes/search", json={"vector": VECTOR, "topK": 2}, headers={"accept": accept}
    )
    assert kind in answer.headers["content-type"]
    if kind == "arrow":
        table = pa.ipc.open_stream(answer.content).read_all()
        assert table.column("id").to_pylist() == ["note-0", "note-1"]
        assert table.column("_distance").type == pa.float64()
    elif "ndjson" in kind:
        assert [json.loads(line)["id"] for line in answer.text.splitlines()] == ["note-0", "note-1"]


async def test_answers_of_several_searches_by_accept(client: Client) -> None:
    body: Any = {
        "vectors": [VECTOR, VECTOR[::-1]],
        "topK": 2,
        "filter": ["year = 2021", "year >= 2021"],
    }
    path = "/tables/notes/search_many"
    results = (await client.ok("POST", path, json=body))["results"]
    lines = await client.post(path, json=body, headers={"accept": "application/x-ndjson"})
    assert [json.loads(line) for line in lines.text.splitlines()] == results
    for count in (2, 0):
        body |= {"vectors": body["vectors"][:count], "filter": body["filter"][:count]}
        answer = await client.post(
            path, json=body, headers={"accept": "application/vnd.apache.arrow.stream"}
        )
        rows = pa.ipc.open_stream(answer.content).read_all().to_pylist()
        wanted = [
            (number, hit["id"], hit["score"])
            for number, result in enumerate(results[:count])
            for hit in result["hits"]
        ]
        assert [(row["_query"], row["id"], row["_score"]) for row in rows] == wanted
    await client.problem("POST", path, 406, json=body, headers={"accept": "text/html"})


async def test_an_accept_that_nothing_fits_is_406(client: Client) -> None:
    body = {"vector": VECTOR}
    for accept in ("text/html", "application/json;q=0", "image/*", ";", "*/*;q=x"):
        found = await client.problem(
            "POST", "/tables/notes/search", 406, json=body, headers={"accept": accept}
        )
        assert "application/json" in found["accepted"]
    found = await client.problem(
        "GET", "/tables/notes/records", 406, headers={"accept": "application/json"}
    )
    assert found["accepted"] == ["application/x-ndjson", "application/vnd.apache.arrow.stream"]


@pytest.mark.parametrize(
    "kind", [None, "text/plain", "application/x-www-form-urlencoded", "application/json2", ""]
)
async def test_a_body_of_another_type_is_415(client: Client, kind: str | None) -> None:
    headers = {} if kind is None else {"content-type": kind}
    for path in ("records", "search", "delete"):
        found = await client.problem(
            "POST", f"/tables/notes/{path}", 415, content=b"[]", headers=headers
        )
        assert "application/json" in found["accepted"]
    kinds = {"content-type": "application/json; charset=latin-1"}
    await client.problem("POST", "/tables/notes/search", 415, content=b"{}", headers=kinds)
    kinds = {"content-type": "application/json", "content-encoding": "gzip"}
    await client.problem("POST", "/tables/notes/search", 415, content=b"{}", headers=kinds)


@pytest.mark.parametrize(
    "text",
    [b"", b"{", b"[" * 100_000, b'{"vector": [NaN, 1, 2]}', b'{"vector": [Infinity]}', b"\xff",
     b'{"vector": "\xff"}', b'{"text": "\\ud800"}', b"\xef\xbb\xbf{}", b"{} {}",
     b'{"a": 1' + b"0" * 9999],
)  # fmt: skip
async def test_a_body_that_is_not_json_is_400(client: Client, text: bytes) -> None:
    headers = {"content-type": "application/json"}
    for path in ("search", "records"):
        await client.problem("POST", f"/tables/notes/{path}", 400, content=text, headers=headers)


async def test_ids_of_every_kind_in_a_path(client: Client) -> None:
    ids = [
        "a/b",
        "https://example.com/a?b#c",
        "ä ö",
        "%2F",
        "a%b",
        "'; DROP TABLE t; --",
        "a+b",
    ]
    rows = [{"id": id, "embedding": VECTOR} for id in [*ids, ".", "..", "a", "b"]]
    await client.ok("POST", "/tables/notes/records", json=rows)
    from urllib.parse import quote

    for id in ids:
        path = f"/tables/notes/records/{quote(id, safe='')}"
        assert await client.ok("DELETE", path) == {"deleted": 1}, id
    base = "http://localhost:4002/tables/notes/records/"
    for path in ("a/b", "%2E", "%2e%2E", "", "a/..%2Fb", "%FF", "a%", "%4", "a/", "%C0%AE"):
        await raw(client, "DELETE", base + path, 400)
    left = await client.ok("POST", "/tables/notes/delete", json={"ids": [".", "..", "a", "b"]})
    assert left == {"deleted": 4}
    for path in ("/tables/notes%2Frecords/a", "/tables%2Fnotes/records/a", "/tables/notes/"):
        await raw(client, "DELETE", "http://localhost:4002" + path, 404)
    await raw(client, "DELETE", "http://localhost:4002//tables/notes?confirm=notes", 404)
    await raw(client, "DELETE", "http://localhost:4002/tables/notes/?confirm=notes", 404)
    assert (await client.ok("GET", "/tables/notes/count")) == {"count": 5}


async def raw(client: Client, method: str, url: str, status: int) -> None:
    """A request whose path goes as it is, which httpx would tidy."""
    import httpx

    path = url.removeprefix("http://localhost:4002").encode()
    parts = httpx.URL(scheme="http", host="localhost", port=4002, raw_path=path)
    answer = await client.request(method, parts)
    assert answer.status_code == status, (path, answer.text)


async def test_a_wrong_table_name_is_no_server_error(client: Client) -> None:
    for name, status in (("none", 404), ("NONE", 422), ("a%00b", 422), ("%20", 422)):
        for method, rest in (("GET", ""), ("POST", "/optimize"), ("GET", "/records")):
            answer = await client.request(method, f"/tables/{name}{rest}")
            assert answer.status_code in (status, 404), answer.text


async def test_paths_and_methods_that_do_not_exist(client: Client) -> None:
    await client.problem("GET", "/none", 404)
    await client.problem("GET", "/docs", 404)
    assert "slash" in (await client.problem("GET", "/tables/", 404))["detail"]
    for path, allowed in (
        ("/tables", "GET, HEAD, OPTIONS, POST"),
        ("/tables/notes", "DELETE, GET, HEAD, OPTIONS"),
        ("/tables/notes/records", "GET, HEAD, OPTIONS, POST"),
        ("/tables/notes/search", "OPTIONS, POST"),
        ("/tables/notes/records/a%2Fb", "DELETE, OPTIONS"),
        ("/tables/notes/fields/year/index", "DELETE, OPTIONS, PUT"),
        ("/backend/open", "POST"),
    ):
        answer = await client.request("PATCH", path)
        assert (answer.status_code, answer.headers["allow"]) == (405, allowed)
        assert answer.headers["content-type"] == "application/problem+json"
        assert allowed in answer.json()["detail"]
        answer = await client.request("OPTIONS", path)
        assert (answer.status_code, answer.headers["allow"]) == (204, allowed)


async def test_actions_on_tables_are_answered_without_the_router(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    app = create_app(":memory:")
    async with serving(app) as client:
        await client.ok("POST", "/tables", 201, json={"name": "notes", "schema": SCHEMA})
        monkeypatch.setattr(type(app.router), "__call__", None)
        await client.ok("POST", "/tables/notes/records", json=ROWS)
        found = await client.ok("POST", "/tables/notes/search", json={"vector": VECTOR})
        assert len(found["hits"]) == 5
        await client.problem("POST", "/tables/n%20/search", 422, json={"vector": VECTOR})
        await client.problem("POST", "/backend/search", 426, json={})
    async with serving(app) as client:  # what is no action is left to the router
        monkeypatch.undo()
        for path in ("/tables//search", "/tables/a/b/search", "/tables/notes/search/", "/backend/"):
            await client.problem("POST", path, 404, json={"vector": VECTOR})


async def test_head_is_get_without_the_body(client: Client) -> None:
    for path in ("/health", "/tables", "/tables/notes", "/tables/notes/count",
                 "/tables/notes/stats", "/tables/notes/records", "/openapi.json", "/"):  # fmt: skip
        got, head = await client.get(path), await client.head(path)
        assert (got.status_code, head.status_code) == (200, 200), path
        assert head.headers["content-type"] == got.headers["content-type"]
        assert head.headers.get("content-length") == got.headers.get("content-length")
    metrics = await client.head("/metrics")  # their length is another each time
    assert (metrics.status_code, metrics.headers["content-type"][:10]) == (200, "text/plain")
    assert (await client.head("/tables/none")).status_code == 404
    assert (await client.head("/tables/notes/search")).status_code == 405


async def test_no_answer_is_kept_on_its_way(client: Client) -> None:
    """By a browser or a proxy, for the rows change. The page's own files have rules of theirs."""
    body = {"vector": VECTOR}
    for method, path, status in (
        ("GET", "/tables", 200), ("GET", "/tables/notes", 200),
        ("HEAD", "/tables/notes/stats", 200), ("GET", "/tables/notes/records", 200),
        ("POST", "/tables/notes/search", 200),
        ("DELETE", "/tables/notes/records/none", 200), ("GET", "/health", 200),
        ("GET", "/openapi.json", 200), ("GET", "/metrics", 200), ("GET", "/page/overview", 200),
        ("GET", "/tables/none", 404), ("GET", "/nothing", 404), ("PUT", "/health", 405),
        ("POST", "/backend/open", 426),
    ):  # fmt: skip
        answer = await client.request(method, path, json=body if method == "POST" else None)
        assert answer.status_code == status, (path, answer.text)
        assert answer.headers.get_list("cache-control") == ["no-store"], path
    assert (await client.get("/")).headers.get_list("cache-control") == ["no-cache"]


async def test_reading_by_post(client: Client) -> None:
    """As the verbs beside them, which take a body."""
    for name in ("count", "stats"):
        got = await client.ok("GET", f"/tables/notes/{name}")
        assert await client.ok("POST", f"/tables/notes/{name}") == got
        assert await client.ok("POST", f"/tables/notes/{name}", json={}) == got
        await client.problem("POST", f"/tables/notes/{name}", 422, json={"x": 1})
        await client.problem("POST", f"/tables/notes/{name}", 415, content=b"{}")
    some = {"filter": "id IN (" + ", ".join(f"'note-{n}'" for n in range(2, 9000)) + ")"}
    assert await client.ok("POST", "/tables/notes/count", json=some) == {"count": 3}
    assert len((await client.ok("POST", "/tables/notes/find"))["records"]) == 5
    for method in ("GET", "POST"):
        found = await client.problem(method, "/tables/notes/versions", 422)
        assert found["error"] == "UnsupportedError"


async def test_openapi_describes_every_endpoint(client: Client) -> None:
    found = await client.ok("GET", "/openapi.json")
    described = {
        (method.upper(), path) for path, methods in found["paths"].items() for method in methods
    }
    for endpoint in ENDPOINTS:
        assert (endpoint.method, endpoint.path.replace(":path", "")) in described
        operation = found["paths"][endpoint.path.replace(":path", "")][endpoint.method.lower()]
        assert operation["summary"]
        assert {"400", "422", "503"} <= set(operation["responses"])
        if endpoint.body is not None:
            for media in operation["requestBody"]["content"].values():
                assert media.get("example") or media["schema"].get("format") == "binary"
        for answer in operation["responses"][str(endpoint.status)].get("content", {}).values():
            assert "example" in answer or answer["schema"]["type"] == "string"
    bodies = {
        path: operation["requestBody"]["content"]["application/json"]["schema"]
        for path, methods in found["paths"].items()
        for operation in methods.values()
        if "requestBody" in operation
    }
    an_id = {"type": ["string", "integer"]}
    for name in ("get", "exists", "update", "delete", "set_vectors"):
        ids = bodies[f"/tables/{{table}}/{name}"]["properties"]["ids"]
        assert ids["oneOf"] == [an_id, {"type": "array", "items": an_id}]
    like = bodies["/tables/{table}/search_like"]["properties"]["id"]
    assert like["type"] == an_id["type"]
    assert bodies["/tables/{table}/records"]["items"]["properties"]["id"] == an_id
    assert "http" not in json.dumps(found["paths"]).replace("https://example", "")


async def test_the_router_in_an_app_of_ones_own() -> None:
    def refuse() -> None:
        raise HTTPException(401)

    async with aiovec.connect(":memory:") as store:
        app = FastAPI()
        app.include_router(router(store), prefix="/open")
        app.include_router(router(store), prefix="/shut", dependencies=[Depends(refuse)])
        async with serving(app) as client:
            assert (await client.ok("GET", "/open/health"))["status"] == "ok"
            found = await client.problem("GET", "/open/tables/none/count", 404)
            assert found["error"] == "TableNotFoundError"
            for path in ("health", "tables", "tables/notes/records"):
                assert (await client.get(f"/shut/{path}")).status_code == 401
            await client.problem("GET", "/open/tables?x=1", 422)
            await client.ok("POST", "/open/tables", 201, json={"name": "t", "schema": {"dim": 1}})
            row = [{"id": "a/b", "embedding": [1]}]
            await client.ok("POST", "/open/tables/t/records", json=row)
            assert await client.ok("DELETE", "/open/tables/t/records/a%2Fb") == {"deleted": 1}
    app = FastAPI(lifespan=lifespan(":memory:"))
    app.include_router(router())
    async with serving(app) as client:
        assert await client.ok("GET", "/tables") == {"tables": []}


async def test_a_store_that_is_open_already_stays_open() -> None:
    async with aiovec.connect(":memory:") as store:
        async with serving(create_app(store=store)) as client:
            assert await client.ok("GET", "/tables") == {"tables": []}
        await store.ping()


@pytest.mark.parametrize(
    ("keys", "method", "apart"),
    [
        (searches.SEARCH, "search", {"text"}),
        (searches.MANY, "search_many", {"texts"}),
        (searches.WORDS, "search_text", set()),
        (searches.HYBRID, "search_hybrid", {"text"}),
        (searches.LIKE, "search_like", set()),
        (rows.GET, "get", set()),
        (rows.FIND, "find", set()),
        (rows.EXISTS, "exists", set()),
        (rows.DISTINCT, "distinct", set()),
        (rows.BOUNDS, "bounds", set()),
        (rows.SET_VECTORS, "set_vectors", set()),
        (rows.UPDATE, "update", {"remove"}),
        (records.WRITE, "insert", {"mode"}),
        (records.EXPORT, "export", {"cursors"}),
        (tables.CREATE, "create_table", set()),
    ],
)
def test_every_key_is_an_argument_of_its_method_and_no_argument_is_forgotten(
    keys: Keys, method: str, apart: set[str]
) -> None:
    parameters = inspect.signature(getattr(aiovec.VectorStore, method)).parameters
    arguments = set(parameters)
    given = {key.argument for key in keys.keys}
    assert given - apart <= arguments
    # Code, and what stands in the path or is the body itself.
    assert arguments - given <= {"self", "table", "rerank", "rows"}
    for key in keys.keys:
        default = inspect.signature(getattr(aiovec.VectorStore, method)).parameters.get(
            key.argument
        )
        if default is not None and key.default is not None:
            assert default.default == key.default, key.name


class _Embedder:
    """Makes a vector of a text's letters."""

    model, dim = "letters", 3

    def __call__(self, texts: list[str], *, kind: str) -> list[list[float]]:
        return [[1 + text.count(letter) for letter in "abc"] for text in texts]


async def test_texts_in_the_place_of_vectors() -> None:
    app = create_app(":memory:", embedders={"default": _Embedder()})
    async with serving(app) as client:
        schema = {"dim": 3, "fields": {"body": {"type": "text", "text": True}}}
        schema["embed"] = {"field": "body", "using": "default"}
        made = await client.ok("POST", "/tables", 201, json={"name": "t", "schema": schema})
        assert made["schema"]["model"] == "letters"
        records = [{"id": letter, "body": letter * 9} for letter in "abc"]
        await client.ok("POST", "/tables/t/records", json=records)
        found = await client.ok("POST", "/tables/t/search", json={"text": "bbbb", "topK": 1})
        assert found["hits"][0]["id"] == "b"
        many = await client.ok(
            "POST", "/tables/t/search_many", json={"texts": ["aaa", "ccc"], "topK": 1}
        )
        assert [r["hits"][0]["id"] for r in many["results"]] == ["a", "c"]
        hybrid = {"query": "ccccccccc", "topK": 1}
        found = await client.ok("POST", "/tables/t/search_hybrid", json=hybrid)
        assert found["hits"][0]["id"] == "c"
        other = {"vector": [1, 2, 3], "model": "another"}
        wrong = await client.problem("POST", "/tables/t/search", 409, json=other)
        assert wrong["error"] == "ModelMismatchError"


async def test_a_migration_is_told_without_a_place(tmp_path: Any) -> None:
    path = tmp_path / "notes.db"
    async with notes(str(path)) as client:
        other = aiovec.connect(path)
        async with other as store:
            backend: Any = store._follower.engine.backend
            place = Destination(
                moved_to=f"{tmp_path}/new", backend="lancedb", config=f"{tmp_path}/a.toml",
                target=f"{tmp_path}/new", source=str(path), journal=f"{tmp_path}/journal",
            )  # fmt: skip
            await backend.begin_move("run-1", place)
            found = await client.ok("GET", "/migration")
            assert found == {"state": "open", "run": "run-1", "to": "lancedb", "generation": 0}
            refused = await client.problem(
                "POST", "/tables", 409, json={"name": "new", "schema": {"dim": 1}}
            )
            assert refused["error"] == "MigrationError"
            await backend.end_move("run-1")
        assert (await client.ok("GET", "/migration"))["state"] == "none"
