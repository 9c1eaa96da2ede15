"""The REST endpoints: their arguments, responses and errors."""

from __future__ import annotations

import asyncio
import inspect
import json
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pyarrow as pa
import pytest
from fastapi import FastAPI
from pydantic.alias_generators import to_camel
from tests.server.apps import ARROW, JSON, ROWS, SCHEMA, VECTOR, Client, Wrapped, notes, serving
from tests.server.document import FILE, document

import aiovec
from aiovec.asgi import lifespan
from aiovec_server import create_app, router


@pytest.fixture
async def client() -> AsyncIterator[Client]:
    async with notes() as made:
        yield made


# Method, path below /tables, body, status, response; None stands for any response.
Step = tuple[str, str, Any, int, Any]
WIDE = aiovec.Schema.context_vectors().to_dict()
NEW = [{"id": "note-0", "embedding": [0, 1, 0], "new": 1}]

CLASSIC: list[Step] = [
    ("GET", "", None, 200, {"tables": [{"name": "notes", "rows": 5}]}),
    ("GET", "/notes/count", None, 200, {"count": 5}),
    ("DELETE", "/notes/records/note-1", None, 200, {"deleted": 1}),
    ("DELETE", "/notes/records/note-1", None, 200, {"deleted": 0}),
    ("GET", "/notes/count?where=year%20>%202020", None, 200, {"count": 3}),
    ("POST", "/notes/count", {"where": "year > 2020"}, 200, {"count": 3}),
    ("POST", "", {"name": "other"}, 201, {"name": "other", "rows": 0, "schema": WIDE}),
    ("POST", "", {"name": "other"}, 409, None),
    ("POST", "", {"name": "other", "existOk": True}, 201, None),
    ("POST", "", {"name": "other", "schema": {"dim": 2}, "existOk": True}, 409, None),
    ("DELETE", "/notes", None, 400, None),
    ("DELETE", "/notes?confirm=other", None, 400, None),
    ("DELETE", "/notes?confirm=notes", None, 204, None),
    ("GET", "", None, 200, {"tables": [{"name": "other", "rows": 0}]}),
]
WRITES: list[Step] = [
    ("POST", "/notes/records", NEW, 409, None),
    ("POST", "/notes/records?onConflict=skip", NEW, 200, {"count": 0}),
    ("POST", "/notes/records?mode=upsert", NEW, 200, {"count": 1}),
    ("POST", "/notes/get", {"ids": "note-0"}, 200, {"records": [
        dict.fromkeys(("year", "at", "tags", "body")) | NEW[0]]}),
    ("POST", "/notes/records?onConflict=replace", ROWS, 200, {"count": 5}),
    ("POST", "/notes/records?onConfict=skip", NEW, 422, None),
    ("POST", "/notes/records?mode=upsert&mode=insert", NEW, 422, None),
    ("POST", "/notes/records?mode=upsert&onConflict=skip", NEW, 422, None),
    ("POST", "/notes/update", {"set": {"year": None, "payload.deep.x": 1},
                               "remove": ["payload.kind"], "ids": ["note-0"]}, 200, {"updated": 1}),
    ("POST", "/notes/get", {"ids": "note-0", "includeVector": False}, 200, {"records": [
        {name: ROWS[0][name] for name in ("id", "at", "tags", "body")}
        | {"year": None, "deep": {"x": 1}}]}),
    ("POST", "/notes/set_vectors", {"ids": ["note-0", "gone"], "vectors": [[0, 0, 1]] * 2}, 200,
     {"updated": 1}),
    ("DELETE", "/notes/records", {"ids": ["note-0", ".."]}, 200, {"deleted": 1}),
    ("DELETE", "/notes/records", {"where": "year >= 2023"}, 200, {"deleted": 2}),
    ("DELETE", "/notes/records", {"where": "TRUE"}, 200, {"deleted": 2}),
]  # fmt: skip
TABLES: list[Step] = [
    ("GET", "/notes", None, 200,
     {"name": "notes", "rows": 5, "schema": aiovec.Schema.from_json(SCHEMA).to_dict()}),
    ("POST", "/notes/fields", {"name": "lang", "field": "text"}, 201, None),
    ("POST", "/notes/fields/lang/rename", {"name": "tongue"}, 200, None),
    ("PUT", "/notes/fields/tongue/index", {"kind": "btree"}, 200, None),
    ("DELETE", "/notes/fields/tongue/index", None, 200, None),
    ("DELETE", "/notes/fields/tongue", None, 400, None),
    ("DELETE", "/notes/fields/tongue?confirm=tongue", None, 200,
     {"name": "notes", "rows": 5, "schema": aiovec.Schema.from_json(SCHEMA).to_dict()}),
    ("POST", "/notes/optimize", None, 204, None),
    ("GET", "/notes/indexes", None, 422, None),  # SQLite has none, and no versions
    ("GET", "/notes/versions", None, 422, None),
    ("POST", "/notes/rename", {"name": "memos"}, 200, None),
    ("GET", "/notes", None, 404, None),
    ("GET", "/memos/count", None, 200, {"count": 5}),
]  # fmt: skip


@pytest.mark.parametrize("steps", [CLASSIC, WRITES, TABLES])
async def test_each_endpoint_answers_as_documented(client: Client, steps: list[Step]) -> None:
    for method, path, body, status, answer in steps:
        ask = client.ok if status < 400 else client.problem
        document = await ask(method, f"/tables{path}", status, json=body)
        if answer is not None:
            assert document == answer, (method, path)


async def test_health_and_search_answer_as_older_clients_expect(client: Client) -> None:
    assert await client.ok("GET", "/health") == {
        "status": "ok", "backend": "sqlite", "version": aiovec.__version__,
    }  # fmt: skip
    body = {"vector": VECTOR, "limit": 2, "where": "year > 2020"}
    document = await client.ok("POST", "/tables/notes/search", json=body)
    assert list(document) == ["hits"]
    assert [hit["id"] for hit in document["hits"]] == ["note-1", "note-2"]
    fields = {name: value for name, value in ROWS[1].items() if name not in ("id", "embedding")}
    flat = document["hits"][0]
    assert list(flat)[:3] == ["id", "_score", "_distance"]
    assert flat == {**fields, **{name: flat[name] for name in ("id", "_score", "_distance")}}
    # Older clients use these arguments and read a hit's fields from ``fields``.
    older = {"vector": VECTOR, "topK": 2, "filter": "year > 2020"}
    hit = (await client.ok("POST", "/tables/notes/search", json=older))["hits"][0]
    measures = {"score": flat["_score"], "distance": flat["_distance"]}
    assert hit == {**flat, **measures, "fields": fields}
    assert await client.ok("GET", "/tables/notes/count?filter=year%20>%202020") == {"count": 4}
    for names in ({"limit": 1, "topK": 2}, {"where": "TRUE", "filter": "TRUE"}):
        await client.problem("POST", "/tables/notes/search", 422, json={"vector": VECTOR} | names)


async def test_a_tuning_has_the_values_that_the_backend_takes() -> None:
    async with notes() as client:
        path, body = "/tables/notes/search", {"vector": VECTOR, "limit": 1}
        for tuning in ({}, {"oversample": 2}, {"dims": 3}):
            answer = await client.ok("POST", path, json=body | {"tuning": tuning})
            assert len(answer["hits"]) == 1
        for tuning in ({"ef": 50}, {"others": {"beam": 3}}):
            problem = await client.problem("POST", path, 422, json=body | {"tuning": tuning})
            assert "its searches take dims, oversample" in problem["detail"]


async def test_listed_tables_are_counted_concurrently() -> None:
    async with aiovec.connect(":memory:") as store:
        names = [f"t{number}" for number in range(12)]
        for name in names:
            await store.create_table(name, aiovec.Schema(dim=2))
        running, most = 0, 0
        pair = asyncio.Event()
        failure: BaseException = aiovec.TableNotFoundError("t3")

        async def count(name: str) -> int:
            nonlocal running, most
            running += 1
            most = max(most, running)
            if running > 1:
                pair.set()
            try:
                async with asyncio.timeout(30):  # if counted one by one, the second never comes
                    await pair.wait()
                if name == "t3":
                    raise failure
                return await store.count(name)
            finally:
                running -= 1

        app = create_app(store=Wrapped(store, count=count))  # type: ignore[arg-type]
        async with serving(app) as client:
            left = [{"name": name, "rows": 0} for name in sorted(names) if name != "t3"]
            assert await client.ok("GET", "/tables") == {"tables": left}
            assert 1 < most < len(names)
            listed = await client.ok("GET", "/tables?rows=false")
            assert listed == {"tables": [{"name": name, "rows": None} for name in sorted(names)]}
            failure = aiovec.StoreBusyError("another process writes", 1.5)
            await client.problem("GET", "/tables", 503)
            assert running == 0


# Bodies that the OpenAPI document allows, or whose error names a fix; test_openapi sends others.
WRONG: list[tuple[str, Any, str]] = [
    ("search", {}, "'vector' or 'text'"), ("search", {"vector": VECTOR, "text": "x"}, "not both"),
    ("search", {"vector": VECTOR, "topk": 2}, "limit"),
    ("search", {"vector": VECTOR, "where": "yeer = 1"}, "year"),
    ("search", {"vector": VECTOR, "tuning": {"efs": 1}}, "ef"),
    ("search", {"vector": VECTOR, "rerank": {"field": "at", "half_life": "7d"}}, "halfLife"),
    ("search", {"vector": VECTOR, "rerank": {"field": "at"}}, "field and halfLife are needed"),
    ("search", {"vector": VECTOR, "rerank": {"type": []}}, "type is decay or factor"),
    ("search", {"vector": VECTOR, "rerank": [{"type": "factor", "field": "year", "weight": 2}]},
     "^weight must be a number from 0 to 1, not 2$"),
    ("search", {"vector": [0, 0, 0]}, "zero"), ("search", {"text": "words"}, "no embedder"),
    ("search_many", {"vectors": [VECTOR], "eachWhere": ["TRUE", "TRUE"]}, "each_where"),
    ("search_hybrid", {"query": "words"}, "missing"),
    ("search_hybrid", {"query": "x", "vector": VECTOR, "fusion": {"type": "x"}}, "rrf"),
    ("search_text", {}, "lacks the key 'query'"), ("search_like", {"ids": "none"}, "ids"),
    ("exists", {"ids": [["a"]]}, "ids"), ("records", {}, "ids or where"),
    ("update", {"set": {"a": 1}, "remove": ["a"], "where": "TRUE"}, "choose one"),
    ("set_vectors", {"ids": ["note-0"], "vectors": []}, "one for each"),
    ("distinct", {"field": "none"}, "year"), ("find", {"orderBy": ["tags"]}, "tags"),
]  # fmt: skip


async def test_a_wrong_body_is_refused_with_the_fix(client: Client) -> None:
    for path, body, words in WRONG:
        method = "DELETE" if path == "records" else "POST"
        document = await client.problem(method, f"/tables/notes/{path}", 422, json=body)
        assert words in f"^{document['detail']}$", (path, body)
    assert await client.ok("GET", "/tables/notes/count") == {"count": 5}


def test_the_openapi_document_is_that_of_the_file() -> None:
    assert document() == json.loads(FILE.read_text("utf-8")), "run python -m tests.server.document"


# Of the store alone.
NOT_OVER_HTTP = {"self", "table", "questions", "strict"}  # strict is of PATCH, for rows
# Keys of bodies beside the arguments.
MORE = {
    "search": {"text"}, "search_many": {"texts"}, "search_hybrid": {"text"},
    "update": {"remove"}, "export": {"cursors"},
}  # fmt: skip
RENAMED = {"fields": "set"}


def test_each_body_has_the_arguments_of_the_stores_method() -> None:
    """With the same defaults: a new argument of the store is one over HTTP."""
    made = document()
    bodies = made["components"]["schemas"]
    compared = 0
    for path, methods in made["paths"].items():
        name = path.rpartition("/")[2]
        method = getattr(aiovec.VectorStore, name, None)
        if method is None or path != f"/tables/{{table}}/{name}" or name == "indexes":
            continue
        if "requestBody" not in methods.get("post", {}):
            continue
        content = methods["post"]["requestBody"]["content"]["application/json"]["schema"]
        body = bodies[content["$ref"].rpartition("/")[2]]
        wanted = {
            to_camel(RENAMED.get(key, key)): each.default
            for key, each in inspect.signature(method).parameters.items()
            if key not in NOT_OVER_HTTP
        }
        given = body["properties"]
        assert given.keys() == wanted.keys() | MORE.get(name, set()), name
        for key in given.keys() & wanted.keys():
            if (default := given[key].get("default")) is not None:
                assert default == wanted[key], (name, key)
        compared += 1
    assert compared > 12


async def test_an_unknown_query_parameter_is_refused(client: Client) -> None:
    """It may be a misspelt filter, without which the request would cover every row."""
    places = {
        "table": "notes", "id": "note-1", "field": "year", "index": "embedding_idx", "key": "k",
    }  # fmt: skip
    paths = (await client.ok("GET", "/openapi.json"))["paths"]
    assert len(paths) > 25
    for path, methods in paths.items():
        for method, operation in methods.items():
            given = [each for each in operation.get("parameters", ()) if each["in"] == "query"]
            confirm = "year" if "{field}" in path else "notes"
            query = {each["name"]: confirm for each in given if each["required"]}
            if "where" in [each["name"] for each in given]:
                continue
            contents = operation.get("requestBody", {}).get("content", {})
            body = contents.get("application/json", {}).get("example")
            document = await client.problem(
                method.upper(), path.format(**places), 422,
                params={**query, "where": "year = 2020"}, json=body,
            )  # fmt: skip
            assert document["facts"]["value"] == "where", (method, path)
    assert await client.ok("GET", "/tables") == {"tables": [{"name": "notes", "rows": 5}]}


async def test_lancedb_indexes_and_versions_are_served(tmp_path: Path) -> None:
    async with notes(f"lancedb://{tmp_path}/store") as client:
        path = "/tables/notes"
        rows = [{"id": str(n), "embedding": [1.0, n / 300, 0.5]} for n in range(300)]
        await client.ok("POST", f"{path}/records", json=rows)
        index = {"kind": "ivf_flat", "numPartitions": 2}
        made = (await client.ok("POST", f"{path}/indexes", 201, json=index))["indexes"]
        (index,) = (each for each in made if each["column"] == "embedding")
        assert index["rowsIndexed"] == 305
        await client.problem("POST", f"{path}/indexes", 422, json={"kind": "none"})
        await client.ok("DELETE", f"{path}/indexes/{index['name']}", 204)
        assert "embedding" not in json.dumps(await client.ok("GET", f"{path}/indexes"))
        versions = (await client.ok("GET", f"{path}/versions"))["versions"]
        await client.ok("DELETE", f"{path}/records", json={"where": "TRUE"})
        version = {"version": versions[-1]["version"]}
        await client.ok("POST", f"{path}/versions/revert", 204, json=version)
        assert (await client.ok("GET", f"{path}/count"))["count"] > 0
        await client.problem("POST", f"{path}/versions/revert", 422, json={})
        assert str(tmp_path) not in json.dumps(await client.ok("GET", f"{path}/stats"))


async def test_an_answer_has_the_type_that_the_client_accepts(client: Client) -> None:
    body = {"vector": VECTOR, "limit": 2}
    json_type, arrow = JSON["content-type"], ARROW["content-type"]
    for accept, kind in (
        (json_type, json_type), ("*/*", json_type), ("", json_type),
        (f"{arrow}, {json_type};q=0.9", arrow), ("text/html, */*;q=0.8", json_type),
        ("application/*", json_type),
    ):  # fmt: skip
        answer = await client.post("/tables/notes/search", json=body, headers={"accept": accept})
        assert kind in answer.headers["content-type"], accept
        if kind == arrow:
            table = pa.ipc.open_stream(answer.content).read_all()
            assert table.column("id").to_pylist() == ["note-0", "note-1"]
            assert table.column("_distance").type == pa.float64()
    headers = {"accept": "text/html"}
    document = await client.problem("POST", "/tables/notes/search", 406, json=body, headers=headers)
    assert document["accepted"] == [json_type, arrow]


async def test_a_body_of_another_type_gets_415_and_invalid_json_gets_400(client: Client) -> None:
    for headers in (
        {}, {"content-type": "text/plain"}, {"content-type": "application/json2"},
        {"content-type": "application/x-www-form-urlencoded"},
        {"content-type": "application/json; charset=latin-1"}, {**JSON, "content-encoding": "gzip"},
    ):  # fmt: skip
        for method, path in (("POST", "search"), ("DELETE", "records")):
            document = await client.problem(
                method, f"/tables/notes/{path}", 415, content=b"{}", headers=headers
            )
            assert "application/json" in json.dumps(document), headers
    for text in (
        b" ", b"{", b"[" * 100_000, b'{"vector": [NaN, 1, 2]}', b"\xff", b'{"vector": "\xff"}',
        b'{"text": "\\ud800"}', b"\xef\xbb\xbf{}", b"{} {}", b'{"a": 1' + b"0" * 9999,
    ):  # fmt: skip
        for path in ("search", "records"):
            await client.problem("POST", f"/tables/notes/{path}", 400, content=text, headers=JSON)
    empty = {"content": b"", "headers": {"content-type": "application/json"}}
    assert (await client.ok("POST", "/tables/notes/count", **empty))["count"] > 0


async def test_a_path_takes_every_id_that_is_encoded(client: Client) -> None:
    ids = ["a/b", "https://example.com/a?b#c", "ä ö", "%2F", "a%b", "'; DROP TABLE t; --", "a+b"]
    rows = [{"id": id, "embedding": VECTOR} for id in [*ids, ".", "..", "a", "b"]]
    await client.ok("POST", "/tables/notes/records", json=rows)
    for id in ids:
        path = f"/tables/notes/records/{quote(id, safe='')}"
        assert (await client.raw("DELETE", path)).json() == {"deleted": 1}, id
    for path in ("a/b", "%2E", "%2e%2E", "", "a/..%2Fb", "%FF", "a%", "%4", "a/", "%C0%AE"):
        answer = await client.raw("DELETE", f"/tables/notes/records/{path}")
        assert answer.status_code == 400, path
    for path in ("/tables/notes/", "//tables/notes?confirm=notes", "/tables/notes/?confirm=notes"):
        assert (await client.raw("DELETE", path)).status_code == 404, path
    left = await client.ok("DELETE", "/tables/notes/records", json={"ids": [".", "..", "a", "b"]})
    assert left == {"deleted": 4}
    assert (await client.ok("GET", "/tables/notes/count")) == {"count": 5}


@pytest.mark.parametrize("slash", ["%2F", "%2f", "%252F"])
async def test_an_encoded_slash_reaches_no_other_route(client: Client, slash: str) -> None:
    """A proxy with rules for paths has to see the path that this server sees."""
    for method, path in (
        ("DELETE", "/tables|notes?confirm=notes"), ("GET", "/tables|notes"),
        ("POST", "/tables/notes|count"), ("DELETE", "/tables/notes|records/note-1"),
        ("DELETE", "/tables|notes/records/note-1"), ("DELETE", "/tables/notes/records|note-1"),
        ("DELETE", "/tables|notes/records/note-1/x"), ("GET", "/page|overview"),
        ("PUT", "/tables/notes/fields/year|index"),
    ):  # fmt: skip
        answer = await client.raw(method, path.replace("|", slash), json={})
        assert answer.status_code in (400, 404, 405, 422), (path, answer.text)
        if answer.status_code == 404 and slash != "%252F":
            assert "encoded slash" in answer.json()["detail"]
    assert await client.ok("GET", "/tables/notes/count") == {"count": 5}


async def test_an_unknown_path_gets_404_and_an_unknown_method_405(client: Client) -> None:
    for path in ("/none", "/docs", "/tables/", "/tables/none"):
        await client.problem("GET", path, 404)
    for name in ("NONE", "a%00b", "%20"):
        await client.problem("POST", f"/tables/{name}/optimize", 422)
    for path, allowed in (
        ("/tables", "GET, HEAD, OPTIONS, POST"),
        ("/tables/notes", "DELETE, GET, HEAD, OPTIONS"),
        ("/tables/notes/search", "OPTIONS, POST"),
        ("/tables/notes/records/a%2Fb", "DELETE, OPTIONS"),
        ("/tables/notes/fields/year/index", "DELETE, OPTIONS, PUT"),
    ):
        answer = await client.request("PATCH", path)
        assert (answer.status_code, answer.headers["allow"]) == (405, allowed)
        assert answer.headers["content-type"] == "application/problem+json"
        answer = await client.request("OPTIONS", path)
        assert (answer.status_code, answer.headers["allow"]) == (204, allowed)


async def test_head_answers_as_get_without_the_body_and_nothing_is_cached(client: Client) -> None:
    for path in ("/health", "/tables", "/tables/notes", "/tables/notes/count",
                 "/tables/notes/stats", "/tables/notes/records", "/openapi.json"):  # fmt: skip
        got, head = await client.get(path), await client.head(path)
        assert (got.status_code, head.status_code) == (200, 200), path
        for name in ("content-type", "content-length"):
            assert head.headers.get(name) == got.headers.get(name), path
        assert got.headers.get_list("cache-control") == ["no-store"], path
    for path in ("/tables/none", "/nothing"):
        answer = await client.head(path)
        assert (answer.status_code, answer.headers["cache-control"]) == (404, "no-store")
    assert (await client.get("/")).headers.get_list("cache-control") == ["no-cache"]


async def test_an_app_can_mount_the_router() -> None:
    async with aiovec.connect(":memory:") as store:
        app = FastAPI()
        app.mount("/open", router(store))
        async with serving(app) as client:
            assert (await client.ok("GET", "/open/health"))["status"] == "ok"
            document = await client.problem("GET", "/open/tables/none/count", 404)
            assert document["error"] == "TableNotFoundError"
        await store.ping()  # the app's own store stays open
        async with aiovec.connect(":memory:") as closed:
            app.mount("/closed", router(closed))
        async with serving(app) as client:
            assert (await client.ok("GET", "/open/health"))["status"] == "ok"
            document = await client.problem("GET", "/closed/health", 503)
            assert document["error"] == "StoreClosedError"
    app = FastAPI(lifespan=lifespan(":memory:"))
    app.mount("/vectors", router())
    async with serving(app) as client:
        await client.ok("POST", "/vectors/tables", 201, json={"name": "t", "schema": SCHEMA})
        assert (await client.raw("DELETE", "/vectors/tables%2Ft?confirm=t")).status_code == 404
        rows = [{**ROWS[0], "id": "a/b"}]
        await client.ok("POST", "/vectors/tables/t/records", json=rows)
        answer = await client.raw("DELETE", "/vectors/tables/t/records/a%2Fb")
        assert answer.json() == {"deleted": 1}


class _Embedder:
    """Embeds a text as the counts of its letters."""

    model: str = "letters"
    dim: int = 3

    def __call__(self, texts: Any, *, kind: Any = "document") -> Any:
        return [[1 + text.count(letter) for letter in "abc"] for text in texts]


@pytest.mark.skipif(sys.platform == "win32", reason="an open file cannot be replaced")
async def test_a_following_server_serves_a_newer_copy(tmp_path: Path) -> None:
    for name in ("old", "new"):
        async with aiovec.connect(tmp_path / f"{name}.db") as store:
            await store.create_table(name, aiovec.Schema(2))
    app = create_app(tmp_path / "old.db", read_only=True, follow=True)
    async with serving(app) as client:
        for name in ("old", "new"):
            document = await client.ok("GET", "/tables")
            assert [table["name"] for table in document["tables"]] == [name]
            if name == "old":
                (tmp_path / "new.db").replace(tmp_path / "old.db")


async def test_texts_are_embedded_by_the_server() -> None:
    app = create_app(":memory:", embedder=_Embedder())
    async with serving(app) as client:
        schema = {"dim": 3, "fields": {"body": {"type": "text", "text": True}}}
        schema["embed"] = {"field": "body", "using": "default"}
        made = await client.ok("POST", "/tables", 201, json={"name": "t", "schema": schema})
        assert made["schema"]["model"] == "letters"
        records = [{"id": letter, "body": letter * 9} for letter in "abc"]
        await client.ok("POST", "/tables/t/records", json=records)
        document = await client.ok("POST", "/tables/t/search", json={"text": "bbbb", "limit": 1})
        assert document["hits"][0]["id"] == "b"
        body = {"texts": ["aaa", "ccc"], "limit": 1}
        many = await client.ok("POST", "/tables/t/search_many", json=body)
        assert [r["hits"][0]["id"] for r in many["results"]] == ["a", "c"]
        body = {"vector": [1, 2, 3], "model": "another"}
        wrong = await client.problem("POST", "/tables/t/search", 409, json=body)
        assert wrong["error"] == "ModelMismatchError"
