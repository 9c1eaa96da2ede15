"""Settings from TOML and the environment, and the errors about wrong ones."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.connect.toy import install
from tests.contract.base import case

from aiovec import ConfigError
from aiovec.backend.config import load_settings
from aiovec.backend.place import find_place
from aiovec.backend.settings import BackendSettings

Toml = Callable[[str | bytes], Path]


@pytest.fixture
def toml(tmp_path: Path) -> Toml:
    def write(text: str | bytes) -> Path:
        file = tmp_path / "aiovec.toml"
        file.write_bytes(text if isinstance(text, bytes) else text.encode())
        return file

    return write


def retrieval(file: Path | None) -> Any:
    return load_settings(file)


def fault(file: Path | None) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        load_settings(file)
    return caught.value


def test_the_environment_comes_before_the_file(toml: Toml, monkeypatch: pytest.MonkeyPatch) -> None:
    file = toml(
        '[retrieval]\nbackend = "sqlite"\ndim = 384\n'
        "[retrieval.sqlite]\nreaders = 2\nkeep_deletes = 64\nbusy_timeout = 5\n"
    )
    loaded = retrieval(file)
    assert (loaded.backend, loaded.dim) == ("sqlite", 384)
    assert (loaded.sqlite.busy_timeout, loaded.sqlite.durability) == (5.0, "full")
    monkeypatch.setenv("AIOVEC_RETRIEVAL__BACKEND", "lancedb")
    monkeypatch.setenv("AIOVEC_RETRIEVAL__SQLITE", '{"readers": 3, "write_queue": 8}')
    monkeypatch.setenv("AIOVEC_RETRIEVAL__SQLITE__READERS", "5")
    monkeypatch.setenv("AIOVEC_RETRIEVAL__DIM", "")  # empty counts as unset
    loaded = retrieval(file)
    assert (loaded.backend, loaded.dim) == ("lancedb", 384)
    sqlite = loaded.sqlite
    assert (sqlite.readers, sqlite.write_queue, sqlite.keep_deletes) == (5, 8, 64)
    assert retrieval(None).sqlite.readers == 5
    monkeypatch.setenv("aiovec_retrieval__server__allowed_hosts", '["a", "b"]')
    monkeypatch.setenv("AIOVEC_RETRIEVAL__LANCEDB__STORAGE_OPTIONS__REGION", "x")
    monkeypatch.setenv("AIOVEC_RETRIEVAL__LANCEDB__STORAGE_OPTIONS__ACCOUNT_KEY", '{"a": 1}')
    monkeypatch.setenv("AIOVEC_RETRIEVAL__SQLITE_PATH", "[1]")
    loaded = retrieval(None)
    assert loaded.server.allowed_hosts == ["a", "b"]
    assert loaded.lancedb.storage_options == {"region": "x", "account_key": '{"a": 1}'}
    assert loaded.sqlite_path == "[1]"
    assert retrieval(toml(b"\xef\xbb\xbf[retrieval]\ndim = 5\n")).dim == 5  # a byte order mark
    keys = toml("[retrieval.server]\napi_keys_file = 'keys'\n")
    assert retrieval(keys).server.api_keys_file == str(keys.parent / "keys")
    with pytest.raises(AttributeError, match="frozen"):
        sqlite.readers = 3


# Faults

MISSPELT = ("AIOVEC_RETRIEVAL_BACKEND", "aiovec_retreival__backend")
AN_APPS_OWN = ("AIOVEC_CONFIG", "AIOVEC_LOOP", "AIOVEC_APP_NAME", "MY_AIOVEC_BACKEND", "BACKEND")


def test_a_misspelt_variable_is_refused(toml: Toml, monkeypatch: pytest.MonkeyPatch) -> None:
    """With one underscore the variable was ignored, and the app used another store."""
    for name in MISSPELT:
        with case(name), monkeypatch.context() as patched:
            patched.setenv(name, "SECRET")
            for config in (None, toml("")):
                error = fault(config)
                assert "AIOVEC_RETRIEVAL__" in str(error)
                assert error.key == name
                assert "SECRET" not in str(error)
    for name in AN_APPS_OWN:
        monkeypatch.setenv(name, "x")
    monkeypatch.setenv("AIOVEC_RETRIEVAL_BACKEND", "")
    load_settings(None)


FAULTS = [
    ("[retrieval]\nbackand = 'x'", "retrieval.backand", "sqlite_path", "'backend'?"),
    ("[retreival]\n", "retreival", "retrieval", "'retrieval'?"),
    ("[retrieval.sqlite]\nreader = 1", "retrieval.sqlite.reader", "durability", "'readers'?"),
    ("[retrieval.sqlit]\nreaders = 1", "retrieval.sqlit", "lancedb", "'sqlite'?"),
    ("[retrieval]\nbackend = 'nosuch'", "retrieval.backend", "lancedb, remote", "'nosuch'"),
    ("[retrieval]\nbackend = 3", "retrieval.backend", "sqlite, lancedb", "not 3"),
    ("[retrieval]\ndim = '768'", "retrieval.dim", "a whole number", "not '768'"),
    ("[retrieval]\ndim = 0", "retrieval.dim", "a whole number from 1 to 8_192", "not 0"),
    ("[retrieval]\nsqlite_path = ''", "retrieval.sqlite_path", "text that is not empty", "must be"),
    ("[retrieval]\nremote_url = 'x'", "retrieval.remote_url",
     "an address that begins with http:// or https://", "not 'x'"),
    ("[retrieval.embedders.default]\nbase_url = '127.0.0.1:8199/v1'",
     "retrieval.embedders.default.base_url", "begins with http:// or https://", "not '127.0.0.1"),
    ("[retrieval]\nkeep_deletes = 9", "retrieval.keep_deletes", "[retrieval.sqlite]",
     "it belongs to [retrieval.sqlite]"),
    ("[retrieval.lancedb]\nstorage_options = 'x'", "retrieval.lancedb.storage_options",
     "a section, or { key = value }", "must be"),
    ("[retrieval.server]\nallowed_hosts = 'vectors'", "retrieval.server.allowed_hosts", "a list",
     "must be a list, not 'vectors'; write [\"vectors\"]"),
    ("retrieval = [1]", "retrieval", "a section", "must be"),
    ("[retrieval.sqlite]\ndurability = 'no'", "retrieval.sqlite.durability",
     'one of "full", "normal"', "not 'no'"),
    ("[retrieval.sqlite]\nbusy_timeout = -1", "retrieval.sqlite.busy_timeout",
     "a number from 0 to 86_400", "not -1"),
    ("[retrieval.lancedb]\nsearch_memory = '5 TB'", "retrieval.lancedb.search_memory",
     "'auto' or a size such as '512 MiB'", "not '5 TB'"),
    ("[retrieval.lancedb]\nkeep_versions = 'long'", "retrieval.lancedb.keep_versions",
     "a time such as '30 minutes' or '1 day'", "not 'long'"),
]  # fmt: skip


def test_faults_name_file_key_and_what_is_accepted(toml: Toml) -> None:
    for text, key, accepted, message in FAULTS:
        with case(text):
            file = toml(text)
            error = fault(file)
            assert (error.file, error.key) == (str(file), key)
            for part in (str(file), key, message, accepted):
                assert part in str(error)
    assert "(and 1 more)" in str(fault(toml("[retrieval]\ndim = 0\nsqlite_path = ''")))


NOT_TOML: list[tuple[str | bytes, str]] = [
    ("[retrieval\ndim = 3", "line 1"),
    ("[retrieval]\ndim = 3\ndim = 4\n#\n", "line 3"),
    ("[retrieval]\ndim = \n", "line 2"),
    ("[retrieval]\nsqlite_path = notes.db\n", "a text needs quotes"),
    (b"[retrieval]\n# caf\xe9\n", "not UTF-8 text (line 2)"),
    ("x = " + "[" * 100_000, "nested too deeply"),
    ("x = " + "9" * 10_000, "is not TOML"),
]


def test_a_key_whose_default_has_no_type_of_toml_is_refused_where_it_is_declared() -> None:
    with pytest.raises(TypeError, match=r"NoTypeSettings\.x gives the key its type"):
        type("NoTypeSettings", (BackendSettings,), {"__annotations__": {"x": str}, "x": None})


def test_a_file_that_is_no_toml_is_refused_with_its_line(toml: Toml, tmp_path: Path) -> None:
    for text, words in NOT_TOML:
        with case(words):
            file = toml(text)
            error = fault(file)
            assert error.file == str(file)
            assert words in str(error)
    for name in (".", "missing.toml", "aiovec.toml/inside", "nul\0.toml"):
        error = fault(tmp_path / name)
        assert "cannot be read" in str(error)
        assert error.file == str(tmp_path / name)


ENVIRONMENT = [
    ("AIOVEC_RETRIEVAL__DIM", "many", "a whole number"),
    ("AIOVEC_RETRIEVAL__SQLITE__READERS", "0", "a whole number from 1 to 64"),
    ("AIOVEC_RETRIEVAL__BACKEND", "nosuch", "sqlite"),
    ("AIOVEC_RETRIEVAL__BACKND", "sqlite", "backend"),
    ("AIOVEC_RETRIEVAL", "sqlite", "JSON object"),
    ("AIOVEC_RETRIEVAL__SQLITE", "fast", "JSON object"),
    ("AIOVEC_RETRIEVAL__SQLITE", "3", "section"),
]


def test_faults_of_environment_name_variable(toml: Toml, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value, accepted in ENVIRONMENT:
        with case((name, value)), monkeypatch.context() as patched:
            patched.setenv(name, value)
            for file in (toml("[retrieval]\ndim = 5"), None):
                error = fault(file)
                assert error.file is None
                assert error.key == name
                assert name in str(error)
                assert accepted in str(error)


def test_a_section_of_another_backend_has_its_own_keys(
    toml: Toml, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = toml('[retrieval]\nbackend = "toy"\n[retrieval.toy]\nsize = {a = 1}')
    assert "toy" in str(fault(file))
    install(monkeypatch, tmp_path / "site", toy="ToyPlugin")
    monkeypatch.setenv("AIOVEC_RETRIEVAL__TOY__COLOUR", "red")
    loaded = retrieval(file)
    assert loaded.backend == "toy"
    assert vars(loaded.toy) == {"size": {"a": 1}, "colour": "red"}
    assert fault(toml("[retrieval]\ntoy = 3")).key == "retrieval.toy"


def test_an_installed_backend_named_as_a_key_harms_no_file(
    toml: Toml, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = dict.fromkeys(("backend", "server", "lancedb_url"), "ToyPlugin")
    install(monkeypatch, tmp_path / "site", **names)
    file = toml('[retrieval]\nlancedb_url = "x"\n[retrieval.server]\nport = 80')
    loaded = retrieval(file)
    assert (loaded.backend, loaded.lancedb_url, loaded.server.port) == ("sqlite", "x", 80)


def test_a_backend_without_its_address_is_refused(
    toml: Toml, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(monkeypatch, tmp_path / "site", toy="ToyPlugin")
    file = toml('[retrieval]\nbackend = "toy"\n[retrieval.toy]\nurl = "toy://prod"')
    with pytest.raises(ConfigError, match="toy_url is missing: it says where the toy store is"):
        find_place(config=file)
