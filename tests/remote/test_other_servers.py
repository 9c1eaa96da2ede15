"""Other programs, hostile responses, refused keys and certificates, and invalid addresses."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import ssl
import struct
import subprocess
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from tests.harness.cases import case
from tests.harness.command import COMMAND, run
from tests.harness.proxy import Proxy, Request
from tests.hostile.test_arrow_bodies import misled, unknown_first
from tests.remote.answers import http, problem
from tests.remote.conftest import SECRET, Opens
from tests.server.apps import ipc

import aiovec
from aiovec import AiovecError, ConfigError, InvalidArgumentError, UnsupportedError

TOML = '[retrieval]\nbackend = "remote"\nremote_url = "{}"\n[retrieval.remote]\n'


async def answering(*answers: bytes) -> tuple[asyncio.Server, str]:
    """Start a server that answers each request with these bytes, and closes the connection."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(answers[0])
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    return server, f"127.0.0.1:{server.sockets[0].getsockname()[1]}"


async def test_an_address_without_an_aiovec_server_is_refused(tmp_path: Path) -> None:
    config = tmp_path / "aiovec.toml"
    away = "location: http://127.0.0.1:1/\r\n"
    quick = f'reconnect_timeout = 0.1\napi_key = "{SECRET}"\n'
    for answer, words in (
        (http(b"<html>", status=404, kind="text/html"), "not an aiovec server"),
        (http(b"<html>", kind="text/html"), "not an aiovec server"),
        (http(b"", status=302, headers=away), "redirect"),
        (http(b"", status=307, headers=away), "redirect"),
        (problem(401, "no key"), "api_key"),
        (problem(403, "may not write"), "may not write"),
        (b"SSH-2.0-OpenSSH_9\r\n", "did not answer"),
        (b"\x00" * 100, "did not answer"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "127"),
    ):
        server, address = await answering(answer)
        async with server:
            scheme = "https" if words == "127" else "http"
            text = TOML.format(f"{scheme}://{address}") + quick
            await asyncio.to_thread(config.write_text, text)
            with pytest.raises(AiovecError, match=words) as caught:
                await aiovec.connect(config=config)
            assert SECRET not in str(caught.value)
    await asyncio.to_thread(config.write_text, TOML.format("http://127.0.0.1:1") + quick)
    with pytest.raises(AiovecError, match="aiovec serve"):
        await aiovec.connect(config=config)


STREAM = "application/vnd.apache.arrow.stream"
OF_NO_QUERY = pa.table({"id": ["a"], "_query": pa.array([2**32 - 1], pa.uint32())})
GARBAGE = (
    http(b""), http(b"not json"), http(b"[1]"), http(b"\xff\xfe"), http(b"null"), http(b"{}"),
    http(b"[" * 100_000), http(b'{"hits": 3}'), http(b"ARROW1", kind=STREAM),
    http(b"\xff" * 100, kind=STREAM), http(unknown_first("id"), kind=STREAM),
    http(misled(pa.array(["abc", "def"]), "id", [0, -(2**31) + 4, 6]), kind=STREAM),
    http(ipc(OF_NO_QUERY), kind=STREAM),
)  # fmt: skip


async def test_an_unreadable_answer_raises_an_aiovec_error(proxy: Proxy, opens: Opens) -> None:
    async with opens() as store:
        for answer in GARBAGE:
            with case(answer):
                proxy.answer(answer)
                with pytest.raises(AiovecError) as caught:
                    await store.search("notes", [1, 0, 0, 0])
                assert SECRET not in str(caught.value)
        for body in (b"", b"[]", b"null", b"\xff", b'{"error": 3, "facts": []}'):
            with case(body):
                proxy.answer(http(body, status=500, kind="application/problem+json"))
                with pytest.raises(AiovecError):
                    await store.count("notes")
        busy = http(b'{"error": ["a"]}', status=503, kind="application/problem+json")
        proxy.answer(busy)
        assert await store.count("notes") == 10
        proxy.answer(http(b'{"count": 1e999}'))
        with pytest.raises(ConfigError, match="cannot be used"):
            await store.count("notes")
        proxy.answer(problem(413, "at most 1 MiB"))
        with pytest.raises(InvalidArgumentError, match="1 MiB"):
            await store.create_table("t", aiovec.Schema(2))
        assert await store.count("notes") == 10


async def test_keys_that_a_later_server_adds_are_ignored(proxy: Proxy, opens: Opens) -> None:
    def with_more(value: Any) -> Any:
        if isinstance(value, list):
            return [with_more(item) for item in value]
        if not isinstance(value, dict) or "dim" in value:  # an option of a schema has a meaning
            return value
        return {**{key: with_more(item) for key, item in value.items()}, "newKey": {"a": 1}}

    async def add(
        _: Request, ask: Callable[[], Awaitable[bytes]], client: asyncio.StreamWriter
    ) -> bool:
        body = (await ask()).partition(b"\r\n\r\n")[2]
        client.write(http(json.dumps(with_more(json.loads(body))).encode()))
        return True

    index = {"name": "i", "kind": "x", "column": "embedding", "parameters": {}, "rowsIndexed": 9,
             "rowsUnindexed": 1, "recall": None}  # fmt: skip
    abilities = {"backend": "x", "version": "9", "abilities": ["indexes", "levitation"]}
    proxy.answer(http(json.dumps(with_more(abilities)).encode()))
    async with opens() as store:
        proxy.arm(*[add] * 9)
        assert (await store.stats("notes")).rows == 10  # with the table's schema
        assert await store.count("notes") == 10
        assert await store.update("notes", {"year": 1}, ids=["r0001"]) == 1
        proxy.disarm()
        proxy.answer(http(json.dumps(with_more({"indexes": [index]})).encode()))
        assert [each.rows_indexed for each in await store.indexes("notes")] == [9]


async def test_an_answer_that_is_too_long_is_not_read(proxy: Proxy, opens: Opens) -> None:
    def longer(answer: bytes) -> bytes:
        return answer.replace(b"content-length: 0", b"content-length: %d" % (2**30 + 1))

    problem_json = longer(http(b"", status=422, kind="application/problem+json"))
    batch = pa.record_batch({"id": ["x" * 12_345]})
    size = struct.pack("<q", pa.ipc.read_message(batch.serialize()).body.size)
    stream = b"HTTP/1.1 200 x\r\ncontent-type: %s\r\n\r\n" % STREAM.encode()
    schema, message = (part.serialize().to_pybytes() for part in (batch.schema, batch))
    assert message.count(size) == 1
    async with opens(idle_timeout=5) as store:
        for answer in (longer(http(b"")), problem_json):
            proxy.answer(answer)
            with pytest.raises(ConfigError, match="client reads 1,024 MiB"):
                await store.count("notes")
        for words in (struct.pack("<q", 2**62), struct.pack("<q", -8)):
            proxy.answer(stream + schema + message.replace(size, words))
            with pytest.raises(ConfigError, match="client reads 1,024 MiB"):
                await anext(store.export("notes"))
        proxy.answer(stream + b"\xff" * 4 + struct.pack("<I", 2**32 - 8))
        with pytest.raises(ConfigError, match="client reads 1,024 MiB"):
            await anext(store.export("notes"))
        proxy.answer(longer(http(b"")))
        with pytest.raises(aiovec.OutcomeUnknownError):
            await store.delete("notes", ["r0001"])


async def test_an_answer_without_end_is_refused(
    proxy: Proxy, opens: Opens, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aiovec_remote.codec.LONGEST_ANSWER", 2**20)
    sent = 0

    async def endless(_: object, __: object, client: asyncio.StreamWriter) -> bool:
        nonlocal sent
        client.write(b"HTTP/1.1 200 x\r\ncontent-type: application/json\r\n\r\n")
        while sent < 2**26:  # far more than fits into the buffers
            client.write(b" " * 2**16)
            sent += 2**16
            await client.drain()
        return False

    async with opens() as store:
        proxy.arm(endless)
        with pytest.raises(ConfigError, match="client reads 1 MiB"):
            await store.count("notes")
        assert sent < 2**26


async def test_the_key_is_sent_but_never_shown(proxy: Proxy, opens: Opens) -> None:
    async with opens() as store:
        assert {request.headers["authorization"] for request in proxy.requests} == {
            f"Bearer {SECRET}"
        }
        assert SECRET not in repr(store) + store.target
    for key in ("k3y\r\nX-Other: 1", "k3y\0", "a k3y", "k3y\u00e9"):
        with pytest.raises(ConfigError, match="API key") as caught:
            async with opens(api_key=key):
                pass
        assert caught.value.key == "retrieval.remote.api_key"
        assert "k3y" not in str(caught.value)


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed")
async def test_a_private_certificate_is_refused_until_trusted(url: str, tmp_path: Path) -> None:
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    request = f"openssl req -x509 -newkey ec -nodes -days 2 -keyout {key} -out {certificate}"
    about = [
        "-pkeyopt",
        "ec_paramgen_curve:prime256v1",
        "-subj",
        "/CN=aiovec",
        "-addext",
        "subjectAltName=IP:127.0.0.1",
    ]
    made = await asyncio.create_subprocess_exec(*request.split(), *about, stderr=subprocess.DEVNULL)
    assert await made.wait() == 0
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(certificate, key)
    async with Proxy(url, tls) as proxy:
        with pytest.raises(ConfigError, match=r"not trusted.*SSL_CERT_FILE"):
            await aiovec.connect(proxy.url)
        report = await asyncio.to_thread(run, "doctor", "-s", proxy.url)
        assert "fix: for a certificate of a private CA, set SSL_CERT_FILE" in report.out
        assert not proxy.requests
        process = await asyncio.create_subprocess_exec(
            *COMMAND, "tables", "-s", proxy.url, "--json", stdout=subprocess.PIPE,
            env={**os.environ, "SSL_CERT_FILE": str(certificate)},
        )  # fmt: skip
        out, _ = await process.communicate()
        assert (process.returncode, json.loads(out)) == (0, {"tables": []})


async def test_a_read_only_store_sends_no_write(proxy: Proxy) -> None:
    async with aiovec.connect(proxy.url, read_only=True) as store:
        assert store.read_only
        assert await store.count("notes") == 10
        before = len(proxy.requests)
        for call in (store.delete("notes", ["r0001"]), store.drop_table("notes")):
            with pytest.raises(UnsupportedError, match="read_only"):
                await call
        assert len(proxy.requests) == before


async def test_creating_an_existing_table_sends_no_write(proxy: Proxy, opens: Opens) -> None:
    """Apps make this call when they start, even with a read-only key."""
    async with opens() as store:
        schema = await store.schema("notes")
        before = len(proxy.requests)
        await store.create_table("notes", schema, exist_ok=True)
        assert {request.line.split()[0] for request in proxy.requests[before:]} == {"GET"}


ADDRESSES = (
    "http://", "http:///x", "http://host:99999", "http://host:x", "http://host:0",
    f"http://ann:{SECRET}@host", f"http://{SECRET}@host", f"http://host/?key={SECRET}",
    f"http://host/#{SECRET}", "http://ho st", "http://host/a\tb", "remote://", "http://[::1",
    "http://host\x00",
)  # fmt: skip


async def test_an_invalid_address_is_refused_without_its_secret() -> None:
    for address in ADDRESSES:
        with case(address):
            with pytest.raises(ConfigError) as caught:
                await aiovec.connect(address)
            assert SECRET not in str(caught.value), address
