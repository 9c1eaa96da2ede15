"""``aiovec import``: import documents, files of rows, or another program's store.

Like every command's module, this one imports few modules, so that the command line starts fast.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import replace
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from aiovec._cli.output import say, working
from aiovec._cli.run import command_app
from aiovec._cli.stores import (
    Address,
    At,
    Embedder,
    EngineName,
    Metric,
    Shown,
    expanded,
    names_in,
    on_store,
)
from aiovec.errors import ConfigError, InvalidNameError, TableNotFoundError

from .export_command import FileFormat
from .options import OF_SOURCES, VectorColumn

if TYPE_CHECKING:
    from aiovec import Schema

    from .loading import Import
    from .sources import ForeignTable, Reader, Wanted

_say_error = partial(say, stderr=True)

app: typer.Typer = command_app("import")


@app.command()
@on_store(shows_progress=True, shared=OF_SOURCES)
async def import_(
    at: At,
    sources: Annotated[
        list[str],
        typer.Argument(
            metavar="SOURCE...",
            help="Documents: files of Markdown, text, HTML, PDF, Word and more, and folders of "
            "them. Or files of rows: Parquet, Arrow IPC, JSON Lines and CSV, as paths, globs in "
            "quotes such as 'parts/*.parquet', or s3:// and gs:// URLs, whose credentials come "
            "from the environment; - is standard input, with --format and --table. Or a table "
            "with texts of a SQLite or PostgreSQL database, such as app.db#articles, with "
            "--embed. Or a store of another program: a SQLite database with vectors, a folder of "
            "LanceDB, Chroma, Qdrant, Milvus Lite or FAISS, or NAME:PLACE, such as "
            "qdrant:http://localhost:6333; #TABLE chooses one of its tables.",
        ),
    ],
    vector_column: VectorColumn = None,
    dtype: Annotated[
        str | None,
        typer.Option(
            metavar="TYPE",
            help="Type of the BLOBs in --vector-column: float16, float32, float64 or int8.",
        ),
    ] = None,
    fields: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=FIELD",
            help="Documents: field of an existing table for body, title, source, anchor, start, "
            "part, parts, modified, hash, base or expires; others go to its payload. Can be "
            "repeated.",
        ),
    ] = None,
    form: FileFormat = None,
    schema: Annotated[
        str | None, typer.Option(metavar="FILE", help="JSON file with the schema of a new table.")
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Model of the vectors, if SOURCE does not name it."),
    ] = None,
    metric: Annotated[
        Metric | None, typer.Option(help="Metric of a new table, if SOURCE does not name it.")
    ] = None,
    upsert: Annotated[
        bool, typer.Option("--upsert", help="Replace rows that have the same id.")
    ] = False,
    delete: Annotated[
        bool,
        typer.Option(
            "--delete",
            help="Documents, and rows with --embed: delete what earlier imports with this --base "
            "stored and SOURCE no longer has, unless that is most of it.",
        ),
    ] = False,
    delete_all: Annotated[
        bool,
        typer.Option("--delete-all", help="Like --delete, even if most of it would be deleted."),
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what would be imported, and write nothing.")
    ] = False,
    strict: Annotated[
        bool,
        typer.Option(
            "--strict", help="Check everything first, and import nothing if one item is bad."
        ),
    ] = False,
    allow_rejects: Annotated[
        bool, typer.Option("--allow-rejects", help="Exit with 0 even if something was left out.")
    ] = False,
    rejects: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="File for the list of rejects. Default: SOURCE.rejects.jsonl or, for "
            "documents, TABLE.rejects.jsonl in the current folder.",
        ),
    ] = None,
    backup: Annotated[
        str | None,
        typer.Option(metavar="COPY", help="Copy a SQLite database to this path first."),
    ] = None,
    engine: EngineName = None,
    address: Address = None,
    embedder: Embedder = None,
    **options: Any,
) -> Shown:
    """Import documents, files of rows, or the tables of another program's store.

    The command creates the store and the table if they do not exist. Documents are cut into
    passages, which are the rows of one table. Several files of rows go into one table, whose fields
    come from the first file.

    If you repeat the command, it imports only what is new or changed: documents, or rows with
    --embed. Rows with vectors are rejected if their id exists, unless --upsert replaces them.

    Items that cannot be imported are listed with the reason, and the rest is imported. The exit
    status is 1 if anything was left out. With --engine, all rows are added in one commit, or none
    if one is bad.
    """
    from aiovec.backend import check_table_name
    from aiovec.backend.files import schema_in
    from aiovec.backend.threads import in_thread

    if "" in sources:
        raise typer.BadParameter("a SOURCE is empty; write . for the current folder")
    if (table := options["table"]) is not None:
        check_table_name(table)  # check this before the store is created
    if dry_run and backup is not None:
        raise typer.BadParameter("--dry-run writes nothing; leave out --backup")
    await in_thread(import_module, "aiovec_import.running")  # slow
    from .documents import DocumentImport
    from .folders import documents_of, in_words
    from .reports import of_found
    from .running import run_import
    from .sources import RejectsFile, Wanted

    wanted = Wanted.of(
        sources, vector_column=vector_column, dtype=dtype, metric=metric, model=model,
        form=form, schema=None if schema is None else await in_thread(schema_in, expanded(schema)),
        fields=_mapped(fields), upsert=upsert, delete=delete or delete_all, delete_all=delete_all,
        strict=strict, dry_run=dry_run, backup=backup, **options,
    )  # fmt: skip
    documents = await in_thread(documents_of, wanted)
    if documents is not None and documents.files:
        if engine or address:
            raise typer.BadParameter("--engine is for files of rows, not for documents")
        path = expanded(rejects or f"{table or 'documents'}.rejects.jsonl")
        listed = RejectsFile(path, _say_error)
        job: Import = await in_thread(DocumentImport.of, wanted, documents, listed)
    elif documents is not None and documents.left_out and (wanted.include or wanted.exclude):
        others = in_words(documents.left_out)
        raise ConfigError(f"{sources[0]} has no documents to import; it has {others}")
    else:
        job = await _of_rows(at, wanted, rejects, engine, address)
    if backup is not None:
        with working("copying"):
            await in_thread(job.source.backup, expanded(backup))
    if dry_run and not job.knows_changes:
        return of_found(job.source, [load.source for load in job.loads])
    if job.source.remark:
        await in_thread(_say_error, job.source.remark)
    return await run_import(at, job, embedder, allow_rejects=allow_rejects)


async def _of_rows(
    at: At, wanted: Wanted, rejects: str | None, engine: str | None, address: str | None
) -> Import:
    """Open a source of rows, and return its import."""
    from aiovec.backend.threads import in_thread

    sources, table = wanted.sources, wanted.table
    await in_thread(_import_readers, sources)
    from .copying import RowImport
    from .globs import files_of
    from .loading import Load
    from .opening import opened
    from .sources import RejectsFile, legal_table_name, refuse
    from .texts import TextImport
    from .workers import EngineImport

    files = await in_thread(files_of, sources)
    piped = [*sources] == ["-"]
    if piped and wanted.form is None:
        raise typer.BadParameter("standard input has no suffix: pass --format")
    if (piped or len(files) > 1) and table is None and not wanted.dry_run:
        reason = "standard input has no name" if piped else f"{len(files)} files go into one table"
        raise typer.BadParameter(f"{reason}; name the table with --table")
    if wanted.query is not None and table is None:
        raise typer.BadParameter("a query has no name; name the table with --table")
    if engine is not None and wanted.upsert:
        raise typer.BadParameter("--engine replaces no rows; leave out --upsert")
    name = table or legal_table_name(Path(next(iter(files))).stem)
    existing = await _schema_of(at, name)
    workers = await in_thread(at.engine, engine, address)
    source = await in_thread(opened, wanted, files, existing, workers is not None)
    at.exits.push_async_callback(in_thread, source.close)
    refuse(wanted, "include exclude fields", f"documents, and {source.name} has rows")
    only_one = table is not None or wanted.schema is not None
    tables = await in_thread(_tables_of, source, only_one)
    path = expanded(rejects) if rejects else await in_thread(_list_of, [*files], table, source)
    parts = (
        wanted, source, [Load(each, table or each.name, wanted.schema) for each in tables],
        RejectsFile(path, _say_error),
    )  # fmt: skip
    if workers is not None:
        return EngineImport(*parts, workers)
    return TextImport(*parts) if any(table.texts for table in tables) else RowImport(*parts)


async def _schema_of(at: At, table: str) -> Schema | None:
    """Return the schema of the target table, if the table exists."""
    async with AsyncExitStack() as exits:
        with suppress(TableNotFoundError, InvalidNameError, ConfigError):
            store = await replace(at, exits=exits).open(reading=True)
            return await store.schema(table)
    return None


def _mapped(fields: list[str] | None) -> dict[str, str]:
    """Return a map from the fields of a passage to the table's fields, parsed from ``--fields``."""
    from aiovec.documents import SCHEMA

    names: dict[str, str] = {}
    for part in names_in(fields) or ():
        name, equals, target = part.partition("=")
        if not equals or name not in SCHEMA.fields:
            raise typer.BadParameter(f"--fields is NAME=FIELD, as in body=text, not {part!r}")
        names[name] = target
    return names


def _import_readers(sources: Sequence[str]) -> None:
    """Import the modules that read rows.

    If pyarrow is missing, errors in the paths are reported first.
    """
    from aiovec.backend import needs_arrow

    from .files import names_format, no_file
    from .folders import KINDS

    try:
        import_module("aiovec_import.workers")
    except ImportError as exc:
        for path in map(Path, map(expanded, sources)) if needs_arrow(exc) else ():
            if path.is_dir() or (path.is_file() and not names_format(path)):
                lack = "has no documents" if path.is_dir() else "is not a document"
                needs = 'other stores and files of rows need pip install "aiovec[arrow]"'
                raise ConfigError(f"{path} {lack} ({KINDS}); {needs}") from exc
            if not (path.exists() or path == Path("-") or re.search(r"[:#*?\[]", str(path))):
                raise no_file(path) from exc
        raise


def _tables_of(source: Reader, only_one: bool) -> list[ForeignTable]:
    """Return the tables to import; raise ConfigError if ``only_one`` and there are several."""
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


def _list_of(files: list[str], table: str | None, source: Reader) -> Path:
    """Return a path for rejects: next to a single file if possible, else in the current folder."""
    path = Path(source.name)
    is_next_to = len(files) == 1 and path.is_file() and os.access(path.parent, os.W_OK)
    last = re.split(r"[/\\:]", source.name.partition("?***")[0].rstrip("/"))[-1]
    name = table if len(files) > 1 or files == ["-"] else last
    return (path.parent if is_next_to else Path()) / f"{name}.rejects.jsonl"
