"""Attacks on a running server over raw sockets; after each the server works as before."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from typing import Any

import pytest
from tests.server.process import START, Served, serving

pytestmark = pytest.mark.slow

KEY = "attack-key-0123456789"
SETTINGS = """
[retrieval]
sqlite_path = "store.db"
dim = 2
[retrieval.server]
max_body_mb = 1
max_rows = 100
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
        # Nobody reads its log; this must not block it.
        call(served, "POST", "/tables", {"name": "notes"})
        call(served, "POST", "/tables/notes/records", [{"id": "a/b", "embedding": [1, 0]}])
        yield served
        assert served.stop() == 0


@pytest.fixture(autouse=True)
def _unharmed(server: Served) -> Iterator[None]:
    yield
    assert call(server, "GET", "/tables")["tables"] == [{"name": "notes", "rows": 1}]


def call(served: Served, method: str, path: str, body: Any = None) -> Any:
    return served.call(method, path, body, {"x-api-key": KEY})


def head(served: Served, method: str, path: str, *lines: str, key: bool = True) -> bytes:
    named = [f"{method} {path} HTTP/1.1", f"Host: 127.0.0.1:{served.port}"]
    named += [f"X-API-Key: {KEY}"] if key else []
    return "\r\n".join([*named, *lines, "", ""]).encode("latin-1")


def post(served: Served, path: str, body: str | bytes, *lines: str) -> bytes:
    data = body if isinstance(body, bytes) else body.encode("utf-8", "surrogatepass")
    lines = ("Content-Type: application/json", f"Content-Length: {len(data)}", *lines)
    return head(served, "POST", path, *lines) + data


def exchange(served: Served, data: bytes, *, close: bool = True) -> bytes:
    """Send the bytes, then a request for the health, and read until the server closes."""
    received = b""
    with socket.create_connection(("127.0.0.1", served.port), START) as connection:
        with suppress(ConnectionError):
            connection.sendall(data)
            if close:
                connection.sendall(head(served, "GET", "/health", "Connection: close"))
        with suppress(ConnectionError):
            while part := connection.recv(65536):
                received += part
    return received


def statuses(answer: bytes) -> list[int]:
    return [int(status) for status in re.findall(rb"HTTP/1\.1 (\d{3}) ", answer)]


LENGTHS = (
    "Content-Length: 6\r\nTransfer-Encoding: chunked", "Content-Length: 6\r\nContent-Length: 5",
    "Content-Length: 6, 6", "Content-Length: +6", "Content-Length: 6_0",
    "Content-Length: 99999999999999999999999999", "Content-Length : 6",
    "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity", "Transfer-Encoding: xchunked",
    "Transfer-Encoding:\x0bchunked", "X: y\r\n Transfer-Encoding: chunked",
    "X: y\nTransfer-Encoding: chunked", "X: y\0\r\nContent-Length: 6",
)  # fmt: skip


def test_a_request_with_two_ends_runs_nothing_behind_it(server: Served) -> None:
    """A proxy before this server may read the other end. So nothing behind is run as a request,
    and the connection ends."""
    behind = head(server, "DELETE", "/tables/notes?confirm=notes")
    for line in LENGTHS:
        begin = head(server, "POST", "/tables/notes/search", "Content-Type: application/json", line)
        for body in (b"0\r\n\r\n", b"5\r\n{}   \r\n0\r\n\r\n"):
            codes = statuses(exchange(server, begin + body + behind, close=False))
            assert codes in ([400], [501], []), (line, body)  # or closed without a response
    begin = head(server, "POST", "/tables/notes/search", "Content-Type: application/json",
                 "Transfer-Encoding: chunked")  # fmt: skip
    for body in (b"-1\r\n\r\n", b"FFFFFFFFFFFFFFFFFF\r\nx", b"0x2\r\n{}\r\n0\r\n\r\n", b"zz\r\n"):
        codes = statuses(exchange(server, begin + body + behind, close=False))
        assert codes[:1] in ([400], [431], [422], [408], []), body[:20]


def test_a_trailer_is_no_header(server: Served) -> None:
    chunked = ("Content-Type: application/json", "Transfer-Encoding: chunked")
    body = b"2\r\n{}\r\n0\r\n%b\r\n\r\n"
    for trailer in (f"X-API-Key: {KEY}", f"Authorization: Bearer {KEY}"):
        begin = head(server, "POST", "/tables/notes/count", *chunked, key=False)
        answer = exchange(server, begin + body % trailer.encode())
        assert statuses(answer) == [401, 200], trailer
    begin = head(server, "POST", "/tables/notes/count", *chunked)
    assert statuses(exchange(server, begin + body % b"X-Request-Id: theirs")) == [200, 200]
    trailed = exchange(server, begin + body % b"X-Request-Id: theirs")
    assert b"theirs" not in trailed


def test_an_unknown_transfer_coding_is_refused_at_once(server: Served) -> None:
    for coding in ("xchunked", "gzip", "gzip, chunked", "chunked, gzip", "chunked, chunked", ""):
        begin = head(server, "POST", "/tables/notes/count", f"Transfer-Encoding: {coding}")
        answer = exchange(server, begin, close=False)  # the server closes the connection
        assert statuses(answer) == [400], coding
    assert b"Transfer-Encoding must be chunked" in exchange(
        server, head(server, "POST", "/tables", "Transfer-Encoding: gzip, chunked"), close=False
    )
    begin = head(server, "POST", "/tables/notes/count", "Transfer-Encoding: Chunked")
    assert statuses(exchange(server, begin + b"0\r\n\r\n")) == [200, 200]


def test_an_endless_head_or_garbage_is_refused(server: Served) -> None:
    large = "x" * 1_000_000
    for data in (
        head(server, "GET", "/health", f"X: {large}"),
        head(server, "GET", "/health", *["X: y"] * 200_000),
        head(server, "GET", f"/{large}"),
        head(server, "GET", "/health", "X: " + "x" * 70_000),
    ):
        assert statuses(exchange(server, data, close=False)) == [431], data[:30]
    for data in (
        b"nonsense\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET /\x00 HTTP/1.1\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ):
        codes = statuses(exchange(server, data, close=False))
        assert codes in ([400], []), data[:30]
    upgrade = ["Connection: Upgrade, close", "Upgrade: websocket", "Sec-WebSocket-Version: 13",
               "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="]  # fmt: skip
    codes = statuses(exchange(server, head(server, "GET", "/tables", *upgrade), close=False))
    assert 101 not in codes


# Paths that a real server parses before the app sees them, and traversals.
DELETED = (
    "/tables/notes/records/../../notes?confirm=notes", "/health/../tables/notes?confirm=notes",
    "/tables/notes%00?confirm=notes%00", "/tables/notes?confirm=notes&confirm=other",
    "/tables/notes?confirm=notes#x", "/assets/..%2f..%2ftables/notes?confirm=notes",
    "/" + "x" * 60_000, "*", "tables/notes?confirm=notes",
)  # fmt: skip
READ = (
    "/assets/../../../../etc/passwd", "/assets/%2e%2e/%2e%2e/etc/passwd", "/assets//etc/passwd",
    "/assets/..%5c..%5cetc", "/../../etc/passwd",
)  # fmt: skip


def test_no_path_leads_around_the_routes(server: Served) -> None:
    for path in DELETED:
        answer = exchange(server, head(server, "DELETE", path))
        assert statuses(answer)[0] in (400, 404, 405, 422), path
    for path in READ:
        answer = exchange(server, head(server, "GET", path))
        assert statuses(answer) == [404, 200]
        assert b"root:" not in answer
    for target in (f"http://127.0.0.1:{server.port}/tables", "http://evil.example/tables"):
        answer = exchange(server, head(server, "GET", target, key=False))
        assert statuses(answer)[0] in (400, 401, 404)


BODIES = (
    '{"a":' * 100_000, '{"vector": ' + "[" * 50_000 + "]" * 50_000 + "}",
    '{"vector": [1, 0], "where": "' + "(" * 50_000 + "id = 'x'" + ")" * 50_000 + '"}',
    '{"vector": [1e999, 0]}', '{"vector": "' + "x" * 100_000 + '"}',
)  # fmt: skip


def test_a_hostile_body_is_refused_with_a_short_answer(server: Served) -> None:
    for body in BODIES:
        answer = exchange(server, post(server, "/tables/notes/search", body))
        codes = statuses(answer)
        assert codes[0] in (400, 413, 422), body[:50]
        assert codes[1:] == [200]
        assert len(answer) < 20_000
        assert b"Traceback" not in answer
    expecting = ["Content-Length: 3000000", "Expect: 100-continue"]
    data = head(server, "POST", "/tables/notes/records", *expecting)
    assert statuses(exchange(server, data, close=False)) == [413]
    # Without a key, an endless body is not read for long.
    lines = ["Transfer-Encoding: chunked"]
    data = head(server, "POST", "/tables/notes/records", *lines, key=False)
    endless = b"100000\r\n%b\r\n" % (b" " * 2**20) * 50
    assert statuses(exchange(server, data + endless, close=False)) in ([401], [])


@pytest.mark.parametrize(
    "endless", [b"0\r\n" + b"x: y\r\n" * 500_000, b"0\r\nx: " + b"y" * 3_000_000,
                b"5;x=" + b"y" * 3_000_000]
)  # fmt: skip
def test_trailers_and_chunk_extensions_are_bounded(server: Served, endless: bytes) -> None:
    """Without a key, too."""
    data = head(server, "GET", "/health", "Transfer-Encoding: chunked", key=False)
    assert statuses(exchange(server, data + endless, close=False)) in ([200], [])
    data = head(server, "GET", "/health", "Transfer-Encoding: chunked", "Connection: close")
    assert statuses(exchange(server, data + b"0\r\nx: y\r\n\r\n", close=False)) == [200]


def test_a_connection_without_a_request_is_closed(server: Served) -> None:
    with socket.create_connection(("127.0.0.1", server.port), START) as connection:
        connection.sendall(head(server, "GET", "/health") + b"\r\n")
        answer = b""
        while part := connection.recv(65536):
            answer += part
    assert statuses(answer) == [200]


def test_bytes_after_a_request_never_change_its_answer(server: Served) -> None:
    """Their own responses follow, or the connection ends."""
    find = post(server, "/tables/notes/find", "{}")
    whole = exchange(server, find).partition(b"\r\n\r\n")[2].partition(b"HTTP/")[0]
    assert b"a/b" in whole
    for behind in (b"garbage\r\n\r\n", head(server, "GET", "/health", "X: " + "x" * 65536)):
        answer = exchange(server, find + behind, close=False)
        assert answer == b"" or (statuses(answer) == [200] and answer.endswith(whole))
    many = exchange(server, find * 16, close=False)
    assert statuses(many) == [200] * 16
    assert set(statuses(exchange(server, find * 1000, close=False))) <= {200}


def test_no_header_of_a_request_adds_one_to_the_answer(server: Served) -> None:
    for name in ("X-Request-Id", "Idempotency-Key", "Origin", "Accept"):
        for value in ("a\tSet-Cookie: x", "%0d%0aSet-Cookie: x", "\x85Set-Cookie: x", "é" * 100):
            answer = exchange(server, head(server, "GET", "/tables", f"{name}: {value}"))
            assert b"set-cookie" not in answer.lower().split(b"\r\n\r\n")[0], (name, value)


def test_stalled_clients_are_cut_off_while_others_are_served(server: Served) -> None:
    search = post(server, "/tables/notes/search", '{"vector": [1, 0]}')
    with ExitStack() as stack:
        held = []
        for number in range(120):
            client = stack.enter_context(
                socket.create_connection(("127.0.0.1", server.port), START)
            )
            client.sendall((b"", b"GET / HTTP/1.1\r\nX: ", search[:-5])[number % 3])
            held.append(client)
        for _ in range(1000):  # the stalled bodies hold all turns at first, so 429 is right
            if statuses(exchange(server, search))[0] == 200:
                break
        else:
            pytest.fail("nobody else was served")
        for number, client in enumerate(held):
            if number % 3:  # an idle connection is kept until its time or a request comes
                received = b""
                with suppress(ConnectionError):
                    while part := client.recv(65536):
                        received += part
                assert b" 200 " not in received
