"""B7: whatever goes wrong, no secret of a user is shown.

A secret of its own is planted in every place that can hold one, every failure that can be provoked
without a network is provoked, and everything that comes out is searched for them.
"""

from __future__ import annotations

import asyncio
import json
import logging
import pickle
import time
import traceback
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.cli.conftest import run as run

import aiovec
from aiovec._core.connect import _Identity
from aiovec._core.redaction import shown_value
from aiovec._settings.load import retrieval_model
from aiovec.backend import (
    MASK,
    Location,
    Origin,
    Place,
    cleaned,
    load_settings,
    redacted,
    secrets_in,
    without_secrets,
)
from aiovec_lancedb.settings import LancedbSettings

SECRET = "hush"  # the beginning of each planted one
TOML = f"""
[retrieval]
backend = "lancedb"
sqlite_path = "x.db"
lancedb_url = "s3://user0:{SECRET}Url0@bucket0/notes?sig={SECRET}Query0"
remote_url = "http://user1:{SECRET}Url1@host1/x?token={SECRET}Query1#{SECRET}Fragment1"
[retrieval.lancedb]
host = "http://user2:{SECRET}Url2@127.0.0.1:1"
[retrieval.lancedb.storage_options]
aws_access_key_id = "{SECRET}KeyId"
aws_secret_access_key = "{SECRET}Key+/="
aws_session_token = "{SECRET}Token"
aws_endpoint = "http://127.0.0.1:1"
aws_region = "x"
allow_http = "true"
timeout = "1s"
client_max_retries = "0"
google_service_account_key = '{{"private_key": "{SECRET}Json"}}'
own = "{SECRET}Own"
"""
WRONG = [
    ("[retrieval.lancedb]", '[retrieval.lancedb]\nregion = ["hushList"]'),
    ("[retrieval.lancedb]", "[retrieval.lancedb]\nregoin = 'hushTypo'"),
    ("[retrieval.lancedb]", "[retrieval.lancedb]\napi_key = 'hushApiKey'"),
    ("[retrieval.lancedb]", "[retrieval.lancedb]\nbusy_timeout = 'hush'"[:-7] + "-1"),
    ("[retrieval.lancedb]", "[retrieval.lancedb]\nindex = 'no'"),
    ('own = "hushOwn"', 'own = ["hushOwn"]'),
    ('own = "hushOwn"', 'own = {deep = "hushOwn"}'),
    ('own = "hushOwn"', "own = 1234567"),
    ('own = "hushOwn"', 'own = "hushOwn'),
    ('own = "hushOwn"', 'own = "hushOwn" "hushTwice"'),
    ('own = "hushOwn"', 'own = "hushOwn"\nown = "hushAgain"'),
    ('own = "hushOwn"', 'own = "hushOwn\\q"'),
    ('backend = "lancedb"', 'backend = "nosuch"'),
    ('backend = "lancedb"', "backend = 3"),
    ('backend = "lancedb"', "dim = 0"),
    ('remote_url = "http://', 'remote_url = "user9:hushNoScheme@'),
    ('remote_url = "http://', 'remote_url = "ftp://'),
    ("[retrieval.lancedb.storage_options]", "[retrieval.lancedb.storage_option]"),
    ("[retrieval.lancedb.storage_options]", "[retrieval.nosuch]"),
]
ENVIRONMENT = [
    ("AIOVEC_RETRIEVAL", "hushText"),
    ("AIOVEC_RETRIEVAL", '{"lancedb": {"storage_options": {"a": "hushDeep", "b": 5}}, "dim": 0}'),
    ("AIOVEC_RETRIEVAL__LANCEDB", '{"storage_options": {"a": "hushCut"'),
    ("AIOVEC_RETRIEVAL__LANCEDB", '"hushJson"'),
    ("AIOVEC_RETRIEVAL__LANCEDB", '{"storage_options": {"a": ["hushInner"]}}'),
    ("AIOVEC_RETRIEVAL__LANCEDB", '{"api_key": "hushUnknown"}'),
    ("AIOVEC_RETRIEVAL__LANCEDB__STORAGE_OPTIONS", "hushOptions"),
    ("AIOVEC_RETRIEVAL__LANCEDB__STORAGE_OPTIONS", '["hushOptions"]'),
    ("AIOVEC_RETRIEVAL__REMOTE_URL", "gopher://u:hushRemote@h/"),
    ("AIOVEC_RETRIEVAL__SQLITE", "u:hushSection@h"),
]
TARGETS = [
    *(
        f"{scheme}://user:hushPassword@bucket/x?token=hushQuery#hushFragment"
        for scheme in ("s3", "az", "db", "http", "lancedb", "sqlite", "nosuch")
    ),
    "az://user:hushPassword@",
    "s3://user:hush/Pass@word@bucket",
    "lancedb://user:hushPassword@",
]


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("AIOVEC_CONFIG", raising=False)
    monkeypatch.setenv("COLUMNS", "400")
    for name, value in (
        ("AWS_ENDPOINT", "http://127.0.0.1:1"), ("AWS_ALLOW_HTTP", "true"),
        ("AWS_ACCESS_KEY_ID", "hushEnvironmentId"), ("AWS_SECRET_ACCESS_KEY", "hushEnvironment"),
        ("AWS_REGION", "x"), ("LANCEDB_API_KEY", "hushApiKey"),
    ):  # fmt: skip
        monkeypatch.setenv(name, value)


def all_of(error: BaseException) -> Iterator[str]:
    """Everything of an error that a log, a report or a debugger's summary shows."""
    yield "".join(traceback.format_exception(error))
    seen: list[BaseException] = []
    waiting: list[BaseException | None] = [error]
    while waiting:
        one = waiting.pop()
        if one is None or one in seen:
            continue
        seen.append(one)
        yield from (str(one), repr(one), repr(one.args), repr(vars(one)))
        waiting += [one.__cause__, one.__context__]


def check(*shown: str) -> None:
    for text in shown:
        assert SECRET not in text.lower(), text


def fails(*arguments: Any, **options: Any) -> BaseException:
    async def opened() -> None:
        async with asyncio.timeout(60), aiovec.connect(*arguments, **options) as store:
            await store.tables()

    with pytest.raises(aiovec.AiovecError) as caught:
        asyncio.run(opened())
    return caught.value


@pytest.mark.parametrize(("before", "after"), WRONG)
def test_a_wrong_toml_file(
    before: str, after: str, tmp_path: Path, caplog: pytest.LogCaptureFixture, run: Any
) -> None:
    """B7."""
    assert before in TOML
    file = tmp_path / "aiovec.toml"
    file.write_text(TOML.replace(before, after), "utf-8")
    error = fails(config=file)
    assert isinstance(error, aiovec.ConfigError)
    check(*all_of(error), *all_of(pickle.loads(pickle.dumps(error))))
    finished = run("tables", "--config", file)
    assert finished.code == 1
    check(finished.out, finished.err, caplog.text)


def test_a_toml_file_that_is_no_text(tmp_path: Path) -> None:
    """B7: the error of the decoder holds the whole file."""
    file = tmp_path / "aiovec.toml"
    file.write_bytes(TOML.encode() + b"# caf\xe9")
    check(*all_of(fails(config=file)))


@pytest.mark.parametrize(("name", "value"), ENVIRONMENT)
def test_a_wrong_environment(
    name: str, value: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """B7."""
    file = tmp_path / "aiovec.toml"
    file.write_text(TOML, "utf-8")
    monkeypatch.setenv(name, value)
    check(*all_of(fails(config=file)), *all_of(fails("x.db")))


@pytest.mark.parametrize("target", TARGETS)
def test_targets_that_hold_secrets(
    target: str, tmp_path: Path, caplog: pytest.LogCaptureFixture, run: Any
) -> None:
    """B7: az://u:SECRET@ was told as it stands."""
    caplog.set_level(logging.DEBUG)
    check(*all_of(fails(target)), redacted(target))
    for arguments in (
        ["doctor", target, "--json"], ["tables", "a.db", target], [target],
        ["migrate", "run", "--from", target, "--to", "x.db"],
    ):  # fmt: skip
        finished = run(*arguments)
        check(finished.out, finished.err)
    check(caplog.text, *(str(path) for path in tmp_path.rglob("*")))
    for path in tmp_path.rglob("*"):
        if path.is_file():
            assert SECRET.encode() not in path.read_bytes().lower(), path


def test_a_place_that_cannot_be_reached(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, run: Any
) -> None:
    """B7: what LanceDB says of its options and of the address."""
    file = tmp_path / "aiovec.toml"
    file.write_text(TOML, "utf-8")
    check(*all_of(fails(config=file)))
    for arguments in (
        ["tables"], ["doctor"], ["export", "t", "t.parquet"],
        ["migrate", "run", "--to", "sqlite"], ["migrate", "status", "--json"],
    ):  # fmt: skip
        finished = run(*arguments, "--config", file)
        check(finished.out, finished.err)
    check(caplog.text)
    for path in tmp_path.rglob("*"):
        if path.is_file() and path != file:
            assert SECRET.encode() not in path.read_bytes().lower(), path


@pytest.mark.parametrize(
    "option", ["aws_endpoint", "timeout", "allow_http", "client_max_retries", "proxy_url"]
)
def test_an_option_that_lancedb_cannot_read(option: str, tmp_path: Path) -> None:
    """B7: a secret in a wrong option comes back in the message of its parser."""
    file = tmp_path / "aiovec.toml"
    text = "\n".join(line for line in TOML.splitlines() if not line.startswith(option))
    file.write_text(f"{text}\n{option} = 'http://u:hushMisplaced@[bad'\n", "utf-8")
    check(*all_of(fails(config=file)))


def test_what_settings_and_their_makers_show(tmp_path: Path, monkeypatch: Any) -> None:
    """B7."""
    file = tmp_path / "aiovec.toml"
    file.write_text(TOML, "utf-8")
    loaded = load_settings(file)
    retrieval = loaded.settings.retrieval
    source = Origin(None, file)
    resolved = source.resolve_first()
    for one in (
        loaded, loaded.settings, retrieval, retrieval.lancedb, source, resolved, resolved.backend,
        aiovec.connect(config=file), _Identity(Location("a", TARGETS[0]), TOML),
        replace(resolved, identity=_Identity(Location("a", TARGETS[0]), TOML)),
    ):  # fmt: skip
        check(repr(one), str(one), f"{[one]}")
    check(resolved.backend.target, json.dumps(dict(Place("x", TARGETS[0]).attributes)))
    assert retrieval.lancedb.storage_options["own"] == "hushOwn"
    for make in (
        lambda: LancedbSettings(storage_options={"a": ["hushList"]}),  # type: ignore[dict-item]
        lambda: retrieval_model()(remote_url="hushUrl"),
        lambda: retrieval_model()(backend="hush"),
    ):
        with pytest.raises(ValueError, match="validation error") as caught:
            make()
        check(str(caught.value), repr(caught.value))


def test_errors_and_their_causes_are_cleaned() -> None:
    """B7."""
    known = secrets_in("s3://u:Pass%20word@b/x?sig=Signature%3D", {"own": "Own value"})
    assert {"Pass word", "Pass%20word", "Signature=", "Own value"} <= known
    inner = OSError(5, "of Own value", "/Own value")
    outer = ValueError(b"Own value", "az://u:Pass word@h", {"a": 1})
    outer.__cause__ = inner
    inner.__context__ = outer
    outer.add_note("Signature=")
    cleaned(outer, known)
    for text in (str(outer), str(inner), repr(outer.__notes__)):
        assert not any(secret in text for secret in known), text
    assert without_secrets("Authorization: Bearer abcdef") == f"Authorization: {MASK}"
    assert without_secrets("at https://h/p?x=1 and on") == "at https://h/p?*** and on"
    assert shown_value("url", "s3://u:p@h") == "s3://***@h"
    assert shown_value("toy", {"api_key": "x", "n": 1, "token": None, "l": ["s3://u:p@h"]}) == {
        "api_key": MASK, "n": 1, "token": None, "l": ["s3://***@h"],
    }  # fmt: skip


@pytest.mark.parametrize(
    "text",
    ["a", "a-", "secret_", "secret_a", "token", "token=", "a= ", "://", "ab://", "bearer ", " "],
)
def test_a_long_message_is_searched_in_little_time(text: str) -> None:
    """A megabyte of one word took minutes."""
    long = text * (1_000_000 // len(text))
    began = time.process_time()
    without_secrets(long)
    assert time.process_time() - began < 10
    assert without_secrets(f"{long} my_api_key='abc' s3://u:p@h").endswith("='***' s3://***@h")
