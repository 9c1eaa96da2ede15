"""API keys, rights, Host, Origin and CORS; and what logs and metrics show of requests."""

from __future__ import annotations

import asyncio
import itertools
import json
import logging
import re
from collections.abc import AsyncIterator, Iterator
from logging.handlers import QueueHandler
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import httpx
import pytest
from tests.server.apps import BASE, client_of

import aiovec
from aiovec import ConfigError
from aiovec.backend.server import ServerSettings
from aiovec_server import create_app

WRITES = "w" * 16 + "-writes"
READS = "r" * 16 + "-reads"


@pytest.fixture
def keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIOVEC_API_KEYS", f"{WRITES}, read:{READS}")


@pytest.fixture
async def store() -> AsyncIterator[aiovec.VectorStore]:
    async with aiovec.connect(":memory:") as opened:
        await opened.create_table("notes", aiovec.Schema(2))
        await opened.insert("notes", [{"id": "a", "embedding": [1, 0]}])
        yield opened


def bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


READING: list[tuple[str, str, Any]] = [
    ("GET", "/tables", None), ("GET", "/tables/notes/count", None),
    ("GET", "/tables/notes/records", None), ("POST", "/tables/notes/search", {"vector": [1, 0]}),
    ("GET", "/metrics", None), ("GET", "/openapi.json", None), ("GET", "/page/overview", None),
]  # fmt: skip
WRITING: list[tuple[str, str, Any]] = [
    ("POST", "/tables", {"name": "more"}),
    ("POST", "/tables/notes/records", [{"id": "b", "embedding": [1, 0]}]),
    ("DELETE", "/tables/notes/records/a", None), ("DELETE", "/tables/notes?confirm=notes", None),
]  # fmt: skip
# The endpoints of the OpenAPI document that read by POST; all other POSTs write.
PROBES = "/health", "/ready"  # a load balancer has no key
READ_BY_POST = {
    "get", "find", "exists", "export", "fields_info", "distinct", "bounds", "count", "search",
    "search_many", "search_text", "search_hybrid", "search_like",
}  # fmt: skip


@pytest.mark.usefixtures("keys")
async def test_a_key_allows_what_its_kind_says(store: aiovec.VectorStore) -> None:
    async with client_of(store) as client:
        nobody: list[Any] = [
            {}, bearer(WRITES[:-1]), bearer(WRITES + "x"), bearer(""), bearer(WRITES.upper()),
            {"authorization": f"Basic {WRITES}"}, {"authorization": WRITES}, {"x-api-key": ""},
            {"x-api-key": f"read:{READS}"},
            [("authorization", f"Bearer {READS}"), ("x-api-key", WRITES)],  # two are none
            [("authorization", f"Bearer {READS}"), ("authorization", f"Bearer {WRITES}")],
        ]  # fmt: skip
        for method, path, body in READING + WRITING:
            for headers in nobody:
                answer = await client.request(method, path, json=body, headers=headers)
                assert answer.status_code == 401, (method, path, headers)
                assert answer.headers["www-authenticate"].startswith("Bearer")
                assert answer.headers["content-type"] == "application/problem+json"
        for method, path, body in WRITING:
            answer = await client.request(method, path, json=body, headers={"x-api-key": READS})
            assert answer.status_code == 403, (method, path)
            assert "insufficient_scope" in answer.headers["www-authenticate"]
        assert await store.tables() == ["notes"]
        assert await store.count("notes") == 1
        for method, path, body in READING:
            for headers in (
                bearer(READS), {"x-api-key": WRITES}, {"Authorization": "bEARER " + READS},
                {"x-api-key": READS, "authorization": "Basic dTpw"},  # a proxy's credentials
            ):  # fmt: skip
                answer = await client.request(method, path, json=body, headers=headers)
                assert answer.status_code == 200, (method, path, answer.text)
        for method, path, body in WRITING[:3]:
            answer = await client.request(method, path, json=body, headers=bearer(WRITES))
            assert answer.is_success, answer.text


@pytest.mark.usefixtures("keys")
async def test_each_endpoint_needs_the_right_key(store: aiovec.VectorStore) -> None:
    async with client_of(store) as client:
        document = (await client.get("/openapi.json", headers=bearer(READS))).json()
        paths, schemes = document["paths"], document["components"]["securitySchemes"]
        assert {next(iter(way), None) for way in document["security"]} == {*schemes, None}
        assert schemes["bearer"]["scheme"] == "bearer"
        header = schemes["apiKey"]["name"]
        assert (await client.get("/tables", headers={header: READS})).status_code == 200
        places = {"table": "none", "id": "a", "field": "f", "index": "i", "key": "k"}
        for path, methods in paths.items():
            for method in methods:
                url = path.format(**places)
                reads = method == "get" or path.rpartition("/")[2] in READ_BY_POST
                answer = await client.request(method, url, headers=bearer(READS))
                assert (answer.status_code != 403) is reads, (method, path)
                answer = await client.request(method, url)
                assert (answer.status_code == 401) is (path not in PROBES), (method, path)
                assert (methods[method].get("security") == []) is (path in PROBES)


@pytest.mark.usefixtures("keys")
async def test_the_page_and_the_health_need_no_key(store: aiovec.VectorStore) -> None:
    async with client_of(store) as client:
        page = (await client.get("/")).text
        assets = re.findall(r'(?:src|href)="/?(assets/[^"]+)"', page)
        assert assets
        for path in (*PROBES, "/", "/?table=notes", *(f"/{asset}" for asset in assets)):
            assert (await client.get(path)).status_code == 200, path
        for path in ("/assets/../tables", "/health/", "//tables", "/%2e/tables", "/tables/"):
            answer = await client.get(httpx.URL(BASE + "/").copy_with(raw_path=path.encode()))
            assert answer.status_code in (401, 404), path
        for method, path in (("POST", "/health"), ("PUT", "/tables/notes/search")):
            assert (await client.request(method, path)).status_code == 405


async def test_without_keys_only_read_only_server_refuses_writes(store: aiovec.VectorStore) -> None:
    async with client_of(store) as client:
        assert (await client.post("/tables", json={"name": "more"})).status_code == 201
        assert (await client.get("/tables", headers=bearer("whatever"))).status_code == 200
    async with client_of(store, read_only=True) as client:
        for method, path, body in WRITING:
            answer = await client.request(method, path, json=body)
            assert (answer.status_code, answer.json()["error"]) == (422, "UnsupportedError"), path
        for method, path, body in READING:
            assert (await client.request(method, path, json=body)).status_code == 200
    assert await store.count("notes") == 1


@pytest.mark.usefixtures("keys")
async def test_a_read_only_server_says_so_only_to_a_writing_key(store: aiovec.VectorStore) -> None:
    async with client_of(store, read_only=True) as client:
        for key, status in (("", 401), ("x" * 20, 401), (READS, 403), (WRITES, 422)):
            for method, path, body in WRITING:
                headers = bearer(key) if key else {}
                answer = await client.request(method, path, json=body, headers=headers)
                assert answer.status_code == status, (key, path)


OWN_HOSTS = {"allowed_hosts": ["Vectors.example.com", "[fd00::1]"]}
HOSTS: list[tuple[dict[str, Any], int, list[str]]] = [
    # Settings, a status, and the hosts answered with it.
    ({}, 200, ["127.0.0.1:4002", "127.0.0.1", "LocalHost.", "[::1]:4002"]),
    ({}, 421, ["evil.example", "127.0.0.1.evil.example", "localhost.evil.example:4002",
               "evil.example#127.0.0.1", "127.0.0.1@evil.example", "192.168.1.5:4002"]),
    ({}, 400, [""]),
    (OWN_HOSTS, 200, ["vectors.example.com:443", "[fd00::1]:4002"]),
    (OWN_HOSTS, 421, ["a.example"]),
    ({"allowed_hosts": ["*"]}, 200, ["any.example"]),
    ({"host": "0.0.0.0"}, 200, ["10.1.2.3:4002"]), ({"host": "0.0.0.0"}, 421, ["a.example"]),
]  # fmt: skip


async def test_a_host_is_served_only_if_it_is_allowed(store: aiovec.VectorStore) -> None:
    for settings, status, hosts in HOSTS:
        async with client_of(store, **settings) as client:
            for host, path in itertools.product(hosts, ("/health", "/tables", "/")):
                answer = await client.get(path, headers={"host": host})
                assert answer.status_code == status, (settings, host, path)
            twice = [("host", "127.0.0.1"), ("host", "b")]
            assert (await client.get("/tables", headers=twice)).status_code == 400


FOREIGN = (
    "http://evil.example", "null", "", "http://127.0.0.1:4003", "http://127.0.0.1", "file://",
    "http://127.0.0.1:4002.evil.example", "http://127.0.0.1:4002@evil.example", "http://[::1",
    "http://user@127.0.0.1:4002", "chrome-extension://x", "http://127.0.0.1:99999999999",
)  # fmt: skip


async def test_a_page_of_another_origin_is_refused(store: aiovec.VectorStore) -> None:
    async with client_of(store) as client:
        for origin in FOREIGN:
            for method, path, body in READING[:4] + WRITING:
                answer = await client.request(method, path, json=body, headers={"origin": origin})
                assert answer.status_code == 403, (origin, method, path)
                assert "access-control-allow-origin" not in answer.headers
            preflight = {"origin": origin, "access-control-request-method": "POST"}
            answer = await client.options("/tables", headers=preflight)
            assert "access-control-allow-origin" not in answer.headers
        for site, path, status in (
            ("same-site", "/tables", 403),  # another port of this machine
            ("cross-site", "/tables", 403),
            ("cross-site", "/", 200),  # a link
            ("same-origin", "/tables", 200),
            ("none", "/tables", 200),
        ):
            answer = await client.get(path, headers={"sec-fetch-site": site})
            assert answer.status_code == status, (site, path)
    assert await store.tables() == ["notes"]


async def test_the_servers_own_page_is_served_under_each_name(store: aiovec.VectorStore) -> None:
    async with client_of(store, allowed_hosts=["vectors.example.com"]) as client:
        for host, origin in (
            ("127.0.0.1:4002", "http://127.0.0.1:4002"),
            ("LOCALHOST:4002", "http://localhost:4002"),
            ("vectors.example.com", "https://vectors.example.com"),
            ("vectors.example.com:443", "https://vectors.example.com"),
        ):
            headers = {"host": host, "origin": origin, "sec-fetch-site": "same-origin"}
            answer = await client.get("/tables", headers=headers)
            assert answer.status_code == 200, origin


@pytest.mark.usefixtures("keys")
async def test_a_listed_origin_may_call_with_a_key(store: aiovec.VectorStore) -> None:
    origin = "https://app.example.com"
    async with client_of(store, cors_origins=[origin]) as client:
        preflight = {
            "origin": origin,
            "access-control-request-method": "POST",
            "access-control-request-headers": "x-api-key, content-type",
        }
        answer = await client.options("/tables/notes/search", headers=preflight)
        assert answer.is_success
        assert answer.headers["access-control-allow-origin"] == origin
        assert "x-api-key" in answer.headers["access-control-allow-headers"].lower()
        assert "access-control-allow-credentials" not in answer.headers
        foreign = {**preflight, "origin": "https://app.example.com.evil.example"}
        answer = await client.options("/tables", headers=foreign)
        assert "access-control-allow-origin" not in answer.headers
        refused = await client.get("/tables", headers={"origin": origin})
        assert refused.status_code == 401  # the page may read the reason
        assert refused.headers["access-control-allow-origin"] == origin
        headers = {"origin": origin, "x-api-key": READS, "sec-fetch-site": "cross-site"}
        answer = await client.get("/tables", headers=headers)
        assert (answer.status_code, answer.headers["vary"]) == (200, "Origin")


async def test_all_origins_are_allowed_only_if_keys_are_set(
    store: aiovec.VectorStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    for origins in (["*"], ["https://app.example.com", "*/"]):
        with pytest.raises(ConfigError, match=r"cors_origins.*AIOVEC_API_KEYS"):
            client_of(store, cors_origins=origins)
    monkeypatch.setenv("AIOVEC_API_KEYS", WRITES)
    async with client_of(store, cors_origins=["*"]) as client:
        page = {"origin": "https://any.example", "sec-fetch-site": "cross-site"}
        preflight = {**page, "access-control-request-method": "DELETE"}
        assert (await client.options("/tables/notes", headers=preflight)).is_success
        for headers, status in (({}, 401), (bearer(WRITES), 200)):
            answer = await client.get("/tables", headers={**page, **headers})
            assert answer.status_code == status
            assert answer.headers["access-control-allow-origin"] == "*"


# The sources of keys


async def test_keys_come_from_the_environment_and_a_file(
    store: aiovec.VectorStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "keys"
    file.write_text(f"# who may read\n\nread:{READS}\n {'f' * 20} \n")
    monkeypatch.setenv("MY_KEYS", f" {WRITES},\tread:{'e' * 16}\n")
    settings = {"api_keys_env": "MY_KEYS", "api_keys_file": str(file)}
    async with await asyncio.to_thread(client_of, store, **settings) as client:
        for key, status in ((WRITES, 404), ("f" * 20, 404), (READS, 403), ("e" * 16, 403)):
            path = "/tables/none?confirm=none"
            assert (await client.delete(path, headers=bearer(key))).status_code == status


KEYS = (
    "short",
    "read:short",
    "a" * 513,
    "ä" * 20,
    "a" * 20 + '"\x7f',
    ",",
    f"{READS},read:{READS}",
)


def test_keys_that_cannot_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for text in KEYS:
        monkeypatch.setenv("AIOVEC_API_KEYS", text)
        with pytest.raises(ConfigError) as caught:
            create_app(":memory:")
        parts = [part for part in re.split("[, ]", text) if len(part) > 4]
        assert not any(part in str(caught.value) for part in parts), text
    monkeypatch.delenv("AIOVEC_API_KEYS")
    empty, binary = tmp_path / "empty", tmp_path / "binary"
    empty.write_text("# none\n")
    binary.write_bytes(b"\xff" * 100)
    for file in (empty, binary, tmp_path / "missing", tmp_path):
        with pytest.raises(ConfigError, match=re.escape(str(file))):
            create_app(":memory:", settings=ServerSettings(api_keys_file=str(file)))


# Logs and metrics of requests


async def test_a_sound_request_id_is_returned_others_replaced(store: aiovec.VectorStore) -> None:
    async with client_of(store) as client:
        for given in ("abc-123_X.9", "a" * 64, "a" * 65, "", "a b", "-a", 'a"b', "<script>",
                      "%0d%0aSet-Cookie:x", "\xe4"):  # fmt: skip
            headers = [(b"x-request-id", given.encode("latin-1"))]
            for path in ("/health", "/nowhere"):
                answer = await client.get(path, headers=headers)
                (returned,) = answer.headers.get_list("x-request-id")
                assert (returned == given) is (given in ("abc-123_X.9", "a" * 64)), given
                assert re.fullmatch("[A-Za-z0-9._-]{1,64}", returned)


@pytest.fixture
def access() -> Iterator[SimpleQueue[logging.LogRecord]]:
    """Yield the records that an app's own logging gets; the server leaves its handlers alone."""
    logger, records = logging.getLogger("aiovec.access"), SimpleQueue[logging.LogRecord]()
    handler = QueueHandler(records)
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    yield records
    assert logger.level == logging.INFO
    assert not any("aiovec" in type(each).__module__ for each in logger.handlers)
    logger.removeHandler(handler)
    logger.setLevel(logging.NOTSET)
    logger.propagate = True


@pytest.mark.usefixtures("keys")
async def test_the_log_has_a_line_for_each_request_and_no_secret(
    store: aiovec.VectorStore, access: SimpleQueue[logging.LogRecord]
) -> None:
    secret = "s3cret-words"
    async with client_of(store, access_log=True) as client:
        headers = {"x-api-key": WRITES, "cookie": secret, "user-agent": secret}
        for method, path in (
            ("GET", f"/tables/notes/count?filter=id='{secret}'"),
            ("DELETE", f"/tables/notes/records/{secret}"),
            ("GET", f"/{secret}"),
            (secret.upper(), "/tables"),
        ):
            await client.request(method, path, headers=headers)
        await client.get("/tables", headers=bearer(secret * 3))
        metrics = (await client.get("/metrics", headers=bearer(READS))).text
    records = [access.get_nowait() for _ in range(access.qsize())]
    lines: list[Any] = [vars(record)["facts"] for record in records]
    text = json.dumps(lines) + "\n".join(record.getMessage() for record in records)
    assert "GET /tables/{table}/count: status 200" in text
    assert [line["status"] for line in lines] == [200, 200, 404, 405, 401, 200]
    assert [line["route"] for line in lines[:2]] == [
        "/tables/{table}/count", "/tables/{table}/records/{id:path}",
    ]  # fmt: skip
    assert [line["table"] for line in lines] == ["notes", "notes", None, None, None, None]
    for seen in (text, metrics):
        for hidden in (secret, secret.upper(), WRITES, READS):
            assert hidden not in seen


async def test_metrics_count_requests_by_known_routes_only(store: aiovec.VectorStore) -> None:
    async with client_of(store) as client:
        for n in range(20):
            await client.get(f"/nowhere/{n}")
            await client.request(f"METHOD{n}", "/tables")
            await client.get(f"/tables/notes/records/{n}")
        text = (await client.get("/metrics")).text
    series = [line for line in text.splitlines() if line.startswith("aiovec_http_requests_total")]
    assert 1 < len(series) < 10  # whatever clients invent
    assert 'aiovec_http_requests_total{method="GET",route="(none)",status="404"} 20.0' in text
    async with client_of(store, metrics=False) as client:
        assert (await client.get("/metrics")).status_code == 404
