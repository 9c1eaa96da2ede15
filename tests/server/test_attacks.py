"""Attacks on a running server, over bare sockets. After each, it serves as before."""

from __future__ import annotations

import json
import random
import re
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest
from tests.server.process import START, Served, serving

from aiovec.backend import PROTOCOL, PROTOCOL_HEADER

SECONDS = 10
KEY = "attack-key-0123456789"
PROTOCOL_LINE = f"{PROTOCOL_HEADER}: {PROTOCOL}"
SETTINGS = """
[retrieval]
sqlite_path = "store.db"
dim = 2
[retrieval.server]
max_body_mb = 1
max_top_k = 100
max_rows = 100
timeout = 10.0
receive_timeout = 2.0
keep_alive = 2.0
max_calls = 16
api_keys_file = "keys"
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("attacked")
    (folder / "aiovec.toml").write_text(SETTINGS)
    (folder / "keys").write_text(KEY)
    with serving("--config", folder / "aiovec.toml") as served:
        # Nobody reads its log, which must hold nothing up.
        call(served, "POST", "/tables", {"name": "notes"})
        call(served, "POST", "/tables/notes/records", [{"id": "a/b", "embedding": [1, 0]}])
        yield served
        assert served.stop() == 0


def call(served: Served, method: str, path: str, body: Any = None) -> Any:
    return served.call(method, path, body, {"x-api-key": KEY})


@pytest.fixture(autouse=True)
def unharmed(server: Served) -> Iterator[None]:
    yield
    if not any(table["name"] == "notes" for table in call(server, "GET", "/tables")["tables"]):
        call(server, "POST", "/tables", {"name": "notes"})  # so that one test alone fails
        call(server, "POST", "/tables/notes/records", [{"id": "a/b", "embedding": [1, 0]}])
        pytest.fail("the table is gone")
    assert call(server, "GET", "/tables/notes/count") == {"count": 1}
    assert call(server, "GET", "/tables")["tables"] == [{"name": "notes", "rows": 1}]


def connected(served: Served) -> socket.socket:
    return socket.create_connection(("127.0.0.1", served.port), SECONDS)


def head(served: Served, method: str, path: str, *lines: str, key: bool = True) -> bytes:
    named = [f"{method} {path} HTTP/1.1", f"Host: 127.0.0.1:{served.port}"]
    named += [f"X-API-Key: {KEY}"] if key else []
    return "\r\n".join([*named, *lines, "", ""]).encode("latin-1")


def all_of(connection: socket.socket, seconds: float = SECONDS) -> bytes:
    """Read until the server closes."""
    connection.settimeout(seconds)
    received = b""
    with suppress(ConnectionError):
        while part := connection.recv(65536):
            received += part
    return received


def exchange(served: Served, data: bytes, *, close: bool = True) -> bytes:
    with connected(served) as connection:
        with suppress(ConnectionError):
            connection.sendall(data)
            if close:
                connection.sendall(head(served, "GET", "/health", "Connection: close"))
        return all_of(connection)


def statuses(answer: bytes) -> list[int]:
    return [int(status) for status in re.findall(rb"HTTP/1\.1 (\d{3}) ", answer)]


SMUGGLED = (
    b"DELETE /tables/notes?confirm=notes HTTP/1.1\r\nHost: 127.0.0.1\r\nX-API-Key: %b\r\n\r\n"
)


@pytest.mark.parametrize(
    "lines",
    [
        ["Content-Length: 6", "Transfer-Encoding: chunked"],
        ["Transfer-Encoding: chunked", "Content-Length: 6"],
        ["Content-Length: 6", "Content-Length: 5"],
        ["Content-Length: 6", "Content-Length: 6"],
        ["Content-Length: 6, 6"],
        ["Content-Length: +6"],
        ["Content-Length: -6"],
        ["Content-Length: 0x6"],
        ["Content-Length: 6_0"],
        ["Content-Length: 6 6"],
        ["Content-Length: 99999999999999999999999999"],
        ["Content-Length : 6"],
        ["Content-Length:\x0b6"],
        ["Transfer-Encoding: chunked", "Transfer-Encoding: identity"],
        ["Transfer-Encoding: identity, chunked"],
        ["Transfer-Encoding: xchunked"],
        ["Transfer-Encoding: chunked, chunked"],
        ["Transfer-Encoding : chunked"],
        ["Transfer-Encoding:\x0bchunked"],
        [" Transfer-Encoding: chunked"],
        ["X: y", " Transfer-Encoding: chunked"],
        ["X: y\nTransfer-Encoding: chunked"],
        ["X: y\rTransfer-Encoding: chunked"],
        ["X: y\0", "Content-Length: 6"],
    ],
)
def test_requests_that_end_in_two_places(server: Served, lines: list[str]) -> None:
    """A proxy before this server may read the other end. So nothing behind is run as a request,
    and the connection ends."""
    begin = head(server, "POST", "/tables/notes/search", "Content-Type: application/json", *lines)
    for body in (b"0\r\n\r\n", b"{}    ", b"5\r\n{}   \r\n0\r\n\r\n", b"0;x=\r\n\r\n"):
        answer = exchange(server, begin + body + SMUGGLED % KEY.encode(), close=False)
        found = statuses(answer)
        assert found in ([400], [501], []), (lines, body)  # or cut off without an answer


@pytest.mark.parametrize(
    "body",
    [
        b"5\r\n{}", b"-1\r\n\r\n", b"FFFFFFFFFFFFFFFFFF\r\nx", b"0x2\r\n{}\r\n0\r\n\r\n",
        b" 2\r\n{}\r\n",
        b"2\n{}\n0\n\n", b"2\r\n{}0\r\n\r\n", b"2;" + b"x" * 200_000 + b"\r\n{}\r\n0\r\n\r\n",
        b"2\r\n{}\r\n0\r\nTrailer: x\r\n" + b"X: " + b"y" * 200_000 + b"\r\n\r\n", b"zz\r\n",
    ],
)  # fmt: skip
def test_chunks_that_are_none(server: Served, body: bytes) -> None:
    begin = head(server, "POST", "/tables/notes/search", "Content-Type: application/json",
                 "Transfer-Encoding: chunked")  # fmt: skip
    answer = exchange(server, begin + body, close=False)
    assert statuses(answer)[:1] in ([400], [431], [422], [408], []), answer[:200]


def test_pipelined_requests(server: Served) -> None:
    body = b'{"vector": [1, 0], "topK": 1}'
    search = head(server, "POST", "/tables/notes/search", "Content-Type: application/json",
                  f"Content-Length: {len(body)}") + body  # fmt: skip
    data = b"".join([search, head(server, "GET", "/nowhere"), search] * 20)
    assert statuses(exchange(server, data)) == [200, 404, 200] * 20 + [200]
    refused = head(server, "GET", "/tables", key=False)
    assert statuses(exchange(server, refused + search + refused)) == [401, 200, 401, 200]


@pytest.mark.parametrize(
    ("path", "wanted"),
    [
        ("/tables/notes/records/a%2Fb%00", {200, 400, 422}),
        ("/tables/notes/records/%2e%2e", {400}),
        ("/tables/notes/records/..", {400}),
        ("/tables/notes/records/.", {400}),
        ("/tables/notes/records/a/b", {400}),
        ("/tables/notes/records/%ff%fe", {400}),
        ("/tables/notes/records/%", {200, 400}),
        ("/tables/notes/records/../../notes", {400, 404, 405}),
        ("/tables/notes/records/../../notes?confirm=notes", {400, 404, 405, 422}),
        ("/tables/notes/records/%2e%2e%2f%2e%2e%2fnotes", {200, 400, 404, 405}),
        ("/tables/notes/records/%2e%2e%2f%2e%2e%2fnotes?confirm=notes", {400, 404, 405, 422}),
        ("/tables/./notes?confirm=notes", {400, 404, 405}),
        ("/tables//notes?confirm=notes", {400, 404, 405}),
        ("//tables/notes?confirm=notes", {400, 404, 405}),
        ("/tables/notes/?confirm=notes", {400, 404, 405}),
        ("/tables/notes%00?confirm=notes%00", {400, 404, 422}),
        ("/tables/notes%2f?confirm=notes%2f", {400, 404, 405, 422}),
        ("/tables/%6eotes?confirm=", {400}),
        ("/tables/notes?confirm=Notes", {400}),
        ("/tables/notes?confirm=notes&confirm=other", {400, 422}),
        ("/tables/notes?confirm=not%65s%00", {400}),
        ("/assets/..%2f..%2ftables/notes?confirm=notes", {404, 405}),
        ("/health/../tables/notes?confirm=notes", {404, 405}),
        ("/tables/NOTES?confirm=NOTES", {404, 422}),
        ("/" + "x" * 60_000, {404}),
        ("/tables/" + "%41" * 20_000, {400, 404, 422}),
        ("*", {400, 404}),
        ("tables/notes?confirm=notes", {400, 404}),
    ],
)  # fmt: skip
def test_paths(server: Served, path: str, wanted: set[int]) -> None:
    (status, last) = statuses(exchange(server, head(server, "DELETE", path)) + b"HTTP/1.1 200 ")[:2]
    assert status in wanted, path
    assert last == 200


@pytest.mark.parametrize(
    "path",
    [
        "/assets/../../../../etc/passwd", "/assets/%2e%2e/%2e%2e/etc/passwd", "/assets//etc/passwd",
        "/assets/..%5c..%5cetc", "/assets/%00", "/assets/main.js%00.html", "/assets/", "/assets",
        "/../../etc/passwd", "/page/../../etc/passwd",
    ],
)  # fmt: skip
def test_no_path_leads_to_a_file(server: Served, path: str) -> None:
    answer = exchange(server, head(server, "GET", path))
    assert statuses(answer) == [404, 200]
    assert b"root:" not in answer


def test_the_absolute_form_of_a_path(server: Served) -> None:
    """The name in it reaches nothing: the Host header counts, and keys count as ever."""
    for target in (f"http://127.0.0.1:{server.port}/tables", "http://evil.example/tables"):
        found = statuses(exchange(server, head(server, "GET", target, key=False)))
        assert found[0] in (400, 401, 404)


def test_json_of_many_levels(server: Served) -> None:
    for text in ("[" * 100_000, '{"a":' * 100_000, "[" * 100_000 + "]" * 100_000,
                 '{"vector": ' + "[" * 50_000 + "]" * 50_000 + "}"):  # fmt: skip
        for path in ("/tables/notes/search", "/tables/notes/records", "/tables",
                     "/tables/notes/delete", "/tables/notes/get", "/backend/search"):  # fmt: skip
            data = head(server, "POST", path, "Content-Type: application/json", PROTOCOL_LINE,
                        f"Content-Length: {len(text)}") + text.encode()  # fmt: skip
            found = statuses(exchange(server, data))
            assert found[0] in (400, 413, 415, 422), (path, found)
            assert found[1:] == [200]


def test_filters_of_many_levels(server: Served) -> None:
    for text in (
        "(" * 50_000 + "id = 'x'" + ")" * 50_000,
        "NOT " * 50_000 + "TRUE",
        "id = '" * 1000,
    ):
        body = json.dumps({"vector": [1, 0], "filter": text})
        data = head(server, "POST", "/tables/notes/search", "Content-Type: application/json",
                    f"Content-Length: {len(body)}") + body.encode()  # fmt: skip
        answer = exchange(server, data)
        assert statuses(answer) in ([422, 200], [200, 200])
        assert len(answer) < 20_000


@pytest.mark.parametrize(
    "body",
    [
        '{"vector": [1, 0], "topK": 101}',
        '{"vector": [1, 0], "topK": 51, "groupBy": "payload.k", "perGroup": 2}',
        '{"vector": [1, 0], "groupBy": "payload.k", "perGroup": 11}',
        '{"vector": [1, 0], "diversity": 0.5, "fetchK": 101}',
        '{"vector": [1, 0], "topK": 1e308}',
        '{"vector": [1, 0], "topK": 99999999999999999999999}',
        '{"vector": [1, 0], "topK": NaN}',
        '{"vector": [1e999, 0]}',
        '{"vector": [NaN, 0]}',
        '{"vector": [1, 0], "vector": [1, 0, 1]}',
        '{"vector": "' + "x" * 100_000 + '"}',
        '{"vector": {"__proto__": 1}}',
        '{"vector": [1, 0], "filter": "id = \'\\ud800\'"}',
        '{"vector": [1, 0], "tuning": {"nprobes": 1e9}}',
        '{"vector": [1, 0], "' + "k" * 100_000 + '": 1}',
        "\ufeff{}",
        "",
        "\0",
    ],
)
def test_values_of_a_search(server: Served, body: str) -> None:
    raw = body.encode("utf-8", "surrogatepass")
    data = head(server, "POST", "/tables/notes/search", "Content-Type: application/json",
                f"Content-Length: {len(raw)}") + raw  # fmt: skip
    answer = exchange(server, data)
    found = statuses(answer)
    assert found[0] in (400, 422), answer[:500]
    assert found[1:] == [200]
    assert len(answer) < 10_000
    assert b"Traceback" not in answer


def test_a_target_with_a_fragment(server: Served) -> None:
    """What stood behind the # was left out, so another row or table was named."""
    call(server, "POST", "/tables/notes/records", [{"id": "a#b", "embedding": [1, 0]}])
    call(server, "POST", "/tables/notes/records", [{"id": "a", "embedding": [1, 0]}])
    for target in ("/tables/notes/records/a#b", "/tables/notes?confirm=notes#x"):
        answer = exchange(server, head(server, "DELETE", target))
        assert statuses(answer)[0] == 400
        assert b"encode it as %23" in answer
    assert call(server, "DELETE", "/tables/notes/records/a%23b") == {"deleted": 1}
    assert call(server, "DELETE", "/tables/notes/records/a") == {"deleted": 1}


def test_answers_beyond_the_limit(server: Served) -> None:
    """Of a few kilobytes that ask for a large row again and again."""
    row = {"id": "large", "embedding": [0, 1], "text": "x" * 50_000}
    call(server, "POST", "/tables/notes/records", [row])
    vectors = [[0, 1]] * 40
    for kind in ("application/json", "application/x-ndjson", "application/vnd.apache.arrow.stream"):
        for path, body, status in (
            ("get", {"ids": ["large"] * 40}, 413),
            ("search_many", {"vectors": vectors, "topK": 1}, 413),
            ("search_many", {"vectors": vectors, "topK": 3}, 422),
            ("search_many", {"vectors": vectors, "topK": 1, "select": []}, 200),
            ("get", {"ids": ["large"] * 10}, 200),
        ):
            text = json.dumps(body)
            lines = ("Content-Type: application/json", f"Accept: {kind}",
                     f"Content-Length: {len(text)}")  # fmt: skip
            data = head(server, "POST", f"/tables/notes/{path}", *lines) + text.encode()
            found = exchange(server, data)
            assert statuses(found)[0] == status, (kind, path, found[:500])
    assert call(server, "DELETE", "/tables/notes/records/large") == {"deleted": 1}


def test_rows_beyond_the_limit(server: Served) -> None:
    rows = [{"id": str(n), "embedding": [1, 0]} for n in range(101)]
    for path, body in (("records", rows), ("delete", {"ids": [row["id"] for row in rows]})):
        text = json.dumps(body)
        data = head(server, "POST", f"/tables/notes/{path}", "Content-Type: application/json",
                    f"Content-Length: {len(text)}") + text.encode()  # fmt: skip
        assert statuses(exchange(server, data)) == [422, 200], path


def test_heads_of_a_megabyte(server: Served) -> None:
    large = "x" * 1_000_000
    for data in (
        head(server, "GET", "/health", f"X: {large}"),
        head(server, "GET", "/health", *["X: y"] * 200_000),
        head(server, "GET", f"/{large}"),
        head(server, large, "/health"),
        head(server, "GET", "/health", f"{large}: x"),
    ):
        found = statuses(exchange(server, data, close=False))
        assert found in ([431], [400], [414], []), found


@pytest.mark.parametrize("chunked", [False, True])
def test_bodies_that_are_too_large(server: Served, chunked: bool) -> None:
    size = 3 * 1024 * 1024
    for path in ("/tables/notes/records", "/backend/insert", "/tables/notes/search"):
        lines = ["Transfer-Encoding: chunked"] if chunked else [f"Content-Length: {size}"]
        lines += ["Connection: close"]
        begin = head(server, "POST", path, "Content-Type: application/json", PROTOCOL_LINE, *lines)
        body = b"%x\r\n%b\r\n0\r\n\r\n" % (size, b" " * size) if chunked else b" " * size
        answer = exchange(server, begin + body, close=False)
        # Rows are read as they come, and blanks are none.
        wanted = [400, 413, 422] if chunked and "search" not in path else [413]
        assert statuses(answer)[0] in wanted, path
        assert b"application/problem+json" in answer


def test_a_body_that_is_too_large_is_not_asked_for(server: Served) -> None:
    with connected(server) as connection:
        lines = ["Content-Length: 3000000", "Expect: 100-continue"]
        connection.sendall(head(server, "POST", "/tables/notes/records", *lines))
        assert statuses(all_of(connection)) == [413]


def test_a_body_for_nobody(server: Served) -> None:
    """Without a key, an endless body is not read for long."""
    with connected(server) as connection:
        lines = ["Transfer-Encoding: chunked"]
        connection.sendall(head(server, "POST", "/tables/notes/records", *lines, key=False))
        part = b"10000\r\n%b\r\n" % (b" " * 65536)
        sent, began = 0, time.monotonic()
        with suppress(OSError):
            while sent < 500 and time.monotonic() - began < SECONDS:
                connection.sendall(part)
                sent += 1
        assert sent < 500


def test_slow_clients_and_idle_connections(server: Served) -> None:
    """500 idle connections, 100 that drip a head, 30 a body: others are served at once."""
    body = b'{"vector": [1, 0]}'
    with ExitStack() as stack:
        idle = [stack.enter_context(connected(server)) for _ in range(500)]
        slow = [stack.enter_context(connected(server)) for _ in range(130)]
        for number, one in enumerate(slow):
            one.sendall(
                head(server, "POST", "/tables/notes/search", "Content-Type: application/json",
                     "Content-Length: 1000")
                if number < 30
                else b"GET /health HTTP/1.1\r\nX: "
            )  # fmt: skip
        stop = threading.Event()

        def drip() -> None:
            while not stop.wait(0.2):
                for one in slow:
                    with suppress(OSError):
                        one.sendall(b" ")

        dripping = threading.Thread(target=drip)
        dripping.start()
        try:
            times = []
            # Those whose heads are whole have all the turns at first; they are cut off.
            until = time.monotonic() + START
            while time.monotonic() < until and len(times) < 40:
                began = time.monotonic()
                answer = exchange(
                    server,
                    head(server, "POST", "/tables/notes/search", "Content-Type: application/json",
                         f"Content-Length: {len(body)}") + body,
                )  # fmt: skip
                found = statuses(answer)
                assert found[-1] == 200  # health
                assert found[0] in (200, 429)
                if found[0] == 200:
                    times.append(time.monotonic() - began)
                else:
                    time.sleep(0.2)
            assert len(times) == 40
            assert sorted(times)[20] < 2  # none waited until the slow ones were cut off
        finally:
            stop.set()
            dripping.join()
        for one in slow:
            assert b" 200 " not in all_of(one, SECONDS)
        for one in idle:  # they are kept, until their time or a request comes
            one.settimeout(0.0)
            with suppress(OSError):
                assert one.recv(1) == b""


def test_a_page_of_another_origin(server: Served) -> None:
    foreign = ["Origin: http://evil.example", "Sec-Fetch-Site: cross-site"]
    for method, path in (
        ("DELETE", "/tables/notes?confirm=notes"),
        ("POST", "/tables/notes/search"),
        ("OPTIONS", "/tables/notes"),
        ("GET", "/tables"),
    ):
        answer = exchange(server, head(server, method, path, *foreign))
        assert statuses(answer) == [403, 200]
        assert b"access-control-allow" not in answer.lower()
    rebound = head(server, "GET", "/tables").replace(b"Host: 127.0.0.1", b"Host: evil.example")
    assert statuses(exchange(server, rebound)) == [421, 200]
    no_host = head(server, "GET", "/tables").replace(b"Host: ", b"X-Host: ")
    assert statuses(exchange(server, no_host))[0] == 400


def test_web_sockets_and_upgrades(server: Served) -> None:
    upgrade = ["Connection: Upgrade, close", "Upgrade: websocket", "Sec-WebSocket-Version: 13",
               "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="]  # fmt: skip
    found = statuses(exchange(server, head(server, "GET", "/tables", *upgrade), close=False))
    assert 101 not in found
    h2c = [
        "Connection: Upgrade, close, HTTP2-Settings",
        "Upgrade: h2c",
        "HTTP2-Settings: AAMAAABkAAQAoAAA",
    ]
    assert 101 not in statuses(exchange(server, head(server, "GET", "/tables", *h2c), close=False))
    preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
    assert 200 not in statuses(exchange(server, preface, close=False))


def test_nothing_of_a_client_gets_into_the_head_of_an_answer(server: Served) -> None:
    for name in ("X-Request-Id", "Idempotency-Key", "Origin", "Accept", "Content-Type"):
        for value in ("a\tSet-Cookie: x", "%0d%0aSet-Cookie: x", "\x85Set-Cookie: x", "é" * 100):
            answer = exchange(server, head(server, "GET", "/tables", f"{name}: {value}"))
            assert b"set-cookie" not in answer.lower().split(b"\r\n\r\n")[0], (name, value)


# Requests of chance


VERBS = """
bounds count create_field_index create_index delete distinct exists export fields find get indexes
insert kept open open_table optimize ping records rename restore search search_hybrid search_like
search_many search_text set_vectors stats tables update upsert value_counts versions
""".split()


def fuzzed(chance: random.Random, served: Served) -> bytes:
    """A request in which something is wrong, or everything."""
    if chance.random() < 0.1:
        return chance.randbytes(chance.randrange(1, 2000))
    methods = ["GET", "POST", "DELETE", "PUT", "HEAD", "OPTIONS", "PATCH", "get", "", "\0", "G T"]
    words = ["tables", "notes", "records", "search", "count", "backend", "insert", "page", "..",
             ".", "", "%2f", "%00", "%ff", "a", "health", "metrics", "assets", "main.js", "é", "'",
             "{}", "search_many", "find", "get", "delete", "indexes", "stats"]  # fmt: skip
    path = "/" + "/".join(chance.choices(words, k=chance.randrange(5)))
    if chance.random() < 0.3:  # where something is
        path = chance.choice(["/backend/", "/tables/notes/"]) + chance.choice(VERBS)
    if chance.random() < 0.4:
        path += "?" + "&".join(
            f"{chance.choice(['confirm', 'filter', 'limit', 'x', 'mode', 'after', ''])}="
            f"{chance.choice(['a', '1', '-1', '%00', '%', '1e9', 'upsert', '%ff', ''])}"
            for _ in range(chance.randrange(4))
        )
    values: list[Any] = [
        None,
        True,
        -1,
        0,
        1e308,
        "",
        "x",
        [],
        [1, 0],
        [[1, 0]],
        {},
        {"a": 1},
        "a/b",
    ]
    keys = ["vector", "topK", "filter", "ids", "rows", "name", "schema", "text", "id", "embedding",
            "vectors", "where", "limit", "fields", "query", "kind", "x", "table", "state",
            "columns", "clauses", "orderBy", "values", "payload", "key", "tuning", "set",
            "field"]  # fmt: skip
    body: Any = {chance.choice(keys): chance.choice(values) for _ in range(chance.randrange(6))}
    if chance.random() < 0.3:
        body = [body] * chance.randrange(3)
    text = json.dumps(body).encode()
    if chance.random() < 0.3:
        cut = chance.randrange(len(text) + 1)
        text = text[:cut] + chance.randbytes(chance.randrange(5)) + text[cut:]
    kinds = ["application/json", "application/vnd.apache.arrow.stream", "application/x-ndjson",
             "text/plain", "", "\xff"]  # fmt: skip
    lines = [f"Content-Type: {chance.choice(kinds)}", f"Content-Length: {len(text)}"]
    extra = ["Content-Length: 1", "Transfer-Encoding: chunked", "Accept: x", "Accept: */*",
             "X-Request-Id: \x85", "Host: evil", "Origin: null", "Expect: 100-continue",
             "Aiovec-Protocol: 1", "Idempotency-Key: a", "Connection: close", ":", " folded",
             "Upgrade: websocket\r\nConnection: upgrade", "Authorization: Bearer x"]  # fmt: skip
    if path.startswith("/backend/"):
        lines.append("Aiovec-Protocol: 1")
    if chance.random() < 0.4:
        lines += chance.choices(extra, k=chance.randrange(1, 3))
    data = head(served, chance.choice(methods), path, *lines) + text
    while chance.random() < 0.2:
        place = chance.randrange(len(data))
        data = data[:place] + chance.randbytes(chance.randrange(3)) + data[place + 1 :]
    return data


def _fuzz_answer(served: Served, data: bytes) -> bytes:
    """Return what comes until the server closes, or has nothing more to say: behind a request to
    upgrade, it takes no other."""
    with connected(served) as connection:
        received = b""
        connection.settimeout(3.5)
        with suppress(OSError):
            connection.sendall(data + head(served, "GET", "/health", "Connection: close"))
            while part := connection.recv(65536):
                received += part
        return received


def _fuzz(served: Served, count: int, seed: int) -> None:
    chance = random.Random(seed)
    requests = [fuzzed(chance, served) for _ in range(count)]
    # Several at once, for those whose end is missing wait until they are cut off.
    with ThreadPoolExecutor(12) as threads:
        answers = list(threads.map(lambda data: _fuzz_answer(served, data), requests))
    answered = 0
    for number, (data, answer) in enumerate(zip(requests, answers, strict=True)):
        found = statuses(answer)
        answered += bool(found)
        assert all(status < 500 or status == 503 for status in found), (seed, number, data, answer)
        for hidden in (b"Traceback", b"/store.db", b".py", b"site-packages"):
            assert hidden not in answer or b"/assets/" in data, (seed, number, data, answer)
    assert answered > count * 0.8


@pytest.fixture
def cleaned(server: Served) -> Iterator[None]:
    """Chance may write rows and make tables, which the next test must not find."""
    yield
    for table in call(server, "GET", "/tables")["tables"]:
        if table["name"] != "notes":
            call(server, "DELETE", f"/tables/{table['name']}?confirm={table['name']}")
    assert call(server, "GET", "/tables/notes/count")["count"] >= 1
    found = call(server, "POST", "/tables/notes/find", {"limit": 100})
    rows = found.get("records", found.get("rows", []))
    ids = [row["id"] for row in rows if row["id"] != "a/b"]
    if ids:
        call(server, "POST", "/tables/notes/delete", {"ids": ids})


@pytest.mark.usefixtures("cleaned")
def test_requests_of_chance(server: Served) -> None:
    _fuzz(server, 300, 1)


@pytest.mark.soak
@pytest.mark.usefixtures("cleaned")
@pytest.mark.parametrize("seed", range(2, 12))
def test_many_requests_of_chance(server: Served, seed: int) -> None:
    _fuzz(server, 1000, seed)


def test_its_log_stalled_and_held_nothing_up(server: Served, tmp_path: Path) -> None:
    """Nobody read standard error since the module began, which takes more than a pipe holds."""
    for _ in range(300):
        assert call(server, "GET", "/health")["status"] == "ok"
