"""What is read from TOML and environment, and what is said about what cannot be."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from tests.connect.toy import install

from aiovec import ConfigError
from aiovec._settings.load import retrieval_model, stamp_of
from aiovec.backend import load_settings


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in os.environ:
        if name.upper().startswith("AIOVEC_"):
            monkeypatch.delenv(name)


@pytest.fixture
def toml(tmp_path: Path) -> Any:
    def write(text: str | bytes) -> Path:
        file = tmp_path / "aiovec.toml"
        file.write_bytes(text if isinstance(text, bytes) else text.encode())
        return file

    return write


def fault(file: Path | None) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        load_settings(file)
    return caught.value


def test_an_empty_file_means_the_defaults(toml: Any, tmp_path: Path) -> None:
    loaded = load_settings(toml(""))
    expected = retrieval_model()().model_copy(
        update={
            "sqlite_path": str(tmp_path / "aiovec.db"),
            "lancedb_url": str(tmp_path / "aiovec.lance"),
        }
    )
    assert loaded.settings.retrieval == expected
    assert loaded.file == tmp_path / "aiovec.toml"


def test_values_of_the_file(toml: Any) -> None:
    retrieval = load_settings(
        toml(
            """
            [retrieval]
            backend = "lancedb"
            dim = 384
            [retrieval.sqlite]
            durability = "normal"
            busy_timeout = 5
            page_size = 4096
            """
        )
    ).settings.retrieval
    assert (retrieval.backend, retrieval.dim) == ("lancedb", 384)
    assert retrieval.sqlite.durability == "normal"
    assert retrieval.sqlite.busy_timeout == 5.0
    assert retrieval.sqlite.page_size == 4096
    assert retrieval.sqlite.chunk_size == 256


def test_the_environment_overrides(toml: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    file = toml('[retrieval]\nbackend = "sqlite"\n[retrieval.sqlite]\nreaders = 2\nchunk_size = 64')
    monkeypatch.setenv("AIOVEC_RETRIEVAL__BACKEND", "lancedb")
    monkeypatch.setenv("AIOVEC_RETRIEVAL__SQLITE__READERS", "8")
    monkeypatch.setenv("AIOVEC_RETRIEVAL__DIM", "")  # empty counts as unset
    retrieval = load_settings(file).settings.retrieval
    assert retrieval.backend == "lancedb"
    assert (retrieval.sqlite.readers, retrieval.sqlite.chunk_size) == (8, 64)
    assert retrieval.dim == 768


def test_the_environment_alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("AIOVEC_RETRIEVAL__SQLITE__DURABILITY", "normal")
    monkeypatch.setenv("AIOVEC_RETRIEVAL__SQLITE_PATH", "here.db")
    loaded = load_settings(None)
    assert loaded.settings.retrieval.sqlite.durability == "normal"
    assert loaded.settings.retrieval.sqlite_path == str(tmp_path / "here.db")
    assert loaded.file is loaded.stamp is None


def test_a_section_as_json_in_the_environment(toml: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIOVEC_RETRIEVAL__SQLITE", '{"readers": 3, "cache_mb": 8}')
    monkeypatch.setenv("AIOVEC_RETRIEVAL__SQLITE__READERS", "5")
    sqlite = load_settings(toml("[retrieval.sqlite]\nchunk_size = 8")).settings.retrieval.sqlite
    assert (sqlite.readers, sqlite.cache_mb, sqlite.chunk_size) == (5, 8, 8)


@pytest.mark.parametrize(
    ("name", "right"),
    [
        ("AIOVEC_RETRIEVAL_BACKEND", "AIOVEC_RETRIEVAL__BACKEND"),
        ("aiovec_retrieval_backend", "AIOVEC_RETRIEVAL__BACKEND"),
        ("AIOVEC__RETRIEVAL__BACKEND", "AIOVEC_RETRIEVAL__BACKEND"),
        ("AIOVEC_BACKEND", "AIOVEC_RETRIEVAL__BACKEND"),
        ("AIOVEC_SQLITE_PATH", "AIOVEC_RETRIEVAL__SQLITE_PATH"),
        ("AIOVEC_SQLITE__READERS", "AIOVEC_RETRIEVAL__SQLITE__READERS"),
        ("AIOVEC_RETRIEVAL_SQLITE_SCAN_MEMORY", "AIOVEC_RETRIEVAL__SQLITE__SCAN_MEMORY"),
        ("AIOVEC_RETREIVAL__BACKEND", "AIOVEC_RETRIEVAL__BACKEND"),
        ("AIOVEC_CONFG", "AIOVEC_CONFIG"),
        ("AIOVEC_RETRIEVAL_BACKND", "AIOVEC_RETRIEVAL__BACKEND"),
        ("AIOVEC_LANCEDB_STORAGE_OPTIONS", "AIOVEC_RETRIEVAL__LANCEDB__STORAGE_OPTIONS"),
    ],
)
def test_a_misspelt_variable_is_no_silence(
    name: str, right: str, toml: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """B23: with one underscore the variable was ignored, and the app used another store."""
    monkeypatch.setenv(name, "SECRET")
    for config in (None, toml("")):
        with pytest.raises(ConfigError) as caught:
            load_settings(config)
        assert caught.value.accepted == right
        assert right in str(caught.value)
        assert str(caught.value.key).upper() == name.upper()
        assert "SECRET" not in str(caught.value)


def test_variables_of_others_are_let_be(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (
        "AIOVEC_CONFIG", "AIOVEC_LOOP", "AIOVEC_BENCH_DATA", "AIOVEC_APP_NAME", "MY_AIOVEC_BACKEND",
        "AIOVEC",
    ):  # fmt: skip
        monkeypatch.setenv(name, "x")
    monkeypatch.setenv("AIOVEC_RETRIEVAL_BACKEND", "")
    load_settings(None)


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("data/x.db", "{folder}/data/x.db"),
        ("../x.db", "{parent}/x.db"),
        ("./data/", "{folder}/data/"),
        ("~/x.db", "{home}/x.db"),
        (":memory:", ":memory:"),
    ],
)
def test_relative_paths_count_from_the_files_folder(
    path: str, expected: str, toml: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path.parent)
    retrieval = load_settings(toml(f"[retrieval]\nsqlite_path = '{path}'\nlancedb_url = '{path}'"))
    wanted = expected.format(
        folder=tmp_path, parent=tmp_path.parent, home=os.path.expanduser("~")
    ).replace("/", os.sep)
    assert retrieval.settings.retrieval.sqlite_path == wanted
    assert retrieval.settings.retrieval.lancedb_url == wanted


def test_the_file_itself_may_be_named_relatively(
    toml: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    toml("")
    monkeypatch.chdir(tmp_path.parent)
    loaded = load_settings(Path(tmp_path.name) / "aiovec.toml")
    assert loaded.settings.retrieval.sqlite_path == str(tmp_path / "aiovec.db")


@pytest.mark.parametrize("url", ["s3://bucket/notes", "db://notes", "http://127.0.0.1:4002"])
def test_urls_stay_as_they_are(url: str, toml: Any) -> None:
    assert (
        load_settings(toml(f"[retrieval]\nlancedb_url = '{url}'")).settings.retrieval.lancedb_url
        == url
    )


@pytest.mark.parametrize(
    ("text", "key", "in_accepted", "in_message"),
    [
        ("[retrieval]\nbackand = 'x'", "retrieval.backand", "sqlite_path", "'backend'?"),
        ("[retreival]\n", "retreival", "retrieval", "'retrieval'?"),
        ("[retrieval.sqlite]\nreader = 1", "retrieval.sqlite.reader", "durability", "'readers'?"),
        ("[retrieval.sqlit]\nreaders = 1", "retrieval.sqlit", "lancedb", "'sqlite'?"),
        ("[retrieval.remote]\nx = 1", "retrieval.remote.x", "api_key", "known"),
        ("[retrieval]\nbackend = 'nosuch'", "retrieval.backend", "lancedb, remote", "'nosuch'"),
        ("[retrieval]\nbackend = 3", "retrieval.backend", "sqlite", "not 3"),
        ("[retrieval]\ndim = '768'", "retrieval.dim", "whole number from 1 to 8_192", "'768'"),
        ("[retrieval]\ndim = true", "retrieval.dim", "whole number", "not true"),
        ("[retrieval]\ndim = 1.0", "retrieval.dim", "whole number", "1.0"),
        ("[retrieval]\ndim = 0", "retrieval.dim", "from 1", "not 0"),
        ("[retrieval]\nsqlite_path = ''", "retrieval.sqlite_path", "not empty", "''"),
        ("[retrieval]\nremote_url = 'x'", "retrieval.remote_url", "like 'http://", "'x'"),
        ("[retrieval]\nsqlite = 3", "retrieval.sqlite", "a section", "not 3"),
        ("retrieval = [1]", "retrieval", "a section", "a list"),
        ("[retrieval.sqlite]\ndurability = 'no'", "retrieval.sqlite.durability", "'normal'", "no"),
        ("[retrieval.sqlite]\npage_size = 1000", "retrieval.sqlite.page_size", "4096", "1000"),
        ("[retrieval.sqlite]\nchunk_size = 12", "retrieval.sqlite.chunk_size", "of 8", "12"),
        ("[retrieval.sqlite]\nbusy_timeout = nan", "retrieval.sqlite.busy_timeout", "to", "nan"),
        ("[retrieval.sqlite]\nbusy_timeout = '3'", "retrieval.sqlite.busy_timeout", "to", "'3'"),
        ("[retrieval.sqlite]\nbusy_timeout = -1", "retrieval.sqlite.busy_timeout", "from 0", "-1"),
        ("[retrieval.sqlite]\nscan_memory = '5 TB'", "retrieval.sqlite.scan_memory",
         "'auto' or a size such as '512 MiB'", "not '5 TB'"),
        ("[retrieval.lancedb]\nkeep_versions = 'long'", "retrieval.lancedb.keep_versions",
         "a time such as '30 minutes' or '1 day'", "not 'long'"),
    ],
)  # fmt: skip
def test_faults_name_file_key_and_what_is_accepted(
    text: str, key: str, in_accepted: str, in_message: str, toml: Any
) -> None:
    file = toml(text)
    error = fault(file)
    assert (error.file, error.key) == (str(file), key)
    assert error.accepted is not None
    assert in_accepted in error.accepted
    for part in (str(file), key, in_message, in_accepted):
        assert part in str(error)


def test_several_faults_are_counted(toml: Any) -> None:
    assert "(and 1 more)" in str(fault(toml("[retrieval]\ndim = 0\nsqlite_path = ''")))


def test_no_secret_of_a_url_is_shown(toml: Any) -> None:
    error = fault(toml("[retrieval]\nremote_url = 'ftp://ann:s3cret@host/x?token=t0ken'"))
    assert "s3cret" not in str(error)
    assert "t0ken" not in str(error)
    assert "host" in str(error)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[retrieval\ndim = 3", "line 1"),
        ("[retrieval]\ndim = 3\ndim = 4\n#\n", "line 3"),
        ("[retrieval]\ndim = \n", "line 2"),
        (b"[retrieval]\n# caf\xe9\n", "not UTF-8 text (line 2)"),
        ("x = " + "[" * 100_000, "nested too deeply"),
        ("x = " + "9" * 10_000, "is not TOML"),
    ],
    ids=["bracket", "twice", "no value", "latin-1", "deep", "digits"],
)
def test_what_is_not_toml(text: str | bytes, words: str, toml: Any) -> None:
    file = toml(text)
    error = fault(file)
    assert error.file == str(file)
    assert words in str(error)


def test_a_byte_order_mark_is_no_fault(toml: Any) -> None:
    assert load_settings(toml(b"\xef\xbb\xbf[retrieval]\ndim = 5\n")).settings.retrieval.dim == 5


@pytest.mark.parametrize("name", [".", "missing.toml", "aiovec.toml/inside", "nul\0.toml"])
def test_files_that_cannot_be_read(name: str, toml: Any, tmp_path: Path) -> None:
    toml("")
    error = fault(tmp_path / name)
    assert "cannot be read" in str(error)
    assert error.file == str(tmp_path / name)


@pytest.mark.parametrize(
    ("name", "value", "accepted"),
    [
        ("AIOVEC_RETRIEVAL__DIM", "many", "whole number"),
        ("aiovec_retrieval__dim", "many", "whole number"),
        ("AIOVEC_RETRIEVAL__SQLITE__READERS", "0", "from 1 to 64"),
        ("AIOVEC_RETRIEVAL__BACKEND", "nosuch", "sqlite"),
        ("AIOVEC_RETRIEVAL__BACKND", "sqlite", "backend"),
        ("AIOVEC_RETRIEVAL", "sqlite", "JSON object"),
        ("AIOVEC_RETRIEVAL", '{"dim": 0}', "whole number"),
        ("AIOVEC_RETRIEVAL__SQLITE", "fast", "JSON object"),
        ("AIOVEC_RETRIEVAL__SQLITE", "3", "section"),
    ],
)
def test_faults_of_the_environment_name_the_variable(
    name: str, value: str, accepted: str, toml: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    for file in (toml("[retrieval]\ndim = 5"), None):
        error = fault(file)
        assert error.file is None
        assert error.key is not None
        assert error.key.upper() == name.upper()
        assert error.key in str(error)
        assert accepted in str(error.accepted)


def test_sections_of_other_backends(
    toml: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = toml('[retrieval]\nbackend = "toy"\n[retrieval.toy]\nurl = "toy://x"\nsize = {a = 1}')
    assert "toy" in str(fault(file))
    install(monkeypatch, tmp_path / "site", toy="ToyPlugin")
    monkeypatch.setenv("AIOVEC_RETRIEVAL__TOY__COLOUR", "red")
    retrieval = load_settings(file).settings.retrieval
    assert retrieval.backend == "toy"
    assert retrieval.section("toy") == {"url": "toy://x", "size": {"a": 1}, "colour": "red"}
    assert retrieval.section("sqlite")["readers"] == 4
    assert retrieval.section("nosuch") == {}
    assert fault(toml("[retrieval]\ntoy = 3")).key == "retrieval.toy"


def test_settings_cannot_be_changed() -> None:
    settings = retrieval_model()()
    with pytest.raises(ValueError, match="frozen"):
        settings.dim = 3  # type: ignore[misc]
    with pytest.raises(ValueError, match="frozen"):
        settings.sqlite.readers = 3  # type: ignore[misc]


def test_the_stamp_tells_every_change(toml: Any, tmp_path: Path) -> None:
    file = toml("[retrieval]\ndim = 5")
    stamp = load_settings(file).stamp
    assert stamp == stamp_of(file)
    other = tmp_path / "other"
    other.write_text("[retrieval]\ndim = 6")
    os.utime(other, ns=(file.stat().st_atime_ns, file.stat().st_mtime_ns))
    other.replace(file)  # the same time and the same size
    assert stamp_of(file) != stamp
    file.unlink()
    assert stamp_of(file) is None


def test_the_file_of_api_keys_counts_from_the_folder_of_the_toml(toml: Any, tmp_path: Path) -> None:
    server = load_settings(toml('[retrieval.server]\napi_keys_file = "keys"')).settings.retrieval
    assert server.server.api_keys_file == str(tmp_path / "keys")
    assert load_settings(toml("")).settings.retrieval.server.api_keys_file == ""


@pytest.mark.parametrize(
    ("line", "accepted"),
    [
        ("port = 65536", "a whole number from 0 to 65_535"),
        ('host = ""', "text like '127.0.0.1'"),
        ('allowed_hosts = [""]', "text that is not empty"),
        ("idle_timeout = 0", "a number above 0"),
    ],
)
def test_wrong_keys_of_the_server(toml: Any, line: str, accepted: str) -> None:
    error = fault(toml(f"[retrieval.server]\n{line}"))
    assert error.key is not None
    assert error.key.startswith("retrieval.server.")
    assert accepted in str(error)
