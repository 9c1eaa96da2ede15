"""A soak: many clients and a second process use a store for minutes, and every answer is checked.

Any backend that ``connect`` opens can be soaked. Each client owns rows that nobody else writes, so
it knows at every moment what they are, and compares the answers about them with an oracle of its
own. Answers about everybody's rows are held to what must be true of them whoever writes at the
moment. Every now and then all writers pause: the whole of each table is compared with the oracle,
and memory, threads and open files are counted::

    report = await soak("notes.db", {"notes": soak_schema(dim=48)}, seconds=300)

Needs psutil beside what the contract suite needs.
"""

from __future__ import annotations

import pytest

for _part in ("resources", "world", "client", "whole", "neighbour", "run"):
    pytest.register_assert_rewrite(f"{__name__}.{_part}")

from .run import SoakReport, soak  # noqa: E402 - its asserts are to be rewritten
from .world import soak_schema  # noqa: E402 - its asserts are to be rewritten

__all__ = ["SoakReport", "soak", "soak_schema"]
