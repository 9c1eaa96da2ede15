"""Build indexes while others write, measure them, and store the results in the table's metadata.

A build reads one version of the table and commits when it ends. Lance merges the commit with later
writes; newer rows are searched without the index until upkeep adds them. So writers never wait for
a build. A cancelled build does not change the table.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np

from aiovec.backend import Float32Array
from aiovec.backend.contract import TableHandle
from aiovec.errors import InvalidArgumentError, StoreBusyError

from ..commit import SeparateWrite
from ..driver import indexing
from ..layout import tuned_in
from ..session import Session, Snapshot
from ..table import Writes
from . import kinds, recall
from .effort import FEWEST_QUESTIONS, GIVEN, KEY, MOST_QUESTIONS, OWN, Tuned
from .fields import index_name, lacking
from .info import InUse, vector_index

# The most attempts at a build if other commits conflict with it.
_ATTEMPTS = 3

SETTLED = timedelta(minutes=10)
"""The time without a commit after which even a large graph is worth building."""


IndexMaker = Callable[[str, str, Any, str], Awaitable[bool]]
"""A function that builds an index. Its arguments are the table, the column, a lancedb configuration
and the index's name. It returns False to leave the build to LanceDB."""

MAKER: ContextVar[IndexMaker | None] = ContextVar("aiovec_maker", default=None)
"""An engine's function that builds this task's indexes instead of LanceDB."""


@dataclass(frozen=True, slots=True)
class Build:
    """A checked request for an index build."""

    kind: str
    options: Mapping[str, int]
    auto: bool
    target: float | None
    rows: int


async def note(tuned: Tuned, table: Snapshot) -> Snapshot:
    """Store ``tuned`` in the vector column's metadata; return the table's new version."""
    await table.session.annotate(table.lance, table.schema.vector, {KEY: tuned.model_dump_json()})
    return await table.advanced()


async def drop(index: str, table: Snapshot) -> None:
    """Drop this vector index, after recording in the table that upkeep must not rebuild it."""
    vectors = await vector_index(table)
    if vectors is not None and vectors.name == index:
        await note(Tuned(kept_off=True, target=vectors.tuned.target), table)
        await table.session.run(table.lance.drop_index(index))


async def reopened(session: Session, handle: TableHandle) -> Snapshot:
    """Return the table's newest version, even if its fields have changed.

    Raises StoreBusyError while an engine fills the table, because the engine removes files to which
    no version refers yet, such as the files of an unfinished build.
    """
    table = await session.opened(handle, altered=True)
    table.check_not_filled()
    return table


class Asked:
    """Users' search vectors for one table, used to measure its index."""

    def __init__(self) -> None:
        # Distinct query vectors of searches, the newest last, and vectors that a user passed.
        self._asked: dict[bytes, None] = {}
        self._given: Float32Array | None = None

    @property
    def is_full(self) -> bool:
        """True if ``MOST_QUESTIONS`` query vectors from searches are kept."""
        return len(self._asked) >= MOST_QUESTIONS

    def searched(self, vectors: Iterable[Float32Array]) -> bool:
        """Keep the query vectors of searches for measuring the vector index.

        Return True if the number of kept vectors has just reached the minimum for a measurement or
        the maximum to keep.
        """
        before = len(self._asked)
        for vector in vectors:
            key = vector.tobytes()
            self._asked.pop(key, None)
            self._asked[key] = None
            if len(self._asked) > MOST_QUESTIONS:
                del self._asked[next(iter(self._asked))]
        known = len(self._asked)
        return before < FEWEST_QUESTIONS <= known or before < known == MOST_QUESTIONS

    def give(self, questions: Float32Array) -> None:
        """Keep questions that a user passed.

        They take precedence over vectors recorded from searches.
        """
        if len(questions) < FEWEST_QUESTIONS:
            expected = f"at least {FEWEST_QUESTIONS} vectors to measure the recall with"
            raise InvalidArgumentError("questions", f"{len(questions)} vectors", expected)
        self._given = questions[:: math.ceil(len(questions) / MOST_QUESTIONS)].copy()

    def questions(self, dim: int) -> recall.Questions | None:
        """Return the questions with this many dimensions; None if there are too few."""
        if self._given is not None and self._given.shape[1] == dim:
            return recall.Questions(self._given, GIVEN)
        # Vectors of other lengths were for an earlier table with this name.
        known = [key for key in self._asked if len(key) == 4 * dim]
        if len(known) < FEWEST_QUESTIONS:
            return None
        vectors = np.frombuffer(b"".join(known), dtype=np.float32).reshape(-1, dim)
        return recall.Questions(vectors, OWN)


class Builds:
    """Builds and measures a table's indexes, one at a time."""

    def __init__(self, writes: Writes) -> None:
        self._writes = writes
        self._session = writes.versions.session
        self.asked = Asked()
        self.doing: str | None = None
        """A phrase that describes the current work on the indexes, if any."""

    async def plan(
        self,
        table: Snapshot,
        kind: str,
        options: dict[str, int],
        target: float | None,
        *,
        settled: bool = False,
    ) -> Build:
        """Return the index to build. Raises InvalidArgumentError if it cannot be built."""
        rows, least = await table.rows(), self._session.settings.index_from
        auto = kind == kinds.AUTO
        if target is None:
            target = tuned_in(table.arrow, table.schema).target
        if auto and (rows == 0 or rows < least):
            return Build(kinds.NONE, {}, auto=True, target=target, rows=rows)
        if not rows:
            raise InvalidArgumentError("kind", kind, "'auto', because the table has no rows yet")
        if auto:
            # In a bucket, each reader would fetch a whole graph; engines cannot build graphs.
            graph = self._session.exclusive and MAKER.get() is None
            kind = kinds.chosen_kind(table.schema, rows, graph=graph, settled=settled)
        plan = kinds.plan_of(kind, options, rows, table.schema.dim)
        return Build(kind, plan, auto, target, rows)

    async def is_settled(self, table: Snapshot) -> bool:
        """Return whether the table's last commit was at least ``SETTLED`` ago."""
        versions = await self._session.listed_versions(table)
        return bool(versions) and datetime.now(UTC) - versions[-1].created >= SETTLED

    async def plan_again(
        self, table: Snapshot, index: InUse | None, *, settled: bool = False
    ) -> Build:
        """Plan a rebuild of the current index. If "auto" chose its kind, or if the table has no
        index, plan the index named in the settings instead."""
        if index is not None and not index.tuned.auto:
            known = index.tuned
            return await self.plan(table, index.kind.name, dict(known.options), known.target)
        kind = self._session.settings.index
        by_settings = await self.plan(table, kind, {}, None, settled=settled)
        return replace(by_settings, auto=True)

    async def build(self, table: Snapshot, build: Build) -> None:
        """Build and measure the vector index; for the kind "none", only store the target recall."""
        noted = tuned_in(table.arrow, table.schema).with_changes(kept_off=False, begun=None)
        tuned = noted.with_changes(target=build.target)
        if build.kind == kinds.NONE:
            await self._keep(table, tuned)
            return
        changes = {"kind": build.kind, "auto": build.auto, "options": dict(build.options)}
        if noted.kind != build.kind:  # the effort was measured for another kind
            changes |= {"effort": None, "recall": None}
        tuned = tuned.with_changes(**changes, built_rows=build.rows, measured_rows=0)
        # Until the build succeeds, searches use the existing index. If the process ends before the
        # second note, the new index is recognized by its kind.
        table = await self._keep(table, noted.with_changes(begun=tuned))
        config = kinds.config_of(build.kind, build.options, build.rows, table.schema.metric)
        table = await self._build(table, table.schema.vector, config, f"building {build.kind}")
        await self.measure(await self._keep(table, tuned))

    async def build_id_index(self, table: Snapshot) -> Snapshot:
        """Build the index over the ids, for calls by id; return the table's new version."""
        return await self._build(table, "id", indexing.BTree(), "building the index of the ids")

    async def build_lacking(self, table: Snapshot, *, whole: bool = False) -> Snapshot:
        """Build the indexes that the fields need but lack; with ``whole``, also rebuild indexes
        that do not cover all rows. Return the table's new version."""
        fields, analyzer = table.schema.fields, table.schema.analyzer
        for name, config in lacking(await table.indexes(), fields, analyzer, whole=whole):
            table = await self._build(table, name, config, f"indexing {name}")
        return table

    async def _build(self, table: Snapshot, column: str, config: Any, activity: str) -> Snapshot:
        """Build one index; return the table's new version."""
        maker = MAKER.get()
        for attempt in range(1, _ATTEMPTS + 1):
            name = index_name(await table.indexes(), column, config)
            try:
                with self._tell(activity), self._session.guarded:
                    elsewhere = maker is not None and await maker(
                        table.name, column, config, name or f"{column}_idx"
                    )
                    if not elsewhere:
                        await table.lance.create_index(
                            column, config=config, replace=True, name=name
                        )
            except StoreBusyError:
                if attempt == _ATTEMPTS:
                    raise
                table = await reopened(self._session, table.handle)
            else:
                break
        self._writes.versions.has_changed()
        if elsewhere:  # by another process
            return await reopened(self._session, table.handle)
        return await table.advanced()

    async def measure(self, table: Snapshot) -> None:
        """Measure the effort that the vector index needs, and store it with the table."""
        index = await vector_index(table)
        if index is None:
            return
        with self._tell(f"measuring {index.kind.name}"):
            rows = await table.rows()
            partitions = max(1, rows // (index.partition_size or max(1, math.isqrt(rows))))
            questions = self.asked.questions(table.schema.dim) or await recall.make_questions(table)
            target, count = index.target, len(questions.vectors)
            measured = await recall.measure(table, index.kind, partitions, questions, target)
            tuned = index.tuned.with_changes(
                kind=index.kind.name, begun=None,
                measured_rows=rows, sought=target, questions=count, whose=questions.whose,
                effort=None if measured is None else measured.effort,
                recall=None if measured is None else measured.recall,
            )  # fmt: skip
            await self._keep(table, tuned)

    async def _keep(self, table: Snapshot, tuned: Tuned) -> Snapshot:
        change = SeparateWrite(note, table.handle, altered=True, args=(tuned,))
        noted: Snapshot = await self._writes.commit(change)
        return noted

    @contextmanager
    def _tell(self, activity: str) -> Iterator[None]:
        self.doing = activity
        try:
            yield
        finally:
            self.doing = None
