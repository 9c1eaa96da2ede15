"""``aiovec import``: rows of files, or of another program's store, into a store.

Imports little, as every command.
"""

from __future__ import annotations

import os
import re
import sys
import time
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, aclosing, closing, suppress
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from aiovec._cli.output import Listing, counted, emit, progress, say, working
from aiovec._cli.run import command_app, failing_clearly, run_async
from aiovec._cli.stores import (
    Address,
    AsJson,
    At,
    Config,
    Embedder,
    EngineName,
    Metric,
    Store,
    engine_of,
    expanded,
    give_embedder,
    in_store,
    names_in,
    of_each_table,
    open_place,
    place_named,
)
from aiovec.errors import AiovecError, ConfigError, InvalidNameError, TableNotFoundError

from .export_command import FileFormat

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from aiovec import Field, Schema, VectorStore
    from aiovec.backend.place import Place

    from .documents import DocumentImport, Documents
    from .loading import Load, RowImport
    from .opening import Opener
    from .sources import ForeignTable, Import, Reader
    from .texts import TextImport

_COUNTS = ("new", "changed", "unchanged", "empty", "deleted", "failed", "passages")
_COUNTS_OF_TEXTS = _COUNTS[:5]
_REASONS_SHOWN = _NAMES_SHOWN = 10

_OF_DOCUMENTS = ("--fields", "--include", "--exclude")
_OF_PASSAGES = ("--chunk-size", "--overlap")
_OF_TEXTS = ("--passages", "--base", "--delete", "--delete-all", "--dry-run")
_OF_ROWS = (
    "--list", "--query", "--passages", "--schema", "--id-column", "--vector-column", "--dtype",
    "--text", "--index", "--embed", "--upsert", "--update", "--backup", "--engine", "--address",
)  # fmt: skip
_OF_NEW_ROWS = (
    "--schema", "--model", "--metric", "--text", "--index", "--embed", "--upsert", "--backup",
    "--engine", "--address", "--list", "--rejects", *_OF_TEXTS,
)  # fmt: skip
_OF_ONE_IMPORT = (
    "--format",
    "--model",
    "--metric",
    "--strict",
    "--allow-rejects",
    "--rejects",
    "--json",
)
_OF_WATCHING = {
    "--chunk-size", "--overlap", "--base", "--passages", "--query", "--id-column", "--text",
    "--index", "--embed", "--include", "--exclude",
}  # fmt: skip
_Shown = tuple[dict[str, Any], list[str], list[str]]
"""The facts about an import, its lines, and the notes beside them."""

_say_error = partial(say, stderr=True)

app: typer.Typer = command_app("import")


@app.command()
@failing_clearly
def import_(
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
    store: Store = None,
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
            "1200, or 256.",
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
            "path below the folder alone. Rows with --embed: name of the source in its rows. "
            "Default: file and table, such as app.db#articles.",
        ),
    ] = "",
    fields: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=FIELD",
            help="Documents: field of an existing table for body, title, source, anchor, start, "
            "part, parts, modified, hash, base or expires. Can be repeated.",
        ),
    ] = None,
    include: Annotated[
        list[str] | None,
        typer.Option(
            metavar="GLOB",
            help="Documents: only those of a folder that match, such as 'guide/**' or '*.md'. Can "
            "be repeated.",
        ),
    ] = None,
    exclude: Annotated[
        list[str] | None,
        typer.Option(
            metavar="GLOB",
            help="Documents: leave out what of a folder matches, such as 'drafts/'. What its "
            ".gitignore names is left out anyway. Can be repeated.",
        ),
    ] = None,
    delete: Annotated[
        bool,
        typer.Option(
            "--delete",
            help="Documents, and rows with --embed: delete those that SOURCE no longer has, of "
            "imports with this --base.",
        ),
    ] = False,
    delete_all: Annotated[
        bool,
        typer.Option("--delete-all", help="As --delete, even if most of them are gone."),
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
            help="File that lists what was left out. Default: SOURCE.rejects.jsonl or, for "
            "documents, TABLE.rejects.jsonl in the current folder.",
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
    config: Config = None,
    json: AsJson = False,
) -> None:
    """Import documents, files of rows, or the tables of a store that another program wrote.

    Documents are cut into passages, which are the rows of one table. Again, only what changed since
    is embedded, as of rows with --embed. What cannot be read is listed with the reason, and the
    rest is imported. Files of other kinds are counted.

    Creates the store and the table if they do not exist. Several files go into one table, whose
    fields come from the first file. Rows that cannot be imported are listed with the reason; all
    others are imported. Exits with 1 if a document or a row was left out.

    With --engine, all rows are added in one commit, or none if one is bad or its id exists; the
    same command again adds nothing.
    """
    from aiovec.backend import check_table_name
    from aiovec.documents import SCHEMA

    from .documents import DocumentImport, documents_in
    from .sources import Hints, NewTable, RejectsFile, legal_table_name

    if "" in sources:
        raise typer.BadParameter("a SOURCE is empty; write . for the current folder")
    if table is not None:
        check_table_name(table)  # before the store is created
    if unwatch or watch:
        if len(sources) > 1:
            raise typer.BadParameter("--watch and --unwatch take one SOURCE")
        if unwatch:
            from .watching import unwatch_table

            emit({"removed": (made := unwatch_table(sources[0]))}, made, json)
            return
        others = (*_OF_DOCUMENTS, *_OF_TEXTS, *_OF_ROWS, *_OF_ONE_IMPORT)
        for option in sorted({*_given(ctx, others)} - _OF_WATCHING):
            raise typer.BadParameter(f"--watch does not take {option}")
        options = {
            "table": table, "embed": embed, "text": text or (), "index": index or (),
            "id_column": id_column, "query": query, "passages": passages, "chunk_size": chunk_size,
            "overlap": overlap, "base": base, "include": include or (), "exclude": exclude or (),
            "every": every,
        }  # fmt: skip
        run_async(_watched(place_named(store, config), embedder, sources[0], options))
        return
    look = partial(documents_in, sources, base, include or (), exclude or ())
    documents = None if form else look()  # a format says that it has rows
    if documents is not None and documents.files:
        for option in _given(ctx, _OF_ROWS):
            raise typer.BadParameter(f"{option} is for files of rows, not for documents")
        if base and not ("://" in base and base.endswith("/") and base.isprintable()):
            raise typer.BadParameter(
                f"--base is a URL that ends in /, such as https://docs.example.com/, not {base!r}"
            )
        delete = delete or delete_all
        if delete and not any(map(os.path.isdir, map(expanded, sources))):
            raise typer.BadParameter("--delete needs a folder: all other documents would go")
        name = table or "documents"
        listed = RejectsFile(expanded(rejects or f"{name}.rejects.jsonl"), _say_error)
        cut = DocumentImport(
            documents, look, name, listed, _mapped(fields),
            replace(SCHEMA, metric=metric or SCHEMA.metric, model=model),
            base, chunk_size, overlap, delete, delete_all, dry_run, strict,
        )  # fmt: skip
        _run(cut, store, config, embedder, lambda: _of_documents(cut), json)
        if cut.counts["failed"] and not allow_rejects:
            raise typer.Exit(1)
        return
    if documents is not None and documents.left_out and (include or exclude):
        raise ConfigError(f"{sources[0]} has no documents to import; it has {documents.others}")
    for option in _given(ctx, _OF_DOCUMENTS if passages else (*_OF_DOCUMENTS, *_OF_PASSAGES)):
        raise _misplaced(option, documents)
    from aiovec.backend.files import schema_in

    from .globs import files_of
    from .loading import Load, RowImport
    from .opening import Opener
    from .texts import TextImport
    from .workers import load_by

    if list_ and backup is not None:
        raise typer.BadParameter("--list writes nothing; leave out --backup")
    if engine is not None and upsert:
        raise typer.BadParameter("--engine replaces no rows; leave out --upsert")
    files = files_of(sources)
    piped = sources == ["-"]
    if piped and form is None:
        raise typer.BadParameter("standard input has no suffix: pass --format")
    if (piped or len(files) > 1) and not (list_ or table):
        reason = "standard input has no name" if piped else f"{len(files)} files go into one table"
        raise typer.BadParameter(f"{reason}; name the table with --table")
    if query is not None and table is None:
        raise typer.BadParameter("a query has no name; name the table with --table")
    delete = delete or delete_all
    if delete and len(sources) > 1:
        raise typer.BadParameter("--delete takes one SOURCE, which may be a glob in quotes")
    name = table or legal_table_name(Path(next(iter(files))).stem)
    existing = cache(partial(_existing_schema, store, config, name))
    given = None if schema is None else schema_in(expanded(schema))
    if update:
        for option in _given(ctx, _OF_NEW_ROWS):
            raise typer.BadParameter(f"--update changes existing rows; leave out {option}")
        given = in_store(store, config, partial(_schema_of, table=name))
    new = NewTable(metric, model, text or (), index or (), embed)
    opener = Opener(Hints(None, query, id_column, vector_column, dtype, new), form, given)
    with (
        engine_of(engine, address) as workers,
        closing(_opened(opener, list(files), existing, one_by_one=workers is None)) as source,
    ):
        if backup is not None:
            with working("copying"):
                source.backup(expanded(backup))
        tables = _tables_of(source, only_one=table is not None or given is not None)
        if list_:
            _show_found(source, tables, json)
            return
        if source.remark:
            say(source.remark, stderr=True)
        if update:
            rows_of_file = _rows_of(source, tables[0])
            _update(rows_of_file, name, store, config, embedder, strict, json)
            return
        texts = workers is None and tables[0].texts
        for option in () if texts else _given(ctx, _OF_TEXTS):
            raise _misplaced(option, documents)
        loads = [Load(each, table or each.name, given, upsert, new) for each in tables]
        path = expanded(rejects) if rejects else _rejects_path(list(files), table, source)
        listed = RejectsFile(path, _say_error)
        if texts:
            synced = TextImport(
                source, loads, listed, strict, base, passages, chunk_size, overlap, delete,
                delete_all, dry_run,
            )  # fmt: skip
            _run(synced, store, config, embedder, lambda: _of_texts(synced, backup), json)
            if loads[0].rejected and not allow_rejects:
                raise typer.Exit(1)
            return
        rows = RowImport(source, loads, listed, strict)
        by_workers = None
        if workers is not None:
            by_workers = partial(load_by, workers, load=loads[0], files=files, opener=opener)
        _run(rows, store, config, embedder, lambda: _of_rows(rows, backup), json, by_workers)
    failed = source.failed or any(load.problem for load in loads)
    if failed or not (allow_rejects or all(load.whole for load in loads)):
        raise typer.Exit(1)


async def _watched(
    place: Place, embedder: str | None, source: str, options: dict[str, Any]
) -> None:
    """Watch a source until a signal ends it."""
    import asyncio
    import logging
    import signal

    from aiovec import watch
    from aiovec.documents import SCHEMA

    log, said = logging.getLogger("aiovec.watch"), logging.StreamHandler()
    log.setLevel(logging.INFO)
    log.addHandler(said)
    ended = asyncio.Event()
    with suppress(NotImplementedError):  # on Windows
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, ended.set)
    async with await open_place(place) as vectors:
        schema = SCHEMA
        with suppress(TableNotFoundError):
            schema = await vectors.schema(options["table"] or "documents")
        give_embedder(vectors, schema, embedder)
        async with watch(vectors, source, **options):
            await ended.wait()


def _given(ctx: typer.Context, options: Iterable[str]) -> list[str]:
    """Return those of the options that stand on the command line."""
    sources = {
        option: ctx.get_parameter_source(parameter.name or "")
        for parameter in ctx.command.params for option in parameter.opts
    }  # fmt: skip
    return [name for name in options if getattr(sources[name], "name", "") == "COMMANDLINE"]


def _run(
    job: Import, store: str | None, config: str | None, embedder: str | None,
    shown: Callable[[], _Shown], json: bool,
    by_workers: Callable[[VectorStore], Coroutine[Any, Any, None]] | None = None,
) -> None:  # fmt: skip
    """Run an import, and say what became of it."""
    import rich.progress  # noqa: F401 - it looks at the current folder: not on the loop

    place = place_named(store, config)
    began = time.perf_counter()
    target = run_async(_imported(job, place, embedder, by_workers, exists=place.exists()))
    seconds = time.perf_counter() - began
    facts, lines, notes = shown()
    facts = {"store": target, **facts, "seconds": round(seconds, 6)}
    facts["rejects"] = job.rejects.place if job.rejects.count else None
    emit(facts, [*lines, f"done in {seconds:.2f} s"], json)
    for note in () if json else notes:
        _say_error(note)


async def _imported(
    job: Import, place: Place, embedder: str | None,
    by_workers: Callable[[VectorStore], Coroutine[Any, Any, None]] | None, *, exists: bool,
) -> str:  # fmt: skip
    """Import into a store, which is made once there is something to write; return its place.

    Until then, one in memory says what the store would.
    """
    from aiovec.backend.threads import in_thread

    done = False
    async with AsyncExitStack() as stack:

        async def opened(at: Place) -> VectorStore:
            vectors = await stack.enter_async_context(await open_place(at))
            if embedder is not None:
                name, schema = job.wanted()
                with suppress(TableNotFoundError):
                    schema = await vectors.schema(name)
                give_embedder(vectors, schema, embedder)
            await job.find(vectors)
            return vectors

        try:
            with progress(job.unit) as bar:
                for each, title, total in job.followed():
                    each.seen = partial(_advance, bar, bar.add_task(title, total=total))
                if exists or by_workers is not None:
                    vectors = await opened(place)
                else:
                    vectors = await opened(replace(place, address=place.plugin.memory, file=None))
                if by_workers is not None:
                    await by_workers(vectors)
                    return vectors.target
                if job.strict and not job.dry_run:  # which shows all reasons instead
                    await job.check(vectors)
                parts = await stack.enter_async_context(aclosing(job.parts()))
                part = await anext(parts, None)
                if not (exists or job.dry_run or (part is None and job.is_over())):
                    vectors, exists = await opened(place), True
                while part is not None:
                    if not job.dry_run:
                        await job.write(vectors, part)
                    part = await anext(parts, None)
                changed = await job.finish(vectors)
            done = True
        except AiovecError as exc:
            if job.kept:  # the error is about the rows of its own call alone
                exc.add_note(f"kept before that: {job.kept}")
            raise
        finally:
            await in_thread(job.rejects.close, done and not job.dry_run)
        if changed and not job.dry_run:
            # A script has nothing that builds the indexes later.
            await of_each_table(vectors, changed, vectors.optimize, "indexing and optimizing")
        return vectors.target if exists else str(place)


def _misplaced(option: str, documents: Documents | None) -> typer.BadParameter | ConfigError:
    """Return the error for an option of documents, or also of texts, where there are none."""
    from .documents import KINDS

    if documents is not None and documents.left_out:
        return ConfigError(f"there are no documents ({KINDS}) in SOURCE; it has {documents.others}")
    texts = "" if option in _OF_DOCUMENTS else ", and for rows with the --embed FIELD of a text"
    return typer.BadParameter(f"{option} is for documents ({KINDS}){texts}")


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


def _of_documents(job: DocumentImport) -> _Shown:
    counts = {name: job.counts[name] for name in _COUNTS}
    others = job.documents.left_out
    facts = {"table": job.table, "dry_run": job.dry_run, **counts, "failures": job.reasons,
             "left_out": dict(others.most_common())}  # fmt: skip
    said = ", ".join(f"{counts[name]:,} {name}" for name in _COUNTS[:-1] if counts[name])
    wrote, gone = ("would write", "would be ") if job.dry_run else ("wrote", "")
    line = f"{job.table}: {said}; {wrote} {counted(counts['passages'], 'passage')}"
    notes = [f"{job.table}: left out {job.documents.others}"] if others else []
    notes += [f"{job.table}: {gone}deleted: {_first(job.gone)}"] if job.gone else []
    limit = len(job.reasons) if job.dry_run else _REASONS_SHOWN  # a dry run writes no list
    notes += [f"{name}: not imported: {why}" for name, why in [*job.reasons.items()][:limit]]
    if len(job.reasons) > limit:
        notes.append(f"{job.rejects.place} lists all {len(job.reasons):,}")
    return facts, [line], notes


def _of_texts(job: TextImport, backup: str | None) -> _Shown:
    facts, lines, notes = _of_rows(job, backup)
    (load,), counts = job.loads, job.counts
    facts["dry_run"] = job.dry_run
    facts["tables"][0] |= {name: counts[name] for name in _COUNTS_OF_TEXTS}
    facts["tables"][0]["cut_off"] = job.long
    said = ", ".join(f"{counts[name]:,} {name}" for name in _COUNTS_OF_TEXTS if counts[name])
    wrote, gone = ("would write", "would be ") if job.dry_run else ("wrote", "")
    lines[backup is not None] = f"{load.table}: {said or 'nothing'}; {wrote} {counted(job.written)}"
    notes += [f"{load.table}: {gone}deleted: {_first(job.gone)}"] if job.gone else []
    if job.long:
        longer = f"{counted(len(job.long), 'text')} longer than the {job.most:,} tokens"
        notes.append(
            f"{load.table}: the model cuts off {longer} that it reads; --passages keeps all of "
            f"them: {_first(job.long)}"
        )
    return facts, lines, notes


def _rows_of(source: Reader, table: ForeignTable) -> list[Any]:
    """Return the rows of a file that have anything beside their ids, or Arrow tables of them."""
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


def _update(
    rows: list[Any], table: str, store: str | None, config: str | None, embedder: str | None,
    strict: bool, json: bool,
) -> None:  # fmt: skip
    async def write(at: At) -> int:
        vectors = await at.open()
        if embedder is not None:
            give_embedder(vectors, await vectors.schema(table), embedder)
        return await vectors.update(table, rows, strict=strict)

    updated = in_store(store, config, write)
    absent = sum(1 if isinstance(row, dict) else row.num_rows for row in rows) - updated
    line = f"updated {counted(updated)} of {table}"
    line += f"; {counted(absent, 'id')} of the file do not exist" if absent else ""
    emit({"table": table, "updated": updated, "absent": absent}, [line], json)


def _of_rows(job: RowImport, backup: str | None) -> _Shown:
    source, loads = job.source, job.loads
    failed = {**source.failed, **{load.table: load.problem for load in loads if load.problem}}
    facts = {
        "file": source.name,
        "format": source.form,
        "backup": backup,
        "complete": all(load.whole for load in loads) and not failed,
        "failed": failed,
        "tables": list(map(_loaded, loads)),
    }
    lines = [] if backup is None else [f"copied {source.name} to {backup}"]
    lines += [line for load in loads for line in _lines(load)]
    if job.rejects.count:
        rejected = counted(job.rejects.count)
        lines.append(f"rejected {rejected}; {job.rejects.place} has the reason for each")
    notes = [*_missing((load.source for load in loads), failed)]
    notes += [f"{load.table}: {note}" for load in loads for note in _left_out(load)]
    return facts, lines, notes


def _opened(
    opener: Opener, files: list[str], existing: Callable[[], Schema | None], *, one_by_one: bool
) -> Reader:
    """Open the only source, or several files as one table. Workers open each file themselves."""
    from .opening import Files

    if one_by_one and len(files) == 1:
        return opener.open(files[0], existing, sys.stdin.buffer if files == ["-"] else None)
    return Files(files, opener, existing)


def _tables_of(source: Reader, *, only_one: bool) -> list[ForeignTable]:
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


def _existing_schema(store: str | None, config: str | None, table: str) -> Schema | None:
    """Return the schema of the table that the rows go to, if it exists."""
    try:
        return in_store(store, config, partial(_schema_of, table=table))
    except (TableNotFoundError, InvalidNameError, ConfigError):  # --list needs no store
        return None


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


def _first(names: Sequence[str]) -> str:
    """Return names in words, at most the first few."""
    return ", ".join(names[:_NAMES_SHOWN]) + (" …" if len(names) > _NAMES_SHOWN else "")


def _show_found(source: Reader, tables: list[ForeignTable], json: bool) -> None:
    facts: list[dict[str, Any]] = []
    cells = []
    for table in tables:
        schema, rows = table.schema, "?" if table.rows is None else table.rows
        facts.append(_facts(table, table.name) | {"rows": table.rows, "schema": schema.to_dict()})
        model = schema.model or "-"
        cells.append(
            [table.name, table.origin, table.layout, rows, schema.dim, schema.metric, model]
        )
    columns = ["table", "from", "layout", "rows", "dim", "metric", "model"]
    named = {"file": source.name, "format": source.form, "failed": source.failed}
    emit({**named, "tables": facts}, [Listing(columns, cells, right=["rows", "dim"])], json)
    for note in () if json else _missing(tables, source.failed):
        _say_error(note)


def _missing(tables: Iterable[ForeignTable], failed: Mapping[str, str]) -> Iterator[str]:
    for source in tables:
        for note in (*source.notes, *(f"not imported: {omitted}" for omitted in source.omitted)):
            yield f"{source.name}: {note}"
    for name, reason in failed.items():
        yield f"{name}: cannot be imported: {reason}"


def _facts(source: ForeignTable, name: str) -> dict[str, Any]:
    origin = {"origin": source.origin, "layout": source.layout}
    return {"name": name, **origin, "notes": source.notes, "omitted": source.omitted}


def _loaded(load: Load) -> dict[str, Any]:
    schema = load.used_schema
    return {
        **_facts(load.source, load.table),
        "created": load.created,
        "rows": load.rows,
        "rejected": load.rejected,
        "missing": load.missing,
        "skipped": load.skipped,
        "reasons": dict(load.reasons.most_common()),
        "dim": schema.dim,
        "metric": schema.metric,
        "model": schema.model,
        "fields": schema.to_dict()["fields"],
    }


def _lines(load: Load) -> Iterator[str]:
    into = f"into the new table {load.table}" if load.created else f"into {load.table}"
    source = f"{load.source.origin} ({load.source.layout})"
    yield f"imported {counted(load.rows)} from {source} {into}"
    fields = load.used_schema.fields.items() if load.created else ()
    if fields:
        yield f"fields: {', '.join(f'{name} {_words(field)}' for name, field in fields)}"


def _left_out(load: Load) -> Iterator[str]:
    """Yield what of a table did not come, and why."""
    for reason, rows in load.reasons.most_common(_REASONS_SHOWN):
        yield f"rejected {counted(rows)}: {reason}"
    if load.skipped:
        yield (
            f"skipped {len(load.skipped):,} files, because this load was complete and they have "
            f"not changed since (size, time of change): {_first(load.skipped)}"
        )
    if load.missing:
        total = counted(load.source.rows or 0)
        yield f"the source counts {total}; {load.missing:,} did not come"


def _words(field: Field) -> str:
    options = [*(["keywords"] if field.text else []), *([field.index] if field.index else [])]
    return f"{field.kind} ({', '.join(options)})" if options else field.kind
