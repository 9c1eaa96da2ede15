"""The migrator's calls: each opens what it needs and closes it again."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aiovec.backend.contract import StaleTableError
from aiovec.backend.marks import MoveMark
from aiovec.backend.paths import PathText
from aiovec.backend.place import Place
from aiovec.backend.threads import to_its_end
from aiovec.errors import ConfigError, MigrationError, TableNotFoundError

from .compare import Comparison
from .embedding import Reembedding
from .events import Event, Listener, Options, unheard
from .host import Host, RealHost, Step, no_step
from .lock import lock_file, release_lock, take_lock
from .migration import Migration, Report, TableReport
from .places import (
    OpenPlace,
    config_file,
    configured,
    free_room,
    locate,
    open_place,
    unwritable,
)
from .planning import Plan, other_vectors
from .tables import OpenTable
from .toml import TomlFile
from .work import run_of


async def plan(
    source: PathText | None = None,
    target: PathText | None = None,
    *,
    config: PathText | None = None,
    options: Options | None = None,
    embedder: str = "",
    from_field: str = "",
    host: Host | None = None,
) -> Plan:
    """Return what a run would do and what would stop it. Writes nothing."""
    host = host or RealHost()
    _check_embedding(embedder, from_field)
    async with AsyncExitStack() as stack:
        file = await host.in_thread(config_file, config)
        here, there = await _located(source, target, file, host)
        if await host.in_thread(here.same_as, there):
            text = f"the source and the target are the same store: {here}"
            return Plan(str(here), str(there), problems=[text])
        one = await _existing(stack, here, host)
        other = await open_place(stack, there, host, make=False)
        migration = Migration(
            one, other, options, host=host, toml=_toml(file, host),
            transform=await _transform(stack, embedder, from_field, file, host),
        )  # fmt: skip
        found = await migration.plan()
        await host.in_thread(_look_at_disk, there, found)
        return found


async def run(
    source: PathText | None = None,
    target: PathText | None = None,
    *,
    config: PathText | None = None,
    options: Options | None = None,
    embedder: str = "",
    from_field: str = "",
    host: Host | None = None,
    listener: Listener = unheard,
    step: Step = no_step,
) -> Report:
    """Bring all rows of the source to the target, or go on where a run was killed.

    ``source`` and ``target`` are each a target or the name of a backend in the TOML; ``source``
    None is the TOML's current backend. With ``Options(switch=True)`` apps use the target
    afterwards. ``embedder`` names an embedder of the TOML that makes new vectors, of the text field
    ``from_field`` where a table does not name one itself.
    """
    host = host or RealHost()
    options = options or Options()
    _check_embedding(embedder, from_field)
    async with AsyncExitStack() as stack:
        file = await host.in_thread(config_file, config)
        here, there = await _located(source, target, file, host)
        if await host.in_thread(here.same_as, there):
            if source is None and options.switch:  # a run that was killed behind its last step
                place = await _arrived(stack, there, host)
                transform = await _transform(stack, embedder, from_field, file, host)
                for problem in await other_vectors(place, transform):
                    raise MigrationError(problem)
                return Report(str(here), str(there), switched=True)
            raise MigrationError(f"the source and the target are the same store: {here}")
        await _lock(stack, here, there, host)
        one = await _existing(stack, here, host)
        other = await open_place(stack, there, host, make=False)
        more: dict[str, Any] = {
            "host": host, "toml": _toml(file, host), "listener": listener, "step": step,
            "transform": await _transform(stack, embedder, from_field, file, host),
        }  # fmt: skip
        if not other.missing:
            return await Migration(one, other, options, **more).run()
        found = await Migration(one, other, options, **more).look()
        await host.in_thread(_look_at_disk, there, found)
        found.check()
        if not found.has_moved:  # to open it is to make it, so only now
            other = await open_place(stack, there, host, make=True)
        return await Migration(one, other, options, **more).run()


@dataclass(frozen=True, slots=True)
class Status:
    """A migration as the marks in the stores tell it; ``state`` is that of the source's mark.

    ``tables`` has the rows of each table in the source and in the target.
    """

    run: str
    state: str
    source: str
    target: str
    is_open: bool
    tables: dict[str, tuple[int | None, int | None]] = field(default_factory=dict)

    @property
    def next(self) -> str:
        """What a user can do."""
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
    host: Host | None = None,
) -> Status | None:
    """Return the migration of these stores, or of those that the TOML configures, if any."""
    host = host or RealHost()
    async with _pair(source, target, config, host) as pair:
        if pair is None:
            return None
        here, there = [await place.record() for place in (pair.source, pair.target)]
        mark = pair.mark
        is_open = not mark.left or there.generation < mark.generation
        tables: dict[str, tuple[int | None, int | None]] = {}
        counts = [await _counts(place, mark.run) for place in (pair.source, pair.target)]
        for name in sorted({*counts[0], *counts[1]}):
            tables[name] = (counts[0].get(name), counts[1].get(name))
        state = mark.state if not mark.filling or here.mark is not None else "filling"
        return Status(mark.run, state, str(pair.source), str(pair.target), is_open, tables)


async def verify(
    source: PathText | None = None,
    target: PathText | None = None,
    *,
    config: PathText | None = None,
    tables: tuple[str, ...] | None = None,
    repair: bool = False,
    host: Host | None = None,
    listener: Listener = unheard,
    step: Step = no_step,
) -> Report:
    """Compare every row of both stores. With ``repair`` a run brings over what differs.

    Without both stores they are those of the TOML's migration. A repair is refused where a run is:
    the target must be a copy of the source, or a store that was left for it.
    """
    host = host or RealHost()
    async with _pair(source, target, config, host, marked=False) as pair:
        if pair is None:
            raise MigrationError("name both stores: no migration names them")
        report = await _compared(pair.source, pair.target, tables, host, listener)
        names = [place.configured or place.backend.address for place in (pair.source, pair.target)]
        mark = (await pair.source.record()).mark
    if not repair or report.equal:
        return report
    if mark is not None and mark.left:
        raise MigrationError(
            f"{report.target} is the store in use: {report.source} was left for it, so nothing is "
            "brought over"
        )
    if any(table.problem == _TWO_MODELS for table in report.tables):
        raise MigrationError(
            f"{report.target} has vectors of another model: bring it up to date with the run that "
            "made them, with --embedder"
        )
    return await run(
        *names, config=config, options=Options(tables=tables), host=host, listener=listener,
        step=step,
    )  # fmt: skip


async def abort(
    source: PathText | None = None,
    target: PathText | None = None,
    *,
    config: PathText | None = None,
    host: Host | None = None,
    listener: Listener = unheard,
    step: Step = no_step,
) -> list[str]:
    """End an open run and return warnings: the source is as it was, and what was copied is dropped.

    Without both stores, they are those of the marks in the one that is named, or in the backends
    that the TOML configures.
    """
    host = host or RealHost()
    async with _pair(source, target, config, host) as pair:
        if pair is None:
            raise MigrationError("no migration is open: neither store has a mark of one")
        async with AsyncExitStack() as stack:
            await _lock(stack, pair.located[0], pair.located[1], host)
            migration = Migration(pair.source, pair.target, host=host, listener=listener, step=step)
            return await migration.abort(pair.mark.run)


async def forget(
    store: PathText, *, config: PathText | None = None, host: Host | None = None
) -> list[str]:
    """Remove the mark of a store that was left, or one that is damaged; return warnings.

    The store is one of its own again: nothing leads from it to the place that it moved to. A
    warning says so if the TOML file leads apps to another backend.
    """
    host = host or RealHost()
    async with AsyncExitStack() as stack:
        file = await host.in_thread(config_file, config)
        place = await _existing(stack, await host.in_thread(locate, store, file), host)
        if not place.keeps_marks:
            raise MigrationError(f"{place} cannot hold the mark of a migration")
        await place.backend.forget_move()
        current = "" if file is None else await TomlFile(file, host).current()
        if not place.configured or current == place.configured:
            return []
        line = f'backend = "{place.configured}"'
        still = f"apps of {file} still use the backend {current!r}"
        return [f"{still}; to lead them here, write {line} under [retrieval]"]


_TWO_MODELS = "the vectors are of two models and were not compared"


# What the calls open


async def _located(
    source: PathText | None, target: PathText | None, file: Path | None, host: Host
) -> tuple[Place, Place]:
    if target is None:
        raise MigrationError(
            "name the target store: a target, or the name of a backend in the TOML file"
        )
    return await host.in_thread(locate, source, file), await host.in_thread(locate, target, file)


async def _existing(stack: AsyncExitStack, found: Place, host: Host) -> OpenPlace:
    place = await open_place(stack, found, host, make=False)
    if place.missing:
        raise ConfigError(f"there is no store at {found}", accepted="a store's path")
    return place


async def _arrived(stack: AsyncExitStack, found: Place, host: Host) -> OpenPlace:
    """Return the store that the TOML names. MigrationError if no switch has led to what it is."""
    place = await open_place(stack, found, host, make=False)
    record = await place.record()
    mark = record.mark
    cure = "name the store in use in the file, or the one to copy with --from"
    if mark is not None and mark.left:
        why = f"apps were led from there to {mark.moved_to}"
    elif record.generation:
        return place
    elif place.missing:
        why = "there is no store"
        cure = (
            "if a switch led there, put the store back and run this again, or, if it is lost, use "
            f"the old one, with its rows from before the switch: aiovec migrate forget; else {cure}"
        )
    else:
        why = "no switch has led to the store that is there now"
    raise MigrationError(f"the TOML file names {found} already, but {why}; {cure}")


async def _lock(stack: AsyncExitStack, here: Place, there: Place, host: Host) -> None:
    """Keep other migrators of these stores out until the stack ends."""

    run = await host.in_thread(lambda: run_of(OpenPlace(here.create()), OpenPlace(there.create())))
    file = lock_file(here.path, there.path, run)
    lock = await host.in_thread(take_lock, file)

    async def release() -> None:
        await to_its_end(host.in_thread(release_lock, file, lock))

    stack.push_async_callback(release)


def _check_embedding(embedder: str, from_field: str) -> None:
    """Raise MigrationError for a text to embed without an embedder: the old vectors would stay."""
    if from_field and not embedder:
        raise MigrationError(
            f"--from-field {from_field} names a text to embed, but no embedder; add --embedder "
            "with the name of one in the TOML file, or leave out --from-field"
        )


async def _transform(
    stack: AsyncExitStack, embedder: str, field: str, file: Path | None, host: Host
) -> Reembedding | None:
    if not embedder:
        return None
    made = await host.in_thread(Reembedding, embedder, field, file, host)
    stack.push_async_callback(made.close)
    return made


def _toml(file: Path | None, host: Host) -> TomlFile | None:
    return None if file is None else TomlFile(file, host)


def _look_at_disk(target: Place, found: Plan) -> None:
    if reason := unwritable(target):
        found.problems.append(f"the target cannot be written: {reason}")
    found.free = free_room(target)
    if found.free is not None and found.free < found.needed:
        found.problems.append(
            f"the target needs about {found.needed:,} bytes, and {found.free:,} are free there"
        )


@dataclass(frozen=True, slots=True)
class _Pair:
    """The two stores of a migration, and its mark."""

    source: OpenPlace
    target: OpenPlace
    located: tuple[Place, Place]
    mark: MoveMark


@asynccontextmanager
async def _pair(
    source: PathText | None,
    target: PathText | None,
    config: PathText | None,
    host: Host,
    *,
    marked: bool = True,
) -> AsyncIterator[_Pair | None]:
    """Open the two stores of a migration. None if none of them has a mark.

    Of several marks that counts which is not over, and of the others the newest. With ``marked``
    False, two stores that are named need no mark.
    """
    file = await host.in_thread(config_file, config)
    async with AsyncExitStack() as stack:
        given = [name for name in (source, target) if name is not None]
        names: list[PathText] = [*given] or [*await host.in_thread(configured, file)]
        found = [await host.in_thread(locate, name, file) for name in names]
        places = [await open_place(stack, each, host, make=False) for each in found]
        if len(given) == 2 and not marked:
            yield _Pair(places[0], places[1], (found[0], found[1]), MoveMark("none"))
            return
        every = [(await place.record()).mark for place in places]
        marks = [
            (not mark.left, mark.generation, number, mark)
            for number, mark in enumerate(every)
            if mark is not None
        ]
        if not marks:
            yield None
            return
        *_, number, mark = max(marks, key=lambda one: (one[0], not one[3].filling, one[1]))
        partner = mark.source if mark.filling else mark.moved_to
        for at, place in enumerate(places):
            its = every[at]  # of the same run, wherever the stores lay when it began
            same = its is not None and its.run == mark.run
            if at != number and (same or partner in (place.backend.address, place.backend.target)):
                ends = [(found[number], places[number]), (found[at], place)]
                break
        else:
            other = await host.in_thread(locate, partner, file)
            ends = [
                (found[number], places[number]),
                (other, await open_place(stack, other, host, make=False)),
            ]
        if mark.filling:
            ends.reverse()
        yield _Pair(ends[0][1], ends[1][1], (ends[0][0], ends[1][0]), mark)


async def _act(place: OpenPlace) -> None:
    """Read the store whatever its mark says, for one that was left answers nobody else."""
    mark = (await place.record()).mark
    if mark is not None:
        place.backend.act_for(mark.run)


async def _counts(place: OpenPlace, run: str) -> dict[str, int]:
    """Return the rows of each table; nothing of a store that is missing."""
    if place.missing:
        return {}
    await _act(place)
    counts = {}
    for name in await place.backend.tables():
        with suppress(TableNotFoundError, StaleTableError):
            counts[name] = await (await OpenTable.open(place.backend, name)).count()
    return counts


async def _compared(
    source: OpenPlace,
    target: OpenPlace,
    tables: tuple[str, ...] | None,
    host: Host,
    listener: Listener,
) -> Report:
    for place in (source, target):
        if place.missing:
            raise ConfigError(f"there is no store at {place}", accepted="a store's path")
        await _act(place)
    here, there = set(await source.backend.tables()), set(await target.backend.tables())
    reports = []
    for name in tables or sorted(here | there):
        listener(Event("phase", "verifying", name))
        missing = "source" if name not in here else "target" if name not in there else ""
        if missing:
            text = f"the table does not exist in the {missing}"
            reports.append(TableReport(name, problem=text))
            continue
        reports.append(await _compared_table(source, target, name, host, listener))
    return Report(str(source), str(target), tuple(reports))


async def _compared_table(
    source: OpenPlace, target: OpenPlace, name: str, host: Host, listener: Listener
) -> TableReport:
    one = await OpenTable.open(source.backend, name)
    other = await OpenTable.open(target.backend, name)
    rows = 0

    def progress(more: int) -> None:
        nonlocal rows
        rows += more
        listener(Event("progress", "verifying", name, rows))

    schema, wanted = other.schema, one.schema
    # Vectors of two models are never the same, but what they were made of may be.
    vector = (schema.model, schema.dim) == (wanted.model, wanted.dim)
    try:
        comparison = await Comparison.of(one, other, host=host, vector=vector, progress=progress)
        found = await comparison.named(await comparison.unlike())
    except MigrationError as exc:
        return TableReport(name, problem=str(exc))
    except StaleTableError:
        return TableReport(name, problem="the table was altered meanwhile; try again")
    problem = "" if vector else _TWO_MODELS
    return TableReport(name, found, problem)


__all__ = ["Status", "abort", "forget", "plan", "run", "status", "verify"]
