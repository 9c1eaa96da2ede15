"""The contract suite for backends, its oracle, and the state machine.

Needs pytest, pytest-asyncio and hypothesis, which nothing else of ``aiovec`` imports. A backend's
own tests are one class::

    from aiovec.testing import BackendContract

    class TestMyBackend(BackendContract):
        def make_backend(self, path):
            return MyBackend(path / "store")
"""

from __future__ import annotations

import pytest

# Before they are imported, so that a failing assert in them shows its values.
for _part in (
    "values", "base", "oracle", "machine", "cancellation", "changes", "concurrency", "exporting",
    "filtering", "large_calls", "life", "loops", "models", "moving", "names", "once", "reading",
    "row_forms", "searching", "tables", "writing", "contract",
):  # fmt: skip
    pytest.register_assert_rewrite(f"{__name__}.{_part}")

from .base import open_store  # noqa: E402 - they are to be rewritten
from .contract import BackendContract  # noqa: E402 - they are to be rewritten
from .evaluate import counted, ends_of, evaluate, in_order, value_in  # noqa: E402 - they are to be rewritten
from .machine import StoreMachine, run_machine  # noqa: E402 - they are to be rewritten
from .oracle import Oracle, OracleHit, OracleHits, OracleRow, assert_same_hits  # noqa: E402 - they are to be rewritten
from .values import python_rows  # noqa: E402 - they are to be rewritten

__all__ = [
    "BackendContract",
    "Oracle",
    "OracleHit",
    "OracleHits",
    "OracleRow",
    "StoreMachine",
    "assert_same_hits",
    "counted",
    "ends_of",
    "evaluate",
    "in_order",
    "open_store",
    "python_rows",
    "run_machine",
    "value_in",
]
