"""The findings of ``aiovec doctor`` about LanceDB's packages and about one store."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from aiovec.backend import pa, pc
from aiovec.backend.contract import StaleTableError
from aiovec.backend.doctor import room_at, version_of
from aiovec.backend.plugin import Finding
from aiovec.errors import AiovecError, CorruptStoreError, TableNotFoundError

from .errors import FIX
from .settings import LancedbSettings
from .target import StoreTarget

if TYPE_CHECKING:
    from .session import Session

_FIX = 'pip install "aiovec[lancedb]"'
_RESTORE = "go back to an earlier version by revert(), or restore the folder from a backup"

# The most ids that are checked for duplicates; the remaining ids of a larger table are only read.
_MOST_IDS = 5_000_000


def findings(target: str | None) -> list[Finding]:
    """Return the findings about the packages and, if a target is given, about its store.

    This reads a store in a folder, and writes nothing. For a store on a network, this only checks
    that this machine has the packages to reach it.
    """
    place = None if target is None else StoreTarget(target)
    facts = [_package("lancedb", needed=place is not None)]
    if version_of("lancedb").ok:
        facts.append(_import())
    facts.append(_package("obstore", needed=place is not None and place.in_bucket))
    if place is None or place.in_memory:
        return facts
    if place.folder is None:
        value = f'{place.shown}: not checked here; "aiovec info" opens it'
        return [*facts, Finding("store", value, checked=False)]
    usable = all(finding.ok for finding in facts)
    return [*facts, *_of_a_folder(place.folder, usable)]


def _package(name: str, *, needed: bool) -> Finding:
    finding = version_of(name)
    if finding.ok or needed:
        return finding if finding.ok else replace(finding, fix=_FIX)
    return Finding(name, f"not installed; {_FIX} brings it")


def _import() -> Finding:
    """Import lancedb, which takes a second, and return the finding about it."""
    try:
        from . import driver  # noqa: F401 - only to see that it works
    except Exception as exc:  # noqa: BLE001 - the user wants to know about any failure
        fix = f"{_FIX} --force-reinstall"
        return Finding("lancedb import", f"{type(exc).__name__}: {exc}", ok=False, fix=fix)
    return Finding("lancedb import", "succeeds")


def _of_a_folder(folder: Path, usable: bool) -> Iterator[Finding]:
    yield from room_at(folder, "every write creates files there")
    if not folder.exists():
        yield Finding("store", f"{folder}: does not exist yet", checked=False)
        return
    if not folder.is_dir():
        fix = "name a folder, or a path without lancedb:// for a SQLite file"
        yield _store(f"{folder}: is a file; LanceDB stores in a folder", fix)
        return
    try:
        size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    except OSError as exc:
        fix = "give this user the right to read the folder, or name another one"
        yield _store(f"{exc.filename or folder}: {exc.strerror or exc}", fix)
        return
    yield _store(f"{folder}: {size:,} bytes")
    if usable:
        try:
            yield from asyncio.run(_tables(str(folder)))
        except AiovecError as exc:
            yield Finding("integrity", str(exc), ok=False, fix=_RESTORE)


def _store(value: str, fix: str | None = None) -> Finding:
    return Finding("store", value, ok=fix is None, fix=fix)


async def _tables(target: str) -> list[Finding]:
    from .session import Session  # it imports lancedb

    session = Session(StoreTarget(target), LancedbSettings())
    await session.open()
    try:
        facts = []
        for name in await session.names():
            subject = f"table {name}"
            try:
                facts.append(await _table(session, name))
            except (StaleTableError, TableNotFoundError):
                facts.append(Finding(subject, "gone"))  # the table was just dropped
            except CorruptStoreError as exc:
                damage = exc.reason.removesuffix(FIX)
                facts.append(Finding(subject, damage, ok=False, fix=_fix_of(exc)))
        return facts
    finally:
        await session.close()


async def _table(session: Session, name: str) -> Finding:
    """Return the finding about a table. Reads every id and every index."""
    table = await session.newest(name)
    ids: list[pa.Array] = []
    rows = 0
    async for batch in await session.batches(table.lance.query().select(["id"])):
        rows += batch.num_rows
        if rows <= _MOST_IDS:
            ids.append(batch.column("id"))
    for index in await table.indexes():
        try:
            await session.run(table.lance.prewarm_index(index.name))
        except CorruptStoreError as exc:
            damage = f"the index {index.name!r} is damaged ({exc.reason.removesuffix(FIX)})"
            fix = f"drop the index of {', '.join(index.columns)}, and create it again"
            return Finding(f"table {name}", damage, ok=False, fix=fix)
    compared = sum(map(len, ids))
    distinct = pc.count_distinct(pa.chunked_array(ids, pa.utf8())).as_py()
    if distinct == compared:
        return Finding(f"table {name}", f"{rows:,} rows")
    return Finding(
        f"table {name}",
        f"{rows:,} rows; {compared - distinct:,} of them repeat the id of another row",
        ok=False,
        fix="delete those ids and insert their rows again; another program wrote to the table",
    )


def _fix_of(error: CorruptStoreError) -> str:
    if "no aiovec schema" in error.reason:
        return "name another folder; another program created this table"
    _, _, fix = error.reason.rpartition("as after a power cut; ")
    return fix if fix.startswith("remove ") else _RESTORE
