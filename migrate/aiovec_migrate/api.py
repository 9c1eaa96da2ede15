"""The migrator's calls: each opens what it needs and closes it again."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, nullcontext, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from aiovec.backend.contract import moves_of
from aiovec.backend.marks import FINISHED, MoveMark
from aiovec.backend.threads import to_its_end
from aiovec.errors import (
    AiovecError,
    ConfigError,
    InvalidArgumentError,
    MigrationError,
    TableNotFoundError,
)

from .ends import Ends, mark_of
from .host import Host, RealHost, Step, no_step
from .journal import FileJournal, default_file
from .locate import (
    PathText,
    Place,
    check_leads,
    config_file,
    configured,
    configured_name,
    locate,
)
from .migration import Migration, Outcome, Transform
from .roll_back import End, end_run, finish_run
from .state import Event, Listener, Options, RunState, unheard
from .toml import TomlFile, backend_in
from .verifying.compare import NoLeaveError

if TYPE_CHECKING:
    from .planning.report import Plan
    from .verifying.compare import Difference
    from .verifying.report import VerifyReport


# What a verification says of a target that is in use.
_IN_USE = "{} is in use: rows that apps wrote there since the switch differ, as expected"


async def plan(
    source: PathText | None = None,
    target: PathText | None = None,
    *,
    config: PathText | None = None,
    options: Options | None = None,
    transform: Transform | None = None,
    host: Host | None = None,
) -> Plan:
    """Return what a run would do and what would stop it. Writes nothing."""
    from .planning.look import make_plan

    options = _with_model(options, transform)
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
    options = _with_model(options, transform)

    async def obstacles(ends: Ends, run: str = "") -> Sequence[str]:
        """Return all of them before a run begins, and those of its switch if it goes on."""
        from .planning.look import make_plan
        from .planning.report import OF_A_SWITCH

        look = await make_plan(
            source, target, config=config, options=options, transform=transform, host=host,
            run=run, measure=False, ends=ends,
        )  # fmt: skip
        return [str(found) for found in look.problems if not run or found.kind in OF_A_SWITCH]

    async with _journal(config, journal, host) as (file, kept):
        state = await kept.load()
        if state is not None:
            source = state.source_name if source is None else source
            target = state.target_name if target is None else target
        elif target is None:
            raise MigrationError(
                "name the target store: a target, or the name of a backend in the TOML file"
            )
        if state is not None:
            await host.in_thread(_check_places, state, file, (source, target))
        async with AsyncExitStack() as stack:
            one = await _entered(stack, source, file, host, existing=True)
            other = await _entered(stack, target, file, host, existing=None)
            if state is None and (found := await obstacles(Ends(one, other))):
                raise MigrationError("the migration did not start: " + "; ".join(found))
            if other.missing:  # to open it is to make it, so only now
                other = await _entered(stack, target, file, host, existing=False)
            migration = Migration(
                one, other, kept, options, host=host, toml=_toml(file, host),
                transform=transform, listener=listener, step=step, obstacles=obstacles,
            )  # fmt: skip
            return await migration.run()


def _with_model(options: Options | None, transform: Transform | None) -> Options:
    """The options with the change of model that rows really go through.

    One that is named and not passed would have vectors of the old model written as the new one's.
    """
    options = options or Options()
    name = "" if transform is None else transform.name
    if options.reembed not in ("", name):
        raise InvalidArgumentError(
            "reembed", options.reembed, f"{name!r}, the name of the transform, or empty"
        )
    return replace(options, reembed=name)


async def status(
    *, config: PathText | None = None, journal: PathText | None = None, host: Host | None = None
) -> RunState | None:
    """Return the state of this journal's run; None if there is none. Opens no store."""
    async with _journal(config, journal, host or RealHost(), locked=False) as (_, kept):
        return await kept.load()


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
    step: Step = no_step,
) -> VerifyReport:
    """Compare every row of both stores; with ``repair`` write those that differ again.

    Source and target are those of the journal's run where they are not given. A repair holds the
    journal, so no run goes on meanwhile. MigrationError where it would write over the store that is
    in use with the rows of one that was left, or where another migration of a store is open.
    """
    from .verifying.report import VerifyOptions
    from .verifying.report import verify as compare

    host = host or RealHost()
    async with _journal(config, journal, host, locked=repair) as (file, kept):
        state = await kept.load()
        same = state is not None and (
            source is None
            or target is None
            or await host.in_thread(_are_those_of, state, source, target, file)
        )
        if state is not None:
            source = state.source_name if source is None else source
            target = state.target_name if target is None else target
            if same and tables is None:
                tables = state.options.tables
        if target is None:
            raise MigrationError("name both stores: there is no run that could name them")
        if state is not None and same:
            await host.in_thread(_check_places, state, file, (source, target))
        ignore = same and state is not None and bool(state.options.reembed)
        async with _stores(source, target, file, host, existing=(True, True)) as (one, other):
            if state is not None and same:
                await _act(one, state.run)
                await _act(other, state.run)  # behind a rollback it is the one that was left
            run = "" if state is None else state.run
            leave = _Leave(one, other, file, host, step, "a repair", run)
            if repair:
                await leave()
            used = await _in_use(one, other, file, host)
            told = _Told(listener, "verifying")
            return await compare(
                one.backend,
                other.backend,
                tables,
                host=host,
                options=VerifyOptions(
                    repair=repair,
                    ignore_vector=ignore,
                    note=_IN_USE.format(other) if used is other else "",
                ),
                progress=told.rows,
                begins=told.table,
                leave=leave,
            )


async def sync(
    source: PathText,
    target: PathText,
    *,
    config: PathText | None = None,
    tables: tuple[str, ...] | None = None,
    host: Host | None = None,
    listener: Listener = unheard,
    step: Step = no_step,
) -> dict[str, Difference]:
    """Make the target's tables equal to the source's by copying only what differs.

    A target that does not exist is made, and tables that it does not have; those that only it has
    are left alone, and rows that only it has are deleted. MigrationError where the target is the
    store in use, or where a migration of either store is open.
    """
    from .verifying.compare import sync as make_equal

    host = host or RealHost()
    file = await host.in_thread(config_file, config)
    found: dict[str, Difference] = {}
    told = _Told(listener, "syncing")
    async with AsyncExitStack() as stack:
        one = await _entered(stack, source, file, host, existing=True)
        for name in tables or ():  # before the target is made
            await one.backend.open_table(name)
        other = await _entered(stack, target, file, host, existing=False)
        leave = _Leave(one, other, file, host, step, "a sync")
        await leave()
        ends = Ends(one, other)
        there = await other.backend.tables()

        async def equalled(name: str) -> Difference:
            if name not in there:
                await leave()
                schema = (await ends.source_table(name)).schema
                await other.backend.create_table(name, schema)
            return await make_equal(
                await ends.source_table(name), await ends.target_table(name),
                host=host, progress=told.rows, leave=leave,
            )  # fmt: skip

        for name in await one.backend.tables() if tables is None else tables:
            told.table(name)
            try:
                found[name] = await equalled(name)
            except TableNotFoundError:
                # One that was dropped meanwhile is as one that was never there.
                if tables is not None or name in await one.backend.tables():
                    raise
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
    there = (True, True)
    async with _known(config, journal, host or RealHost(), listener, step, there) as migration:
        return await migration.rollback()


async def abort(
    store: PathText | None = None,
    *,
    config: PathText | None = None,
    journal: PathText | None = None,
    keep_target: bool = False,
    host: Host | None = None,
    listener: Listener = unheard,
    step: Step = no_step,
) -> RunState | None:
    """End an open run; the source is as it was before.

    A rollback that has not led stores back yet is called off instead: the run, which is done and
    may be rolled back again or finished, is the answer then.

    Without a journal that knows of a run, the marks are enough: those of ``store``, or of the
    backends that the TOML configures. What the run has made in the target stays then.
    """
    host = host or RealHost()
    if await _is_lost(config, journal, host):
        await _by_marks(store, config, host, end_run)
        return None
    async with _known(config, journal, host, listener, step, named=store) as migration:
        return await migration.abort(keep_target=keep_target)


async def finish(
    store: PathText | None = None,
    *,
    config: PathText | None = None,
    journal: PathText | None = None,
    host: Host | None = None,
    listener: Listener = unheard,
    step: Step = no_step,
) -> None:
    """Forget a run that is over, when its user is content.

    The store that was left keeps a mark, which says where it has moved: ``forget`` removes it.
    Without a journal that knows of a run, the marks are enough, as for ``abort``.
    """
    host = host or RealHost()
    if await _is_lost(config, journal, host):
        end = partial(finish_run, host=host, listener=listener)
        return await _by_marks(store, config, host, end)
    async with _known(config, journal, host, listener, step, named=store) as migration:
        await migration.finish()


async def forget(
    store: PathText, *, config: PathText | None = None, host: Host | None = None
) -> None:
    """Remove the mark that a finished migration has left in a store, or one that is damaged.

    The store is then one of its own again: nothing leads from it to the place that it moved to.
    """
    host = host or RealHost()
    file = await host.in_thread(config_file, config)
    place = await _open(store, file, host, existing=True)
    try:
        moves = moves_of(place.backend)
        if moves is None:
            raise MigrationError(
                f"{place} cannot hold the mark of a migration, so there is nothing to forget"
            )
        await moves.forget_move()
    finally:
        await to_its_end(place.backend.close())


# Without a journal


async def _is_lost(config: PathText | None, journal: PathText | None, host: Host) -> bool:
    return await status(config=config, journal=journal, host=host) is None


async def _by_marks(store: PathText | None, config: PathText | None, host: Host, end: End) -> None:
    """End a run by the marks in a store, or in those that the TOML configures."""
    file = await host.in_thread(config_file, config)
    async with AsyncExitStack() as stack:
        names = [store] if store is not None else await host.in_thread(configured, file)
        places = [await _entered(stack, name, file, host, existing=True) for name in names]
        for place in list(places):
            mark = await mark_of(place)
            if mark is not None:
                places += await _partner(stack, place, mark, places, file, host)
        await end(places)


async def _partner(
    stack: AsyncExitStack,
    named: Place,
    mark: MoveMark,
    known: Sequence[Place],
    file: Path | None,
    host: Host,
) -> list[Place]:
    """The other store of a mark's run, where it can be found and its own mark tells of this one:
    a copy of a store has that store's mark."""
    other = mark.source if mark.filling else mark.moved_to
    with suppress(AiovecError):
        place = await _entered(stack, other, file, host, existing=None)
        there = await mark_of(place)
        if there is None or place.identity in [one.identity for one in known]:
            return []
        if there.run == mark.run and await host.in_thread(_is_end_of, there, named, file):
            return [place]
    return []


def _is_end_of(mark: MoveMark, place: Place, file: Path | None) -> bool:
    """Return whether the mark's run begins or ends here, by whatever name of the folder."""
    here = place.backend.address
    ends = [address for address in (mark.source, mark.moved_to) if address]
    return here in ends or any(
        locate(here, file).location.same_as(locate(address, file).location) for address in ends
    )


# What the calls open


def _journal_file(config: Path | None, journal: PathText | None) -> Path:
    if journal is not None:
        return Path(os.path.abspath(os.path.expanduser(journal)))
    return default_file(config)


@asynccontextmanager
async def _journal(
    config: PathText | None, journal: PathText | None, host: Host, *, locked: bool = True
) -> AsyncIterator[tuple[Path | None, FileJournal]]:
    """The TOML, and the journal."""
    file = await host.in_thread(config_file, config)
    kept = FileJournal(await host.in_thread(_journal_file, file, journal), host)
    async with kept.locked() if locked else nullcontext():
        yield file, kept


@asynccontextmanager
async def _known(
    config: PathText | None,
    journal: PathText | None,
    host: Host,
    listener: Listener,
    step: Step,
    existing: tuple[bool, bool] | None = None,
    named: PathText | None = None,
) -> AsyncIterator[Migration]:
    """The migration that the journal knows; MigrationError where the ``named`` store has no part
    in it. No store is made; ``existing`` as in ``_stores``."""
    async with _journal(config, journal, host) as (file, kept):
        state = await kept.load()
        if state is None:
            raise MigrationError(f"the journal {kept.file} holds no migration")
        if named is not None and not await host.in_thread(_has_part, named, state, file):
            raise MigrationError(
                f"{named} has no part in the run that the journal {kept.file} knows, which leads "
                f"from {state.source} to {state.target}: leave the store out to end that run, or "
                "name another journal (--journal)"
            )
        names = (state.source_name, state.target_name)
        await host.in_thread(_check_places, state, file, names)
        async with _stores(*names, file, host, existing=existing) as (one, other):
            yield Migration(
                one, other, kept, state.options, host=host, toml=_toml(file, host),
                listener=listener, step=step,
            )  # fmt: skip


def _check_places(
    state: RunState, file: Path | None, names: tuple[PathText | None, PathText | None]
) -> None:
    """MigrationError where the TOML leads one of a run's own names elsewhere since it began.

    Runs in a thread.
    """
    for name, own, known in zip(
        names, (state.source_name, state.target_name), (state.source, state.target), strict=True
    ):
        if name == own:
            check_leads(own, known, file)


def _are_those_of(state: RunState, one: PathText, other: PathText, file: Path | None) -> bool:
    """Return whether two stores are those of a run, in whichever order. Runs in a thread."""
    try:
        names = (one, other, state.source_name, state.target_name)
        first, second, source, target = (locate(name, file).location for name in names)
    except ConfigError:  # the TOML that named the run's stores is not at hand
        return False
    return (first.same_as(source) and second.same_as(target)) or (
        first.same_as(target) and second.same_as(source)
    )


def _has_part(named: PathText, state: RunState, file: Path | None) -> bool:
    """Return whether a store is one of the two of a run. Runs in a thread."""
    found = locate(named, file)
    return any(
        found.location.same_as(locate(name, file).location)
        for name in (state.source_name, state.target_name)
    )


def _toml(file: Path | None, host: Host) -> TomlFile | None:
    return None if file is None else TomlFile(file, host)


@asynccontextmanager
async def _stores(
    source: PathText | None,
    target: PathText,
    config: Path | None,
    host: Host,
    *,
    existing: tuple[bool, bool] | None,
) -> AsyncIterator[tuple[Place, Place]]:
    """Both stores, open. ``existing`` tells which of them must not be made by that, and None that
    neither is made: who is not there is missing."""
    async with AsyncExitStack() as stack:
        one = await _entered(stack, source, config, host, existing=existing and existing[0])
        other = await _entered(stack, target, config, host, existing=existing and existing[1])
        yield one, other


async def _entered(
    stack: AsyncExitStack,
    text: PathText | None,
    config: Path | None,
    host: Host,
    *,
    existing: bool | None,
) -> Place:
    """Open a store until the stack ends; ``existing`` as in ``_open``."""
    place = await _open(text, config, host, existing)
    stack.push_async_callback(_closed, place)
    return place


async def _closed(place: Place) -> None:
    await to_its_end(place.backend.close())


async def _open(
    text: PathText | None, config: Path | None, host: Host, existing: bool | None
) -> Place:
    """Open a store. If it does not exist, ``existing`` True raises ConfigError, None leaves it
    missing, and False makes it."""

    def find() -> Place:
        found = locate(text, config)
        missing = existing is not False and not found.exists()
        if existing and missing:
            raise ConfigError(f"there is no store at {found.location}", accepted="a store's path")
        name = found.configured
        if not name and config is not None and config.exists():
            name = configured_name(found, config)
        if missing:
            return Place(found.backend(), name, missing=True)
        return Place(found.backend(), name)

    place = await host.in_thread(find)
    if place.missing:
        return place
    try:
        await place.backend.open()
    except BaseException:
        await to_its_end(place.backend.close())
        raise
    return place


async def _in_use(one: Place, other: Place, config: Path | None, host: Host) -> Place | None:
    """The one of two stores that apps use; None where nothing tells.

    What a migration has marked counts for more than what the TOML names.
    """
    for place, rest in ((one, other), (other, one)):
        mark = await mark_of(place)
        if mark is not None and mark.filling:
            if mark.source == rest.backend.address:
                there = await mark_of(rest)
                has_led = there is not None and there.run == mark.run and there.left
                return place if has_led else rest
            continue
        if mark is not None and not mark.left:
            return place
        if mark is not None and mark.target == rest.backend.target:
            return rest
    if config is None or not await host.in_thread(config.exists):
        return None
    present = await host.in_thread(backend_in, config)
    found = [place for place in (one, other) if place.configured == present]
    return found[0] if len(found) == 1 else None


@dataclass(frozen=True, slots=True)
class _Leave:
    """Leave to write the rows of ``one`` over those of ``other``, asked for before each write.

    A migration may begin at any time, and put the target into use. ``run`` is the one whose journal
    is locked here: nobody goes on with that.
    """

    one: Place
    other: Place
    config: Path | None
    host: Host
    step: Step
    what: str
    run: str = ""

    async def __call__(self) -> None:
        await self.step("overwriting")
        for place in (self.one, self.other):
            mark = await mark_of(place)
            if mark is not None and not mark.left and mark.run != self.run:
                raise NoLeaveError(
                    f"the migration {mark.run} is open on {place}, and {self.what} could write old "
                    "rows over newer ones that it has copied. Complete it (aiovec migrate run) or "
                    f"end it (aiovec migrate abort) first; its journal is {mark.journal}"
                )
        if await _in_use(self.one, self.other, self.config, self.host) is self.other:
            one, other = self.one.backend.address, self.other.backend.address
            mark = await mark_of(self.one)
            first = ""
            if mark is not None and mark.run != self.run:
                first = f"make that independent (aiovec migrate forget {one}), and then "
                if mark.state != FINISHED:
                    first = f"end the run {mark.run} (aiovec migrate finish), {first}"
            raise NoLeaveError(
                f"{self.other} is the store in use, and {self.one} is not: "
                f"{self.what} would write old rows over those that apps have written since. To "
                f"write the rows of the store in use into the other one, {first}exchange them: "
                f"--from {other} --to {one}"
            )


async def _act(place: Place, run: str) -> None:
    """Act for the run where the store carries its mark, for a moved store answers nobody else."""
    moves = moves_of(place.backend)
    if moves is not None:
        mark = await moves.move_mark()
        if mark is not None and mark.run == run:
            moves.act_for(run)


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


__all__ = ["abort", "finish", "forget", "plan", "rollback", "run", "status", "sync", "verify"]
