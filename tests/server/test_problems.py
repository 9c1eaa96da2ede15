"""Every error as HTTP tells it: its status, its class and its facts; no place and no secret."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.server.apps import Wrapped, serving

import aiovec
from aiovec import errors
from aiovec_server import create_app

E = errors
PLACE = "/srv/my data/hidden.db"

# Each class with its status, an error, and the facts that stay with the server.
EVERY: list[tuple[int, errors.AiovecError, set[str]]] = [
    (500, E.AiovecError("the driver failed"), set()),
    (500, E.ConfigError("bad", file=PLACE, key="dim", accepted="a number"), {"file"}),
    (500, E.BackendNotInstalledError("lancedb", "aiovec[lancedb]"), set()),
    (500, E.ExtensionUnavailableError("no extensions", "install pysqlite3"), set()),
    (422, E.InvalidArgumentError("limit", 0, "at least 1"), set()),
    (422, E.InvalidNameError("No/../no", "table", "lower case"), set()),
    (404, E.TableNotFoundError("notes", ["a", "b"]), set()),
    (409, E.TableExistsError("notes"), set()),
    (409, E.SchemaMismatchError("notes", ["dim is 3, not 4"]), set()),
    (409, E.ModelMismatchError("notes", "one", None), set()),
    (422, E.DimensionMismatchError(3, 4, row=7, id="/x"), set()),
    (422, E.InvalidVectorError("is zero", row=7), set()),
    (422, E.InvalidRowError("must be text", row=7, id="/etc/x", field="name"), set()),
    (422, E.DocumentError("report.pdf", "it is encrypted"), set()),
    (503, E.EmbeddingError("default", "HTTP 429", model="m", status=429, retryable=True), set()),
    (502, E.EmbeddingError("default", "no such model", row=7, id="x"), set()),
    (409, E.DuplicateIdError("notes", ["x", "/y"], within_call=True), set()),
    (422, E.FilterError("bad", text="a = /b", position=4, expected="a value"), set()),
    (422, E.UnsupportedError("text", "toy"), set()),
    (503, E.StoreClosedError(PLACE), {"target"}),
    (503, E.StoreBusyError("another process writes", 1.5, in_part=True), set()),
    (507, E.StoreFullError(PLACE, "the disk is full"), {"target"}),
    (500, E.OutcomeUnknownError(PLACE, "disk I/O error"), {"target"}),
    (503, E.StoreMovedError(PLACE, "lancedb:///srv/hidden", backend="lancedb", generation=3),
     {"target", "moved_to", "config"}),
    (503, E.StoreReplacedError(PLACE, "the file was removed"), {"target"}),
    (503, E.StoreUnreachableError(PLACE, "timed out"), {"target"}),
    (500, E.StorePermissionError(PLACE, "write-protected"), {"target"}),
    (410, E.ChangesPrunedError(7), set()),
    (500, E.CorruptStoreError(PLACE, "is no database"), {"target"}),
    (409, E.MigrationError("it cannot go on"), set()),
]  # fmt: skip

# What a driver may say, which the answer must not.
TEXTS = (
    "cannot open /srv/hidden/notes.db", "'/srv/hidden dir/notes.db' is locked",
    "at s3://user:pass@hidden/x?sig=abcdefgh", "at lancedb:///srv/hidden",
    r"at C:\srv\hidden\notes.db", "at ~/hidden/notes.db", "path=/srv/hidden/x",
    "http://127.0.0.1:11434/hidden answered 500", "Authorization: Bearer hidden-secret-value",
    "x" * 19_990 + " /srv/hidden/x",
)  # fmt: skip


async def answers(failures: list[BaseException]) -> list[httpx.Response]:
    """Return what a search is answered with that fails so, each in turn."""
    waiting = list(failures)

    async def search(*_: Any, **__: Any) -> Any:
        raise waiting.pop(0)

    async with aiovec.connect(":memory:") as store:
        app = create_app(store=Wrapped(store, search=search))  # type: ignore[arg-type]
        async with serving(app) as client:
            body = {"vector": [1, 0]}
            return [await client.post("/tables/notes/search", json=body) for _ in failures]


async def test_each_error_has_its_status_and_facts_without_a_place() -> None:
    classes = {getattr(errors, name) for name in errors.__all__}
    assert {type(error) for _, error, _ in EVERY} == {
        one for one in classes if issubclass(one, errors.AiovecError)
    }
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
            E.AiovecError(text), E.ConfigError(text, key="x", accepted=text),
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
    part = page.partition("\n## Over HTTP\n")[2].partition("\n## ")[0]
    listed: dict[str, int] = {}
    for names, status in re.findall(r"^\| (`.*`) \| (\d.*) \|$", part, re.MULTILINE):
        listed |= {name: int(status[:3]) for name in re.findall(r"`(\w+)`", names)}
    assert listed == {
        type(error).__name__: status
        for status, error, _ in EVERY
        if not (isinstance(error, E.EmbeddingError) and not error.retryable)
    }
