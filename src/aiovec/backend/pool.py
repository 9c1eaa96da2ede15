"""Old names, until nothing uses them any more."""

from __future__ import annotations

from .threads import INLINE_LIMIT, hop, in_thread, thread_limiter

LITTLE = INLINE_LIMIT
off_loop = hop
# Numbers of an array that take as long as one value.
NUMBERS_A_VALUE = 16
# What a column takes however few its rows are, in values.
VALUES_A_COLUMN = 40

__all__ = ["INLINE_LIMIT", "hop", "in_thread", "thread_limiter"]
