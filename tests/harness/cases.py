"""Run several cases in one test: each failing case is reported, and the others still run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import hypothesis
import pytest

Seeds = Callable[[int], Iterator[int]]
"""The type of the fixture ``seeds``: it yields seeds for up to the given number of rounds."""

# The test that is running.
_item: pytest.Function | None = None


@contextmanager
def case(name: object) -> Iterator[None]:
    """Run one case of a test; report a failure as a failed subtest."""
    try:
        yield
    except (Exception, pytest.fail.Exception) as failure:
        failure.add_note(f"in the case {name!r}")
        is_outcome = not isinstance(failure, Exception) and "DID NOT RAISE" not in str(failure)
        # Hypothesis must see each failure to shrink it; a test's timeout ends the whole test.
        if _item is None or is_outcome or hypothesis.currently_in_test_context():
            raise
        # Only failures use subtests: a report of each passing case would take 0.2 ms.
        subtests: pytest.Subtests = _item._request.getfixturevalue("subtests")
        with subtests.test(repr(name)):
            raise


@contextmanager
def cases_of(item: pytest.Function) -> Iterator[None]:
    """Let each case of a test fail separately."""
    global _item
    _item = item
    try:
        yield
    finally:
        _item = None
