"""``aiovec load``: many files into one table, by this process or by the workers of an engine."""

from __future__ import annotations

import time
from contextlib import closing
from typing import TYPE_CHECKING, Annotated

import typer

from aiovec._cli.output import counted, emit, progress
from aiovec._cli.run import failing_clearly
from aiovec._cli.stores import (
    Address,
    AsJson,
    Config,
    EngineName,
    Store,
    Table,
    engine_of,
    expanded,
    in_store,
)

from .import_command import (
    IdColumn,
    MetricName,
    ModelName,
    SchemaFile,
    VectorColumn,
    existing_schema,
)

if TYPE_CHECKING:
    from aiovec import VectorStore
    from aiovec.backend.engine import Loaded


app = typer.Typer(
    name="load",
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.command()
@failing_clearly
def load(
    table: Table,
    sources: Annotated[
        list[str],
        typer.Argument(
            metavar="SOURCE...",
            help="Parquet, Arrow IPC, JSON Lines or CSV: paths, globs in quotes such as "
            "'parts/*.parquet', or s3:// and gs:// URLs, whose credentials come from the "
            "environment.",
        ),
    ],
    store: Store = None,
    schema: SchemaFile = None,
    model: ModelName = None,
    metric: MetricName = None,
    id_column: IdColumn = None,
    vector_column: VectorColumn = None,
    engine: EngineName = None,
    address: Address = None,
    config: Config = None,
    json: AsJson = False,
) -> None:
    """Load many files into one table, which is created if it does not exist.

    Stops at the first row that cannot be loaded. The same command again continues: rows whose id
    exists are left as they are. With --engine, the table must be new or empty, all rows are added
    in one commit or none, and the same command again adds nothing.
    """
    from aiovec.backend import check_table_name
    from aiovec.backend.files import schema_in

    from .bulk import SourceReader, files_of, load_files
    from .loading import Load
    from .sources import Hints

    check_table_name(table)
    files = files_of(sources)
    given = None if schema is None else schema_in(expanded(schema))
    read = SourceReader(Hints(id_column=id_column, vector_column=vector_column))
    with engine_of(engine, address) as workers:
        began = time.perf_counter()
        existing = existing_schema(store, config, table)
        with closing(read.opened(next(iter(files)), existing, given)) as first:
            one = Load(first.tables()[0], table, given, metric, model)

        with progress("files") as bar:
            task = bar.add_task(table, total=len(files))

            def seen(done: int, rows: int) -> None:
                bar.update(task, completed=done, description=f"{table}, {counted(rows)}")

            async def work(vectors: VectorStore) -> tuple[str, Loaded]:
                loaded = await load_files(vectors, one, files, read, workers, seen)
                if workers is None and loaded.rows:  # nobody else builds the indexes then
                    await vectors.optimize(table)
                return vectors.target, loaded

            target, loaded = in_store(store, config, work, create=True)
    seconds = round(time.perf_counter() - began, 6)
    facts = {
        "store": target, "table": table, "files": len(files), "rows": loaded.rows,
        "existing": loaded.existing, "seconds": seconds,
    }  # fmt: skip
    shown = [f"loaded {counted(loaded.rows)} from {len(files)} files into {table}"]
    if loaded.existing:
        shown.append(f"{counted(loaded.existing)} existed already and were left as they are")
    emit(facts, [*shown, f"done in {seconds:.2f} s"], json)
