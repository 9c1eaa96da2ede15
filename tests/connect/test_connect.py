"""Opening: what is opened, where, when, and what is said when it cannot be."""

from __future__ import annotations

import asyncio
import logging
import os
import subprocess
import sys
import threading
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
from tests.connect import toy
from tests.connect.toy import Toy, install
from tests.waiting import until

from aiovec import (
    BackendNotInstalledError,
    ConfigError,
    Hit,
    InvalidArgumentError,
    Schema,
    VectorStore,
    connect,
    restore,
)
from aiovec._plugins import KEYS
from aiovec.backend import Origin, RetrievalSettings


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in os.environ:
        if name.upper().startswith("AIOVEC_"):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[Toy]:
    """The backends that were made, of the kinds "toy" and "other"; sqlite is one of them too."""
    install(
        monkeypatch,
        tmp_path / "site",
        sqlite="ToySqlitePlugin",
        lancedb="ToyLancedbPlugin",
        toy="ToyPlugin",
        other="OtherPlugin",
        unusable="GivesNoBackend",
        misnamed="ToyPlugin",
        function="no_plugin",
        missing="NeedsAModule",
        absent="aiovec_package_that_nobody_has:Plugin",
        nameless="there_is_no_such_name",
    )
    return toy.created


# What is opened


async def test_awaited(made: list[Toy]) -> None:
    store = await connect("toy://x")
    assert isinstance(store, VectorStore)
    assert store.target == "toy://x"
    assert made[0].done == ["open"]
    await store.close()
    assert made[0].done == ["open", "close"]


async def test_entered(made: list[Toy]) -> None:
    async with connect("toy://x") as store:
        assert isinstance(store, VectorStore)
        assert made[0].done == ["open"]
    assert made[0].done == ["open", "close"]


async def test_closed_inside_the_block(made: list[Toy]) -> None:
    async with connect("toy://x") as store:
        await store.close()
    assert made[0].done == ["open", "close"]


async def test_one_opening_opens_once(made: list[Toy]) -> None:
    opening = connect("toy://x")
    async with opening:
        with pytest.raises(RuntimeError, match="again"):
            await opening
    assert len(made) == 1


def test_nothing_happens_before_it_is_awaited(tmp_path: Path) -> None:
    connect(tmp_path / "a" / "x.db")
    connect("nosuch://x")
    connect(config=tmp_path / "missing.toml")
    connect()
    assert os.listdir(tmp_path) == []


async def test_the_backend_is_made_off_the_event_loop(made: list[Toy]) -> None:
    async with connect("toy://x"):
        assert made[0].made_in != threading.get_ident()


@pytest.mark.parametrize(
    ("target", "told"),
    [
        ("notes.db", "{here}/notes.db"),
        ("notes", "{here}/notes/vectors.sqlite"),
        ("a/b/notes.db", "{here}/a/b/notes.db"),
        ("sqlite://notes.db", "{here}/notes.db"),
        ("sqlite://{here}/notes", "{here}/notes/vectors.sqlite"),
        ("~/notes.db", "{home}/notes.db"),
        (Path("notes.db"), "{here}/notes.db"),
        (Path("~") / "notes", "{home}/notes/vectors.sqlite"),
        (":memory:", ":memory:"),
        ("lancedb:///data/notes", "/data/notes"),
        ("lancedb://notes", "{here}/notes"),
        ("lancedb://~/notes", "{home}/notes"),
        ("s3://bucket/notes", "s3://bucket/notes"),
        ("toy://some where", "toy://some where"),
    ],
)
async def test_what_the_backend_is_told(
    target: Any, told: str, made: list[Toy], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("USERPROFILE", str(home))
    if isinstance(target, str):
        target = target.replace("{here}", str(tmp_path))
    async with connect(target):
        assert made[0].target == _here(told.format(here=tmp_path, home=home))


def _here(told: str) -> str:
    """A path as this system writes it."""
    return told if not told or told == ":memory:" or "://" in told else os.path.abspath(told)


async def test_folders_above_a_file_are_made(tmp_path: Path) -> None:
    async with connect("a/b/notes"):
        assert (tmp_path / "a" / "b" / "notes").is_dir()


# Settings


async def test_a_target_has_the_settings_of_the_environment(
    made: list[Toy], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIOVEC_RETRIEVAL__SQLITE__READERS", "7")
    monkeypatch.setenv("AIOVEC_RETRIEVAL__BACKEND", "lancedb")  # the target says otherwise
    async with connect(":memory:"):
        assert made[0].settings.readers == 7
        assert made[0].target == ":memory:"


async def test_a_target_beside_a_file_takes_its_settings(made: list[Toy], tmp_path: Path) -> None:
    file = tmp_path / "aiovec.toml"
    file.write_text('[retrieval]\nbackend = "toy"\n[retrieval.sqlite]\nreaders = 9')
    async with connect("notes.db", config=file) as store:
        assert made[0].target == str(tmp_path / "notes.db")
        assert made[0].settings.readers == 9
        assert store.target == made[0].target
    assert not Origin("notes.db", file).follows
    assert Origin(None, file).follows


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "{folder}/aiovec.db"),
        ('sqlite_path = "x"', "{folder}/x/vectors.sqlite"),
        ('sqlite_path = "sqlite://x.db"', "{folder}/x.db"),
        ('backend = "lancedb"', "{folder}/aiovec.lance"),
        ('backend = "lancedb"\nlancedb_url = "lancedb://here"', "{folder}/here"),
        ('backend = "lancedb"\nlancedb_url = "db://here"', "db://here"),
        ('backend = "toy"', ""),
        ('backend = "toy"\n[retrieval.toy]\nurl = "toy://y"', "toy://y"),
    ],
)
async def test_what_the_file_says(text: str, told: str, made: list[Toy], tmp_path: Path) -> None:
    folder = tmp_path / "etc"
    folder.mkdir()
    (folder / "aiovec.toml").write_text("[retrieval]\n" + text)
    async with connect(config=folder / "aiovec.toml"):
        assert made[0].target == _here(told.format(folder=folder))


async def test_which_file_is_read_without_arguments(
    made: list[Toy], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ConfigError) as caught:
        await connect()
    for way in ("connect('notes.db')", "config=", "AIOVEC_CONFIG", "aiovec.toml"):
        assert way in str(caught.value)

    (tmp_path / "aiovec.toml").write_text('[retrieval]\nsqlite_path = "here.db"')
    async with connect():
        assert made[-1].target == str(tmp_path / "here.db")

    other = tmp_path / "etc" / "other.toml"
    other.parent.mkdir()
    other.write_text('[retrieval]\nsqlite_path = "there.db"')
    monkeypatch.setenv("AIOVEC_CONFIG", str(Path("etc") / "other.toml"))
    async with connect():
        assert made[-1].target == str(tmp_path / "etc" / "there.db")

    monkeypatch.setenv("AIOVEC_CONFIG", "nosuch.toml")
    with pytest.raises(ConfigError, match="AIOVEC_CONFIG") as caught:
        await connect()
    assert caught.value.file == str(tmp_path / "nosuch.toml")

    monkeypatch.setenv("AIOVEC_CONFIG", "")  # empty counts as unset
    async with connect():
        assert made[-1].target == str(tmp_path / "here.db")


# Errors


@pytest.mark.parametrize("target", ["nosuch://x", "ftp://ann:secret@host/x?k=secret"])
async def test_an_unknown_scheme(target: str, made: list[Toy]) -> None:
    with pytest.raises(ConfigError) as caught:
        await connect(target)
    assert "secret" not in str(caught.value)
    for known in ("sqlite://", "lancedb://", "s3://", "http://", "toy://", "other://", ":memory:"):
        assert known in str(caught.value.accepted)


@pytest.mark.parametrize("target", ["", b"", b"x.db", 3, ["x"], object()])
async def test_what_is_no_target(target: Any) -> None:
    with pytest.raises(ConfigError, match="target"):
        await connect(target)
    if target is not None:
        with pytest.raises(ConfigError, match="config"):
            await connect(config=target)
    with pytest.raises(ConfigError, match="backup"):
        await restore(target, ":memory:")


async def test_an_unknown_backend(tmp_path: Path) -> None:
    file = tmp_path / "aiovec.toml"
    file.write_text('[retrieval]\nbackend = "nosuch"')
    with pytest.raises(ConfigError) as caught:
        await connect(config=file)
    assert not isinstance(caught.value, BackendNotInstalledError)
    assert "sqlite, lancedb, remote" in str(caught.value)


async def test_a_known_backend_that_is_not_installed(
    made: list[Toy], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "aiovec_remote.backend", raising=False)
    monkeypatch.delitem(sys.modules, "aiovec_remote.client", raising=False)
    monkeypatch.delitem(sys.modules, "aiovec_remote.connections", raising=False)
    monkeypatch.setitem(sys.modules, "aiohttp", None)
    with pytest.raises(BackendNotInstalledError, match=r'pip install "aiovec\[remote\]"') as caught:
        await connect("http://127.0.0.1:4002")
    assert (caught.value.backend, caught.value.extra) == ("remote", "aiovec[remote]")
    file = tmp_path / "aiovec.toml"
    file.write_text('[retrieval]\nbackend = "lancedb"\nlancedb_url = "http://127.0.0.1:4002"')
    with pytest.raises(BackendNotInstalledError):
        await connect(config=file)


@pytest.mark.parametrize("name", ["missing", "absent"])
async def test_a_backend_whose_modules_are_missing(name: str, made: list[Toy]) -> None:
    with pytest.raises(BackendNotInstalledError, match='pip install "toys"') as caught:
        await connect(f"{name}://x")
    assert isinstance(caught.value.__cause__, ModuleNotFoundError)


@pytest.mark.parametrize("name", ["unusable", "nameless", "misnamed", "function"])
async def test_an_entry_point_that_is_no_backend(name: str, made: list[Toy]) -> None:
    with pytest.raises(ConfigError, match="unusable"):
        await connect(f"{name}://x")


async def test_a_file_where_a_folder_should_be(tmp_path: Path) -> None:
    (tmp_path / "file.txt").write_text("")
    with pytest.raises(ConfigError, match="cannot hold a store"):
        await connect("file.txt/notes.db")


async def test_a_backend_that_cannot_open_is_closed(made: list[Toy]) -> None:
    with pytest.raises(OSError, match="broken"):
        await connect("toy://broken")
    assert made[0].done == ["open", "close"]


async def test_a_cancelled_opening_closes(made: list[Toy]) -> None:
    opening = asyncio.ensure_future(_open("toy://slow"))

    async def is_opening() -> bool:
        return bool(made and made[0].done)

    await until(is_opening)
    opening.cancel()
    await asyncio.sleep(0)
    opening.cancel()  # once more, while it closes
    with pytest.raises(asyncio.CancelledError):
        await opening
    assert made[0].done == ["open", "close"]


async def test_an_opening_cancelled_at_its_start(made: list[Toy]) -> None:
    opening = asyncio.ensure_future(_open("toy://x"))
    await asyncio.sleep(0)
    opening.cancel()
    with pytest.raises(asyncio.CancelledError):
        await opening
    for thread in threading.enumerate():
        if thread.name == "aiovec-open":
            await asyncio.to_thread(thread.join)
    assert all(backend.done == [] for backend in made), "it was never opened"


async def _open(target: str) -> VectorStore:
    return await connect(target)


# Following a TOML file


@pytest.fixture
def followed(made: list[Toy], tmp_path: Path) -> tuple[Origin, Path]:
    file = tmp_path / "aiovec.toml"
    file.write_text('[retrieval]\nbackend = "toy"\n[retrieval.toy]\nurl = "toy://1"')
    source = Origin(None, file)
    assert source.resolve_first().backend is made[0]
    return source, file


def _replace(file: Path, text: str) -> None:
    beside = file.with_suffix(".new")
    beside.write_text(text)
    beside.replace(file)


def test_an_unchanged_file_has_not_changed(followed: tuple[Origin, Path]) -> None:
    source, _ = followed
    assert not source.changed()
    assert source.resolve() is None


def test_a_switched_file(followed: tuple[Origin, Path], made: list[Toy]) -> None:
    source, file = followed
    _replace(file, '[retrieval]\nbackend = "other"\n[retrieval.other]\nurl = "other://2"')
    assert source.changed()
    resolved = source.resolve()
    assert resolved is not None
    assert (resolved.location.backend, resolved.location.address) == ("other", "other://2")
    assert resolved.backend is made[1]
    assert source.changed(), "the store is not there yet"
    source.settle(resolved)
    assert not source.changed()
    assert source.resolve() is None


def test_the_same_place_in_other_words(followed: tuple[Origin, Path], made: list[Toy]) -> None:
    source, file = followed
    _replace(
        file,
        '# a word\n[retrieval]\nbackend = "toy"\nretrieval.toy.url = "toy://1"'.replace(
            "retrieval.toy", "toy"
        ),
    )
    assert source.changed()
    assert source.resolve() is None
    assert not source.changed()
    assert len(made) == 1


def test_the_same_place_with_other_settings(followed: tuple[Origin, Path]) -> None:
    source, file = followed
    _replace(file, '[retrieval]\nbackend = "toy"\n[retrieval.toy]\nurl = "toy://1"\nsize = 3')
    resolved = source.resolve()
    assert resolved is not None
    assert resolved.settings.section("toy")["size"] == 3


def test_settings_of_another_backend_do_not_matter(followed: tuple[Origin, Path]) -> None:
    source, file = followed
    _replace(file, file.read_text() + "\n[retrieval.sqlite]\nreaders = 9")
    assert source.changed()
    assert source.resolve() is None


@pytest.mark.parametrize("text", [None, "[retrieval", '[retrieval]\nbackend = "nosuch"'])
def test_a_file_that_was_broken(text: str | None, followed: tuple[Origin, Path]) -> None:
    source, file = followed
    good = file.read_text()
    file.unlink()
    if text is not None:
        file.write_text(text)
    for _ in range(2):
        assert source.changed()
        with pytest.raises(ConfigError) as caught:
            source.resolve()
        assert caught.value.file == str(file)
    file.write_text(good)
    assert source.changed()
    assert source.resolve() is None
    assert not source.changed()


def test_a_backend_that_could_not_be_opened_is_tried_again(
    followed: tuple[Origin, Path], made: list[Toy]
) -> None:
    source, file = followed
    good = file.read_text()
    _replace(file, '[retrieval]\nbackend = "other"\n[retrieval.other]\nurl = "other://2"')
    for _ in range(2):
        assert source.changed()
        assert source.resolve() is not None
    _replace(file, good)
    assert source.resolve() is None, "the store is still at the first one"


def test_the_current_folder_may_change(
    made: list[Toy], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "aiovec.toml").write_text("")
    source = Origin(None, None)
    source.resolve_first()
    monkeypatch.chdir(tmp_path.parent)
    assert not source.changed()
    assert source.resolve() is None


async def test_a_store_follows(made: list[Toy], tmp_path: Path) -> None:
    file = tmp_path / "aiovec.toml"
    file.write_text('[retrieval]\nbackend = "toy"\n[retrieval.toy]\nurl = "toy://1"')
    async with connect(config=file) as store:
        assert await store.tables() == ["toy://1"]
        _replace(file, '[retrieval]\nbackend = "other"\n[retrieval.other]\nurl = "other://2"')

        async def has_moved() -> bool:
            return await store.tables() == ["other://2"]

        async def has_closed_the_first() -> bool:
            return made[0].done == ["open", "close"]

        await until(has_moved)
        assert store.target == "other://2"
        await until(has_closed_the_first)
    assert made[1].done == ["open", "close"]


async def test_a_log_that_must_wait_for_its_stream_keeps_no_loop_waiting(
    made: list[Toy],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    told: list[tuple[str, int]] = []

    class Recording(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            told.append((record.getMessage(), threading.get_ident()))

    log = logging.getLogger("aiovec")
    monkeypatch.setattr(log, "handlers", [Recording()])
    caplog.set_level(logging.INFO, "aiovec")
    file = tmp_path / "aiovec.toml"
    file.write_text('[retrieval]\nbackend = "toy"\n[retrieval.toy]\nurl = "toy://1"')
    async with connect(config=file) as store:
        for text in ("[retrieval", '[retrieval]\nbackend = "other"'):
            _replace(file, text)
            before = len(told)

            async def has_told(before: int = before) -> bool:
                await store.tables()
                return len(told) > before

            await until(has_told)
    (cannot, one), (following, other) = told
    assert cannot.startswith("the changed TOML cannot be used")
    assert following.startswith("following the TOML from toy://1 to ")
    assert threading.get_ident() not in (one, other)


# The process


def test_importing_and_connecting_is_light() -> None:
    program = (
        "import sys, aiovec\n"
        "aiovec.connect('x.db')\n"
        "heavy = {'pyarrow', 'pydantic', 'typer', 'rich', 'aiosqlite', 'sqlite3', 'fastapi',\n"
        "         'starlette', 'aiovec._settings.load', 'importlib.metadata'}\n"
        "sys.exit(', '.join(heavy & set(sys.modules)) or None)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_thread_that_hangs_does_not_keep_the_process() -> None:
    program = (
        "import asyncio, time\n"
        "from aiovec._core.threads import in_daemon_thread\n"
        "async def main():\n"
        "    task = asyncio.ensure_future(in_daemon_thread(lambda: time.sleep(3600)))\n"
        "    await asyncio.sleep(0.05)\n"
        "    task.cancel()\n"
        "asyncio.run(main())"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


@pytest.mark.skipif(os.name == "nt", reason="paths of Windows may hold lone surrogates")
@pytest.mark.parametrize(
    "target", ["x\ud800.db", "sqlite:///x\ud800", "lancedb:///x\ud800", "\ud800://x"]
)
async def test_a_target_is_valid_unicode(target: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="Unicode"):
        await connect(target)
    async with connect(tmp_path / "n.db") as store:
        with pytest.raises(InvalidArgumentError):
            await store.backup(f"{tmp_path}/\ud800")


async def test_a_store_of_a_toml_goes_on_while_an_app_reranks(tmp_path: Path) -> None:
    """Each call looks at the file about once a second, and must get a thread for it."""
    config = tmp_path / "aiovec.toml"
    config.write_text('[retrieval]\nsqlite_path = "notes.db"\n')
    over = threading.Event()
    begun: list[int] = []
    all_begun, loop = asyncio.Event(), asyncio.get_running_loop()

    def slow(hits: list[Hit]) -> list[Hit]:
        begun.append(len(hits))
        if len(begun) == 4:
            loop.call_soon_threadsafe(all_begun.set)
        over.wait(60)
        return hits

    async with connect(config=config) as store:
        await store.create_table("notes", Schema(2))
        await store.insert("notes", [{"id": "a", "embedding": [1, 0]}])
        waiting = [
            asyncio.ensure_future(store.search("notes", [1, 0], rerank=slow)) for _ in range(4)
        ]
        try:
            async with asyncio.timeout(30):
                await all_begun.wait()
                await asyncio.sleep(1.2)
                assert await store.count("notes") == 1
                await store.backup(tmp_path / "copy.db")
                assert await store.upsert("notes", [{"id": "b", "embedding": [0, 1]}]) == 1
        finally:
            over.set()
            await asyncio.gather(*waiting)


# Installed packages


async def test_a_second_opening_reads_no_package_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading the entry points takes milliseconds, more with each package that is installed."""
    async with connect(":memory:"):
        pass
    reads: list[object] = []
    plain = metadata.entry_points

    def counted(**selected: Any) -> Any:
        reads.append(selected)
        return plain(**selected)

    monkeypatch.setattr(metadata, "entry_points", counted)
    async with connect(":memory:"):
        pass
    assert reads == []


async def test_a_backend_installed_meanwhile_is_found(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """As a notebook does it, into a folder that was searched before."""
    site = tmp_path / "site"
    site.mkdir()
    monkeypatch.syspath_prepend(str(site))
    with pytest.raises(ConfigError, match="toy"):
        await connect("toy://x")
    await asyncio.to_thread(install, monkeypatch, site, toy="ToyPlugin")
    async with connect("toy://x"):
        assert toy.created[0].done == ["open"]


async def test_no_backend_takes_over_what_belongs_to_another(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Neither the scheme of another, nor a key of every TOML file."""
    install(monkeypatch, tmp_path / "site", aside="Greedy", dim="NamedAsAKey", toy="ToyPlugin")
    (tmp_path / "aiovec.toml").write_text('[retrieval]\ndim = 5\nsqlite_path = "n.db"\n')
    async with connect(config=tmp_path / "aiovec.toml") as store:
        await store.create_table("notes", exist_ok=True)
        assert (await store.schema("notes")).dim == 5
    async with connect("toy://x") as store:
        assert store.backend_name == "toy"
    async with connect("aside://x") as store:
        assert store.target == "aside://x"
    with pytest.raises(ConfigError, match="a key of every TOML file"):
        await connect("dim://x")


def test_the_keys_that_no_backend_can_have_are_those_of_the_model() -> None:
    assert set(RetrievalSettings.model_fields) == KEYS
