"""Tables of cases that one test goes through: each that fails is told, and the others still run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import hypothesis
import pytest

Seeds = Callable[[int], Iterator[int]]
"""The fixture ``seeds``: counts up to so many rounds of a campaign by their seeds."""

# The test that runs.
_item: pytest.Function | None = None


@contextmanager
def case(name: object) -> Iterator[None]:
    """One case of a table: if it fails, it is a failed subtest of the test."""
    try:
        yield
    except (Exception, pytest.fail.Exception) as failure:
        failure.add_note(f"in the case {name!r}")
        is_outcome = not isinstance(failure, Exception) and "DID NOT RAISE" not in str(failure)
        # Hypothesis must see each failure to shrink it; a test's timeout ends the whole test.
        if _item is None or is_outcome or hypothesis.currently_in_test_context():
            raise
        # Only here: each report of a case that passes would take a fifth of a millisecond.
        subtests: pytest.Subtests = _item._request.getfixturevalue("subtests")
        with subtests.test(repr(name)):
            raise


@contextmanager
def cases_of(item: pytest.Function) -> Iterator[None]:
    """Let the cases of a test fail one by one."""
    global _item
    _item = item
    try:
        yield
    finally:
        _item = None
