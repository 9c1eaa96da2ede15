"""The SQL of filters; that it selects the right rows is shown in ``tests/filters``."""

from __future__ import annotations

from tests.contract.base import case
from tests.docs.blocks import ROOT

from aiovec import Schema
from aiovec.backend import bind
from aiovec_lancedb.sql.filters import condition_sql

SCHEMA = Schema(1, fields={"year": int, "name": str, "lang": str, "tags": list[str]})


def sql_of(where: str) -> str:
    bound = bind(where, SCHEMA)
    assert bound is not None
    return condition_sql(bound)


def test_the_page_shows_filters_as_they_are() -> None:
    page = (ROOT / "docs/internals/lancedb.md").read_text(encoding="utf-8")
    table = page.split("| filter | SQL |")[1].split("\n\n")[0]
    shown = [line.split(" | ") for line in table.splitlines()[2:]]
    assert len(shown) == 5
    for text, sql in shown:
        begin = sql.replace("`` ", "", 1).strip("` |").split(" ``")[0].split(" …")[0]
        with case(text):
            assert begin in sql_of(text.strip("| ").strip("`"))
