"""The target's tables and their indexes."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from aiovec.backend import Schema, VectorIndexes, moves_of
from aiovec.errors import MigrationError, TableExistsError

from .catchup import Pursuit
from .model import Phase, TableState
from .work import OpenTable, Work


async def prepare(work: Work) -> None:
    """Have every table in the target, and know from which change on to catch up."""
    state = work.state
    source = work.origin.backend
    names = state.options.tables or tuple(await source.tables())
    there = set(await work.goal.backend.tables())
    for name in names:
        opened = await OpenTable.open(source, name)
        schema = opened.schema
        if work.transform is not None:
            schema = work.transform.target_schema(schema)
        table = state.tables.get(name)
        if table is None:
            table = TableState(name, schema.to_json())
            table.made = name not in there
            if not table.made:
                await _check_empty(work, name, schema)
            table.total = await opened.count()
            feed = moves_of(source)
            if feed is not None:
                table.since = await opened.do(feed.change_number)
            state.tables[name] = table
            await work.save(table)
            await work.step("table:noted")
        elif table.schema != schema.to_json():
            raise MigrationError(
                f"the table {name!r} of the source has another schema than the run began "
                "with, so it is another source; end the run: aiovec migrate abort"
            )
        await _create(work, table, schema, there)


async def _check_empty(work: Work, name: str, schema: Schema) -> None:
    found = await OpenTable.open(work.goal.backend, name)
    differences = found.schema.differences(schema)
    if differences:
        raise MigrationError(
            f"the target has a table {name!r} already, with another schema: "
            + "; ".join(differences)
        )
    rows = await found.count()
    if rows:
        raise MigrationError(f"the target has a table {name!r} already, with {rows} rows")


async def _create(work: Work, table: TableState, schema: Schema, there: set[str]) -> None:
    if table.name not in there:
        if table.rows or not (table.made or table.foreign):
            raise MigrationError(
                f"the table {table.name!r} is gone from the target, so it is another target "
                f"than {work.state.target}; end the run: aiovec migrate abort"
            )
        if table.foreign:  # it is gone again
            table.made, table.foreign = True, False
            await work.save(table)
        try:
            await work.goal.backend.create_table(table.name, schema)
        except TableExistsError as exc:
            raise await _foreign(work, table) from exc
        await _created(work, table)
        await work.step("table:created")
        return
    if table.foreign:
        raise await _foreign(work, table)
    found = await OpenTable.open(work.goal.backend, table.name)
    if table.made and not table.created:
        # A run that was killed here had copied nothing.
        if await found.count():
            raise await _foreign(work, table)
        await _created(work, table)
    differences = found.schema.differences(schema)
    if differences:
        raise MigrationError(
            f"the table {table.name!r} in the target has another schema than the run gave it: "
            + "; ".join(differences)
        )


async def _created(work: Work, table: TableState) -> None:
    table.created = True
    await work.save(table)


async def _foreign(work: Work, table: TableState) -> MigrationError:
    """Write down that the table is somebody else's, for whoever goes on or aborts; the error."""
    table.made, table.foreign = False, True
    await work.save(table)
    return MigrationError(
        f"somebody else made the table {table.name!r} in the target just when this run was about "
        "to; end the run, which leaves it alone: aiovec migrate abort"
    )


async def put_in_order(work: Work, pursuits: Sequence[Pursuit]) -> None:
    """Have the target rewrite what came in parts, and build its indexes.

    It would do so by itself a little later, and then in the way of the verification.
    """
    target = work.goal.backend
    await work.enter(Phase.INDEXING)
    for pursuit in pursuits:
        table = pursuit.state
        if table.indexed:
            continue
        if await pursuit.target.count():
            await pursuit.target.do(target.optimize)
            if work.state.options.index and isinstance(target, VectorIndexes):
                await _index(pursuit.target, target)
        table.indexed = True
        await work.save(table)
        await work.step("indexed")
        work.tell("table", table=table.name)


async def _index(table: OpenTable, backend: VectorIndexes) -> None:
    """Build what "auto" takes, where the target has not done so by itself."""
    there = await table.do(backend.indexes)
    if not any(index.column == table.schema.vector for index in there):
        await table.do(partial(backend.create_index, kind="auto", wait=True, options={}))
