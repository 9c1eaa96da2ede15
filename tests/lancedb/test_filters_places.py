"""The property test of filters on a folder and on an S3 server: the same tree, the same rows."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.filters import cases

from .buckets import s3_server
from .filter_rows import LancedbRows
from .test_filters import check

FEW = settings(
    max_examples=4, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
MANY = settings(FEW, max_examples=150)


@pytest.fixture(scope="module", params=["folder", "s3"])
def held(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[LancedbRows]:
    if request.param == "folder":
        rows = LancedbRows(str(tmp_path_factory.mktemp("filters")))
        yield rows
        rows.close()
        return
    with s3_server() as bucket:
        rows = LancedbRows(bucket.new_url(), storage_options=bucket.options)
        yield rows
        rows.close()


@FEW
@given(rows=cases.rows(), data=st.data())
def test_filters_mean_the_same(
    held: LancedbRows, rows: list[dict[str, Any]], data: st.DataObject
) -> None:
    check(held, rows, data.draw(st.lists(cases.filters(rows), min_size=1, max_size=3)))


@pytest.mark.soak
@MANY
@given(rows=cases.rows(), data=st.data())
def test_many_filters_mean_the_same(
    held: LancedbRows, rows: list[dict[str, Any]], data: st.DataObject
) -> None:
    check(held, rows, data.draw(st.lists(cases.filters(rows), min_size=1, max_size=3)))
