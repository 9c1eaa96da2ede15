"""An import: its target tables, and the results for their rows."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, TypeVar, cast

from aiovec import VectorStore
from aiovec._input.infer import with_indexes
from aiovec._internals import StoreInternals
from aiovec.backend import LANGUAGES, Schema
from aiovec.backend.threads import in_thread
from aiovec.errors import (
    ConfigError,
    DimensionMismatchError,
    ModelMismatchError,
    TableExistsError,
    TableNotFoundError,
    UnsupportedError,
)

from .language import language_of, sample
from .sources import ForeignTable, Reader, Reject, RejectsFile, Wanted

_T = TypeVar("_T")

EXISTS = "the id already exists in the table"
# A reason may quote a value, so there can be as many reasons as rows. Reasons beyond this number
# are counted together.
_REASONS = 50


@dataclass(slots=True)
class Load:
    """A table to import: its target, its options, and the results for its rows.

    ``schema`` is first the user's schema, and later the table's. Each row is imported (``rows``) or
    listed as a reject (``rejected``); ``missing`` counts rows that the source counted but did not
    return. ``created`` is True if the import created the table, and ``problem`` is the reason why
    the rest of the source table cannot be read. ``skipped`` lists the files if an engine completed
    this load earlier.

    With ``chooses``, the first rows decide the analyzer of a new table; ``because`` is the reason,
    or empty before.
    """

    source: ForeignTable
    table: str
    schema: Schema | None = None
    seen: Callable[[int], None] = lambda rows: None
    rows: int = 0
    rejected: int = 0
    missing: int = 0
    created: bool = False
    problem: str = ""
    skipped: Sequence[str] = ()
    reasons: Counter[str] = field(default_factory=Counter)
    exists: bool = False
    chooses: bool = False
    because: str = ""

    @property
    def whole(self) -> bool:
        """True if all rows of the table were imported."""
        return not (self.rejected or self.missing or self.source.omitted or self.problem)

    @property
    def used_schema(self) -> Schema:
        """The schema of the target table."""
        return self.schema or self.source.schema

    def facts(self) -> dict[str, Any]:
        """Return the results for the table, for ``--json``."""
        source, schema = self.source, self.used_schema
        return {
            **source.facts(self.table), "created": self.created, "rows": self.rows,
            "rejected": self.rejected, "missing": self.missing, "skipped": self.skipped,
            "reasons": dict(self.reasons.most_common()), "dim": schema.dim,
            "metric": schema.metric, "model": schema.model, "fields": schema.to_dict()["fields"],
            **self.words(),
        }  # fmt: skip

    def words(self) -> dict[str, str]:
        """Return the analyzer, and why it was chosen, for ``--json``."""
        return {"analyzer": self.used_schema.analyzer, "analyzer_because": self.because}

    def choose_analyzer(self, rows: Any, problem: str = "") -> None:
        """Choose a new table's analyzer by its first rows, if it is to be chosen and was not yet.

        With a ``problem``, which explains why their language is not supported, choose another one.
        """
        schema = self.used_schema
        names = [name for name, field in schema.fields.items() if field.text]
        names = names or ([schema.embed.field] if schema.embed else [])
        if self.because or not (self.chooses and names):
            return
        text = sample(rows, names)
        analyzer, self.because = language_of(text), "the language of the first texts"
        if problem or not analyzer:
            # The kinds of models that are for English.
            is_english = schema.embed is not None and schema.embed.kind in ("local", "demo")
            analyzer = "english" if is_english else "plain"
            unclear = "no language is clear in the first texts" if text else "no text was read yet"
            self.because = (problem or unclear) + ", and the embedder is for English" * is_english
        self.schema = replace(schema, analyzer=cast("Any", analyzer))

    def note(self, rejects: Sequence[Reject]) -> None:
        """Count rejects by their reasons."""
        self.rejected += len(rejects)
        for reject in rejects:
            full = reject.reason not in self.reasons and len(self.reasons) >= _REASONS
            self.reasons["other reasons" if full else reject.reason] += 1


@dataclass
class Import(ABC):
    """An import of tables: the command runs it and reports the results.

    Items that cannot be imported are listed, and the rest is imported. With ``strict``, everything
    is checked before the first part is written, and nothing is written if one item is bad. A
    ``dry_run`` writes nothing.
    """

    going_on: ClassVar[str]
    unit: ClassVar[str] = "row"
    knows_changes: ClassVar[bool] = False
    """True if the import compares the source with the table, so that a dry run counts changes."""

    wanted: Wanted
    source: Reader
    loads: Sequence[Load]
    rejects: RejectsFile

    @property
    def kept(self) -> str:
        """A note about the rows written so far, for the error that ends an import; can be empty."""
        kept = [f"{load.rows:,} rows of {load.table!r}" for load in self.loads if load.rows]
        return f"{', '.join(kept)}; {self.going_on}" if kept else ""

    @property
    def whole(self) -> bool:
        """True if nothing was left out."""
        return all(load.whole for load in self.loads)

    @property
    def failed(self) -> dict[str, str]:
        """The tables that could not be read completely, with the reasons."""
        problems = {load.table: load.problem for load in self.loads if load.problem}
        return {**problems, **self.source.failed}

    def facts(self) -> dict[str, Any]:
        """Return the results of the import, for ``--json`` and for the report."""
        return {
            "file": self.source.name, "format": self.source.form, "backup": self.wanted.backup,
            "complete": self.whole and not self.failed, "failed": self.failed,
            "tables": [load.facts() for load in self.loads],
        }  # fmt: skip

    async def find(self, store: VectorStore) -> None:
        """Check the target tables; raise an error if the import is impossible.

        If the store does not exist yet, ``find`` is first called with an in-memory store.
        """
        for load in self.loads:
            await find_table(store, load, self.wanted)

    async def note(self, load: Load, rejects: Sequence[Reject]) -> None:
        """Count the rejects, and list them unless this is a dry run."""
        load.note(rejects)
        if rejects and not self.wanted.dry_run:
            await in_thread(self.rejects.write, load.table, self.source.place, rejects)

    @abstractmethod
    def parts(self) -> AsyncGenerator[Any, None]:
        """Read from the beginning: yield the parts to write, and list rejects."""

    async def check(self, store: VectorStore) -> None:
        """Read everything, and raise ConfigError if anything cannot be imported."""
        async with aclosing(self.parts()) as parts:
            async for _ in parts:
                pass
        self.refuse_rejects()

    def refuse_rejects(self) -> None:
        """Raise ConfigError if there are rejects."""
        if bad := sum(load.rejected for load in self.loads):
            things = f"1 {self.unit}" if bad == 1 else f"{bad:,} {self.unit}s"
            raise ConfigError(
                f"{things} cannot be imported, so none was; {self.rejects.place} lists each"
            )

    def is_over(self) -> bool:
        """Return whether an import that yielded no parts is over, so that it needs no store.

        Raises ConfigError if a table could not be read, or if there were rows but none could be
        imported.
        """
        if any(load.problem for load in self.loads):
            listed = "; ".join(f"{name}: {problem}" for name, problem in self.failed.items())
            raise ConfigError(f"no table can be imported: {listed}")
        if self.rejects.count:
            first = next(reason for load in self.loads for reason in load.reasons)
            fix = "; --upsert replaces the rows that exist" if first == EXISTS else ""
            raise ConfigError(
                f"not one of {self.rejects.count:,} rows could be imported; the first: {first}; "
                f"{self.rejects.place} lists each{fix}"
            )
        return False

    @abstractmethod
    async def write(self, store: VectorStore, part: Any) -> None:
        """Write a part."""

    @abstractmethod
    async def finish(self, store: VectorStore) -> Sequence[str]:
        """Finish after the last part, and return the tables that have changed."""


async def read_ahead(following: Callable[[], Awaitable[_T | None]]) -> AsyncGenerator[_T, None]:
    """Yield the results of ``following`` until it returns None, calling it one step ahead."""
    coming = asyncio.ensure_future(following())
    try:
        while (part := await coming) is not None:
            coming = asyncio.ensure_future(following())
            yield part
    finally:
        coming.cancel()
        # The source must not be closed while a thread still reads it.
        await asyncio.gather(coming, return_exceptions=True)


async def find_table(store: VectorStore, load: Load, wanted: Wanted) -> None:
    """Set ``load.schema`` to the schema of the existing table, or of the table to create."""
    schema = wanted_schema(load, wanted)
    if load.schema is None:
        load.chooses = not (wanted.analyzer or load.source.has_schema)
    if load.schema is None and schema.quantized and not store.supports("quantized"):
        # The schema was inferred from the file, not given by the user.
        schema = replace(schema, quantized=None)
    try:
        existing = await store.schema(load.table)
    except TableNotFoundError:
        load.schema = await StoreInternals(store).completed(load.table, schema)
        return
    if schema.dim or not load.source.texts:  # otherwise the table determines how vectors are made
        schema = await StoreInternals(store).completed(load.table, schema)
    # A schema from the user must be the same; an inferred one need not.
    if load.schema is not None and not load.chooses:
        await store.create_table(load.table, load.schema, exist_ok=True)
    if schema.model is not None and existing.model is not None and schema.model != existing.model:
        raise ModelMismatchError(load.table, existing.model, schema.model)
    if schema.dim not in (0, existing.dim):
        raise DimensionMismatchError(existing.dim, schema.dim)
    for name in ("metric", "analyzer"):
        used = getattr(existing, name)
        if getattr(wanted, name) not in (None, used):
            raise ConfigError(
                f"the table {load.table!r} exists with the {name} {used!r}; leave out --{name}, or "
                "name a new table",
                key=f"--{name}",
            )
    embeds = wanted.embed is None or (existing.embed and existing.embed.field == wanted.embed)
    if not embeds or with_indexes(existing, wanted.text, wanted.index) != existing:
        raise ConfigError(
            f"the table {load.table!r} exists, and --text, --index and --embed are for new tables",
            key="--text" if wanted.text else "--index" if wanted.index else "--embed",
        )
    load.schema, load.exists, load.chooses = existing, True, False


def wanted_schema(load: Load, wanted: Wanted) -> Schema:
    """Return the schema of a new table for these rows."""
    schema = load.used_schema
    if wanted.metric is not None:
        schema = replace(schema, metric=wanted.metric)
    if wanted.analyzer is not None:
        schema = replace(schema, analyzer=cast("Any", wanted.analyzer))
    if wanted.model is not None:
        if schema.model is not None and schema.model != wanted.model:
            raise ModelMismatchError(load.table, schema.model, wanted.model)
        schema = replace(schema, model=wanted.model)
    for option, names in (("--text", wanted.text), ("--index", wanted.index)):
        for name in set(names) - schema.fields.keys():
            fields = ", ".join(schema.fields) or "none"
            raise ConfigError(
                f"{option} {name}: there is no such field; the fields: {fields:.200}", key=option
            )
    if wanted.embed not in (None, schema.embed and schema.embed.field):
        schema = replace(schema, embed=wanted.embed_of(schema.fields))
    return with_indexes(schema, wanted.text, wanted.index)


async def create(store: VectorStore, load: Load) -> None:
    """Create the table if it does not exist."""
    if load.exists:
        return
    load.choose_analyzer([])
    try:
        await store.create_table(load.table, load.used_schema)
        load.created = True
    except TableExistsError:  # another process was faster; its schema must be the same
        if load.chooses:
            analyzer = (await store.schema(load.table)).analyzer
            load.schema = replace(load.used_schema, analyzer=analyzer)
            load.chooses, load.because = False, ""
        await store.create_table(load.table, load.used_schema, exist_ok=True)
    except UnsupportedError as exc:  # the languages of SQLite need a package
        if not (load.chooses and load.used_schema.analyzer in LANGUAGES):
            raise
        load.because = ""
        load.choose_analyzer([], str(exc.hint))
        await create(store, load)
    load.exists = True
