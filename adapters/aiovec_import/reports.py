"""The report of an import: lines and notes for users, made from the import's facts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from aiovec._cli.output import Listing, counted
from aiovec._cli.stores import Shown

from .folders import in_words
from .language import analyzer_line
from .sources import ForeignTable, Reader
from .syncing import COUNTS

_REASONS_SHOWN = _NAMES_SHOWN = 10

Facts = Mapping[str, Any]


def reported(facts: Facts) -> tuple[list[str], list[str]]:
    """Return the lines and the notes about an import with these facts."""
    if "updated" in facts:
        line = f"updated {counted(facts['updated'])} of {facts['table']}"
        absent = f"; {counted(facts['absent'], 'id')} of the file do not exist"
        return [line + absent * bool(facts["absent"])], []
    if "passages" in facts:
        line = _counts(facts["table"], facts, counted(facts["passages"], "passage"))
        return [line, *analyzer_line(facts)], [*_of_documents(facts, facts["table"])]
    lines = [f"copied {facts['file']} to {facts['backup']}"] if facts["backup"] else []
    for table in facts["tables"]:
        name, new = table["name"], "the new table " * table["created"]
        if "written" in table:
            lines.append(_counts(name, table, counted(table["written"])))
        else:
            source = f"{table['origin']} ({table['layout']})"
            lines.append(f"imported {counted(table['rows'])} from {source} into {new}{name}")
        if new and table["fields"]:
            fields = (_field(name, field) for name, field in table["fields"].items())
            lines.append(f"fields: {', '.join(fields)}")
    if facts["rejects"]:
        rejected = counted(sum(table["rejected"] for table in facts["tables"]))
        lines.append(f"rejected {rejected}; {facts['rejects']} has the reason for each")
    lines += [line for table in facts["tables"] for line in analyzer_line(table)]
    notes = _before(facts["tables"], facts["failed"])
    for table in facts["tables"]:
        notes += [*_of_table(table, table["name"])]
    return lines, notes


def of_found(source: Reader, tables: Sequence[ForeignTable]) -> Shown:
    """Return the report of a dry run on rows with vectors."""
    facts, cells = [], []
    for table in tables:
        schema, rows = table.schema, "?" if table.rows is None else table.rows
        facts.append(table.facts(table.name) | {"rows": table.rows, "schema": schema.to_dict()})
        made = [schema.dim, schema.metric, schema.model or "-"]
        cells.append([table.name, table.origin, table.layout, rows, *made])
    columns = ["table", "from", "layout", "rows", "dim", "metric", "model"]
    named = {"file": source.name, "format": source.form, "failed": source.failed}
    listing = Listing(columns, cells, right=["rows", "dim"])
    return Shown({**named, "tables": facts}, [listing], notes=_before(facts, source.failed))


def _counts(table: str, facts: Facts, written: str) -> str:
    """Return the line that counts documents, or rows with texts."""
    counts = {name: facts.get(name, 0) for name in (*COUNTS, "failed")}
    said = ", ".join(f"{count:,} {name}" for name, count in counts.items() if count)
    wrote = "would write" if facts["dry_run"] else "wrote"
    return f"{table}: {said or 'nothing'}; {wrote} {written}"


def _of_documents(facts: Facts, table: str) -> Iterator[str]:
    if facts["left_out"]:
        yield f"{table}: left out {in_words(facts['left_out'])}"
    yield from _gone(facts, table)
    failures = facts["failures"]
    limit = len(failures) if facts["dry_run"] else _REASONS_SHOWN  # a dry run writes no list
    for name, why in [*failures.items()][:limit]:
        yield f"{name}: not imported: {why}"
    if len(failures) > limit:
        yield f"{facts['rejects']} lists all {len(failures):,}"


def _gone(facts: Facts, table: str) -> Iterator[str]:
    if facts["gone"]:
        yield f"{table}: {'would be ' * facts['dry_run']}deleted: {_first(facts['gone'])}"


def _first(names: Sequence[str]) -> str:
    """Return the first few names as text."""
    return ", ".join(names[:_NAMES_SHOWN]) + (" …" if len(names) > _NAMES_SHOWN else "")


def _before(tables: Sequence[Facts], failed: Mapping[str, str]) -> list[str]:
    """Return the notes that are known before the rows are read."""
    notes = []
    for table in tables:
        omitted = [f"not imported: {omitted}" for omitted in table["omitted"]]
        notes += [f"{table['name']}: {note}" for note in (*table["notes"], *omitted)]
    return notes + [f"{name}: cannot be imported: {reason}" for name, reason in failed.items()]


def _of_table(facts: Facts, table: str) -> Iterator[str]:
    """Yield lines about rows that were not imported, with the reasons, and about cut-off texts."""
    for reason, rows in [*facts["reasons"].items()][:_REASONS_SHOWN]:
        yield f"{table}: rejected {counted(rows)}: {reason}"
    if facts["skipped"]:
        yield (
            f"{table}: skipped {len(facts['skipped']):,} files, because this load was complete and "
            f"they have not changed since (size, modification time): {_first(facts['skipped'])}"
        )
    if facts["missing"]:
        total = counted(facts["rows"] + facts["rejected"] + facts["missing"])
        yield f"{table}: the source counts {total}, but did not return {facts['missing']:,}"
    if "written" in facts:
        yield from _gone(facts, table)
        if long := facts["cut_off"]:
            yield (
                f"{table}: the model cuts off {counted(len(long), 'text')} longer than the "
                f"{facts['most']:,} tokens that it reads; --passages keeps all of them: "
                f"{_first(long)}"
            )


def _field(name: str, field: str | Mapping[str, Any]) -> str:
    """Describe a field of a schema."""
    if isinstance(field, str):
        return f"{name} {field}"
    options = [*(["keywords"] if field.get("text") else []), field.get("index")]
    shown = ", ".join(filter(None, options))
    return f"{name} {field['type']}" + (f" ({shown})" if shown else "")
