"""Whether a journal belongs to the stores and the options at hand."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aiovec.errors import MigrationError

from .ending import has_switched
from .model import Phase, RunState
from .work import ALTERED, Work

if TYPE_CHECKING:
    from .runner import Migration

_HINT = "end that run (aiovec migrate abort or finish), or name another journal (--journal)"


def check_fits(state: RunState, migration: Migration, *, ending: bool = False) -> None:
    """MigrationError, with the reason, where the journal is of another migration."""
    for what, known, given in (
        ("source", state.source, migration.source.identity),
        ("target", state.target, migration.target.identity),
    ):
        if known != given:
            raise MigrationError(
                f"the journal is of the migration {state.run}, whose {what} is {known}, not "
                f"{given}; {_HINT}"
            )
    if ending:
        return
    options = migration.options
    if state.phase is Phase.ABORTING:
        raise MigrationError("the run is being aborted; complete that: aiovec migrate abort")
    if state.phase is Phase.ROLLING_BACK:
        raise MigrationError(
            "the run is being rolled back; complete that (aiovec migrate rollback), or call it off "
            "(aiovec migrate abort)"
        )
    if state.phase is Phase.ROLLED_BACK:
        raise MigrationError(
            "the run is rolled back; forget it (aiovec migrate finish), or drop its copies as well "
            "(aiovec migrate abort)"
        )
    if state.options.tables != options.tables:
        raise MigrationError(
            f"the journal is of a migration of {_named(state.options.tables)}, not of "
            f"{_named(options.tables)}; {_HINT}"
        )
    if state.options.reembed != options.reembed:
        raise MigrationError(
            f"the journal is of a migration {_model(state.options.reembed)}, not "
            f"{_model(options.reembed)}; {_HINT}"
        )
    if state.phase is Phase.DONE and options.switch and not state.options.switch:
        raise MigrationError(
            "the run is done, without a switch; forget it (aiovec migrate finish) and begin one "
            "with a switch into an empty target"
        )
    if state.options.switch and options.switch:
        check_config(state, migration)


def check_config(state: RunState, migration: Migration) -> None:
    """MigrationError where the TOML at hand is not the one that the run switches."""
    config = "" if migration.toml is None else migration.toml.path
    if state.config != config:
        raise MigrationError(
            f"the journal is of a switch of {state.config}, not of {config or 'no TOML'}; name "
            "that TOML (--config), or another journal (--journal)"
        )


async def check_source(work: Work) -> None:
    """MigrationError where the source is not the one that the run began with."""
    source, backend = work.leaving(), work.origin.backend
    mark = await source.move_mark()
    reason = ""
    if mark is None:
        reason = "it carries no mark of this run"
    elif mark.run != work.run:
        reason = f"it carries the mark of another run, {mark.run}"
    else:
        source.act_for(work.run)
        for table in work.state.tables.values():
            try:
                number = await source.change_number(await backend.open_table(table.name))
            except ALTERED:
                reason = f"its table {table.name!r} is gone"
                break
            if table.since is not None and number < table.since:
                reason = f"its table {table.name!r} is older than what was copied from it"
                break
    switched = await has_switched(work)
    if switched and not reason:
        reason = "it does not say that stores were led away from it"
    if reason:
        cure = (
            f"stores were led to {work.goal}, so end the run (aiovec migrate finish), and name the "
            "store that is to be used in the TOML"
            if switched
            else "end the run (aiovec migrate abort) and begin anew"
        )
        raise MigrationError(
            f"{work.origin} is not the store that the run {work.run} began with: {reason}. It was "
            f"replaced or restored; {cure}"
        )


def _named(tables: tuple[str, ...] | None) -> str:
    return "all tables" if tables is None else "the tables " + ", ".join(tables)


def _model(name: str) -> str:
    return f"with {name}" if name else "without a change of model"
