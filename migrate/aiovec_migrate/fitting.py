"""Whether a journal belongs to the stores and the options at hand."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aiovec.backend import Backend, ChangeFeed, Moves, StaleTableError
from aiovec.errors import MigrationError, TableNotFoundError

from .model import Phase, RunState
from .work import Work

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
    if state.phase in (Phase.ABORTING, Phase.ABORTED):
        raise MigrationError("the run is being aborted; complete that: aiovec migrate abort")
    if state.phase in (Phase.ROLLING_BACK, Phase.ROLLED_BACK):
        raise MigrationError(
            "the run is rolled back; complete that (aiovec migrate rollback), then forget it "
            "(aiovec migrate finish)"
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
    config = "" if migration.toml is None else migration.toml.path
    if state.options.switch and options.switch and state.config != config:
        raise MigrationError(
            f"the journal is of a switch of {state.config}, not of {config or 'no TOML'}; {_HINT}"
        )
    state.config = config or state.config


async def check_source(work: Work, source: Moves) -> None:
    """MigrationError where the source is not the one that the run began with."""
    mark = await source.move_mark()
    reason = ""
    if mark is None:
        reason = "it carries no mark of this run"
    elif mark.run != work.run:
        reason = f"it carries the mark of another run, {mark.run}"
    elif isinstance(source, ChangeFeed) and isinstance(source, Backend):
        for table in work.state.tables.values():
            try:
                handle = await source.open_table(table.name)
                number = await source.change_number(handle)
            except (TableNotFoundError, StaleTableError):
                reason = f"its table {table.name!r} is gone"
                break
            if table.since is not None and number < table.since:
                reason = f"its table {table.name!r} is older than what was copied from it"
                break
    if reason:
        raise MigrationError(
            f"{work.origin} is not the store that the run {work.run} began with: {reason}. It was "
            "replaced or restored; end the run (aiovec migrate abort) and begin anew"
        )


def _named(tables: tuple[str, ...] | None) -> str:
    return "all tables" if tables is None else "the tables " + ", ".join(tables)


def _model(name: str) -> str:
    return f"with {name}" if name else "without a change of model"
