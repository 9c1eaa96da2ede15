"""The table in ``aiovec_lancedb.errors``: each text of lancedb's comes out as the error it is."""

from __future__ import annotations

from typing import Any

import pytest
from tests.contract.base import case

import aiovec
from aiovec import AiovecError, CorruptStoreError, FilterError, StoreBusyError, StoreClosedError
from aiovec.backend import without_secrets
from aiovec_lancedb.errors import Translated, failure, translate

SAYS: list[tuple[type[AiovecError], str, str]] = [
    (StoreClosedError, "Connection notes is closed", ""),
    (aiovec.OutcomeUnknownError, "the commit result for version 7 is unknown", "version 7"),
    (aiovec.StoreFullError, "LanceError(IO): No space left on device (os error 28)", "No space"),
    (aiovec.StoreFullError, "LanceError(IO): File too large (os error 27)", "too large"),
    (FilterError, "sql parser error: recursion limit exceeded", "nested too deeply"),
    (FilterError, "regex 'a' exceeds size limit of 10", "LIKE pattern is too long"),
    (StoreBusyError, "Retryable commit conflict for version 3", "other writers changed"),
    (StoreBusyError, "Too many concurrent writers", "other writers changed"),
    (aiovec.ConfigError, "Could not parse bucket from url", "parse bucket"),
    (CorruptStoreError, "Invalid magic number in the footer", "damaged or missing"),
    (CorruptStoreError, "Object at x/data/1.lance not found: data/1.lance", "damaged or missing"),
    (CorruptStoreError, "Invalid input, Global buffer 0 position 9 is outside of file of size 8",
     "store.revert()"),
    (CorruptStoreError, "Invalid input, Column 4 page 0 buffer offset 9696 is not aligned to 64",
     "aiovec doctor"),
    (AiovecError, "task 9 panicked with message \"index out of bounds\"", "crashed on here"),
    (AiovecError, "Not found: /tmp/.tmpQJ0fX3/ivf_0.lance", "none of them has a vector"),
    (aiovec.StorePermissionError, "Permission denied (os error 13)", "no permission for here"),
    (AiovecError, "something new", "LanceDB failed on here: something new"),
]  # fmt: skip

REQUESTS = [
    ("Generic S3 error: Failed to resolve region for bucket 'a'", "storage option aws_region"),
    ('ListRequest, Status { status: 301, body: Some("<Code>PermanentRedirect</Code>") }',
     "check the region (HTTP 301, PermanentRedirect)"),
    ("uri: http://169.254.169.254/latest/api/token, inner: Connect", "no credentials"),
    ("inner: Status { status: 403, body: None }", "no permission for here: the server rejects"),
    ("inner: Status { status: 429, body: None }", "the server fails; try again later (HTTP 429)"),
    ("inner: Status { status: 501, body: None }", "does not support this request (HTTP 501)"),
    ("inner: Http(dns error: failed to lookup address information)", "cannot be reached"),
    ("inner: Http(hyper: IncompleteMessage)", "cannot be reached"),
    ("inner: TimedOut", "no answer from here: the server did not answer in time"),
    ('inner: Status { status: 404, body: Some("<Code>ContainerNotFound</Code>") }',
     "the bucket does not exist"),
]  # fmt: skip


def test_an_error_without_a_type_is_recognized_by_its_text() -> None:
    for kind, text, says in SAYS:
        with case(text):
            error: Any = translate(RuntimeError(f"lance error: {text}"), "here")
            if kind is not StoreClosedError:
                assert says in str(error)
            assert isinstance(error, kind)
            assert kind is not AiovecError or type(error) is AiovecError


def test_a_failed_request_says_its_cause() -> None:
    for text, says in REQUESTS:
        with case(text):
            given = RuntimeError(f"Generic S3 error: RetryError(RetryErrorImpl {{ {text} }})")
            assert says in str(failure(given, "here"))
            assert type(translate(given, "here")) is type(failure(given, "here"))
    for text in (
        "LanceError(IO): No space left on device (os error 28)",
        "Object at location x/_versions/1.manifest not found: Generic S3 error: status: 404",
        "Schema error: No field named retry_timeout",
    ):
        assert failure(RuntimeError(text), "here") is None, text


def test_no_message_shows_a_secret() -> None:
    for text in (
        "https://x.blob.core.windows.net/c?sv=2022&sig=hush%2Fhush&se=1",
        "GET /?X-Amz-Signature=hush&X-Amz-Credential=hush/2026",
        "<Code>X</Code><AWSAccessKeyId>hush</AWSAccessKeyId><StringToSign>hush</StringToSign>",
        '{"x-api-key": "hush", "authorization": "hush"}',
    ):
        assert "hush" not in without_secrets(text)
        with pytest.raises(AiovecError) as caught, Translated("here"):
            raise RuntimeError(text)
        assert "hush" not in f"{caught.value} {caught.value.__cause__!r}", text


def test_a_panic_becomes_an_error() -> None:
    class PanicException(BaseException):
        """As pyo3 makes it: no Exception, and of no module that can be imported."""

    with pytest.raises(AiovecError, match="crashed") as caught, Translated("here"):
        raise PanicException("index out of bounds")
    assert isinstance(caught.value.__cause__, PanicException)
