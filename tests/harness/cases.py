"""Tables of cases that one test goes through: each that fails is told, and the others still run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import hypothesis
import pytest

Seeds = Callable[[int], Iterator[int]]
"""The fixture ``seeds``: counts up to so many rounds of a campaign by their seeds."""

# The failures of the test that runs.
_failures: list[BaseException] | None = None


@contextmanager
def case(name: object) -> Iterator[None]:
    """One case of a table: if it fails, the test fails at its end, and tells which case it was."""
    try:
        yield
    except (Exception, pytest.fail.Exception) as failure:
        failure.add_note(f"in the case {name!r}")
        is_outcome = not isinstance(failure, Exception) and "DID NOT RAISE" not in str(failure)
        # Hypothesis must see each failure to shrink it; a test's timeout ends the whole test.
        if _failures is None or is_outcome or hypothesis.currently_in_test_context():
            raise
        _failures.append(failure)


@contextmanager
def all_cases() -> Iterator[None]:
    """Raise at the end of a test the first failure of its cases, with a line for each other."""
    global _failures
    met: list[BaseException] = []
    _failures = met
    try:
        yield
    except (Exception, pytest.fail.Exception, pytest.skip.Exception) as end:
        if not met:
            raise
        met.append(end)  # what came of a case that failed, or a failure beside them
    finally:
        _failures = None
    for other in met[1:]:
        where = " ".join(getattr(other, "__notes__", ["behind the cases"]))
        met[0].add_note(f"and {where}: {other!r:.500}")
    if met:
        raise met[0]
