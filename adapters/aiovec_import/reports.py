"""The report of an import: facts for ``--json``, and lines and notes for people."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from aiovec._cli.output import Listing, counted
from aiovec._cli.stores import Shown

if TYPE_CHECKING:
    from aiovec import Field

    from .documents import DocumentImport
    from .loading import Import, Load
    from .sources import ForeignTable, Reader
    from .syncing import SyncImport
    from .texts import TextImport

_COUNTS = ("new", "changed", "unchanged", "empty", "deleted")
_REASONS_SHOWN = _NAMES_SHOWN = 10

Reported = tuple[dict[str, Any], list[str], list[str]]
"""The facts about an import, its lines, and its notes."""


def _of_sync(job: SyncImport, thing: str) -> tuple[str, list[str]]:
    """Return the line about a synchronisation, and the names that were deleted."""
    counts, table = job.counts, job.table
    said = ", ".join(f"{counts[name]:,} {name}" for name in (*_COUNTS, "failed") if counts[name])
    wrote, gone = ("would write", "would be ") if job.wanted.dry_run else ("wrote", "")
    line = f"{table}: {said or 'nothing'}; {wrote} {counted(counts['written'], thing)}"
    names = sorted({*job.gone.values()})
    return line, [f"{table}: {gone}deleted: {_first(names)}"] if names else []


def of_documents(job: DocumentImport) -> Reported:
    table, others = job.table, job.source.left_out
    facts = {"table": table, "dry_run": job.wanted.dry_run}
    facts |= {name: job.counts[name] for name in (*_COUNTS, "failed")}
    facts |= {"passages": job.counts["written"], "failures": job.reasons}
    facts["left_out"] = dict(others.most_common())
    line, notes = _of_sync(job, "passage")
    notes[:0] = [f"{table}: left out {job.source.others}"] if others else []
    limit = len(job.reasons) if job.wanted.dry_run else _REASONS_SHOWN  # a dry run writes no list
    notes += [f"{name}: not imported: {why}" for name, why in [*job.reasons.items()][:limit]]
    if len(job.reasons) > limit:
        notes.append(f"{job.rejects.place} lists all {len(job.reasons):,}")
    return facts, [line], notes


def of_texts(job: TextImport, backup: str | None) -> Reported:
    facts, lines, notes = of_rows(job, backup)
    facts["dry_run"] = job.wanted.dry_run
    facts["tables"][0] |= {name: job.counts[name] for name in _COUNTS}
    facts["tables"][0]["cut_off"] = job.long
    lines[backup is not None], deleted = _of_sync(job, "row")
    notes += deleted
    if job.long:
        longer = f"{counted(len(job.long), 'text')} longer than the {job.most:,} tokens"
        notes.append(
            f"{job.table}: the model cuts off {longer} that it reads; --passages keeps all of "
            f"them: {_first(job.long)}"
        )
    return facts, lines, notes


def of_rows(job: Import, backup: str | None) -> Reported:
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


def _first(names: Sequence[str]) -> str:
    """Return names in words, at most the first few."""
    return ", ".join(names[:_NAMES_SHOWN]) + (" …" if len(names) > _NAMES_SHOWN else "")


def of_found(source: Reader, tables: list[ForeignTable]) -> Shown:
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
    listing = Listing(columns, cells, right=["rows", "dim"])
    return Shown({**named, "tables": facts}, [listing], notes=[*_missing(tables, source.failed)])


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
