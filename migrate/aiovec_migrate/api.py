"""The migrator's calls. Each opens the stores it needs and closes them again."""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aiovec.backend.contract import StaleTableError
from aiovec.backend.files import lock_file, unlock_file
from aiovec.backend.marks import MoveMark
from aiovec.backend.paths import PathText
from aiovec.backend.place import Place
from aiovec.backend.threads import in_thread, to_its_end
from aiovec.errors import ConfigError, MigrationError, TableNotFoundError

from .compare import Comparison
from .embedding import Reembedding
from .events import Event, Listener, Options, unheard
from .marks import State, forget_move, marks_of
from .migration import Migration, Report, TableReport
from .places import (
    OpenPlace,
    config_file,
    configured,
    locate,
    open_place,
    unopened,
)
from .planning import Plan, count_removed, look_at_disk, other_vectors
from .tables import OpenTable
from .toml import TomlFile
from .work import Limits, Step, Work, no_step, run_of


async def plan(
    source: PathText | None = None,
    target: PathText | None = None,
    *,
    config: PathText | None = None,
    options: Options | None = None,
    embedder: str = "",
    from_field: str = "",
) -> Plan:
    """Return what a run would do and any problems that would stop it. Writes nothing."""
    async with _session(config) as session:
        ends = await session.ends(source, target)
        if await in_thread(ends[0].same_as, ends[1]):
            return Plan(str(ends[0]), str(ends[1]), problems=[_same_store(ends[0])])
        migration = await session.migration(ends, options, embedder, from_field)
        result = await migration.look()
        await count_removed(migration.work, result)
        await in_thread(look_at_disk, ends[1], result)
        return result


async def run(
    source: PathText | None = None,
    target: PathText | None = None,
    *,
    config: PathText | None = None,
    options: Options | None = None,
    embedder: str = "",
    from_field: str = "",
    listener: Listener = unheard,
    _step: Step = no_step,
) -> Report:
    """Copy all rows from the source to the target, or continue a run that was killed.

    ``source`` and ``target`` are each a target as for ``aiovec.connect``, or the name of a backend
    in the TOML; if ``source`` is None, it is the TOML's current backend. With
    ``Options(switch=True)``, apps use the target afterwards. ``embedder`` names an embedder in the
    TOML that computes new vectors; in tables whose schema names no text to embed, it embeds the
    text field ``from_field``.
    """
    options = options or Options()
    async with _session(config) as session:
        ends = await session.ends(source, target)
        if await in_thread(ends[0].same_as, ends[1]):
            if source is not None or not options.switch:
                raise MigrationError(_same_store(ends[0]))
            # An earlier run was killed after its last step.
            place = await session.opened(ends[1])
            await _check_arrived(session, place, ends[1])
            transform = await session.transform(embedder, from_field)
            for problem in await other_vectors(place, transform):
                raise MigrationError(problem)
            return Report(str(ends[0]), str(ends[1]), switched=True)
        stores = [await in_thread(unopened, place) for place in ends]
        await session.stack.enter_async_context(migrator_lock(*stores))
        migration = await session.migration(ends, options, embedder, from_field, listener, _step)
        result = await migration.look()
        if migration.work.target.missing and not result.has_moved:
            await in_thread(look_at_disk, ends[1], result)
            result.check()
            # Opening the target creates it, so do this only after all checks.
            migration.work.target = await open_place(session.stack, ends[1], make=True)
        return await migration.run(result)


@dataclass(frozen=True, slots=True)
class Status:
    """A migration, as the marks in the stores show it.

    ``state`` is the state in the source's mark, or "filling" if only the target has a mark.
    ``tables`` maps each table to its row counts in the source and in the target; a count of None
    means that the store lacks the table.
    """

    run: str
    state: str
    source: str
    target: str
    is_open: bool
    tables: dict[str, tuple[int | None, int | None]] = field(default_factory=dict)

    @property
    def next(self) -> str:
        """The next step for the user."""
        if self.state == "moved" and not self.is_open:
            return f"apps use {self.target}; a run in the other direction leads back"
        if self.state == "moved":
            return "complete the switch with the command that started the run"
        return (
            "continue with the command that started the run, if it is not running; `aiovec migrate "
            "abort` ends it"
        )

    def to_dict(self) -> dict[str, Any]:
        tables = [
            {"table": name, "source_rows": rows[0], "target_rows": rows[1]}
            for name, rows in self.tables.items()
        ]
        return {
            "run": self.run, "state": self.state, "source": self.source, "target": self.target,
            "open": self.is_open, "next": self.next, "tables": tables,
        }  # fmt: skip


async def status(
    source: PathText | None = None,
    target: PathText | None = None,
    *,
    config: PathText | None = None,
) -> Status | None:
    """Return the migration of these stores, or of the stores that the TOML configures, if any."""
    async with _session(config) as session:
        if (found := await session.pair(source, target)) is None:
            return None
        pair, mark = found
        marks = await marks_of(*pair, mark.run)
        counts = [await _counts(place) for place in pair]
        tables = {
            name: (counts[0].get(name), counts[1].get(name))
            for name in sorted({*counts[0], *counts[1]})
        }
        is_open = marks.state is not State.SWITCHED
        if marks.state is State.MOVED and not pair[1].keeps_marks:  # only the TOML shows the switch
            is_open = session.toml is None or await session.toml.current() != pair[1].configured
        return Status(mark.run, mark.state, str(pair[0]), str(pair[1]), is_open, tables)


async def verify(
    source: PathText | None = None,
    target: PathText | None = None,
    *,
    config: PathText | None = None,
    tables: tuple[str, ...] | None = None,
    repair: bool = False,
    listener: Listener = unheard,
) -> Report:
    """Compare every row of both stores. With ``repair``, a run copies the differences.

    If only one store is passed, its mark names the other store; if no store is passed, the marks in
    the backends that the TOML configures name both stores. For a repair, as for a run, the target
    must be a copy of the source, or a store whose apps were switched to the source.
    """
    async with _session(config) as session:
        if source is not None and target is not None:
            pair = (await session.opened(source), await session.opened(target))
        elif (found := await session.pair(source, target)) is not None:
            pair = found[0]
        else:
            raise MigrationError("name both stores: no migration names them")
        report = await _compared(*pair, tables, listener)
        names = [place.configured or place.backend.address for place in pair]
    if not repair or report.equal:
        return report
    if report.in_use:
        raise MigrationError(
            f"{report.target} is the store in use: {report.source} was left for it, so nothing was "
            "repaired"
        )
    if not all(table.vectors for table in report.tables):
        raise MigrationError(
            f"{report.target} has vectors of another model; bring it up to date by a run with that "
            "--embedder"
        )
    return await run(*names, config=config, options=Options(tables=tables), listener=listener)


async def abort(
    source: PathText | None = None,
    target: PathText | None = None,
    *,
    config: PathText | None = None,
    listener: Listener = unheard,
) -> list[str]:
    """End an open run, and return warnings. The source is unchanged.

    The copies in the target are dropped, unless a warning says that they are kept. Stores that are
    not passed are found as in ``verify``.
    """
    async with _session(config) as session:
        if (found := await session.pair(source, target)) is None:
            raise MigrationError("no migration is open: neither store has a mark of one")
        pair, mark = found
        async with migrator_lock(*pair):
            return await Migration(Work(*pair, listener=listener)).abort(mark.run)


async def forget(store: PathText, *, config: PathText | None = None) -> list[str]:
    """Remove a damaged mark, or the mark of a store that apps were switched away from.

    The store is then independent and no longer sends apps to another store. Returns a warning if
    the TOML file still sends apps to another backend.
    """
    async with _session(config) as session:
        place = await session.existing(store)
        if not place.keeps_marks:
            raise MigrationError(f"{place} cannot hold the mark of a migration")
        await forget_move(place.backend)
        current = "" if session.toml is None else await session.toml.current()
        if not place.configured or current == place.configured:
            return []
        line = f'backend = "{place.configured}"'
        still = f"apps of {session.file} still use the backend {current!r}"
        return [f"{still}; to make them use this one, write {line} under [retrieval]"]


# Opening stores


@dataclass(frozen=True, slots=True)
class _Session:
    """The TOML file of a call, and the exit stack that closes everything the call opens."""

    stack: AsyncExitStack
    file: Path | None

    @property
    def toml(self) -> TomlFile | None:
        return None if self.file is None else TomlFile(self.file)

    async def ends(self, source: PathText | None, target: PathText | None) -> list[Place]:
        """Return the places of a run's stores."""
        if target is None:
            raise MigrationError(
                "name the target store: a target, or the name of a backend in the TOML file"
            )
        return [await in_thread(locate, place, self.file) for place in (source, target)]

    async def opened(self, store: PathText | Place) -> OpenPlace:
        """Open a store; return it as missing if it does not exist."""
        if not isinstance(store, Place):
            store = await in_thread(locate, store, self.file)
        return await open_place(self.stack, store, make=False)

    async def existing(self, store: PathText | Place) -> OpenPlace:
        place = await self.opened(store)
        _check_exists(place)
        return place

    async def migration(
        self,
        ends: Sequence[Place],
        options: Options | None,
        embedder: str,
        from_field: str,
        listener: Listener = unheard,
        step: Step = no_step,
    ) -> Migration:
        """Return the migration of a run. Opens both stores, except a missing target."""
        transform = await self.transform(embedder, from_field)
        source, target = await self.existing(ends[0]), await self.opened(ends[1])
        options = options or Options()
        work = Work(source, target, options, Limits(), listener, step, transform)
        return Migration(work, self.toml)

    async def transform(self, embedder: str, field: str) -> Reembedding | None:
        """Return the object that computes new vectors, or None if no embedder is named."""
        if field and not embedder:  # the old vectors would stay
            raise MigrationError(
                f"--from-field {field} names a text to embed, but no embedder; add --embedder with "
                "the name of one in the TOML file, or leave out --from-field"
            )
        if not embedder:
            return None
        reembedding = await in_thread(Reembedding, embedder, field, self.file)
        self.stack.push_async_callback(reembedding.close)
        return reembedding

    async def pair(
        self, source: PathText | None, target: PathText | None
    ) -> tuple[tuple[OpenPlace, OpenPlace], MoveMark] | None:
        """Open both stores of a migration; return them and the migration's mark, or None.

        The mark of an open migration takes precedence over the mark of a finished migration, and a
        newer mark over an older mark. Returns None if no store has a mark.
        """
        names = [name for name in (source, target) if name is not None]
        named: Sequence[PathText] = names or await in_thread(configured, self.file)
        places = [await self.opened(name) for name in named]
        every = [(await place.record()).mark for place in places]
        marks = [
            (not mark.left, not mark.filling, mark.generation, number, mark)
            for number, mark in enumerate(every)
            if mark is not None
        ]
        if not marks:
            return None
        *_, number, mark = max(marks, key=lambda item: item[:3])
        partner = mark.source if mark.filling else mark.moved_to
        others = (
            place
            for place, its in zip(places, every, strict=True)
            # Both marks name the same run, even if the stores' files were moved since it began.
            if place is not places[number]
            and ((its is not None and its.run == mark.run) or place.is_at(partner))
        )
        other = next(others, None) or await self.opened(partner)
        return ((other, places[number]) if mark.filling else (places[number], other)), mark

    async def was_left_for(self, place: OpenPlace) -> bool:
        """Return whether another store in the TOML has a mark that leads to this store."""
        if place.missing or place.keeps_marks:
            return False
        for name in await in_thread(configured, self.file):
            if name != place.configured:
                mark = (await (await self.opened(name)).record()).mark
                if mark is not None and mark.left and place.is_at(mark.moved_to):
                    return True
        return False


@asynccontextmanager
async def _session(config: PathText | None) -> AsyncIterator[_Session]:
    async with AsyncExitStack() as stack:
        yield _Session(stack, await in_thread(config_file, config))


def _check_exists(place: OpenPlace) -> None:
    if place.missing:
        raise ConfigError(f"there is no store at {place}")


def _same_store(place: Place) -> str:
    return f"the source and the target are the same store: {place}"


async def _check_arrived(session: _Session, place: OpenPlace, located: Place) -> None:
    """Raise MigrationError unless the last switch led to this store, which the TOML names."""
    record = await place.record()
    mark = record.mark
    fix = "name the store in use in the file, or the one to copy with --from"
    if mark is not None and mark.left:
        why = f"its apps were switched to {mark.moved_to}"
    elif record.generation or await session.was_left_for(place):
        return
    elif place.missing:
        why = "there is no store"
        fix = (
            "if a switch led there, put the store back and run this again, or, if it is lost, use "
            f"the old one, with its rows from before the switch: aiovec migrate forget; else {fix}"
        )
    else:
        why = "no switch has led to the store there"
    raise MigrationError(f"the TOML file names {located} already, but {why}; {fix}")


async def _counts(place: OpenPlace) -> dict[str, int]:
    """Return the number of rows of each table; an empty dict for a missing store."""
    if place.missing:
        return {}
    await place.act()
    counts = {}
    for name in await place.backend.tables():
        with suppress(TableNotFoundError, StaleTableError):
            counts[name] = await (await OpenTable.open(place.backend, name)).count()
    return counts


async def _compared(
    source: OpenPlace, target: OpenPlace, tables: tuple[str, ...] | None, listener: Listener
) -> Report:
    for place in (source, target):
        _check_exists(place)
        await place.act()
    left = (await source.record()).mark
    moved_here = left is not None and left.target == target.backend.target
    run = left.run if left is not None and moved_here else run_of(source, target)
    marks = await marks_of(source, target, run)
    in_use = marks.state in (State.MOVED, State.SWITCHED)
    is_copy = in_use or marks.resumes
    names = [set(await place.backend.tables()) for place in (source, target)]
    reports = []
    for name in tables or sorted(names[0] | names[1]):
        listener(Event("phase", "verifying", name))
        lacking = "source" if name not in names[0] else "target" if name not in names[1] else ""
        if lacking:
            report = TableReport(name, problem=f"the table does not exist in the {lacking}")
        else:
            report = await _compared_table(source, target, name, is_copy, listener)
        reports.append(report)
    return Report(str(source), str(target), tuple(reports), in_use=in_use)


async def _compared_table(
    source: OpenPlace, target: OpenPlace, name: str, is_copy: bool, listener: Listener
) -> TableReport:
    rows = 0

    def progress(more: int) -> None:
        nonlocal rows
        rows += more
        listener(Event("progress", "verifying", name, rows))

    try:
        source_table = await OpenTable.open(source.backend, name)
        target_table = await OpenTable.open(target.backend, name)
        schema, wanted = target_table.schema, source_table.schema
        # Vectors of two models always differ, even if they come from the same texts.
        vector = (schema.model, schema.dim) == (wanted.model, wanted.dim)
        comparison = await Comparison.of(source_table, target_table, Limits(), vector=vector)
        difference = await comparison.named(await comparison.unlike(progress))
    except MigrationError as exc:
        return TableReport(name, problem=str(exc))
    except (StaleTableError, TableNotFoundError):
        text = "the table was altered or dropped during the comparison; try again"
        return TableReport(name, problem=text)
    # Only a run with an embedder makes such a copy, and it verified everything except the vectors.
    problem = "" if vector or is_copy else "the vectors are of two models and were not compared"
    return TableReport(name, difference, problem, vectors=vector)


__all__ = ["Status", "abort", "forget", "plan", "run", "status", "verify"]


# One migrator at a time


@asynccontextmanager
async def migrator_lock(source: OpenPlace, target: OpenPlace) -> AsyncIterator[None]:
    """Lock these stores against other migrators. Raises MigrationError if one is running.

    The lock file is next to the source. If the source is remote, the lock file is next to the
    target; if both stores are remote, it is in the temporary folder.
    """
    beside = source.path or target.path
    file = Path(tempfile.gettempdir()) / f"aiovec-migrate-{run_of(source, target)}.lock"
    if beside is not None:
        file = beside.with_name(f".{beside.name}.migrate.lock")
    lock = await in_thread(_take, file)
    try:
        yield
    finally:
        await to_its_end(in_thread(_release, file, lock))


def _take(file: Path) -> int:
    try:
        lock = lock_file(file)
    except OSError as exc:
        raise MigrationError(f"{file} cannot be locked: {exc.strerror or exc}") from exc
    if lock is None:
        raise MigrationError(f"another migrator is at work: it holds {file}; wait until it ends")
    return lock


def _release(file: Path, lock: int) -> None:
    with suppress(OSError):
        file.unlink()
    unlock_file(lock)
