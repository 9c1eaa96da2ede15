"""The numbers that a run's work goes by, each with its reason. Tests pass others."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    """The limits of one run."""

    notice: float = 3.0
    """Seconds from the mark to the first pause: by then stores that are in use have opened once
    where they are about to be led, with all that its driver takes to be imported."""

    # What is written at once. A store that takes bulk loads makes a file of each write; one that
    # does not, a transaction, and those that outgrow its cache are slow.
    bulk_bytes: int = 64 * 2**20
    bulk_rows: int = 50_000
    insert_bytes: int = 16 * 2**20
    insert_rows: int = 4_000

    # A page of changes: its bytes, and its rows at least and at most.
    page_bytes: int = 32 * 2**20
    least_page: int = 100
    most_page: int = 10_000
