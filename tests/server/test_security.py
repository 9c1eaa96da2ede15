"""API keys, scopes, Host and Origin, CORS: who may ask what."""

from __future__ import annotations

import asyncio
import json
import logging
import re
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

import aiovec
from aiovec import ConfigError
from aiovec.backend import ServerSettings
from aiovec_server import create_app
from aiovec_server import metrics as metrics_module
from aiovec_server.access import Access, access_of
from aiovec_server.access_log import AccessLog
from aiovec_server.asgi import path_of
from aiovec_server.endpoints import ENDPOINTS
from aiovec_server.keys import Keys, keys_of
from aiovec_server.lines import _ALL, Lines, LogHandler
from aiovec_server.observing import Observed

WRITES = "w" * 16 + "-writes"
READS = "r" * 16 + "-reads"
BASE = "http://127.0.0.1:4002"


@pytest.fixture
def keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIOVEC_API_KEYS", f"{WRITES}, read:{READS}")


@pytest.fixture
async def store() -> AsyncIterator[aiovec.VectorStore]:
    async with aiovec.connect(":memory:") as opened:
        await opened.create_table("notes", aiovec.Schema(2))
        await opened.insert("notes", [{"id": "a", "embedding": [1, 0]}])
        yield opened


def client_of(store: aiovec.VectorStore, **settings: Any) -> httpx.AsyncClient:
    chosen = ServerSettings(**{"access_log": False, **settings})
    transport = httpx.ASGITransport(create_app(store=store, settings=chosen))
    return httpx.AsyncClient(transport=transport, base_url=BASE)


def bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


READING: list[tuple[str, str, Any]] = [
    ("GET", "/tables", None),
    ("GET", "/tables/notes/count", None),
    ("GET", "/tables/notes/records", None),
    ("POST", "/tables/notes/search", {"vector": [1, 0]}),
    ("GET", "/metrics", None),
    ("GET", "/openapi.json", None),
    ("GET", "/page/overview", None),
]
WRITING: list[tuple[str, str, Any]] = [
    ("POST", "/tables", {"name": "more"}),
    ("POST", "/tables/notes/records", [{"id": "b", "embedding": [1, 0]}]),
    ("DELETE", "/tables/notes/records/a", None),
    ("DELETE", "/tables/notes?confirm=notes", None),
    ("POST", "/backend/insert", {}),
    ("POST", "/backend/drop_table", {}),
    ("POST", "/backend/nobody_knows", {}),
    ("PUT", "/tables/notes/search", {}),
    ("PURGE", "/tables", None),
]


@pytest.mark.usefixtures("keys")
async def test_what_a_key_allows(store: aiovec.VectorStore) -> None:
    async with client_of(store) as client:
        for method, path, body in READING + WRITING:
            for headers in ({}, bearer(WRITES[:-1]), bearer(WRITES + "x"), bearer(""),
                            {"authorization": f"Basic {WRITES}"}, {"authorization": WRITES},
                            {"x-api-key": ""}, {"x-api-key": f"read:{READS}"}):  # fmt: skip
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
                bearer(READS),
                {"x-api-key": WRITES},
                {"authorization": f"bEARER {READS}"},
            ):
                answer = await client.request(method, path, json=body, headers=headers)
                assert answer.status_code == 200, (method, path, answer.text)
        for method, path, body in WRITING[:3]:
            answer = await client.request(method, path, json=body, headers=bearer(WRITES))
            assert answer.is_success, answer.text


@pytest.mark.usefixtures("keys")
async def test_what_anyone_may_ask(store: aiovec.VectorStore) -> None:
    async with client_of(store) as client:
        page = (await client.get("/")).text
        assets = re.findall(r'(?:src|href)="/?(assets/[^"]+)"', page)
        assert assets
        for path in ("/health", "/", *(f"/{asset}" for asset in assets)):
            assert (await client.get(path)).status_code == 200, path
        for path in ("/assets/../tables", "/health/", "//tables", "/%2e/tables", "/tables/"):
            answer = await client.get(httpx.URL(BASE + "/").copy_with(raw_path=path.encode()))
            assert answer.status_code in (401, 404), path
        assert (await client.post("/health")).status_code == 401


@pytest.mark.usefixtures("keys")
async def test_two_keys_are_no_key(store: aiovec.VectorStore) -> None:
    async with client_of(store) as client:
        for headers in (
            [("authorization", f"Bearer {READS}"), ("x-api-key", WRITES)],
            [("authorization", f"Bearer {READS}"), ("authorization", f"Bearer {WRITES}")],
            [("x-api-key", READS), ("authorization", "Basic x")],
        ):
            assert (await client.get("/tables", headers=headers)).status_code == 401
        twice = [("x-api-key", READS), ("authorization", f"Bearer {READS}")]
        assert (await client.get("/tables", headers=twice)).status_code == 200


async def test_without_keys_everyone_may_write(store: aiovec.VectorStore) -> None:
    async with client_of(store) as client:
        assert (await client.post("/tables", json={"name": "more"})).status_code == 201
        assert (await client.get("/tables", headers=bearer("whatever"))).status_code == 200


async def test_read_only(store: aiovec.VectorStore) -> None:
    async with client_of(store, read_only=True) as client:
        for method, path, body in WRITING:
            answer = await client.request(method, path, json=body)
            assert answer.status_code == 422, (method, path)
            assert answer.json()["error"] == "UnsupportedError"
        for method, path, body in READING:
            assert (await client.request(method, path, json=body)).status_code == 200
    assert await store.count("notes") == 1


def routes_of(routes: Any) -> Iterator[tuple[str, str]]:
    for route in routes:
        inner = getattr(route, "original_router", route)
        if hasattr(inner, "routes"):
            yield from routes_of(inner.routes)
        else:
            yield from ((method, route.path) for method in route.methods)


async def test_each_endpoint_needs_what_it_does(store: aiovec.VectorStore) -> None:
    """What an endpoint declares of itself, and what a request to it needs, are the same."""
    for endpoint in ENDPOINTS:
        path = endpoint.path.replace("{table}", "notes").replace("{id:path}", "a")
        needed = access_of(endpoint.method, path)
        if path == "/health":
            assert needed is Access.NONE
        else:
            assert needed is (Access.WRITE if endpoint.writes else Access.READ), path
    found = set(routes_of(create_app(store=store).routes))
    opened = {path for method, path in found if access_of(method, path) is Access.NONE}
    assert all(path in ("/", "/health") or path.startswith("/assets/") for path in opened)
    others = {path for _, path in found} - {endpoint.path for endpoint in ENDPOINTS} - opened
    assert {path.split("/")[1] for path in others} == {
        "backend", "metrics", "openapi.json", "page",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("root", "path", "wanted"),
    [
        ("", "/tables", "/tables"),
        ("/app", "/app/tables", "/tables"),
        ("/app", "/app", ""),
        ("/app", "/app/", "/"),
        ("/app", "/apple/tables", "/apple/tables"),
        ("/app", "/tables", "/tables"),
        ("/health", "/health/tables", "/tables"),
    ],
)
def test_an_app_around_the_servers(root: str, path: str, wanted: str) -> None:
    assert path_of({"root_path": root, "path": path}) == wanted


def test_each_call_of_the_remote_backend_needs_what_it_does() -> None:
    from aiovec.backend import ServedCalls
    from aiovec_server.access import READING_CALLS

    known = set(ServedCalls(object())._calls) | {"export"}  # type: ignore[arg-type]
    assert known >= READING_CALLS
    # Whatever is new writes, until it is listed.
    assert known - READING_CALLS == {
        "add_field", "cancel", "create_field_index", "create_index", "create_table", "delete",
        "drop_field", "drop_field_index", "drop_index", "drop_table", "insert", "kept", "optimize",
        "rename_field", "rename_table", "restore", "set_vectors", "update", "upsert",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1:4002", 200),
        ("127.0.0.1", 200),
        ("127.9.9.9:1", 200),
        ("localhost:4002", 200),
        ("LocalHost.", 200),
        ("[::1]:4002", 200),
        ("evil.example", 421),
        ("127.0.0.1.evil.example", 421),
        ("localhost.evil.example:4002", 421),
        ("evil.example#127.0.0.1", 421),
        ("127.0.0.1@evil.example", 421),
        ("192.168.1.5:4002", 421),
        ("", 400),
        ("vectors.example.com", 421),
    ],
)
async def test_the_host_header(store: aiovec.VectorStore, host: str, status: int) -> None:
    async with client_of(store) as client:
        for path in ("/health", "/tables", "/"):
            answer = await client.get(path, headers={"host": host})
            assert answer.status_code == status, path
            assert "allow-origin" not in str(answer.headers)


async def test_hosts_that_are_allowed(store: aiovec.VectorStore) -> None:
    async with client_of(store, allowed_hosts=["Vectors.example.com", "[fd00::1]"]) as client:
        for host in ("vectors.example.com:443", "[fd00::1]:4002"):
            assert (await client.get("/tables", headers={"host": host})).status_code == 200
    async with client_of(store, host="0.0.0.0") as client:
        assert (await client.get("/tables", headers={"host": "10.1.2.3:4002"})).status_code == 200
        assert (await client.get("/tables", headers={"host": "a.example"})).status_code == 421
    async with client_of(store, allowed_hosts=["*"]) as client:
        assert (await client.get("/tables", headers={"host": "any.example"})).status_code == 200
        twice = [("host", "a"), ("host", "b")]
        assert (await client.get("/tables", headers=twice)).status_code == 400


@pytest.mark.parametrize(
    "origin",
    [
        "http://evil.example", "null", "", "http://127.0.0.1:4003",
        "http://127.0.0.1:4002.evil.example", "http://127.0.0.1:4002@evil.example",
        "http://user@127.0.0.1:4002", "http://127.0.0.1", "file://", "chrome-extension://x",
        "http://[::1", "http://127.0.0.1:99999999999",
    ],
)  # fmt: skip
async def test_a_page_of_another_origin(store: aiovec.VectorStore, origin: str) -> None:
    async with client_of(store) as client:
        for method, path, body in READING[:4] + WRITING:
            answer = await client.request(method, path, json=body, headers={"origin": origin})
            assert answer.status_code == 403, (method, path)
            assert "access-control-allow-origin" not in answer.headers
        preflight = {"origin": origin, "access-control-request-method": "POST"}
        answer = await client.options("/tables", headers=preflight)
        assert answer.status_code == 403
    assert await store.tables() == ["notes"]


async def test_the_servers_own_page(store: aiovec.VectorStore) -> None:
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
            assert "access-control-allow-origin" not in answer.headers


async def test_what_a_browser_says_of_other_sites(store: aiovec.VectorStore) -> None:
    async with client_of(store) as client:
        # Same-site is another port of this machine.
        for site, status in (("same-site", 403), ("same-origin", 200), ("none", 200)):
            answer = await client.get("/tables", headers={"sec-fetch-site": site})
            assert answer.status_code == status, site
        foreign = {"sec-fetch-site": "cross-site"}
        assert (await client.get("/", headers=foreign)).status_code == 200  # a link
        assert (await client.get("/tables", headers=foreign)).status_code == 403
        assert (await client.request("DELETE", "/tables/notes/records/a", headers=foreign)
                ).status_code == 403  # fmt: skip


@pytest.mark.usefixtures("keys")
async def test_cors_for_chosen_pages(store: aiovec.VectorStore) -> None:
    mine = "https://app.example.com"
    async with client_of(store, cors_origins=[mine]) as client:
        preflight = {
            "origin": mine,
            "access-control-request-method": "POST",
            "access-control-request-headers": "x-api-key, content-type",
        }
        answer = await client.options("/tables/notes/search", headers=preflight)
        assert (answer.status_code, answer.content) == (204, b"")
        assert answer.headers["access-control-allow-origin"] == mine
        assert "X-API-Key" in answer.headers["access-control-allow-headers"]
        assert "access-control-allow-credentials" not in answer.headers
        foreign = {**preflight, "origin": "https://app.example.com.evil.example"}
        assert (await client.options("/tables", headers=foreign)).status_code == 403
        refused = await client.get("/tables", headers={"origin": mine})
        assert refused.status_code == 401  # and the page may read why
        assert refused.headers["access-control-allow-origin"] == mine
        answer = await client.get(
            "/tables",
            headers={"origin": mine, "x-api-key": READS, "sec-fetch-site": "cross-site"},
        )
        assert answer.status_code == 200
        assert answer.headers["vary"] == "Origin"
        assert "X-Request-Id" in answer.headers["access-control-expose-headers"]


@pytest.mark.parametrize(
    ("given", "taken"),
    [
        ("abc-123_X.9", True),
        ("a" * 64, True),
        ("a" * 65, False),
        ("", False),
        ("a b", False),
        ("-a", False),
        ('a"b', False),
        ("<script>", False),
        ("%0d%0aSet-Cookie:x", False),
        ("\xe4", False),
    ],
)
async def test_request_ids(store: aiovec.VectorStore, given: str, taken: bool) -> None:
    async with client_of(store) as client:
        headers = [(b"x-request-id", given.encode("latin-1"))]
        for path in ("/health", "/nowhere"):
            (found,) = (await client.get(path, headers=headers)).headers.get_list("x-request-id")
            assert (found == given) is taken
            assert re.fullmatch("[A-Za-z0-9._-]{1,64}", found)
        twice = [("x-request-id", "a"), ("x-request-id", "b")]
        assert (await client.get("/health", headers=twice)).headers["x-request-id"] not in "ab"


# Keys and where they come from


def test_keys_of_the_environment_and_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "keys"
    file.write_text(f"# who may read\n\nread:{READS}\n write:{'f' * 20} \n")
    monkeypatch.setenv("MY_KEYS", f" {WRITES},\tread:{'e' * 16}\n")
    found = keys_of(ServerSettings(api_keys_env="MY_KEYS", api_keys_file=str(file)))
    assert len(found) == 4
    assert [found.access(key) for key in (WRITES, READS, "e" * 16, "f" * 20)] == [2, 1, 1, 2]
    for wrong in ("", WRITES[:-1], WRITES + "w", WRITES.upper(), f"read:{READS}", "\ud800" * 20):
        assert found.access(wrong) is Access.NONE
    assert WRITES not in repr(found)
    assert WRITES not in repr(vars(found))  # digests alone are kept


@pytest.mark.parametrize(
    "text",
    [
        "short", "read:short", "a" * 513, "ä" * 20, "a" * 20 + '"\x7f', ",",
        f"{READS},read:{READS}",
        ",".join(f"key-number-{n:06}" for n in range(1001)),
    ],
)  # fmt: skip
def test_keys_that_cannot_be(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIOVEC_API_KEYS", text)
    with pytest.raises(ConfigError) as caught:
        keys_of(ServerSettings())
    assert not any(part in str(caught.value) for part in re.split("[, ]", text) if len(part) > 4)


def test_key_files_that_cannot_be(tmp_path: Path) -> None:
    empty, binary, large = (tmp_path / name for name in ("empty", "binary", "large"))
    empty.write_text("# none\n")
    binary.write_bytes(b"\xff" * 100)
    large.write_bytes(b"#" * 2_000_000)
    for file in (empty, binary, large, tmp_path / "missing", tmp_path):
        with pytest.raises(ConfigError, match=re.escape(str(file))):
            keys_of(ServerSettings(api_keys_file=str(file)))


def test_a_key_is_compared_with_each_in_the_same_way(monkeypatch: pytest.MonkeyPatch) -> None:
    import hmac

    seen: list[tuple[int, int]] = []
    plain = hmac.compare_digest

    def compare(one: bytes, other: bytes) -> bool:
        seen.append((len(one), len(other)))
        return plain(one, other)

    monkeypatch.setattr("aiovec_server.keys.hmac.compare_digest", compare)
    found = Keys([(f"key-number-{n:06}", Access.READ) for n in range(10)])
    for given in ("key-number-000000", "key-number-000009", "x", "", "y" * 100_000):
        seen.clear()
        found.access(given)
        assert seen == [(64, 64)] * 10


# What is seen of requests


class Stream:
    def __init__(self) -> None:
        self.text = ""

    def write(self, text: str) -> None:
        self.text += text

    def flush(self) -> None:
        pass


def test_a_line_of_the_access_log_is_one_line() -> None:
    stream = Stream()
    lines = Lines(stream)  # type: ignore[arg-type]
    log = AccessLog(lines)
    hostile = 'a\n{"status": 200}\r\x1b[31m\u2028\u0085"'
    log.ended(Observed(hostile, "GET", hostile, hostile, 200, 0.5, 1, 2, hostile, None, True))
    lines.flush(20)
    assert stream.text.count("\n") == 1
    assert stream.text.isascii()
    assert stream.text.strip().isprintable()
    found = json.loads(stream.text)
    assert found["client"] == hostile
    assert (found["ms"], found["received"], found["sent"]) == (500, 1, 2)


def test_lines_that_nobody_takes_are_counted() -> None:
    import threading

    go_on, entered = threading.Event(), threading.Event()

    class Stalled(Stream):
        def write(self, text: str) -> None:
            entered.set()
            go_on.wait(20)
            super().write(text)

    stream = Stalled()
    lines = Lines(stream)  # type: ignore[arg-type]
    log = AccessLog(lines)
    observed = Observed("x", "GET", "/", None, 200, 0.5, 1, 2, "", None, True)
    log.ended(observed)
    entered.wait(20)
    for _ in range(10_050):
        log.ended(observed)
    go_on.set()
    lines.flush(20)
    log.ended(observed)
    lines.flush(20)
    found = [json.loads(line) for line in stream.text.splitlines()]
    assert len(found) == 10_002
    assert found[-1]["dropped"] == 50


def test_records_of_logging_are_lines_too() -> None:
    stream = Stream()
    lines = Lines(stream)  # type: ignore[arg-type]
    logger = logging.getLogger("test_records_of_logging")
    logger.propagate = False
    logger.addHandler(LogHandler(lines))
    try:
        raise ValueError("a\nb")
    except ValueError:
        logger.exception("failed %s", 'a\n{"level": "x"}')
    logger.warning("%d", "no number")
    lines.flush(20)
    (line,) = stream.text.splitlines()
    found = json.loads(line)
    assert (found["level"], found["logger"]) == ("error", "test_records_of_logging")
    assert found["message"] == 'failed a\n{"level": "x"}'
    assert found["exception"].endswith("ValueError: a\nb")


@pytest.mark.usefixtures("keys")
async def test_no_secret_and_no_query_is_seen(
    store: aiovec.VectorStore, capfd: pytest.CaptureFixture[str]
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
    for lines in list(_ALL):
        await asyncio.to_thread(lines.flush, 20)
    text = capfd.readouterr().err
    told = [json.loads(line) for line in text.splitlines() if line.startswith("{")]
    assert [line["status"] for line in told[:4]] == [200, 200, 404, 405]
    assert [line["route"] for line in told[:3]] == [
        "/tables/{table}/count", "/tables/{table}/records/{id:path}", "(none)",
    ]  # fmt: skip
    assert told[1]["table"] == "notes"
    assert [line.get("key") for line in told[:5]] == ["write"] * 4 + [None]
    for seen in (text, metrics):
        for hidden in (secret, secret.upper(), WRITES, READS):
            assert hidden not in seen


async def test_metrics(store: aiovec.VectorStore) -> None:
    async with client_of(store) as client:
        for n in range(20):
            await client.get(f"/nowhere/{n}")
            await client.request(f"METHOD{n}", "/tables")
            await client.get(f"/tables/notes/records/{n}")
        await client.post("/tables/notes/records", json=[{"id": "b", "embedding": [1, 0]}])
        text = (await client.get("/metrics")).text
    series = [line for line in text.splitlines() if line.startswith("aiovec_http_requests_total")]
    assert len(series) < 10
    assert 'aiovec_http_requests_total{method="GET",route="(none)",status="404"} 20.0' in text
    assert 'aiovec_table_rows{table="notes"} 2.0' in text
    assert 'aiovec_store_up{backend="sqlite"} 1.0' in text
    assert "aiovec_http_requests_in_progress 1.0" in text
    received = re.search(r"^aiovec_http_received_bytes_total (\S+)", text, re.MULTILINE)
    assert received is not None
    assert float(received[1]) == len('[{"id":"b","embedding":[1,0]}]')
    async with client_of(store, metrics=False) as client:
        assert (await client.get("/metrics")).status_code == 404


async def test_metrics_while_the_store_does_not_answer(store: aiovec.VectorStore) -> None:
    async with client_of(store) as client:
        await store.close()
        text = (await client.get("/metrics")).text
    assert 'aiovec_store_up{backend="sqlite"} 0.0' in text


async def test_metrics_while_tables_go_and_figures_take_long(
    store: aiovec.VectorStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, pauses = store.stats, [0.0]
    names = [*await store.tables(), "gone"]

    async def stats(table: str) -> aiovec.TableStats:
        if table == "gone":
            raise aiovec.TableNotFoundError(table)
        await asyncio.sleep(pauses[0])
        return await plain(table)

    async def tables() -> list[str]:
        return names

    monkeypatch.setattr(store, "stats", stats)
    monkeypatch.setattr(store, "tables", tables)
    monkeypatch.setattr(metrics_module, "_STORE_SECONDS", 0.0)
    async with client_of(store) as client:
        for pauses[0], patience in ((0, 20), (20, 0.2)):
            monkeypatch.setattr(metrics_module, "_STORE_PATIENCE", patience)
            text = (await client.get("/metrics")).text
            assert 'aiovec_store_up{backend="sqlite"} 1.0' in text
            assert "aiovec_tables 2.0" in text
            assert 'aiovec_table_rows{table="notes"} 1.0' in text  # the older ones stay
            assert 'table="gone"' not in text
