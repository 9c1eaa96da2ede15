"""``aiovec import``: rows of files, or of another program's store, into a store.

Imports little, as every command.
"""

from __future__ import annotations

import os
import re
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import aclosing, suppress
from dataclasses import replace
from functools import cache, partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from aiovec._cli.output import counted, progress, say, working
from aiovec._cli.run import command_app, on_signals
from aiovec._cli.stores import (
    Address,
    At,
    Embedder,
    EngineName,
    Metric,
    Shown,
    expanded,
    give_embedder,
    in_store,
    names_in,
    of_each_table,
    on_store,
    open_place,
)
from aiovec.errors import AiovecError, ConfigError, InvalidNameError, TableNotFoundError

from .export_command import FileFormat
from .reports import Reported, of_documents, of_found, of_rows, of_texts

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from aiovec import Schema, VectorStore
    from aiovec.backend.place import Place

    from .loading import Import
    from .opening import Opener
    from .sources import ForeignTable, Reader
    from .wanted import Wanted

# The imports that options are for, if not all: of documents, rows with texts, or with passages of
# these, of rows with vectors, --update, and --watch.
_FOR = {
    "d": "--fields",
    "dw": "--include --exclude",
    "dpw": "--chunk-size --overlap",
    "tpw": "--passages",
    "dtpw": "--base",
    "dtp": "--delete --delete-all --dry-run",
    "tpv": "--list --schema --upsert --backup --engine --address",
    "tpvw": "--text --index --embed",
    "tpvu": "--vector-column --dtype --update",
    "tpvuw": "--query --id-column",
    "dtpv": "--model --metric --rejects",
    "dtpvu": "--format --strict --allow-rejects --json",
}
_say_error = partial(say, stderr=True)

app: typer.Typer = command_app("import")


@app.command()
@on_store(shows_progress=True)
async def import_(
    at: At,
    ctx: typer.Context,
    sources: Annotated[
        list[str],
        typer.Argument(
            metavar="SOURCE...",
            help="Documents: files of Markdown, text, HTML, PDF, Word and more, and folders. Or "
            "rows: Parquet, Arrow IPC, JSON Lines or CSV: paths, globs in quotes such as "
            "'parts/*.parquet', or s3:// and gs:// URLs, whose credentials come from the "
            "environment. Or a table of a SQLite or PostgreSQL database, such as "
            "app.db#articles, with --embed. Or one store of another program: a SQLite database "
            "with vectors, a "
            "folder of LanceDB, Chroma, Qdrant, Milvus Lite or FAISS, or NAME:PLACE, such as "
            "qdrant:http://localhost:6333; #TABLE behind it chooses a table. Or - for standard "
            "input, with --format and --table.",
        ),
    ],
    table: Annotated[
        str | None,
        typer.Option(
            help="Table to write. Default: named like the source; for documents, documents."
        ),
    ] = None,
    chunk_size: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Documents and --passages: length of a passage at most, in characters, or in "
            "tokens if the model cuts off long texts (fastembed, sentence-transformers). Default: "
            "that of an earlier import of the source, else 1200, or 256.",
        ),
    ] = None,
    passages: Annotated[
        bool,
        typer.Option(
            "--passages",
            help="Rows with --embed: cut the texts into passages, as documents are. The field "
            "source holds the id of the row.",
        ),
    ] = False,
    overlap: Annotated[
        int,
        typer.Option(
            min=0, help="Documents and --passages: length that passages of a section share."
        ),
    ] = 0,
    base: Annotated[
        str,
        typer.Option(
            metavar="URL",
            help="Documents: URL before each path, such as https://docs.example.com/. Default: the "
            "path below the folder. Rows with --embed: name of the source in its rows. "
            "Default: the source as written, such as app.db#articles or a glob.",
        ),
    ] = "",
    fields: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=FIELD",
            help="Documents: field of an existing table for body, title, source, anchor, start, "
            "part, parts, modified, hash, base or expires; others go to its payload. Can be "
            "repeated.",
        ),
    ] = None,
    include: Annotated[
        list[str] | None,
        typer.Option(
            metavar="GLOB",
            help="Documents: only files of a folder that match, such as 'guide/**' or '*.md'. Can "
            "be repeated.",
        ),
    ] = None,
    exclude: Annotated[
        list[str] | None,
        typer.Option(
            metavar="GLOB",
            help="Documents: leave out files of a folder that match, such as 'drafts/'. Files that "
            "a .gitignore names, in the folder or above it in its repository, are left out "
            "anyway. Can be repeated.",
        ),
    ] = None,
    delete: Annotated[
        bool,
        typer.Option(
            "--delete",
            help="Documents, and rows with --embed of one SOURCE: delete those that SOURCE no "
            "longer has, of imports with this --base; none, if a row without an id cannot be read.",
        ),
    ] = False,
    delete_all: Annotated[
        bool,
        typer.Option("--delete-all", help="Like --delete, even if most of them are missing."),
    ] = False,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run",
            help="Documents, and rows with --embed: say what would change, and write nothing.",
        ),
    ] = False,
    list_: Annotated[
        bool, typer.Option("--list", help="Show what would be imported, and write nothing.")
    ] = False,
    form: FileFormat = None,
    schema: Annotated[
        str | None, typer.Option(metavar="FILE", help="JSON file with the schema of a new table.")
    ] = None,
    model: Annotated[str | None, typer.Option(help="Embedding model, if not in SOURCE.")] = None,
    metric: Annotated[Metric | None, typer.Option(help="Metric, if not in SOURCE.")] = None,
    query: Annotated[
        str | None,
        typer.Option(
            metavar="SQL",
            help="SELECT whose rows are imported from a SQLite or PostgreSQL database, with "
            "--embed.",
        ),
    ] = None,
    id_column: Annotated[
        str | None, typer.Option(help="Column or key of the ids; none makes new ids. Default: id.")
    ] = None,
    vector_column: Annotated[str | None, typer.Option(help="Column or key of the vectors.")] = None,
    dtype: Annotated[
        str | None,
        typer.Option(help="Type of BLOBs in --vector-column: float16, float32, float64 or int8."),
    ] = None,
    text: Annotated[
        list[str] | None, typer.Option(help="Field for keyword search. Can be repeated.")
    ] = None,
    index: Annotated[
        list[str] | None, typer.Option(help="Field with an index for filters. Can be repeated.")
    ] = None,
    embed: Annotated[
        str | None,
        typer.Option(
            metavar="FIELD",
            help="Text field or column that --embedder makes vectors from. Again, only rows that "
            "changed are written, as of documents.",
        ),
    ] = None,
    upsert: Annotated[
        bool, typer.Option("--upsert", help="Replace rows that have the same id.")
    ] = False,
    update: Annotated[
        bool,
        typer.Option(
            "--update",
            help="Set the columns of the file in the existing rows that have its ids, all in one "
            "commit, and keep the rest; an empty cell of CSV keeps its value. With --strict, every "
            "id must exist.",
        ),
    ] = False,
    strict: Annotated[
        bool, typer.Option("--strict", help="Check all rows first, and import none if one is bad.")
    ] = False,
    allow_rejects: Annotated[
        bool, typer.Option("--allow-rejects", help="Exit with 0 even if something was left out.")
    ] = False,
    rejects: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="File for the list of rejects. Default: SOURCE.rejects.jsonl or, for "
            "documents, TABLE.rejects.jsonl in the current folder. Standard error if the file "
            "cannot be written.",
        ),
    ] = None,
    backup: Annotated[
        str | None,
        typer.Option(metavar="COPY", help="Copy a SQLite database to this path first."),
    ] = None,
    watch: Annotated[
        bool,
        typer.Option(
            "--watch",
            help="Stay, and keep the table as SOURCE is: a folder of documents, or FILE#TABLE of "
            "an app's SQLite database, which gets a queue and four triggers.",
        ),
    ] = False,
    every: Annotated[
        float,
        typer.Option(
            metavar="SECONDS",
            min=0.1,
            help="With --watch: time between two comparisons of all rows, where no trigger can be "
            "made. Default: 60.",
        ),
    ] = 60.0,
    unwatch: Annotated[
        bool,
        typer.Option(
            "--unwatch", help="Remove the queue and the triggers that --watch made for FILE#TABLE."
        ),
    ] = False,
    engine: EngineName = None,
    address: Address = None,
    embedder: Embedder = None,
) -> Shown | None:
    """Import documents, files of rows, or the tables of a store that another program wrote.

    Documents are cut into passages, which are the rows of one table. Again, only what changed since
    is embedded, as of rows with --embed. Unreadable items are listed with the reason, and the
    rest is imported. Files of other kinds are counted.

    Creates the store and the table if they do not exist. Several files go into one table, whose
    fields come from the first file. Rows that cannot be imported are listed with the reason; all
    others are imported. Exits with 1 if a document or a row was left out.

    With --engine, all rows are added in one commit, or none if one is bad or its id exists; the
    same command again adds nothing.
    """
    from aiovec.backend import check_table_name
    from aiovec.backend.threads import in_thread

    await in_thread(import_module, "aiovec_import.documents")  # slow
    from .documents import DocumentImport
    from .folders import Documents
    from .loading import Load
    from .sources import Hints, NewTable, RejectsFile, legal_table_name
    from .wanted import Wanted

    if "" in sources:
        raise typer.BadParameter("a SOURCE is empty; write . for the current folder")
    if table is not None:
        check_table_name(table)  # before the store is created
    new = NewTable(metric, model, text or (), index or (), embed)
    wanted = Wanted(
        sources=sources, table=table, base=base, form=form, passages=passages, size=chunk_size,
        hints=Hints(None, query, id_column, vector_column, dtype, new), overlap=overlap,
        include=include or (), exclude=exclude or (), upsert=upsert, delete=delete or delete_all,
        delete_all=delete_all, strict=strict, dry_run=dry_run,
    )  # fmt: skip
    if (unwatch or watch) and len(sources) > 1:
        raise typer.BadParameter("--watch and --unwatch take one SOURCE")
    if unwatch:
        watching = await in_thread(import_module, "aiovec_import.watching")  # slow
        made = await in_thread(watching.unwatch_table, sources[0])
        return Shown({"removed": made}, made)
    if watch:
        _check(ctx, "w")
        await _watched(at, embedder, wanted, every)
        return None
    # A format says that it has rows.
    documents = Documents() if form else await in_thread(wanted.documents)
    if documents.files:
        _check(ctx, "d")
        if base and not ("://" in base and base.endswith("/") and base.isprintable()):
            raise typer.BadParameter(
                f"--base is a URL that ends in /, such as https://docs.example.com/, not {base!r}"
            )
        if wanted.delete and not any(
            await in_thread(list, map(os.path.isdir, map(expanded, sources)))
        ):
            raise typer.BadParameter("--delete needs a folder: all other documents would go")
        list_of = expanded(rejects or f"{table or 'documents'}.rejects.jsonl")
        cut = DocumentImport.of(
            replace(wanted, fields=_mapped(fields)),
            documents,
            RejectsFile(list_of, _say_error),
            new,
        )
        return await _run(at, cut, embedder, lambda: of_documents(cut), allow_rejects)
    if documents.left_out and (include or exclude):
        raise ConfigError(f"{sources[0]} has no documents to import; it has {documents.others}")
    await in_thread(_import_readers, sources)  # slow
    from .globs import files_of
    from .opening import Opener

    if list_ and backup is not None:
        raise typer.BadParameter("--list writes nothing; leave out --backup")
    if engine is not None and upsert:
        raise typer.BadParameter("--engine replaces no rows; leave out --upsert")
    files = await in_thread(files_of, sources)
    piped = sources == ["-"]
    if piped and form is None:
        raise typer.BadParameter("standard input has no suffix: pass --format")
    if (piped or len(files) > 1) and not (list_ or table):
        reason = "standard input has no name" if piped else f"{len(files)} files go into one table"
        raise typer.BadParameter(f"{reason}; name the table with --table")
    if query is not None and table is None:
        raise typer.BadParameter("a query has no name; name the table with --table")
    if wanted.delete and len(sources) > 1:
        raise typer.BadParameter("--delete takes one SOURCE, which may be a glob in quotes")
    name = table or legal_table_name(Path(next(iter(files))).stem)
    if update:
        _check(ctx, "u")
    given = await in_thread(_schema_given, at, name if update else None, schema)
    opener = Opener(wanted.hints, form, given)
    workers = await in_thread(at.engine, engine, address)
    existing = cache(partial(_existing_schema, at, name))
    source = await in_thread(_opened, opener, [*files], existing, workers is None)
    at.exits.push_async_callback(in_thread, source.close)
    tables = await in_thread(_tables_of, source, table is not None or given is not None)
    texts = workers is None and tables[0].texts
    if not update:
        _check(ctx, ("p" if passages else "t") if texts else "v")
    if backup is not None:
        with working("copying"):
            await in_thread(source.backup, expanded(backup))
    if list_:
        return of_found(source, tables)
    if source.remark:
        await in_thread(_say_error, source.remark)
    if update:
        rows_of_file = await in_thread(_rows_of, source, tables[0])
        return await _updated(at, rows_of_file, name, embedder, strict)
    loads = [Load(each, table or each.name, given, upsert, new) for each in tables]
    path = await in_thread(_rejects_path, [*files], table, source)
    listed = RejectsFile(expanded(rejects) if rejects else path, _say_error)
    if texts:
        from .texts import TextImport

        named = sources[0] if len(sources) == 1 else "files"
        if [*files] != [named]:  # a glob has one name, however many files match it
            wanted = replace(wanted, base=base or named)
        synced = TextImport(wanted, source, loads, listed)
        return await _run(at, synced, embedder, lambda: of_texts(synced, backup), allow_rejects)
    from .copying import RowImport
    from .workers import load_by

    rows = RowImport(wanted, source, loads, listed)
    by_workers = None
    if workers is not None:
        by_workers = partial(load_by, workers, load=loads[0], files=files, opener=opener)
    return await _run(at, rows, embedder, lambda: of_rows(rows, backup), allow_rejects, by_workers)


async def _watched(at: At, embedder: str | None, wanted: Wanted, every: float) -> None:
    """Watch a source until a signal ends it."""
    import asyncio
    import logging

    from aiovec import Watching
    from aiovec.backend.threads import in_thread
    from aiovec.documents import SCHEMA

    followed = (await in_thread(import_module, "aiovec_import.watching")).followed  # slow

    log, said = logging.getLogger("aiovec.watch"), logging.StreamHandler()
    log.setLevel(logging.INFO)
    log.addHandler(said)
    ended = asyncio.Event()
    on_signals(ended.set)
    vectors, schema = await at.open(create=True), SCHEMA
    with suppress(TableNotFoundError):
        schema = await vectors.schema(wanted.table or "documents")
    give_embedder(vectors, schema, embedder)
    async with Watching(vectors, partial(followed, vectors, wanted, every)):
        await ended.wait()


def _check(ctx: typer.Context, kind: str) -> None:
    """Refuse an option on the command line that is not for this kind of import."""
    from .folders import KINDS

    given = {
        option for parameter in ctx.command.params for option in parameter.opts
        if getattr(ctx.get_parameter_source(parameter.name or ""), "name", "") == "COMMANDLINE"
    }  # fmt: skip
    for kinds, options in _FOR.items():
        for option in sorted(given & {*options.split()}) if kind not in kinds else ():
            more = "the --embed FIELD of a text" if "t" in kinds else "--passages"
            texts = f", and for rows with {more}" if "p" in kinds else ""
            raise typer.BadParameter(
                {
                    "d": f"{option} is for files of rows, not for documents",
                    "u": f"--update changes existing rows; leave out {option}",
                    "w": f"--watch does not take {option}",
                }.get(kind, f"{option} is for documents ({KINDS}){texts}")
            )


async def _run(
    at: At, job: Import, embedder: str | None, reported: Callable[[], Reported],
    allow_rejects: bool, by_workers: Callable[[VectorStore], Awaitable[None]] | None = None,
) -> Shown:  # fmt: skip
    """Run an import, and say what became of it."""
    from aiovec.backend.threads import in_thread

    began, done = time.perf_counter(), False
    try:
        target = await _imported(at, job, embedder, by_workers)
        done = True
    except AiovecError as exc:
        if job.kept:  # the error is only about the rows of its own call
            exc.add_note(f"kept before that: {job.kept}")
        raise
    finally:
        await in_thread(job.rejects.close, done and not job.wanted.dry_run)
    seconds = time.perf_counter() - began
    facts, lines, notes = reported()
    facts = {"store": target, **facts, "seconds": round(seconds, 6)}
    facts["rejects"] = job.rejects.place if job.rejects.count else None
    failed = job.source.failed or any(load.problem for load in job.loads)
    error = typer.Exit(1) if failed or not (allow_rejects or job.whole) else None
    return Shown(facts, [*lines, f"done in {seconds:.2f} s"], notes=notes, error=error)


async def _imported(
    at: At, job: Import, embedder: str | None,
    by_workers: Callable[[VectorStore], Awaitable[None]] | None,
) -> str:  # fmt: skip
    """Import into a store, which is made once there is something to write; return its place.

    Until then, one in memory says what the store would.
    """
    from aiovec.backend.threads import in_thread

    from .loading import wanted_schema

    async def opened(place: Place) -> VectorStore:
        vectors = await at.exits.enter_async_context(await open_place(place))
        if embedder is not None:
            schema = wanted_schema(job.loads[0])
            with suppress(TableNotFoundError):
                schema = await vectors.schema(job.loads[0].table)
            give_embedder(vectors, schema, embedder)
        await job.find(vectors)
        return vectors

    place = await at.place()
    exists = await in_thread(place.exists)
    with progress(f"{job.unit}s") as bar:
        for load in job.loads:
            task = bar.add_task(load.table, total=load.source.rows)
            load.seen = partial(_advance, bar, task)
        if by_workers is not None:
            vectors = await opened(place)
            await by_workers(vectors)
            return vectors.target
        memory = replace(place, address=place.plugin.memory, file=None)
        vectors = await opened(place if exists else memory)
        if job.wanted.strict and not job.wanted.dry_run:  # which shows all reasons instead
            await job.check(vectors)
        async with aclosing(job.parts()) as parts:
            part = await anext(parts, None)
            if not (exists or job.wanted.dry_run or (part is None and job.is_over())):
                vectors, exists = await opened(place), True
            while part is not None:
                if not job.wanted.dry_run:
                    await job.write(vectors, part)
                part = await anext(parts, None)
        changed = await job.finish(vectors)
    if changed and not job.wanted.dry_run:
        # A script has nothing that builds the indexes later.
        await of_each_table(vectors, changed, vectors.optimize, "indexing and optimizing")
    return vectors.target if exists else str(place)


def _mapped(fields: list[str] | None) -> dict[str, str]:
    """Return the names that ``--fields`` gives to the fields of a passage."""
    from aiovec.documents import SCHEMA

    names: dict[str, str] = {}
    for part in names_in(fields) or ():
        name, equals, target = part.partition("=")
        if not equals or name not in SCHEMA.fields:
            raise typer.BadParameter(f"--fields is NAME=FIELD, as in body=text, not {part!r}")
        names[name] = target
    return names


def _rows_of(source: Reader, table: ForeignTable) -> list[Any]:
    """Return the rows of a file that have anything besides their ids, or Arrow tables of them."""
    from .files import reading, rows_at_once

    rows: list[Any] = []
    with reading(source.name):
        for chunk in source.read(table, table.schema, rows_at_once(table.schema)):
            for reject in chunk.rejects:
                raise ConfigError(
                    f"{source.name}: row {reject.row}: {reject.reason}; nothing was changed"
                )
            if isinstance(chunk.rows, list):
                rows += [row for row in chunk.rows if row.keys() != {"id"}]
            else:
                rows.append(chunk.rows)
    return rows


async def _updated(
    at: At, rows: list[Any], table: str, embedder: str | None, strict: bool
) -> Shown:
    """Set the columns of a file in existing rows."""
    vectors = await at.open()
    if embedder is not None:
        give_embedder(vectors, await vectors.schema(table), embedder)
    updated = await vectors.update(table, rows, strict=strict)
    absent = sum(1 if isinstance(row, dict) else row.num_rows for row in rows) - updated
    line = f"updated {counted(updated)} of {table}"
    line += f"; {counted(absent, 'id')} of the file do not exist" if absent else ""
    return Shown({"table": table, "updated": updated, "absent": absent}, [line])


def _import_readers(sources: list[str]) -> None:
    """Import what reads rows. Without pyarrow, first say what is wrong with a path."""
    from aiovec.backend import needs_arrow

    from .files import names_format
    from .folders import KINDS

    try:
        import_module("aiovec_import.opening")
    except ImportError as exc:
        for path in map(Path, map(expanded, sources)) if needs_arrow(exc) else ():
            if path.is_dir() or (path.is_file() and not names_format(path)):
                lack = "has no documents" if path.is_dir() else "is no document"
                needs = 'other stores and files of rows need pip install "aiovec[arrow]"'
                raise ConfigError(f"{path} {lack} ({KINDS}); {needs}") from exc
            if not (path.exists() or path == Path("-") or re.search(r"[:#*?\[]", str(path))):
                raise ConfigError(f"there is no file {path}") from exc
        raise


def _opened(
    opener: Opener, files: list[str], existing: Callable[[], Schema | None], one_by_one: bool
) -> Reader:
    """Open the only source, or several files as one table. Workers open each file themselves."""
    from .opening import Files

    if one_by_one and len(files) == 1:
        return opener.open(files[0], existing, sys.stdin.buffer if files == ["-"] else None)
    return Files(files, opener, existing)


def _tables_of(source: Reader, only_one: bool) -> list[ForeignTable]:
    """Return the tables to import; ConfigError if there are several for options of one table."""
    from .files import reading

    with reading(source.name):
        tables = source.tables()
    if only_one and len(tables) > 1:
        names = ", ".join(table.origin for table in tables)
        raise ConfigError(
            f"{source.name} has {len(tables)} tables; for --table or --schema, choose one with "
            f"{source.name}#NAME: {names}",
            key="SOURCE",
        )
    return tables


def _existing_schema(at: At, table: str) -> Schema | None:
    """Return the schema of the table that the rows go to, if it exists."""
    try:
        return in_store(at.store, at.config, partial(_schema_of, table=table))
    except (TableNotFoundError, InvalidNameError, ConfigError):  # --list needs no store
        return None


def _schema_given(at: At, updated: str | None, file: str | None) -> Schema | None:
    """Return the schema of a table whose rows are updated, or the one in a file."""
    from aiovec.backend.files import schema_in

    if updated is not None:
        return in_store(at.store, at.config, partial(_schema_of, table=updated))
    return None if file is None else schema_in(expanded(file))


async def _schema_of(at: At, table: str) -> Schema:
    return await (await at.open(reading=True)).schema(table)


def _advance(bar: Progress, task: TaskID, number: int) -> None:
    bar.update(task, completed=number)


def _rejects_path(files: list[str], table: str | None, source: Reader) -> Path:
    """Return a path next to the file, unless nothing can be written there."""
    path = Path(source.name)
    beside = len(files) == 1 and path.is_file() and os.access(path.parent, os.W_OK)
    name = (
        table
        if len(files) > 1 or files == ["-"]
        else re.split(r"[/\\:]", source.name.rstrip("/"))[-1]
    )
    return (path.parent if beside else Path()) / f"{name}.rejects.jsonl"
