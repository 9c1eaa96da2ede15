"""The state that all parts of one run share."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import pyarrow as pa

from aiovec.backend import Schema

from .embedding import Reembedding
from .events import Event, Kind, Listener, Options, Phase, unheard
from .places import OpenPlace


@dataclass(frozen=True, slots=True)
class Limits:
    """The maximum sizes of a run's operations."""

    # The limits of one write of a copy. A store with bulk loads makes a file for each write; other
    # stores make a transaction, which is slow if it outgrows the cache.
    bulk_bytes: int = 64 * 2**20
    bulk_rows: int = 50_000
    insert_bytes: int = 16 * 2**20
    insert_rows: int = 4_000

    # Maximum bytes, and maximum rows, in a page of changes.
    page_bytes: int = 32 * 2**20
    most_page: int = 10_000

    compared_rows: int = 10_000_000
    """Maximum rows of a table that are hashed in one pass, at 16 bytes of memory per row. Tables
    with more rows are compared in several passes."""


Step = Callable[[str], Awaitable[None]]
"""Called and awaited at each named step of a migration, with the step's name."""


async def no_step(name: str) -> None:
    """Do nothing. This is the default ``Step``."""


def run_of(source: OpenPlace, target: OpenPlace) -> str:
    """Return the name of a run between two stores: always the same for the same stores."""
    ends = [f"{place.backend.name} {place.backend.target}" for place in (source, target)]
    return hashlib.sha256("\n".join(ends).encode()).hexdigest()[:16]


@dataclass(slots=True)
class Work:
    """The two stores of a run, its options, and its listener."""

    source: OpenPlace
    target: OpenPlace
    options: Options = field(default_factory=Options)
    limits: Limits = field(default_factory=Limits)
    listener: Listener = unheard
    step: Step = no_step
    transform: Reembedding | None = None
    phase: Phase = "marking"

    @property
    def run(self) -> str:
        return run_of(self.source, self.target)

    @property
    def has_feed(self) -> bool:
        """True if the source reports which rows have changed."""
        return self.source.keeps_marks or self.source.backend.supports("changes")

    def schema(self, schema: Schema) -> Schema:
        """Return the schema that a source table gets in the target."""
        return schema if self.transform is None else self.transform.target_schema(schema)

    async def changed(self, rows: pa.Table) -> pa.Table:
        """Return the source's rows in the form in which the target stores them."""
        return rows if self.transform is None else await self.transform(rows)

    def enter(self, phase: Phase) -> None:
        self.phase = phase
        self.tell("phase")

    def tell(
        self,
        kind: Kind,
        text: str = "",
        *,
        table: str | None = None,
        rows: int | None = None,
        lag: int | None = None,
    ) -> None:
        self.listener(Event(kind, self.phase, table, rows, lag=lag, text=text))

    def progress(self, table: str, total: int) -> Callable[[int], None]:
        """Return a function that reports progress; call it with the number of rows just done."""
        now = asyncio.get_running_loop().time
        began, done = now(), 0
        phase = self.phase

        def through(rows: int) -> None:
            nonlocal done
            done += rows
            passed = now() - began
            rate = done / passed if passed > 0 else None
            most = max(done, total)
            left = None if rate is None else (most - done) / rate
            self.listener(Event("progress", phase, table, done, most, rate, left))

        return through
