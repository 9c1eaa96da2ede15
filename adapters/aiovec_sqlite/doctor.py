"""Collect the findings of ``aiovec doctor`` about SQLite: the driver, sqlite-vec, and a file."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

from aiovec.backend.doctor import room_at, version_of
from aiovec.backend.plugin import Finding
from aiovec.errors import AiovecError, CorruptStoreError, ExtensionUnavailableError

from . import text_index
from .copies.kernel.library import load, why_not
from .copies.postings import read_postings
from .copies.scanfile import ScanFiles, read_segments
from .driver import connect, load_driver, load_extension, why_not_own
from .errors import translated
from .layout import check_header, faults_of, read_table
from .settings import MEMORY
from .sql.schema import check_schema
from .tables import table_names

_OLD_SQLITE = {
    (3, 45): "searches read a payload's texts up to a NUL, and n-grams keep accents",
    (3, 51, 3): "a rare race of two processes can damage a file (SQLite's WAL-reset bug), unless "
    "your distribution has fixed it",
}


def findings(file: Path | None) -> list[Finding]:
    """Return the findings about the driver and, unless ``file`` is None, about a store's file.

    Opens the file read-only, and does not create it.
    """
    facts = list(_driver())
    if file is not None:
        facts += _file(file, all(finding.ok for finding in facts))
    return facts


def _driver() -> Iterator[Finding]:
    yield version_of("aiosqlite")
    try:
        driver = load_driver()
    except ExtensionUnavailableError as exc:
        yield Finding("sqlite driver", exc.reason, ok=False, fix=exc.fix)
        return
    yield Finding("sqlite driver", _name_of(driver))
    notes = "".join(
        f"; before {'.'.join(map(str, version))}, {note}"
        for version, note in _OLD_SQLITE.items()
        if driver.sqlite_version_info < version
    )
    yield Finding("sqlite", f"{driver.sqlite_version}{notes}")
    with closing(driver.connect(MEMORY)) as db:
        try:
            load_extension(db)
        except ExtensionUnavailableError as exc:
            yield Finding("sqlite-vec", exc.reason, ok=False, fix=exc.fix)
        else:
            (version,) = db.execute("SELECT vec_version()").fetchone()
            yield Finding("sqlite-vec", version)
    yield _scan()


def _name_of(driver: Any) -> str:
    if driver is sqlite3:
        return "sqlite3 of Python"
    return (
        f"sqlcipher3 {metadata.version('sqlcipher3')}, because Python's sqlite3 {why_not_own()}; "
        "never open a store's file with sqlite3, pandas or SQLAlchemy in a process that uses the "
        "store: two SQLite libraries in one process release each other's locks"
    )


def _scan() -> Finding:
    """Report whether searches run in memory. Searches in the file return the same hits."""
    library = load()
    if library is not None:
        return Finding("searches", f"in memory, with {library.kind}")
    return Finding(
        "searches",
        f"in the file, which takes longer: {why_not()}",
        fix="install aiovec where there is a wheel for the machine, or a C compiler",
    )


def _file(path: Path, usable: bool) -> Iterator[Finding]:
    yield from room_at(path.parent, "SQLite creates files next to the store")
    try:
        exists = check_header(path)
    except CorruptStoreError as exc:
        yield Finding("store", f"{path}: {exc.reason}", ok=False, fix=_fix_of(exc))
        return
    except AiovecError as exc:
        fix = "give this user the right to read the file, or name another one"
        yield Finding("store", str(exc), ok=False, fix=fix)
        return
    if not exists:
        yield Finding("store", f"{path}: does not exist yet", checked=False)
        return
    yield Finding("store", f"{path}: {path.stat().st_size:,} bytes")
    if not usable:
        return
    inside: list[Finding] = []
    for uri in _uris(path):
        try:
            with translated(str(path)), closing(connect(uri, uri=True, timeout=5)) as db:
                check_schema(db, str(path))
                inside = [_journal(path), *_inside(db, path)]
        except AiovecError as exc:
            inside = [Finding("integrity", str(exc), ok=False, fix=_fix_of(exc))]
        if all(finding.ok for finding in inside):
            break
    yield from inside


def _fix_of(error: AiovecError) -> str:
    reason = getattr(error, "reason", "")
    if "layout" in reason:
        return "pip install --upgrade aiovec"
    if "database" in reason and "damaged" not in reason:
        return "name another path; this file belongs to another program, or was never a store"
    return "restore the file from a backup"


def _uris(path: Path) -> Iterator[str]:
    """Yield URIs for reading the file; the caller tries the second if the first shows a fault.

    Reading a database in WAL mode creates files next to it. If there is no WAL, no process uses the
    store, so the first URI opens the file as immutable, which creates no files. If a process then
    begins to use the store, the file may look damaged; hence the second URI.
    """
    uri = path.absolute().as_uri()
    if not path.with_name(path.name + "-wal").exists():
        yield f"{uri}?immutable=1"
    yield f"{uri}?mode=ro"


def _journal(path: Path) -> Finding:
    try:
        size = path.with_name(path.name + "-wal").stat().st_size
    except OSError:
        return Finding("write-ahead log", "none: no process has the store open")
    return Finding("write-ahead log", f"{size:,} bytes")


def _inside(db: sqlite3.Connection, path: Path) -> Iterator[Finding]:
    faults = faults_of(db, "quick_check")
    sound = not faults
    yield Finding(
        "integrity",
        "sound" if sound else "; ".join(faults),
        ok=sound,
        fix=None if sound else "restore the file from a backup",
    )
    if sound:
        for name in table_names(db):
            yield _table(db, name)
            yield from _text_index(db, name)
            yield from _scan_files(db, name, path)


def _text_index(db: sqlite3.Connection, name: str) -> Iterator[Finding]:
    layout = read_table(db, name)
    fields = () if layout is None else text_index.wanted_fields(layout.schema)
    if layout is None or not fields:
        return
    state, sound = text_index.faults_of(db, layout)
    calls = " and ".join(
        f"{call}({name!r}, {field!r}, 'text')"
        for field in fields
        for call in ("drop_field_index", "create_field_index")
    )
    lacking = state.startswith(("missing", "being built"))
    fix = f"aiovec optimize {name}" if lacking else f"rebuild it: {calls}"
    yield Finding(f"text index of {name}", state, ok=sound, fix=None if sound else fix)


def _scan_files(db: sqlite3.Connection, name: str, store: Path) -> Iterator[Finding]:
    layout, files = read_table(db, name), ScanFiles(store, read_only=True)
    if layout is None:
        return
    examined = {
        "scan file": files.examine(
            db, layout, "codes", partial(read_segments, table=layout, whole=True)
        )
    }
    for index in text_index.indexes_of(db, name):
        if index.ready:
            read = partial(read_postings, table=layout, index=index, whole=True)
            examined["words in a file"] = files.examine(db, layout, "words", read)
    for contents, examination in examined.items():
        if examination is not None:
            file, sound = examination
            state = f"{file.name}: {'sound' if sound else 'damaged, so searches may miss rows'}"
            fix = None if sound else f"delete {file}; a search writes it again"
            yield Finding(f"{contents} of {name}", state, ok=sound, fix=fix)


def _table(db: sqlite3.Connection, name: str) -> Finding:
    layout = read_table(db, name)
    if layout is None:
        return Finding(f"table {name}", "was just dropped")
    # vec0 lists its rows in an ordinary table; counting them in vec0 would read all vectors.
    rowids = layout.rowids
    rows, vectors, apart = db.execute(
        f"SELECT (SELECT count(*) FROM {layout.rows}), (SELECT count(*) FROM {rowids}), "
        f"(SELECT count(*) FROM {layout.rows} WHERE _rowid NOT IN (SELECT rowid FROM {rowids}))"
    ).fetchone()
    if rows == vectors and not apart:
        return Finding(f"table {name}", f"{rows:,} rows")
    if layout.schema.vector_nullable and rows - apart == vectors:
        return Finding(f"table {name}", f"{rows:,} rows, {apart:,} of them without a vector")
    return Finding(
        f"table {name}",
        f"{rows:,} rows but {vectors:,} vectors; {apart:,} rows have none",
        ok=False,
        fix="restore the file from a backup; another program wrote to it",
    )
