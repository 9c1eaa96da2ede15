"""A table with fields of every kind, some with hostile names, and rows for it."""

from __future__ import annotations

import operator
from datetime import datetime
from functools import reduce

from hypothesis import strategies as st
from tests.harness.strategies import good_rows

from aiovec import Field, Schema
from aiovec.backend import Expr

SCHEMA = Schema(
    dim=8,
    fields={
        "body": str,
        "select": Field(str, index="btree"),
        "tenant": Field(str, partition=True),
        "year": Field(int, index="bitmap"),
        "order": Field(int, index="btree"),
        "score": Field(float, index="bitmap"),
        "like": Field(float, index="btree"),
        "timestamp": Field(datetime, index="btree"),
        "live": Field(bool, index="bitmap"),
        "tags": list[str],
        "numbers": list[int],
        "weights": list[float],
        # The names of columns of SQLite's json_each.
        "value": list[str],
        "Key": list[str],
        "type": bool,
        "json": str,
    },
)


def all_of(conditions: list[Expr]) -> Expr:
    return reduce(operator.and_, conditions)


rows = st.lists(good_rows(SCHEMA), min_size=1, max_size=8, unique_by=lambda row: row["id"])
