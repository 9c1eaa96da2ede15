"""Documents into a table of passages: which files they are, and which of them have changed.

A document's state is its rows: it has not changed if it has all its parts, with the hash of the
file now. All others are cut and replace their passages, so a killed import goes on.
"""

from __future__ import annotations

import os
from codecs import BOM_UTF8
from collections import Counter
from collections.abc import (
    AsyncGenerator,
    Callable,
    Collection,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from contextlib import aclosing, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

from aiovec import F, VectorStore
from aiovec._input.rows import Collected, to_batch
from aiovec._internals import StoreInternals
from aiovec.backend import Expr, Schema
from aiovec.backend.threads import in_thread
from aiovec.documents import SCHEMA, SUFFIXES, Cutter, passage_id, read_document, text_of_name
from aiovec.errors import ConfigError, DocumentError, InvalidRowError, TableNotFoundError

from .ignoring import Globs, Rules, is_ignored, rules_above, rules_in
from .sources import Import, Reject, RejectsFile, read_ahead

# Passages of one upsert: whole documents, until there are so many.
_ROWS_AT_ONCE = 1000
# Documents whose passages one delete removes.
_DELETED_AT_ONCE = 500
_LONG_AGO = datetime(1970, 1, 1, tzinfo=UTC)
_KINDS_SHOWN = 10

KINDS = ", ".join(sorted(SUFFIXES))
"""The suffixes of documents, in words."""


Row = dict[str, Any]
_Part = tuple[list[str], list[Row]]
"""Documents whose earlier passages go, and the passages of new and changed documents."""


@dataclass(slots=True)
class Documents:
    """The files of documents by their sources, and the number of others by suffix or reason."""

    files: dict[str, Path] = field(default_factory=dict)
    left_out: Counter[str] = field(default_factory=Counter)

    @property
    def others(self) -> str:
        """The files that are left out, in words: ``20 files: 16 .odt, 3 .csv, 1 by .gitignore``.

        A folder that a glob names is one of them.
        """
        kinds = sorted(self.left_out.items(), key=lambda kind: (-kind[1], kind[0]))
        named = [f"{count:,} {suffix or 'without a suffix'}" for suffix, count in kinds]
        if len(named) > _KINDS_SHOWN:
            named[_KINDS_SHOWN:] = [f"{sum(n for _, n in kinds[_KINDS_SHOWN:]):,} of other kinds"]
        total = self.left_out.total()
        return f"{total:,} file{'s' * (total != 1)}: {', '.join(named)}"


def documents_in(
    places: Sequence[str], base: str = "", include: Sequence[str] = (), exclude: Sequence[str] = ()
) -> Documents:
    """Find the documents among files and in folders; there are none if no place has one.

    Folders are walked, also behind links; left out are names that begin with a dot, what a
    ``.gitignore`` or ``exclude`` names and, with ``include``, all that it does not name. A folder
    in one that cannot be read is there with a slash behind its name, and fails as a document.
    """
    found = Documents()
    globs = Globs(include) if include else None, Globs(exclude)
    empty = []
    for place in places:
        path = Path(os.path.expanduser(place))
        is_file = path.suffix.lower() in SUFFIXES and not path.is_dir()
        below = {path.name: path} if is_file else _walked(path, found.left_out, *globs)
        empty += [] if below else [place]
        for name, file in below.items():
            source = base + text_of_name(name)
            known = found.files.setdefault(source, file)
            if known != file and os.path.realpath(known) != os.path.realpath(file):
                raise ConfigError(
                    f"{known} and {file} would both be the source {source!r}; import the folder "
                    "above them, or each by itself with a --base of its own"
                )
    if found.files and empty:
        raise ConfigError(f"{empty[0]} is no document ({KINDS}), and no folder with documents")
    return found


def _walked(
    top: Path, left_out: Counter[str], include: Globs | None, exclude: Globs
) -> dict[str, Path]:
    """Return the documents in a folder by their paths below it, and what cannot be read.

    A folder that links lead to twice is walked once. Other files are counted as ``left_out``.
    """
    files: dict[str, Path] = {}
    unread, seen = [], set()
    rules_of = {os.path.dirname(top): rules_above(top)}

    def is_wanted(path: str, rules: Rules) -> bool:
        for says_no, reason in (
            (exclude.say(path), "by --exclude"),
            (is_ignored(path, rules), "by .gitignore"),
            (include and path[-1] != "/" and not include.name(path), "by --include"),
        ):
            if says_no:
                left_out[reason] += 1
                return False
        return True

    for folder, folders, names in os.walk(
        top, onerror=lambda exc: unread.append(Path(exc.filename)), followlinks=True
    ):
        status = os.stat(folder)
        if (status.st_dev, status.st_ino) in seen:
            folders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        at = "".join(f"{name}/" for name in Path(folder).relative_to(top).parts)
        rules = rules_of[os.path.dirname(folder)] + rules_in(Path(folder), "", len(at))
        rules_of[folder] = rules
        shown = sorted(name for name in folders if not name.startswith("."))
        folders[:] = [name for name in shown if is_wanted(f"{at}{name}/", rules)]
        for path in (Path(folder, name) for name in sorted(names) if not name.startswith(".")):
            if path.suffix.lower() in SUFFIXES:
                files |= {at + path.name: path} if is_wanted(at + path.name, rules) else {}
            elif os.path.exists(path):
                left_out[path.suffix.lower()] += 1
            else:  # a link, perhaps to a folder that is not mounted now
                unread.append(path)
    return files and files | {f"{path.relative_to(top).as_posix()}/": path for path in unread}


@dataclass
class DocumentImport(Import):
    """Documents: the passages of each replace those of its earlier version.

    ``look`` looks for ``documents`` again. ``names`` maps the fields of a passage to those of an
    existing table. ``counts`` has the documents that are new, changed, unchanged, empty, deleted
    and failed, and the ``passages`` written. ``gone`` are the deleted ones. With ``only``, just
    these documents are looked for in the table.
    """

    unit: ClassVar[str] = "documents"

    documents: Documents
    look: Callable[[], Documents]
    table: str
    rejects: RejectsFile
    names: Mapping[str, str]
    new: Schema
    base: str = ""
    size: int | None = None
    overlap: int = 0
    delete: bool = False
    delete_all: bool = False
    dry_run: bool = False
    strict: bool = False
    only: Collection[str] | None = None
    seen: Callable[[int], None] = lambda documents: None
    gone: Sequence[str] = ()
    counts: Counter[str] = field(default_factory=Counter)
    # What follows is of one run: a copy with other documents begins without it.
    reasons: dict[str, str] = field(default_factory=dict, init=False)
    _cutter: Cutter = field(default_factory=Cutter, init=False)
    _schema: Schema = field(default=SCHEMA, init=False)
    _exists: bool = field(default=False, init=False)
    # The passages of each document in the table, by their hash and number of parts.
    _known: dict[str, Counter[tuple[str, int]]] = field(default_factory=dict, init=False)
    # The documents that imports with this ``base`` stored.
    _own: set[str] = field(default_factory=set, init=False)

    def followed(self) -> Iterable[tuple[DocumentImport, str, int | None]]:
        return [(self, self.table, len(self.documents.files))]

    def wanted(self) -> tuple[str, Schema]:
        return self.table, self.new

    @property
    def stored(self) -> Collection[str]:
        """The documents that earlier imports stored, once the table was read."""
        return self._own

    async def find(self, store: VectorStore) -> None:
        """Read the schema of the table, and the state of each document in it."""
        try:
            self._schema = await store.schema(self.table)
            self._exists = True
        except TableNotFoundError:
            self._schema = await StoreInternals(store).completed(self.table, self.new)
        body, embed = self._name("body"), self._schema.embed
        if embed is None or embed.field != body:
            made = f"of {embed.field!r}" if embed else "of no field"
            raise ConfigError(
                f"the table {self.table!r} makes its vectors {made}, not of {body!r}; name the "
                "field of the texts with --fields body=FIELD, or another table",
                key="--fields",
            )
        tokenizer, _ = await StoreInternals(store).tokenizer(self._schema)
        self._cutter = Cutter(self.size, self.overlap, tokenizer, self._cutter.stop)
        if self._exists:
            await self._find_documents(store)
        gone, own = len(self._gone(self.documents)), len(self._own)
        if self.delete and gone * 2 > own and not (self.delete_all or self.dry_run):
            raise ConfigError(
                f"--delete would delete {gone:,} of {own:,} documents in {self.table!r} that were "
                "imported with this --base; --dry-run lists them, and --delete-all deletes them"
            )

    async def _find_documents(self, store: VectorStore) -> None:
        names = ("source", "hash", "parts", "base")
        begins = {passage_id(source, 1).removesuffix("1") for source in self.documents.files}
        where = None if self.only is None else F[self._ref("source")].in_(self.only)
        async for row in store.rows(self.table, where, select=[*map(self._ref, names)]):
            document, digest, parts, base = (row.get(self._name(name)) for name in names)
            if None not in (document, digest, parts):
                state = self._known.setdefault(document, Counter())
                state[digest, parts] += 1
                if base == self.base:
                    self._own.add(document)
            elif row.id.rstrip("0123456789") in begins:
                raise ConfigError(
                    f"the row {row.id!r} of the table {self.table!r} is no passage, and a passage "
                    "of these documents would have its id; choose another --table"
                )

    def _name(self, name: str) -> str:
        return self.names.get(name, name)

    def _ref(self, name: str) -> str:
        """Return a field of passages as selections and filters of the table name it."""
        name = self._name(name)
        return name if name in self._schema.fields else f"payload.{name}"

    def _passages(self, sources: Sequence[str]) -> Expr:
        """Return the filter of the passages of documents. Other rows may have a source too."""
        is_passage = F[self._ref("hash")].is_not_null() & F[self._ref("parts")].is_not_null()
        return is_passage & F[self._ref("source")].in_(sources)

    def _cut(self) -> Iterator[_Part]:
        """Yield new and changed documents with their passages, as many as one upsert has.

        A document that cannot be read keeps its passages, one that is empty now loses them.
        """
        changed: list[str] = []
        rows: list[Row] = []
        for number, (source, path) in enumerate(self.documents.files.items(), start=1):
            try:
                data, modified = read_document(path, source)
                state = self._known.get(source)
                digest = self._cutter.hash(data)
                is_empty = not data.removeprefix(BOM_UTF8).strip()
                if state is not None and {(digest, state.total()): state.total()} == state:
                    self.counts["unchanged"] += 1
                elif state is None and is_empty:
                    self.counts["empty"] += 1
                else:
                    rows += [] if is_empty else self._rows(data, source, modified)
                    changed += [] if state is None else [source]
                    self.counts["new" if state is None else "changed"] += 1
            except DocumentError as exc:
                self.counts["failed"] += 1
                self.reasons[source] = exc.reason
                if not self.dry_run:
                    reject = Reject(source, None, exc.reason)
                    self.rejects.write(self.table, "document", [reject])
            self.seen(number)
            if len(rows) >= _ROWS_AT_ONCE:
                yield changed, rows
                changed, rows = [], []
        if changed or rows:
            yield changed, rows

    def _rows(self, data: bytes, source: str, modified: datetime) -> list[Row]:
        """Return the passages of a document as rows of the table, or raise DocumentError."""
        changed, date = (self._schema.fields.get(self._name(n)) for n in ("modified", "date"))
        rows = []
        for row in self._cutter.rows(data, source, modified):
            row["base"] = self.base
            if changed is None or changed.kind == "text":  # None: a key of the payload
                row["modified"] = modified.isoformat()
            if date is not None and date.kind == "datetime" and "date" in row:
                with suppress(ValueError):  # a day begins in UTC
                    day = datetime.fromisoformat(row["date"])
                    row["date"] = day if day.tzinfo else day.replace(tzinfo=UTC)
            rows.append({self._name(name): value for name, value in row.items()})
        try:
            to_batch(Collected(rows), self._schema)
        except InvalidRowError as exc:
            raise DocumentError(source, f"field {exc.field!r}: {exc.reason}") from exc
        return rows

    async def parts(self) -> AsyncGenerator[_Part, None]:
        """Cut the next documents while the last ones are embedded."""
        self.counts.clear()
        async with aclosing(
            read_ahead(partial(next, self._cut(), None), self._cutter.stop)
        ) as parts:
            async for part in parts:
                self.counts["passages"] += len(part[1])
                yield part

    async def check(self, store: VectorStore) -> None:
        async with aclosing(self.parts()) as parts:
            async for _ in parts:
                pass
        self.rejects.refuse(self.counts["failed"], "document")

    def is_over(self) -> bool:
        return True

    async def write(self, store: VectorStore, part: _Part) -> None:
        """Replace the passages of some documents, in one call if rows of the table can expire."""
        changed, rows = part
        if not self._exists:
            await store.create_table(self.table, self._schema, exist_ok=True)
            self._exists = True
        ids = {row["id"] for row in rows}
        where = self._passages(changed)
        old = await store.find(self.table, where, limit=None, select=[]) if changed else []
        gone = [row.id for row in old if row.id not in ids]
        await replace_rows(store, self.table, self._schema, rows, gone)

    def _gone(self, present: Documents) -> list[str]:
        """Return the documents of imports with this ``base`` whose files are gone."""
        unread = tuple(source for source in present.files if source.endswith("/"))
        gone = self._own - self.documents.files.keys() - present.files.keys()
        return sorted(source for source in gone if not source.startswith(unread))

    async def finish(self, store: VectorStore) -> Sequence[str]:
        """Delete the passages of documents that are gone."""
        if self.delete:
            # Another import may have added some since. If none is left, the folder may be
            # unmounted.
            present = await in_thread(self.look)
            self.gone = self._gone(present) if present.files else []
        self.counts["deleted"] = len(self.gone)
        for start in range(0, 0 if self.dry_run else len(self.gone), _DELETED_AT_ONCE):
            sources = self.gone[start : start + _DELETED_AT_ONCE]
            where = self._passages(sources) & (F[self._ref("base")] == self.base)
            await store.delete(self.table, where=where)
        written = any(self.counts[what] for what in ("new", "changed", "deleted"))
        return [self.table] if written else []


async def replace_rows(
    store: VectorStore, table: str, schema: Schema, rows: list[Row], gone: Sequence[str]
) -> None:
    """Upsert rows, and remove others, in one call if rows of the table can expire."""
    # A row that only expires has no values for the other fields.
    nullable = all(field.nullable for field in schema.fields.values())
    expires = schema.expires if nullable else None
    if gone and expires is not None:
        vector = [1.0, *[0.0] * (schema.dim - 1)]
        rows = [*rows, *({"id": id, schema.vector: vector, expires: _LONG_AGO} for id in gone)]
    await store.upsert(table, rows)
    if gone and expires is None:
        await store.delete(table, gone)
