"""A copy of a store while it is in use: every table's present version, written anew."""

from __future__ import annotations

import os
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa

from aiovec.errors import AiovecError
from aiovec.pool import in_thread

from .admission import Admission, stream_bytes
from .driver import lancedb
from .errors import translated
from .pins import Pins
from .session import Session

if TYPE_CHECKING:
    from lancedb.table import AsyncTable

_BYTES = 64 * 2**20


async def backup(session: Session, path: Path, pins: Pins, admission: Admission) -> None:
    """Write to a folder beside ``path`` that gets its name when it is whole.

    All tables are opened first, and each stays at that version.
    """
    partial = path.with_name(f"{path.name}.partial-{os.getpid()}")
    await in_thread(_prepare, path, partial)
    async with AsyncExitStack() as stack:
        opened = [(name, *await session.open_any(name)) for name in await session.names()]
        for name, table, _ in opened:
            version = await session.run(table.version())
            await stack.enter_async_context(pins.held(name, version))
        async with admission.share(stream_bytes()):
            await _copy(session, opened, partial, str(path))
    await in_thread(_finish, partial, path)


async def _copy(
    session: Session, tables: list[tuple[str, AsyncTable, pa.Schema]], partial: Path, path: str
) -> None:
    with translated(path):
        copy = await lancedb.connect_async(partial)
    try:
        for name, table, schema in tables:
            with translated(path):
                target = await copy.create_table(name, schema=schema)
            batches = await session.run(table.query().to_batches())
            waiting: list[pa.RecordBatch] = []
            size = 0
            while True:
                with session.guarded():
                    batch = await anext(batches, None)
                if batch is not None:
                    waiting.append(batch)
                    size += batch.nbytes
                if waiting and (batch is None or size > _BYTES):
                    with translated(path):
                        await target.add(pa.Table.from_batches(waiting))
                    waiting, size = [], 0
                if batch is None:
                    break
    finally:
        copy.close()  # type: ignore[no-untyped-call]


def _prepare(path: Path, partial: Path) -> None:
    if path.exists():
        raise AiovecError(f"{path} exists already; a backup needs a path that does not")
    try:
        partial.mkdir(parents=True)
    except OSError as exc:
        raise AiovecError(f"{path} cannot be written: {exc.strerror or exc}") from exc


def _finish(partial: Path, path: Path) -> None:
    try:
        partial.rename(path)
    except OSError as exc:
        raise AiovecError(f"{path} cannot be written: {exc.strerror or exc}") from exc
