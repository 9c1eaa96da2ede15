"""Snippets by FTS5: how many statements they take."""

from __future__ import annotations

import sqlite3
from contextlib import closing

from aiovec._text.snippets import snippets_of


def test_all_rows_take_as_many_queries_as_one() -> None:
    """For each query FTS5 looks up every word."""
    words = [f"w{n}" for n in range(50)]
    match = " OR ".join(f'"{word}"' for word in words)
    asked = []
    for count in (1, 40):
        statements: list[str] = []
        with closing(sqlite3.connect(":memory:")) as memory:
            memory.set_trace_callback(statements.append)
            rows = [[f"x {words[n]} y", f"{words[-1]} " + "other " * 900] for n in range(count)]
            found = snippets_of(
                rows, {"a": "c1", "b": "c2"}, match, ["c1", "c2"], "unicode61", ("[", "]"), memory
            )
        assert [row["a"] for row in found] == [f"x [{words[n]}] y" for n in range(count)]
        assert all(row["b"].startswith(f"[{words[-1]}] other") for row in found)
        asked.append(sum("MATCH" in statement for statement in statements))
    assert asked[0] == asked[1]
