"""Every error as HTTP tells it, and back: its class, message and facts; no place and no secret."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path
from typing import Any

import pytest

from aiovec import errors
from aiovec._http import problems
from aiovec.backend import Problem, error_of, problem_of

PLACE = "/srv/my data/notes.db"
E = errors

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
    (503, E.EmbeddingError("default", "HTTP 429", model="m", status=429, retryable=True), set()),
    (502, E.EmbeddingError("default", "no such model", row=7, id="x"), set()),
    (409, E.DuplicateIdError("notes", ["x", "/y"], within_call=True), set()),
    (422, E.FilterError("bad", text="a = /b", position=4, expected="a value"), set()),
    (422, E.UnsupportedError("text", "toy"), set()),
    (503, E.StoreClosedError(PLACE), {"target"}),
    (503, E.StoreBusyError("another process writes", 1.5, in_part=True), set()),
    (507, E.StoreFullError(PLACE, "the disk is full"), {"target"}),
    (500, E.OutcomeUnknownError(PLACE, "disk I/O error"), {"target"}),
    (
        503,
        E.StoreMovedError(
            PLACE, "lancedb:///srv/new", backend="lancedb", config="/etc/a.toml", generation=3
        ),
        {"target", "moved_to", "config"},
    ),
    (503, E.StoreReplacedError(PLACE, "the file was removed"), {"target"}),
    (500, E.CorruptStoreError(PLACE, "is no database"), {"target"}),
    (409, E.MigrationError("it cannot go on"), set()),
]


def _over_the_wire(error: BaseException) -> Any:
    return json.loads(problem_of(error).body())


def test_every_class_is_tried_here_and_has_a_row() -> None:
    classes = {
        value
        for name in errors.__all__
        if issubclass(value := getattr(errors, name), errors.AiovecError)
    }
    assert {type(error) for _, error, _ in EVERY} == classes
    assert set(problems._TABLE) == classes


@pytest.mark.parametrize(("status", "error", "kept"), EVERY, ids=lambda v: type(v).__name__)
def test_there_and_back(status: int, error: errors.AiovecError, kept: set[str]) -> None:
    document = _over_the_wire(error)
    assert document["status"] == status
    assert document["error"] == type(error).__name__
    assert document["type"] == f"urn:aiovec:error:{type(error).__name__}"
    assert document["title"]
    assert len(document) == 6
    assert set(document["facts"]) == set(vars(error)) - kept  # a new fact needs a decision
    again = error_of(document, target="http://server")
    assert type(again) is type(error)
    assert set(vars(again)) == set(vars(error))
    for name, value in vars(error).items():
        if name not in kept:
            assert getattr(again, name) == value, name
    if "target" in kept:
        assert vars(again)["target"] == "http://server"
    else:
        assert str(again) == str(error) or "file" in kept
    assert str(again) == document["detail"]
    assert again.__cause__ is None


@pytest.mark.parametrize("error", [error for _, error, _ in EVERY], ids=lambda v: type(v).__name__)
def test_no_place_leaves(error: errors.AiovecError) -> None:
    body = problem_of(error).body().decode()
    assert "srv" not in body
    assert "my data" not in body
    assert ".toml" not in body


def _errors_with(text: str) -> list[errors.AiovecError]:
    """Errors whose texts this machine writes, with one that names a place."""
    return [
        E.AiovecError(text),
        E.ConfigError(text, key="x", accepted=text),
        E.ExtensionUnavailableError(text, text),
        E.EmbeddingError("default", text),
        E.UnsupportedError("insert", "sqlite", text),
        E.StoreClosedError("notes.db", text),
        E.StoreBusyError(text, 1.0),
        E.StoreFullError("notes.db", text),
        E.OutcomeUnknownError("notes.db", text),
        E.StoreMovedError("notes.db", "x", reason=text),
        E.StoreReplacedError("notes.db", text),
        E.CorruptStoreError("notes.db", text),
        E.MigrationError(text),
    ]


@pytest.mark.parametrize(
    "text",
    [
        "cannot open /srv/hidden/notes.db",
        "'/srv/hidden dir/notes.db' is locked",
        'File "/srv/hidden/x.py", line 3',
        "see (/srv/hidden), then go on",
        "at file:///srv/hidden/x",
        "at s3://user:pass@hidden/x?sig=abcdefgh",
        "at lancedb:///srv/hidden",
        r"at C:\srv\hidden\notes.db",
        r"at \\hidden\share",
        "at ~/hidden/notes.db",
        "at ~user/hidden",
        "at ../../hidden/x",
        "path=/srv/hidden/x",
        "path:/srv/hidden/x",
        "http://127.0.0.1:11434/hidden answered 500",
        "Authorization: Bearer hidden-secret-value",
        "x" * 19_990 + " /srv/hidden/x",
        "'" + "/srv/hidden" * 3_000,
    ],
)
def test_no_text_of_this_machine_names_a_place(text: str) -> None:
    for error in _errors_with(text):
        body = problem_of(error).body().decode()
        assert "hidden" not in body, type(error).__name__
        assert len(body) < 10_000


def test_the_places_that_a_server_knows_do_not_leave() -> None:
    error = E.AiovecError("secret store.db-wal cannot be seen; see also secret store.db")
    assert problem_of(error, ["secret store.db"]).detail == (
        "the store-wal cannot be seen; see also the store"
    )


def test_a_target_is_replaced_by_words() -> None:
    assert str(problem_of(E.StoreClosedError(PLACE)).detail) == "the store is closed"
    assert problem_of(E.StoreMovedError(PLACE, "/new/store")).detail == (
        "the store has moved to another place"
    )
    assert problem_of(E.StoreFullError("notes.db", "full")).detail.startswith(
        "no room to write to the store (full);"
    )


def test_ordinary_words_stay() -> None:
    text = "and/or 3/4 of km/h, a / b; 'tables' 12:30 read/write (waited 1.0 s)"
    assert problem_of(E.AiovecError(text)).detail == text


def test_a_subclass_of_a_backend_is_told_as_its_public_class() -> None:
    class Conflict(errors.StoreBusyError):
        pass

    assert problem_of(Conflict("x", 1)).error == "StoreBusyError"


@pytest.mark.parametrize("error", [ValueError("/srv/x"), KeyError("s"), KeyboardInterrupt()])
def test_errors_of_others_say_nothing(error: BaseException) -> None:
    found = problem_of(error)
    assert found.status == 500
    assert found.error == ""
    assert found.to_dict()["type"] == "about:blank"
    assert "srv" not in found.detail


def test_retry_after_is_a_header() -> None:
    found = problem_of(E.StoreBusyError("busy", 1))
    assert found.headers() == {"content-type": "application/problem+json", "retry-after": "1"}
    assert "retry-after" not in problem_of(E.TableExistsError("x")).headers()
    assert "retry-after" not in problem_of(E.OutcomeUnknownError("x", "y")).headers()
    assert Problem.plain(429, "wait", retry_after=3).headers()["retry-after"] == "3"


class Hostile:
    def __repr__(self) -> str:
        raise RuntimeError


@pytest.mark.parametrize(
    "value",
    [
        float("nan"),
        float("inf"),
        2**70,
        10**5000,
        b"\xff",
        "\ud800",
        object(),
        Hostile(),
        ["x"] * 5000,
        [object()],
        {"a": object()},
        True,
        None,
        1.5,
        "x" * 100_000,
    ],
    ids=lambda value: type(value).__name__,
)
def test_any_value_is_told_shortly(value: object) -> None:
    for error in (E.InvalidArgumentError("x", value, "y"), E.InvalidNameError(value, "x", "y")):
        body = problem_of(error).body()
        assert len(body) < 15_000
        json.loads(body, parse_constant=lambda name: pytest.fail(name))
        assert type(error_of(json.loads(body))) is type(error)


def test_many_ids_are_cut() -> None:
    ids = [f"{n:0500}" for n in range(10_000)]
    document = _over_the_wire(E.DuplicateIdError("notes", ids))
    assert document["facts"]["ids"] == ids[: problems.MOST_ITEMS]


@pytest.mark.parametrize(
    "document",
    [
        None,
        [],
        "x",
        {},
        {"error": "SystemExit"},
        {"error": "__import__"},
        {"error": ["StoreBusyError"]},
        {"error": None, "detail": 3, "facts": [1]},
        {"title": "Bad Gateway", "status": 502},
    ],
)
def test_a_document_of_others_gives_the_root(document: object) -> None:
    error = error_of(document)
    assert type(error) is errors.AiovecError
    assert str(error)


HOSTILE: list[object] = [
    None, True, -1, 2**80, 1e400, "x" * 10_000, [], [None, 3, "x"], {"a": 1}, ["x"] * 10_000,
]  # fmt: skip


@pytest.mark.parametrize("error", [error for _, error, _ in EVERY], ids=lambda v: type(v).__name__)
def test_hostile_facts_give_the_class_with_facts_of_the_right_type(
    error: errors.AiovecError,
) -> None:
    names = list(vars(error))
    for value in HOSTILE:
        document = {
            "error": type(error).__name__,
            "detail": value,
            "facts": {**dict.fromkeys(names, value), "args": value, "__class__": "x"},
        }
        found = error_of(document)
        assert type(found) is type(error)
        assert set(vars(found)) == set(names)
        assert len(str(found)) <= problems.LONGEST_TEXT
        for name in names:
            ours, theirs = getattr(error, name), getattr(found, name)
            if name not in ("value", "name"):
                kinds = (int, str) if ours is None else (type(ours),)
                assert theirs is None or isinstance(theirs, kinds), name
            assert len(repr(theirs)) < 400_000
    assert set(vars(error_of({"error": type(error).__name__}))) == set(names)


def test_long_hostile_texts_take_no_time() -> None:
    began = time.process_time()
    for text in (
        "a" * 10**6,
        "'/" * 10**6,
        "/a " * 10**6,
        "~" * 10**6,
        "a://" * 10**6,
        ".." * 10**6,
    ):
        for error in _errors_with(text):
            problem_of(error, ["x" * 500])
    assert time.process_time() - began < 10


def test_the_reference_lists_every_status() -> None:
    page = Path(__file__).parents[2].joinpath("docs/REFERENCE.md").read_text(encoding="utf-8")
    part = page.partition("\n## Errors over HTTP\n")[2].partition("\n## ")[0]
    listed: dict[str, tuple[int, bool]] = {}
    for names, status in re.findall(r"^\| (`.*`) \| (\d.*) \|$", part, re.MULTILINE):
        for name in re.findall(r"`(\w+)`", names):
            listed[name] = int(status[:3]), "Retry-After" in status
    told = {
        type(error).__name__: (
            problem_of(error).status,
            "retry-after" in problem_of(error).headers(),
        )
        for _, error, _ in EVERY
        if not (isinstance(error, E.EmbeddingError) and not error.retryable)
    }
    assert listed == told
