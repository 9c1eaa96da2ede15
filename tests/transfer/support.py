"""Run imports and exports, and read the rows and rejects that they leave."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.harness.command import Finished, run

from aiovec import Record, Schema, sync

Row = dict[str, Any]


def jsonl(path: Path, rows: Sequence[Row | str]) -> Path:
    texts = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    path.write_text("\n".join(texts) + "\n", encoding="utf-8")
    return path


def numbered(*ids: str) -> list[Row]:
    return [{"id": id, "embedding": [1.0, float(n)]} for n, id in enumerate(ids)]


def bring(path: Path, store: Path, *options: object, table: str = "notes", code: int = 0) -> Any:
    """Import the one table of a file, and return the facts about it."""
    finished = run("import", path, "-s", store, "--table", table, "--json", *options)
    assert finished.code == code, finished.err
    (facts,) = finished.json["tables"]
    return facts


def error_of(*arguments: object) -> str:
    """Run a command that fails with the code 1, and return its error."""
    finished = run(*arguments)
    assert finished.code == 1, (finished.out, finished.err)
    assert "Traceback" not in finished.err
    return finished.err


def refused(path: Path, store: Path, *options: object, table: str = "notes") -> str:
    """Run an import that must fail, and return the error."""
    finished = run("import", path, "-s", store, "--table", table, *options)
    assert_one_error(finished)
    return finished.err


def assert_one_error(finished: Finished) -> None:
    assert (finished.code, finished.out) == (1, "")
    assert finished.err.startswith("error: ")
    assert "Traceback" not in finished.err


def rejected(path: Path) -> dict[Any, tuple[str | None, str]]:
    """Return the id and the reason of each reject of a file, by its place in the file."""
    rejects = {}
    for line in path.with_name(f"{path.name}.rejects.jsonl").read_text("utf-8").splitlines():
        entry = json.loads(line)
        assert entry.pop("table") == "notes"
        id, reason = entry.pop("id"), entry.pop("reason")
        (place,) = entry.values()
        rejects[place] = (id, reason)
    return rejects


def assert_rejects(path: Path, expected: Mapping[Any, tuple[str | None, str] | str]) -> None:
    """Check the place of each reject and how its reason begins, or its id and its reason."""
    rejects = rejected(path)
    assert rejects.keys() == expected.keys()
    for place, wanted in expected.items():
        if isinstance(wanted, str):
            assert rejects[place][1].startswith(wanted), place
        else:
            assert rejects[place] == wanted


def made(store: Path | str, schema: Schema, rows: Any = (), table: str = "notes") -> None:
    with sync.connect(store) as opened:
        opened.create_table(table, schema)
        opened.upsert(table, list(rows))


def schema_of(store: Path | str, table: str = "notes") -> Schema:
    with sync.connect(store) as opened:
        return opened.schema(table)


def rows_of(store: Path | str, table: str = "notes") -> dict[str, Record]:
    """Return the rows of a table, with their vectors."""
    with sync.connect(store) as opened:
        ids = [row.id for row in opened.find(table, limit=100_000, select=[])]
        return {row.id: row for row in opened.get(table, ids)}
