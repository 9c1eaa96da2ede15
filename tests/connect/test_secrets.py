"""Whatever goes wrong, no secret of a user is shown.

A secret of its own is planted in every place that can hold one, every failure that can be provoked
without a network is provoked, and everything that comes out is searched for them.
"""

from __future__ import annotations

import logging
import pickle
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.contract.base import case
from tests.harness.command import run

import aiovec
from aiovec import sync
from aiovec.backend import redacted
from aiovec.backend.config import load_settings

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
    ('own = "hushOwn"', 'own = ["hushOwn"]'),
    ('own = "hushOwn"', "own = 1234567"),
    ('own = "hushOwn"', 'own = "hushOwn'),
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
    ("AIOVEC_RETRIEVAL__LANCEDB", '{"storage_options": {"a": ["hushInner"]}}'),
    ("AIOVEC_RETRIEVAL__LANCEDB", '{"api_key": "hushUnknown"}'),
    ("AIOVEC_RETRIEVAL__LANCEDB__STORAGE_OPTIONS", "hushOptions"),
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
        current = waiting.pop()
        if current is None or current in seen:
            continue
        seen.append(current)
        yield from (str(current), repr(current), repr(current.args), repr(vars(current)))
        waiting += [current.__cause__, current.__context__]


def check(*shown: str) -> None:
    for text in shown:
        assert SECRET not in text.lower(), text


def fails(*arguments: Any, **options: Any) -> aiovec.AiovecError:
    with pytest.raises(aiovec.AiovecError) as caught, sync.connect(*arguments, **options) as store:
        store.tables()
    return caught.value


@pytest.fixture
def config(tmp_path: Path) -> Path:
    file = tmp_path / "aiovec.toml"
    file.write_text(TOML, "utf-8")
    return file


def test_an_error_about_a_toml_file_shows_no_secret(
    config: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for before, after in WRONG:
        with case(after):
            assert before in TOML
            config.write_text(TOML.replace(before, after), "utf-8")
            error = fails(config=config)
            assert isinstance(error, aiovec.ConfigError)
            check(*all_of(error), *all_of(pickle.loads(pickle.dumps(error))))
            finished = run("tables", "--config", config)
            assert finished.code == 1
            check(finished.out, finished.err, caplog.text)
    config.write_bytes(TOML.encode() + b"# caf\xe9")
    check(*all_of(fails(config=config)))  # the error of the decoder holds the whole file


def test_an_error_about_the_environment_shows_no_secret(
    config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in ENVIRONMENT:
        with case((name, value)), monkeypatch.context() as patched:
            patched.setenv(name, value)
            check(*all_of(fails(config=config)), *all_of(fails("x.db")))


def test_targets_that_hold_secrets(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    for target in TARGETS:
        with case(target):
            check(*all_of(fails(target)), redacted(target))
            for arguments in (["doctor", "-s", target], ["tables", "-s", target], [target]):
                finished = run(*arguments)
                check(finished.out, finished.err)
    finished = run("migrate", "run", "--from", TARGETS[0], "--to", "x.db")
    check(finished.out, finished.err, caplog.text, *(str(path) for path in tmp_path.rglob("*")))
    for path in tmp_path.rglob("*"):
        if path.is_file():
            assert SECRET.encode() not in path.read_bytes().lower(), path


def test_a_place_that_cannot_be_reached(config: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Errors of LanceDB about its options and the address."""
    pytest.importorskip("lancedb")
    for arguments in (["tables"], ["doctor"], ["migrate", "run", "--to", "sqlite"]):
        finished = run(*arguments, "--config", config)
        check(finished.out, finished.err)
    for option in ("aws_endpoint", "timeout", "allow_http", "client_max_retries", "proxy_url"):
        text = "\n".join(line for line in TOML.splitlines() if not line.startswith(option))
        config.write_text(f"{text}\n{option} = 'http://u:hushMisplaced@[bad'\n", "utf-8")
        with case(option):
            check(*all_of(fails(config=config)), caplog.text)


def test_settings_and_openings_show_no_secret(config: Path) -> None:
    retrieval: Any = load_settings(config)
    for shown in (
        retrieval, retrieval.lancedb, aiovec.connect(config=config),
        aiovec.connect(TARGETS[0]),
    ):  # fmt: skip
        check(repr(shown), str(shown), f"{[shown]}")
    assert retrieval.lancedb.storage_options["own"] == "hushOwn"
