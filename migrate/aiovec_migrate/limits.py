"""The sizes of a run's operations."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    """The sizes of a run's operations."""

    # One write of a copy. A store with bulk loads makes a file for each write; others make a
    # transaction, which is slow if it outgrows the cache.
    bulk_bytes: int = 64 * 2**20
    bulk_rows: int = 50_000
    insert_bytes: int = 16 * 2**20
    insert_rows: int = 4_000

    # A page of changes: its bytes, and its fewest and most rows.
    page_bytes: int = 32 * 2**20
    least_page: int = 100
    most_page: int = 10_000

    compared_rows: int = 10_000_000
    """Rows whose hashes are in memory, 16 bytes each on either side; more rows take more passes."""
