"""The flip of ``[retrieval] backend``: nothing else changes, and nothing is ever lost."""

from __future__ import annotations

import asyncio
import os
import stat
import tempfile
import threading
import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import aiovec
from aiovec.errors import ConfigError, MigrationError
from aiovec_migrate import toml
from aiovec_migrate.host import RealHost
from aiovec_migrate.locate import Place, locate
from aiovec_migrate.toml import TomlFile, backend_in, check, edited, flip

from .support import as_nobody

posix_only = pytest.mark.skipif(os.name == "nt", reason="Windows has neither modes nor owners")

# Before, and after a flip to "lancedb".
SPELLINGS = [
    ('[retrieval]\nbackend = "sqlite"\n', '[retrieval]\nbackend = "lancedb"\n'),
    ("[retrieval]\nbackend = 'sqlite'\n", "[retrieval]\nbackend = 'lancedb'\n"),
    ('[retrieval]\nbackend = """sqlite"""\n', '[retrieval]\nbackend = "lancedb"\n'),
    ("[retrieval]\nbackend = '''\nsqlite'''\n", "[retrieval]\nbackend = 'lancedb'\n"),
    ('[retrieval]\nbackend = "sql\\u0069te"\n', '[retrieval]\nbackend = "lancedb"\n'),
    (
        '# [retrieval]\n[ retrieval ] # here\n\t"backend"\t=\t"sqlite"\t# or "lancedb"\n',
        '# [retrieval]\n[ retrieval ] # here\n\t"backend"\t=\t"lancedb"\t# or "lancedb"\n',
    ),
    ("['retrieval']\r\nbackend = 'sqlite'\r\n", "['retrieval']\r\nbackend = 'lancedb'\r\n"),
    ('retrieval.backend = "sqlite"', 'retrieval.backend = "lancedb"'),
    ('"retrieval" . backend="sqlite" # x', '"retrieval" . backend="lancedb" # x'),
    (
        'retrieval = { dim = 3, backend = "sqlite" }\n',
        'retrieval = { dim = 3, backend = "lancedb" }\n',
    ),
    (
        "retrieval={sqlite.readers=2,'backend'='sqlite'}",
        "retrieval={sqlite.readers=2,'backend'='lancedb'}",
    ),
    # The key is missing, which means sqlite.
    ("", '[retrieval]\nbackend = "lancedb"\n'),
    ("# nothing", '# nothing\n\n[retrieval]\nbackend = "lancedb"\n'),
    ("[retrieval]", '[retrieval]\nbackend = "lancedb"\n'),
    (
        "\t[retrieval] # the store\r\n\tdim = 3\r\n",
        '\t[retrieval] # the store\r\n\tbackend = "lancedb"\r\n\tdim = 3\r\n',
    ),
    ("retrieval.dim = 3\n", 'retrieval.backend = "lancedb"\nretrieval.dim = 3\n'),
    (
        "# a\nretrieval.sqlite.readers = 2\n",
        '# a\nretrieval.backend = "lancedb"\nretrieval.sqlite.readers = 2\n',
    ),
    ("retrieval = {}\n", 'retrieval = { backend = "lancedb" }\n'),
    ("retrieval = { dim = 3 }\n", 'retrieval = { backend = "lancedb", dim = 3 }\n'),
    (
        "[retrieval.sqlite]\nreaders = 2",
        '[retrieval.sqlite]\nreaders = 2\n\n[retrieval]\nbackend = "lancedb"\n',
    ),
    # What only looks like it.
    (
        '[retrieval]\nsqlite_path = """\n[retrieval]\nbackend = "no" """\nbackend = "sqlite"\n',
        '[retrieval]\nsqlite_path = """\n[retrieval]\nbackend = "no" """\nbackend = "lancedb"\n',
    ),
    (
        "[retrieval]\nlancedb_url = '#\"'\n[retrieval.a]\nbackend = 'a'\n",
        "[retrieval]\nbackend = \"lancedb\"\nlancedb_url = '#\"'\n[retrieval.a]\nbackend = 'a'\n",
    ),
    (
        "[a]\nb = [ # ]\n '[retrieval]', [1], {c = \"]\"},\n]\n[retrieval]\nbackend = 'a'\n",
        "[a]\nb = [ # ]\n '[retrieval]', [1], {c = \"]\"},\n]\n[retrieval]\nbackend = 'lancedb'\n",
    ),
]


@pytest.mark.parametrize(("before", "after"), SPELLINGS)
def test_every_spelling_of_the_key(before: str, after: str) -> None:
    assert edited(before, "lancedb") == after
    assert tomllib.loads(after)["retrieval"]["backend"] == "lancedb"


def test_the_sample_file_is_flipped_in_one_line() -> None:
    sample = Path(__file__, "../../../config/aiovec.toml").resolve().read_text("utf-8")
    result = edited(sample, "lancedb")
    assert result == sample.replace('\nbackend = "sqlite"\n', '\nbackend = "lancedb"\n', 1)
    assert edited(result, "sqlite") == sample


# Any file: some lines of each sort, in any order and with any layout.

_blank = st.sampled_from(["", " ", "\t", "  "])
_comment = st.sampled_from(["", "# [retrieval]", '# backend = "x"', "# '''", '#"""', "# ü ]}"])
_texts = st.sampled_from(
    ["a", "", "[retrieval]", 'backend = "x"', "backend = 'x'", "#", "\\", '"', "'", "ü", "]}", "="]
)


def _written(text: str, kind: int) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    if kind == 1 and "'" not in text:
        return f"'{text}'"
    if kind == 2:
        return f'"""\n{escaped}\n[retrieval]\nbackend = "y"\n"""'
    if kind == 3 and "'" not in text:
        return f"'''{text}\n[retrieval.x]\n'''"
    return f'"{escaped}"'


_strings = st.builds(_written, _texts, st.integers(0, 3))
_scalars = st.sampled_from(
    ["1", "-1.5e3", "nan", "inf", "true", "1979-05-27 07:32:00", "0xff", "07:32:00.5"]
)
_in_line = st.builds(_written, _texts, st.integers(0, 1))
_values = st.recursive(
    _strings | _scalars,
    lambda inner: (
        st.lists(inner, max_size=3).map(lambda items: "[" + ", ".join(items) + "]")
        | st.lists(inner, max_size=3).map(
            lambda items: "[ # [retrieval]\n  " + ",\n  ".join(items) + "\n]" if items else "[\n]"
        )
    ),
    max_leaves=4,
)
_keys = st.sampled_from(["a", '"b c"', "'retrieval'", "d.'e.f'", '"backend"', "x . y", '""'])


@st.composite
def _entries(draw: st.DrawFn, indent: str) -> list[str]:
    lines = []
    for key in draw(st.lists(_keys, unique=True, max_size=4)):
        space, value, end = draw(_blank), draw(_values), draw(_comment)
        lines.append(f"{indent}{key}{space}={space}{value}{draw(_blank)}{end}")
        lines += draw(st.lists(_comment, max_size=2))
    return lines


@st.composite
def documents(draw: st.DrawFn) -> str:
    """A TOML text with [retrieval] in one of its spellings, or without it."""
    indent = draw(_blank)
    backend = draw(st.sampled_from([None, "sqlite", "lancedb", "other"]))
    value = None if backend is None else draw(st.sampled_from(["'{}'", '"{}"'])).format(backend)
    dim = draw(st.sampled_from(["dim = 3", "sqlite_path = '[retrieval]'", "sqlite.a = 'backend'"]))
    form = draw(st.sampled_from(["table", "dotted", "inline", "sub", "none"]))
    root: list[str] = []
    tables = [["[other]", *draw(_entries(indent))], ["[[many]]", *draw(_entries(indent))]]
    own = [dim] if value is None else draw(st.permutations([dim, f"backend = {value}"]))
    if form == "table":
        tables.append([f"{indent}[ retrieval ]{draw(_comment)}", *(indent + line for line in own)])
        tables.append(["[retrieval.lancedb]", "backend = 'deeper'", *draw(_entries(indent))][:2])
    elif form == "dotted":
        root = [f"{indent}retrieval.{line} {draw(_comment)}" for line in own]
    elif form == "inline":
        root = ["'retrieval' = { " + ", ".join(own) + " }"]
    elif form == "sub":
        tables.append(["[retrieval.sqlite]", "readers = 3"])
    plain = [f"plain = {draw(_values)}", *draw(st.lists(_comment, max_size=2))]
    lines = [*draw(st.permutations([*root, "\n".join(plain)]))]
    for table in draw(st.permutations(tables)):
        lines += ["", *table]
    text = "\n".join(lines) + draw(st.sampled_from(["", "\n", "\n\n"]))
    return text.replace("\n", draw(st.sampled_from(["\n", "\r\n"])))


@given(documents())
def test_any_file_says_the_same_but_for_this_key(text: str) -> None:
    before = tomllib.loads(text)
    result = edited(text, "new-one")
    after = tomllib.loads(result)
    assert after["retrieval"].pop("backend") == "new-one"
    old = before.get("retrieval", {}).pop("backend", None)
    assert repr(_sorted(after)) == repr(_sorted({"retrieval": {}, **before}))
    # Nothing but the value is touched; a key that was missing costs what its lines take.
    if old is not None:
        restored = result.replace("new-one", old, 1)
        assert restored == text
    else:
        _removable(result, text)
    assert edited(result, "new-one") == result


def _sorted(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _sorted(value[key]) for key in sorted(value)}
    return [_sorted(item) for item in value] if isinstance(value, list) else value


def _removable(longer: str, shorter: str) -> None:
    """The longer text is the shorter one with one piece put in."""
    head = _common(longer, shorter)
    assert longer.endswith(shorter[head:])


def _common(one: str, other: str) -> int:
    """How many characters both begin with."""
    return next(
        (at for at, (mine, theirs) in enumerate(zip(one, other, strict=False)) if mine != theirs),
        min(len(one), len(other)),
    )


def test_a_deeply_nested_file_is_flipped() -> None:
    deep = "[" * 90 + "]" * 90
    text = f"[retrieval.other]\nx = {deep}\n[retrieval]\nbackend = 'sqlite'\n"
    assert edited(text, "lancedb") == text.replace("'sqlite'", "'lancedb'")


# The file on the disk


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "aiovec.toml"
    path.write_bytes(b'# mine\r\n[retrieval]\r\nbackend = "sqlite"  # now\r\n')
    return path


def _names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_flip_keeps_the_old_file_beside_it(file: Path) -> None:
    before = file.read_bytes()
    done = flip(file, "lancedb")
    assert (done.before, done.after, done.file) == ("sqlite", "lancedb", file.resolve())
    assert file.read_bytes() == before.replace(b'"sqlite"', b'"lancedb"')
    assert done.kept is not None
    assert done.kept.name == "aiovec.toml.before-lancedb"
    assert done.kept.read_bytes() == before
    assert _names(file.parent) == ["aiovec.toml", "aiovec.toml.before-lancedb"]


def test_a_flip_that_is_done_already_does_nothing(file: Path) -> None:
    before = file.stat()
    assert flip(file, "sqlite").kept is None
    after = file.stat()
    assert (before.st_mtime_ns, before.st_ino) == (after.st_mtime_ns, after.st_ino)
    assert _names(file.parent) == ["aiovec.toml"]


def test_flips_there_and_back_never_overwrite_what_they_kept(file: Path) -> None:
    beginning = file.read_bytes()
    flip(file, "lancedb")
    flip(file, "sqlite")
    assert file.read_bytes() == beginning
    assert flip(file, "lancedb").kept == file.with_name("aiovec.toml.before-lancedb")
    flip(file, "sqlite")
    file.write_bytes(beginning + b"dim = 3\r\n")
    again = flip(file, "lancedb").kept
    assert again == file.with_name("aiovec.toml.before-lancedb-2")
    assert file.with_name("aiovec.toml.before-lancedb").read_bytes() == beginning


def test_a_mark_before_the_text_stays(file: Path) -> None:
    file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes())
    flip(file, "lancedb")
    assert file.read_bytes().startswith(b"\xef\xbb\xbf# mine")
    assert backend_in(file) == "lancedb"


def test_a_missing_key_means_the_default(file: Path) -> None:
    file.write_text("[retrieval]\ndim = 3\n", "utf-8")
    assert backend_in(file) == "sqlite"
    assert flip(file, "sqlite").kept is None
    flip(file, "lancedb")
    assert file.read_text("utf-8") == '[retrieval]\nbackend = "lancedb"\ndim = 3\n'


@posix_only
def test_the_mode_stays(file: Path) -> None:
    file.chmod(0o640)
    kept = flip(file, "lancedb").kept
    assert kept is not None
    assert stat.S_IMODE(file.stat().st_mode) == 0o640
    assert stat.S_IMODE(kept.stat().st_mode) == 0o640


@posix_only
def test_behind_a_link_the_real_file_is_replaced(file: Path, tmp_path: Path) -> None:
    folder = tmp_path / "etc"
    folder.mkdir()
    link = folder / "app.toml"
    link.symlink_to("../aiovec.toml")
    kept = flip(link, "lancedb").kept
    assert link.is_symlink()
    assert not file.is_symlink()
    assert backend_in(file) == "lancedb"
    assert kept is not None
    assert kept.parent == file.parent
    assert _names(folder) == ["app.toml"]


def test_what_a_killed_flip_left_behind_is_no_hindrance(file: Path) -> None:
    before = file.read_bytes()
    file.with_name("aiovec.toml.before-lancedb").write_bytes(before)
    file.with_name(".aiovec.toml.new").write_bytes(b"half of i")
    flip(file, "lancedb")
    assert _names(file.parent) == ["aiovec.toml", "aiovec.toml.before-lancedb"]
    assert backend_in(file) == "lancedb"


def test_an_edit_at_the_same_moment_is_not_lost(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _edit_meanwhile(file, monkeypatch, times=1)
    kept = flip(file, "lancedb").kept
    assert kept is not None
    assert b"# edit 1" in kept.read_bytes()
    assert b"# edit 1" in file.read_bytes()
    assert backend_in(file) == "lancedb"
    assert _names(file.parent) == ["aiovec.toml", kept.name]


def test_a_file_that_never_stands_still_is_left_alone(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _edit_meanwhile(file, monkeypatch, times=100)
    with pytest.raises(MigrationError, match="changed by another program at each try"):
        flip(file, "lancedb")
    assert backend_in(file) == "sqlite"
    assert b"# edit 1" in file.read_bytes()
    assert _names(file.parent) == ["aiovec.toml"]


def _edit_meanwhile(file: Path, monkeypatch: pytest.MonkeyPatch, times: int) -> None:
    """Let somebody edit the file after it was read and before it is replaced."""
    plain, edits = toml.edited, 0

    def then(text: str, backend: str) -> str:
        nonlocal edits
        result = plain(text, backend)
        if edits < times:
            edits += 1
            file.write_bytes(file.read_bytes() + b"# edit %d\r\n" % edits)
        return result

    monkeypatch.setattr(toml, "edited", then)


def test_a_reader_never_sees_half_a_file(file: Path) -> None:
    file.write_bytes(file.read_bytes() + b"# " + b"long " * 8_000)
    size = len(file.read_bytes())
    stop, wrong, looks = threading.Event(), [], 0

    def look() -> None:
        nonlocal looks
        while not stop.is_set():
            content = file.read_bytes()
            looks += 1
            if not size <= len(content) <= size + 1:
                wrong.append(len(content))

    reader = threading.Thread(target=look)
    reader.start()
    try:
        for turn in range(30):
            flip(file, "sqlite" if turn % 2 else "lancedb")
    finally:
        stop.set()
        reader.join()
    assert not wrong
    assert looks


REFUSED = [
    (b"[[retrieval]]\nbackend = 'sqlite'\n", "must be the name of a backend"),
    (b"[retrieval]\nbackend = 3\n", "must be the name of a backend"),
    (b"[retrieval\n", "is not TOML"),
    (b"\xff\xfe", "is not TOML"),
]


@pytest.mark.parametrize(("content", "reason"), REFUSED)
def test_what_cannot_be_read_is_refused_and_stays(file: Path, content: bytes, reason: str) -> None:
    file.write_bytes(content)
    for call in (flip, check):
        with pytest.raises(ConfigError, match=reason):
            call(file, "lancedb")
    assert file.read_bytes() == content
    assert _names(file.parent) == ["aiovec.toml"]


def test_a_file_that_tomlkit_cannot_edit_is_refused(file: Path) -> None:
    before = b"x = " + b"[" * 300 + b"]" * 300 + b"\n" + file.read_bytes()
    file.write_bytes(before)
    assert backend_in(file) == "sqlite"  # for Python's parser it is not too deep
    for call in (check, flip):
        with pytest.raises(
            MigrationError, match=r"To change it by hand, write the line backend = \"lancedb\""
        ):
            call(file, "lancedb")
    assert file.read_bytes() == before
    assert _names(file.parent) == ["aiovec.toml"]


def test_a_text_that_tomlkit_would_write_otherwise_is_refused(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = file.read_bytes()
    monkeypatch.setattr(toml, "_with_backend", lambda text, backend: f"a = 1\n{text}")
    with pytest.raises(MigrationError, match="cannot be changed safely"):
        flip(file, "lancedb")
    assert file.read_bytes() == before


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        flip(tmp_path / "absent.toml", "lancedb")


@pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can become another user"
)
def test_a_folder_in_which_this_user_may_not_write() -> None:
    with tempfile.TemporaryDirectory() as name:  # others may enter it, unlike tmp_path
        folder = Path(name)
        folder.chmod(0o755)
        file = folder / "aiovec.toml"
        file.write_text("[retrieval]\nbackend = 'sqlite'\n", "utf-8")
        file.chmod(0o666)
        with as_nobody():
            for call in (check, flip):
                with pytest.raises(MigrationError, match="may not write in"):
                    call(file, "lancedb")
        assert _names(folder) == ["aiovec.toml"]
        assert backend_in(file) == "sqlite"


def test_check_says_what_a_flip_would_do_and_does_nothing(file: Path) -> None:
    def state() -> tuple[int, int, bytes]:
        return file.stat().st_ino, file.stat().st_mtime_ns, file.read_bytes()

    before = state()
    found = check(file, "lancedb")
    assert (found.before, found.after, found.kept) == ("sqlite", "lancedb", None)
    assert state() == before
    assert _names(file.parent) == ["aiovec.toml"]


@pytest.fixture
def without_key(file: Path) -> Path:
    file.write_text("[retrieval]\nsqlite_path = 'a.db'\n", "utf-8")
    return file


async def test_a_store_sees_the_flip_made_off_the_loop(without_key: Path) -> None:
    file = without_key
    toml = TomlFile(file, RealHost())
    assert toml.path == str(file)
    async with aiovec.connect(config=file) as store:
        assert store.backend_name == "sqlite"
    goal = await asyncio.to_thread(lambda: Place(locate("lancedb", file).backend(), "lancedb"))
    await toml.flip(goal)
    settings = await asyncio.to_thread(_configured, file)
    assert settings == "lancedb"


def _configured(file: Path) -> str:
    from aiovec.backend import load_settings

    return load_settings(file).settings.retrieval.backend


VARIABLES = [
    ({}, None),
    ({"AIOVEC_RETRIEVAL__BACKEND": ""}, None),
    ({"AIOVEC_RETRIEVAL__BACKEND": "sqlite"}, ("AIOVEC_RETRIEVAL__BACKEND", "sqlite")),
    ({"aiovec_retrieval__backend": "sqlite"}, ("aiovec_retrieval__backend", "sqlite")),
    ({"AIOVEC_RETRIEVAL": '{"backend": "sqlite"}'}, ("AIOVEC_RETRIEVAL", "sqlite")),
    ({"AIOVEC_RETRIEVAL": '{"dim": 3}'}, None),
    ({"AIOVEC_RETRIEVAL": "no"}, None),
]


@pytest.mark.parametrize(("variables", "held"), VARIABLES)
def test_a_variable_that_holds_stores_on_their_backend(
    variables: dict[str, str], held: tuple[str, str] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in list(os.environ):
        if name.upper().startswith("AIOVEC_RETRIEVAL"):
            monkeypatch.delenv(name)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    found = toml.variable_that_holds()
    if held is not None and os.name == "nt":
        held = (held[0].upper(), held[1])  # Windows spells them so
    assert found == held
