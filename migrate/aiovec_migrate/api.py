"""The migrator's calls: each opens what it needs and closes it again."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from aiovec.errors import MigrationError
from aiovec.threads import to_its_end

from .events import Event, Listener, unheard
from .host import Host, RealHost, Step, no_step
from .journal import SqliteJournal, default_file
from .locating import config_file, configured_name, locate
from .model import Options, RunState
from .places import PathText, Place
from .runner import Migration, Outcome, Transform
from .tomlfile import TomlFile
from .work import OpenTable

if TYPE_CHECKING:
    from .comparing import Difference
    from .plans import Plan
    from .verifying import VerifyReport


async def plan(
    source: PathText | None = None,
    target: PathText | None = None,
    *,
    config: PathText | None = None,
    options: Options | None = None,
    transform: Transform | None = None,
    host: Host | None = None,
) -> Plan:
    """What a run would do, and what would stop it. Writes nothing."""
    from .planning import make_plan

    return await make_plan(
        source, target, config=config, options=options, transform=transform, host=host
    )


async def run(
    source: PathText | None = None,
    target: PathText | None = None,
    *,
    config: PathText | None = None,
    journal: PathText | None = None,
    options: Options | None = None,
    transform: Transform | None = None,
    host: Host | None = None,
    listener: Listener = unheard,
    step: Step = no_step,
) -> Outcome:
    """Move tables, or go on where a run was killed.

    ``source`` and ``target`` are each a target or the name of a backend in the TOML; ``source``
    None is the open run's, or the TOML's present backend. ``journal`` is a file; by default
    ``.aiovec/migration.db`` beside the TOML, or in the current folder where there is none.
    """
    host = host or RealHost()
    options = options or Options()

    async def problems() -> Sequence[str]:
        found = await plan(
            source, target, config=config, options=options, transform=transform, host=host
        )
        return [str(problem) for problem in found.problems]

    async with _journal(config, journal, host) as (file, kept):
        state = await kept.load()
        if state is not None:
            source = state.source_name if source is None else source
            target = state.target_name if target is None else target
        elif target is None:
            raise MigrationError("say where to: a target, or the name of a backend in the TOML")
        else:
            # Before anything is opened, for opening makes what is not there.
            found = await problems()
            if found:
                raise MigrationError("nothing was begun: " + "; ".join(found))
        async with _stores(source, target, file, host) as (one, other):
            migration = Migration(
                one, other, kept, options, host=host, toml=_toml(file, host),
                transform=transform, listener=listener, step=step,
            )  # fmt: skip
            return await migration.run()


async def status(
    *, config: PathText | None = None, journal: PathText | None = None, host: Host | None = None
) -> RunState | None:
    """How far the run of this journal is; None where there is none. Opens no store."""
    host = host or RealHost()
    file = await host.in_thread(config_file, config)
    return await SqliteJournal(await host.in_thread(_journal_file, file, journal), host).load()


async def verify(
    source: PathText | None = None,
    target: PathText | None = None,
    *,
    config: PathText | None = None,
    journal: PathText | None = None,
    tables: tuple[str, ...] | None = None,
    repair: bool = False,
    host: Host | None = None,
    listener: Listener = unheard,
) -> VerifyReport:
    """Compare every row of both stores; with ``repair`` write those that differ again.

    Source and target are those of the journal's run where they are not given.
    """
    from .verifying import VerifyOptions
    from .verifying import verify as compare

    host = host or RealHost()
    state = await status(config=config, journal=journal, host=host)
    same = state is not None and (source is None or target is None)
    if state is not None:
        source = state.source_name if source is None else source
        target = state.target_name if target is None else target
        if same and tables is None:
            tables = state.options.tables
    if target is None:
        raise MigrationError("say what to compare: there is no run whose stores could be meant")
    file = await host.in_thread(config_file, config)
    ignore = same and state is not None and bool(state.options.reembed)
    async with _stores(source, target, file, host) as (one, other):
        if state is not None and same:
            await _act(one, state.run)
        told = _Told(listener, "verifying")
        return await compare(
            one.backend,
            other.backend,
            tables,
            host=host,
            options=VerifyOptions(repair=repair, ignore_vector=ignore),
            progress=told.rows,
            begins=told.table,
        )


async def sync(
    source: PathText,
    target: PathText,
    *,
    config: PathText | None = None,
    tables: tuple[str, ...] | None = None,
    host: Host | None = None,
    listener: Listener = unheard,
) -> dict[str, Difference]:
    """Make the target's tables equal to the source's by copying only what differs.

    Tables that the target does not have are made; what only the target has is left alone.
    """
    from .comparing import sync as make_equal

    host = host or RealHost()
    file = await host.in_thread(config_file, config)
    found: dict[str, Difference] = {}
    told = _Told(listener, "syncing")
    async with _stores(source, target, file, host) as (one, other):
        there = await other.backend.tables()
        for name in await one.backend.tables() if tables is None else tables:
            told.table(name)
            if name not in there:
                opened = await OpenTable.open(one.backend, name)
                await other.backend.create_table(name, opened.schema)
            found[name] = await make_equal(
                one.backend, other.backend, name, host=host, progress=told.rows
            )
    return found


async def rollback(
    *,
    config: PathText | None = None,
    journal: PathText | None = None,
    host: Host | None = None,
    listener: Listener = unheard,
    step: Step = no_step,
) -> RunState:
    """Carry back what was written since the switch and flip the TOML back."""
    async with _known(config, journal, host or RealHost(), listener, step) as migration:
        return await migration.rollback()


async def abort(
    *,
    config: PathText | None = None,
    journal: PathText | None = None,
    keep_target: bool = False,
    host: Host | None = None,
    listener: Listener = unheard,
    step: Step = no_step,
) -> None:
    """End an open run; the source is as it was before."""
    async with _known(config, journal, host or RealHost(), listener, step) as migration:
        await migration.abort(keep_target=keep_target)


async def finish(
    *,
    config: PathText | None = None,
    journal: PathText | None = None,
    host: Host | None = None,
    listener: Listener = unheard,
    step: Step = no_step,
) -> None:
    """Forget a run that is over, when its user is content."""
    async with _known(config, journal, host or RealHost(), listener, step) as migration:
        await migration.finish()


# What the calls open


def _journal_file(config: Path | None, journal: PathText | None) -> Path:
    if journal is not None:
        return Path(os.path.abspath(os.path.expanduser(journal)))
    return default_file(config)


@asynccontextmanager
async def _journal(
    config: PathText | None, journal: PathText | None, host: Host
) -> AsyncIterator[tuple[Path | None, SqliteJournal]]:
    """The TOML, and the journal, locked."""
    file = await host.in_thread(config_file, config)
    kept = SqliteJournal(await host.in_thread(_journal_file, file, journal), host)
    async with kept.locked():
        yield file, kept


@asynccontextmanager
async def _known(
    config: PathText | None, journal: PathText | None, host: Host, listener: Listener, step: Step
) -> AsyncIterator[Migration]:
    """The migration that the journal knows."""
    async with _journal(config, journal, host) as (file, kept):
        state = await kept.load()
        if state is None:
            raise MigrationError(f"the journal {kept.file} knows of no migration")
        async with _stores(state.source_name, state.target_name, file, host) as (one, other):
            yield Migration(
                one, other, kept, state.options, host=host, toml=_toml(file, host),
                listener=listener, step=step,
            )  # fmt: skip


def _toml(file: Path | None, host: Host) -> TomlFile | None:
    return None if file is None else TomlFile(file, host)


@asynccontextmanager
async def _stores(
    source: PathText | None, target: PathText, config: Path | None, host: Host
) -> AsyncIterator[tuple[Place, Place]]:
    one = await _open(source, config, host)
    try:
        other = await _open(target, config, host)
        try:
            yield one, other
        finally:
            await to_its_end(other.backend.close())
    finally:
        await to_its_end(one.backend.close())


async def _open(text: PathText | None, config: Path | None, host: Host) -> Place:
    def find() -> Place:
        found = locate(text, config)
        name = found.configured
        if not name and config is not None and config.exists():
            name = configured_name(found, config)
        path = found.path
        if path is not None and found.name == "sqlite":
            path.parent.mkdir(parents=True, exist_ok=True)
        return Place(found.backend(), name)

    place = await host.in_thread(find)
    try:
        await place.backend.open()
    except BaseException:
        await to_its_end(place.backend.close())
        raise
    return place


async def _act(place: Place, run: str) -> None:
    """Act for the run where the store carries its mark, for a moved store answers nobody else."""
    from aiovec.backend import Moves

    if isinstance(place.backend, Moves):
        mark = await place.backend.move_mark()
        if mark is not None and mark.run == run:
            await place.backend.begin_move(run)


class _Told:
    """Turns what a comparison tells into events."""

    def __init__(self, listener: Listener, phase: str) -> None:
        self._listener = listener
        self._phase = phase
        self._table = ""
        self._rows = 0

    def table(self, name: str) -> None:
        self._table, self._rows = name, 0
        self._listener(Event("phase", self._phase, name))

    def rows(self, count: int) -> None:
        self._rows += count
        self._listener(Event("progress", self._phase, self._table, self._rows))


__all__ = ["abort", "finish", "plan", "rollback", "run", "status", "sync", "verify"]
