"""The rows of the table in ``aiovec_lancedb.errors`` that no other test provokes, and what is told
of failed requests."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pyarrow as pa
import pytest

from aiovec import AiovecError, FilterError, StoreBusyError, StoreClosedError
from aiovec.backend import without_secrets
from aiovec_lancedb import LancedbBackend
from aiovec_lancedb.driver import lancedb
from aiovec_lancedb.errors import failure, translated
from aiovec_lancedb.settings import LancedbSettings

from .support import SMALL, numbered, opened


async def test_writers_that_take_no_turns(tmp_path: Path) -> None:
    """Two programs that know nothing of our lock: the second is told to try again."""
    database = await lancedb.connect_async(tmp_path)
    await database.create_table("t", pa.table({"id": ["a", "b"]}))
    one, two = await database.open_table("t"), await database.open_table("t")

    async def add(table: object) -> None:
        with translated("here"):
            await table.add_columns({"more": "1"})  # type: ignore[attr-defined]

    outcomes = await asyncio.gather(add(one), add(two), return_exceptions=True)
    [error] = [outcome for outcome in outcomes if outcome is not None]
    assert isinstance(error, StoreBusyError)
    assert "other writers changed here" in str(error)
    assert isinstance(error.__cause__, RuntimeError)
    database.close()


async def test_a_pattern_that_is_too_long(tmp_path: Path) -> None:
    async with opened(tmp_path / "s") as store:
        await store.create_table("notes", SMALL)
        await store.insert("notes", numbered(5))
        with pytest.raises(FilterError, match="LIKE pattern is too long"):
            await store.count("notes", f"owner LIKE '{'a%b_' * 60_000}'")
        assert await store.count("notes", "owner LIKE 'a%b_'") == 0


async def test_a_connection_that_was_closed(tmp_path: Path) -> None:
    database = await lancedb.connect_async(tmp_path)
    database.close()
    with pytest.raises(StoreClosedError), translated("here"):
        await database.list_tables()


async def test_what_no_row_knows() -> None:
    """An option that means nothing: still an error of ours that says what LanceDB said."""
    options = {"allow_http": "perhaps", "aws_region": "x"}
    backend = LancedbBackend("s3://bucket/path", LancedbSettings(storage_options=options))
    with pytest.raises(AiovecError, match="perhaps") as caught:
        await backend.open()
    assert type(caught.value) is AiovecError
    assert caught.value.__cause__ is not None
    await backend.close()


# Failures of requests that no server on loopback gives


def request(text: str) -> RuntimeError:
    return RuntimeError(f"Generic S3 error: RetryError(RetryErrorImpl {{ {text} }})")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("ListRequest, Status { status: 301, body: Some(\"<Code>PermanentRedirect</Code>\") }",
         "check the region (HTTP 301, PermanentRedirect)"),
        ("uri: http://169.254.169.254/latest/api/token, inner: Connect", "no credentials"),
        ("inner: Status { status: 429, body: None }",
         "the server fails; try again later (HTTP 429)"),
        ("inner: Status { status: 501, body: None }", "does not support this request (HTTP 501)"),
        ("inner: Http(dns error: failed to lookup address information)", "cannot be reached"),
        ("inner: Http(hyper: IncompleteMessage)", "cannot be reached"),
        ("inner: Status { status: 404, body: Some(\"<Code>ContainerNotFound</Code>\") }",
         "the bucket does not exist"),
    ],
)  # fmt: skip
def test_failed_requests(text: str, says: str) -> None:
    assert says in (failure(request(text)) or "")


@pytest.mark.parametrize(
    "text",
    [
        "LanceError(IO): No space left on device (os error 28)",
        "Object at location x/_versions/1.manifest not found: Generic S3 error: status: 404",
        "Schema error: No field named retry_timeout",
    ],
)
def test_what_is_no_failed_request(text: str) -> None:
    assert failure(RuntimeError(text)) is None


@pytest.mark.parametrize(
    "text",
    [
        "https://x.blob.core.windows.net/c?sv=2022&sig=hush%2Fhush&se=1",
        "GET /?X-Amz-Signature=hush&X-Amz-Credential=hush/2026",
        "<Code>X</Code><AWSAccessKeyId>hush</AWSAccessKeyId><StringToSign>hush</StringToSign>",
        '{"x-api-key": "hush", "authorization": "hush"}',
    ],
)
def test_secrets_in_messages(text: str) -> None:
    assert "hush" not in without_secrets(text)
    with pytest.raises(AiovecError) as caught, translated("here"):
        raise RuntimeError(text)
    assert "hush" not in f"{caught.value} {caught.value.__cause__!r}"
