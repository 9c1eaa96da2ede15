"""Each error over HTTP: its status, class and facts, without paths and secrets."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.harness.errors import EVERY
from tests.server.apps import Wrapped, serving

import aiovec
from aiovec import errors
from aiovec_server import create_app

E = errors

# Texts of drivers that a response must not show.
TEXTS = (
    "cannot open /srv/hidden/notes.db", "'/srv/hidden dir/notes.db' is locked",
    "at s3://user:pass@hidden/x?sig=abcdefgh", "at lancedb:///srv/hidden",
    r"at C:\srv\hidden\notes.db", "at ~/hidden/notes.db", "path=/srv/hidden/x",
    "http://127.0.0.1:11434/hidden answered 500", "Authorization: Bearer hidden-secret-value",
    "x" * 19_990 + " /srv/hidden/x",
)  # fmt: skip


async def answers(failures: list[BaseException]) -> list[httpx.Response]:
    """Return the responses to searches that fail with these errors, one after the other."""
    waiting = list(failures)

    async def search(*_: Any, **__: Any) -> Any:
        raise waiting.pop(0)

    async with aiovec.connect(":memory:") as store:
        app = create_app(store=Wrapped(store, search=search))  # type: ignore[arg-type]
        async with serving(app) as client:
            body = {"vector": [1, 0]}
            return [await client.post("/tables/notes/search", json=body) for _ in failures]


async def test_each_error_has_its_status_and_facts_without_a_place() -> None:
    received = await answers([error for _, error, _ in EVERY])
    for (status, error, kept), answer in zip(EVERY, received, strict=True):
        name, document = type(error).__name__, answer.json()
        assert answer.headers["content-type"] == "application/problem+json"
        assert (answer.status_code, document["status"], document["error"]) == (status, status, name)
        assert document["type"] == f"urn:aiovec:error:{name}"
        assert document["title"]
        facts = {fact: value for fact, value in vars(error).items() if fact not in kept}
        assert document["facts"] == json.loads(json.dumps(facts))  # a new one needs a decision
        if not kept:
            assert document["detail"] == str(error)
        assert "hidden" not in answer.text
        assert ("retry-after" in answer.headers) is (status == 503), name


async def test_no_error_shows_a_path_or_a_secret_of_the_server() -> None:
    failures: list[BaseException] = []
    for text in TEXTS:
        failures += [
            E.AiovecError(text), E.ConfigError(text, key="x"),
            E.EmbeddingError("default", text), E.StoreBusyError(text, 1.0),
            E.StoreFullError("notes.db", text), E.OutcomeUnknownError("notes.db", text),
            E.CorruptStoreError("notes.db", text), ValueError(text), RuntimeError(text),
        ]  # fmt: skip
    for error, answer in zip(failures, await answers(failures), strict=True):
        assert "hidden" not in answer.text, type(error)
        assert len(answer.content) < 10_000
    text = "and/or 3/4 of km/h, a / b; 'tables' 12:30 read/write (waited 1.0 s)"
    (answer,) = await answers([E.AiovecError(text)])
    assert answer.json()["detail"] == text


async def test_fault_of_server_is_logged_with_its_cause(caplog: pytest.LogCaptureFixture) -> None:
    """A busy store is none: an overload takes a line for each request, not a traceback."""
    failures = [E.StoreBusyError("the table is locked", 1.0), RuntimeError("secret cause")]
    busy, broken = await answers([*failures])
    logged = [record for record in caplog.records if record.name == "aiovec.server"]
    assert [(record.levelname, bool(record.exc_info)) for record in logged] == [
        ("WARNING", False), ("ERROR", True),
    ]  # fmt: skip
    for answer, record in zip((busy, broken), logged, strict=True):
        assert answer.headers["x-request-id"] in record.message
        assert str(answer.status_code) in record.message


async def test_any_value_of_an_error_is_shown_shortly() -> None:
    values = (float("nan"), 10**5000, b"\xff", "\ud800", ["x"] * 5000)
    failures: list[BaseException] = [E.InvalidArgumentError("x", value, "y") for value in values]
    failures.append(E.DuplicateIdError("notes", ["y" * 500] * 10_000))
    for answer in await answers(failures):
        assert len(answer.content) < 200_000
        json.loads(answer.content, parse_constant=lambda name: pytest.fail(name))


async def test_the_reference_lists_the_status_of_every_error() -> None:
    root = Path(__file__).parents[2]
    page = root.joinpath("docs/reference/errors.md").read_text(encoding="utf-8")
    listed = re.findall(r"^\| `(\w+Error)`.*\| (\d+)[^|]* \|$", page, re.MULTILINE)
    assert {name: int(status) for name, status in listed} == {
        type(error).__name__: status
        for status, error, _ in EVERY
        if not (isinstance(error, E.EmbeddingError) and error.retryable)
    }
