"""Tables as sums of their rows' hashes, and what two sides do not have in common."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from .hashing import BoolArray, Hashes, Int64Array, UInt64Array, mixed


@dataclass(frozen=True, slots=True)
class Limits:
    """What a comparison may keep: a bucket takes 24 bytes a side, a row 16."""

    buckets: int = 2**16
    kept: int = 2**18
    collected: int = 2**21


LIMITS = Limits()


class Kept:
    """The hashes of rows, side by side."""

    def __init__(self) -> None:
        self._ids: list[UInt64Array] = []
        self._rows: list[UInt64Array] = []

    def add(self, hashes: Hashes, chosen: BoolArray | None = None) -> None:
        self._ids.append(hashes.ids if chosen is None else hashes.ids[chosen])
        self._rows.append(hashes.rows if chosen is None else hashes.rows[chosen])

    def all(self) -> Hashes:
        nothing = np.empty(0, dtype=np.uint64)
        return Hashes(np.concatenate([nothing, *self._ids]), np.concatenate([nothing, *self._rows]))


class Digest:
    """The sums of a table's rows, in buckets of the id's hash."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self.rows = 0
        self.layout: pa.Schema | None = None
        """That of the batches as they came, None where none came."""
        self.counts = np.zeros(limits.buckets, dtype=np.int64)
        self.sums = np.zeros((2, limits.buckets), dtype=np.uint64)
        self.kept: Kept | None = Kept()

    def add(self, batch: pa.RecordBatch, hashes: Hashes) -> None:
        if self.layout is None:
            self.layout = batch.schema
        self.rows += len(hashes.ids)
        buckets = bucket_of(hashes.ids, self._limits.buckets)
        self.counts += np.bincount(buckets.astype(np.int64), minlength=self._limits.buckets)
        np.add.at(self.sums[0], buckets, hashes.rows)
        # Of another function, so that what one sum cannot see the other does.
        np.add.at(self.sums[1], buckets, mixed(hashes.rows ^ hashes.ids))
        if self.kept is not None:
            self.kept.add(hashes)
            if self.rows > self._limits.kept:
                self.kept = None

    def differing(self, other: Digest) -> BoolArray:
        """The buckets whose rows are not the same."""
        sums = (self.sums != other.sums).any(axis=0)
        return (self.counts != other.counts) | sums  # type: ignore[no-any-return]  # numpy's or


def bucket_of(ids: UInt64Array, buckets: int) -> UInt64Array:
    return ids % np.uint64(buckets)


def among(hashes: UInt64Array, wanted: UInt64Array) -> BoolArray:
    """Which of the hashes are among the wanted ones, which are sorted and not empty."""
    places = np.searchsorted(wanted, hashes).clip(max=len(wanted) - 1)
    return wanted[places] == hashes  # type: ignore[no-any-return]  # numpy's comparison


def in_parts(chosen: BoolArray, counts: Int64Array, most: int) -> Iterator[BoolArray]:
    """The chosen buckets in groups, each of some ``most`` rows or of one bucket."""
    part = np.zeros_like(chosen)
    rows = 0
    for bucket in np.flatnonzero(chosen).tolist():
        if rows and rows + counts[bucket] > most:
            yield part
            part, rows = np.zeros_like(chosen), 0
        part[bucket] = True
        rows += int(counts[bucket])
    if rows:
        yield part


def unlike(mine: Hashes, theirs: Hashes) -> tuple[UInt64Array, UInt64Array, UInt64Array]:
    """The ids' hashes of what only the first has, only the second, and both but otherwise.

    A row's hash covers its id, so equal ones are the same row.
    """
    here = np.unique(mine.ids[~np.isin(mine.rows, theirs.rows)])
    there = np.unique(theirs.ids[~np.isin(theirs.rows, mine.rows)])
    return (
        np.setdiff1d(here, there, assume_unique=True),
        np.setdiff1d(there, here, assume_unique=True),
        np.intersect1d(here, there, assume_unique=True),
    )
