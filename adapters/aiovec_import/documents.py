"""Documents into a table of passages: which files they are, and which of them have changed.

A document's state is its rows: it has not changed if it has all its parts, with the hash of the
file now. All others are cut and replace their passages, so a killed import goes on.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from aiovec import F, VectorStore
from aiovec._internals import StoreInternals
from aiovec.backend import Schema
from aiovec.backend.threads import in_thread
from aiovec.documents import SCHEMA, SUFFIXES, Cutter, read_document, text_of_name
from aiovec.errors import ConfigError, DocumentError, TableNotFoundError

from .sources import Reject, RejectsFile, read_ahead

# Passages of one upsert: whole documents, until there are so many.
_ROWS_AT_ONCE = 1000
# Documents whose passages one delete removes.
_DELETED_AT_ONCE = 500
_LONG_AGO = datetime(1970, 1, 1, tzinfo=UTC)


def documents_in(places: Sequence[str], base: str = "") -> dict[str, Path] | None:
    """Return the documents among files and in folders by their sources; None if there are none.

    Folders are walked, also behind links; names that begin with a dot are left out. A folder in one
    that cannot be read is there with a slash behind its name, and fails as a document.
    """
    files: dict[str, Path] = {}
    others = []
    for place in places:
        path = Path(os.path.expanduser(place))
        is_file = path.suffix.lower() in SUFFIXES and not path.is_dir()
        below = {path.name: path} if is_file else _walked(path)
        others += [] if below else [place]
        for name, file in below.items():
            source = base + text_of_name(name)
            known = files.setdefault(source, file)
            if known != file and os.path.realpath(known) != os.path.realpath(file):
                raise ConfigError(
                    f"{known} and {file} would both be the source {source!r}; import the folder "
                    "above them, or each by itself with a --base of its own"
                )
    if files and others:
        kinds = ", ".join(sorted(SUFFIXES))
        raise ConfigError(f"{others[0]} is no document ({kinds}), and no folder with documents")
    return files or None


def _walked(top: Path) -> dict[str, Path]:
    """Return the documents in a folder by their paths below it, and what cannot be read.

    A folder that links lead to twice is walked once.
    """
    files, unread, seen = [], [], set()
    for folder, folders, names in os.walk(
        top, onerror=lambda exc: unread.append(Path(exc.filename)), followlinks=True
    ):
        status = os.stat(folder)
        if (status.st_dev, status.st_ino) in seen:
            folders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for path in (Path(folder, name) for name in sorted(names) if not name.startswith(".")):
            if path.suffix.lower() in SUFFIXES:
                files.append(path)
            elif not os.path.exists(path):  # a link, perhaps to a folder that is not mounted now
                unread.append(path)
    paths = {path.relative_to(top).as_posix(): path for path in files}
    return paths and paths | {f"{path.relative_to(top).as_posix()}/": path for path in unread}


@dataclass(slots=True)
class DocumentImport:
    """Documents to import, and what became of them.

    ``look`` looks for ``files`` again. ``names`` maps the fields of a passage to those of an
    existing table. ``counts`` has the documents that are new, changed, unchanged, deleted and
    failed, and the ``passages`` written. ``gone`` are the deleted ones.
    """

    files: Mapping[str, Path]
    look: Callable[[], Mapping[str, Path] | None]
    table: str
    rejects: RejectsFile
    names: Mapping[str, str]
    new: Schema
    base: str = ""
    size: int | None = None
    overlap: int = 0
    delete: bool = False
    dry_run: bool = False
    strict: bool = False
    seen: Callable[[int], None] = lambda documents: None
    gone: Sequence[str] = ()
    counts: Counter[str] = field(default_factory=Counter)
    reasons: dict[str, str] = field(default_factory=dict)
    _schema: Schema = SCHEMA
    _exists: bool = False
    # The passages of each document in the table, by their hash and number of parts.
    _known: dict[str, Counter[tuple[str, int]]] = field(default_factory=dict)

    async def run(self, store: VectorStore | None) -> None:
        """Import the documents; without a store, which does not exist yet, only count them."""
        tokenizer = None
        if store is not None:
            await self._find_table(store)
            tokenizer = await StoreInternals(store).tokenizer(self._schema)
        cutter = Cutter(self.size, self.overlap, tokenizer)
        done = False
        try:
            if self.strict and not self.dry_run:  # which shows all reasons instead
                await in_thread(self._check, cutter)
            target = None if self.dry_run else store
            await self._replace(target, cutter)
            if self.delete:
                await self._delete(target)
            done = True
        finally:
            await in_thread(self.rejects.close, done and not self.dry_run)

    async def _find_table(self, store: VectorStore) -> None:
        """Read the schema of the table, and the state of each document in it."""
        try:
            schema = self._schema = await store.schema(self.table)
        except TableNotFoundError:
            self._schema = await StoreInternals(store).completed(self.table, self.new)
            return
        self._exists = True
        body = self._name("body")
        if schema.embed is None or schema.embed.field != body:
            made = f"of {schema.embed.field!r}" if schema.embed else "of no field"
            raise ConfigError(
                f"the table {self.table!r} makes its vectors {made}, not of {body!r}; name the "
                "field of the texts with --fields body=FIELD, or another table",
                key="--fields",
            )
        source, digest, parts = map(self._name, ("source", "hash", "parts"))
        select = [self._ref(name) for name in ("source", "hash", "parts")]
        async for row in store.rows(self.table, select=select):
            if (document := row.get(source)) is not None:
                state = self._known.setdefault(document, Counter())
                state[row.get(digest), row.get(parts)] += 1

    def _name(self, name: str) -> str:
        return self.names.get(name, name)

    def _ref(self, name: str) -> str:
        """Return a field of passages as selections and filters of the table name it."""
        name = self._name(name)
        return name if name in self._schema.fields else f"payload.{name}"

    def _cut(self, cutter: Cutter) -> Iterator[list[dict[str, Any]]]:
        """Yield the passages of new and changed documents, as many whole ones as one upsert has.

        A document that cannot be read keeps its passages.
        """
        rows: list[dict[str, Any]] = []
        for number, (source, path) in enumerate(self.files.items(), start=1):
            try:
                data, modified = read_document(path, source)
                state = self._known.get(source)
                digest = cutter.hash(data)
                if state is not None and {(digest, state.total()): state.total()} == state:
                    self.counts["unchanged"] += 1
                else:
                    rows += cutter.rows(data, source, modified)
                    self.counts["new" if state is None else "changed"] += 1
            except DocumentError as exc:
                self.counts["failed"] += 1
                self.reasons[source] = exc.reason
                if not self.dry_run:
                    reject = Reject(source, None, exc.reason)
                    self.rejects.write(self.table, "document", [reject])
            self.seen(number)
            if len(rows) >= _ROWS_AT_ONCE:
                yield rows
                rows = []
        if rows:
            yield rows

    def _check(self, cutter: Cutter) -> None:
        """Raise ConfigError if a document cannot be read, with all of them in the list."""
        for _ in self._cut(cutter):
            pass
        self.rejects.refuse(self.counts["failed"], "document")
        self.counts.clear()

    async def _replace(self, store: VectorStore | None, cutter: Cutter) -> None:
        """Write what changed. The next documents are cut while the last ones are embedded."""
        async with aclosing(read_ahead(partial(next, self._cut(cutter), None))) as parts:
            async for rows in parts:
                if store is not None:
                    await self._write(store, rows)
                self.counts["passages"] += len(rows)

    async def _write(self, store: VectorStore, rows: list[dict[str, Any]]) -> None:
        """Replace the passages of some documents, in one call if rows of the table can expire."""
        if not self._exists:
            await store.create_table(self.table, self._schema, exist_ok=True)
            self._exists = True
        ids = {row["id"] for row in rows}
        changed = {row["source"] for row in rows} & self._known.keys()
        where = F[self._ref("source")].in_(sorted(changed))
        old = await store.find(self.table, where, limit=None, select=[]) if changed else []
        gone = [row.id for row in old if row.id not in ids]
        named = [{self._name(name): value for name, value in row.items()} for row in rows]
        modified = self._name("modified")
        field = self._schema.fields.get(modified)
        if field is None or field.kind == "text":  # None: a key of the payload
            named = [{**row, modified: row[modified].isoformat()} for row in named]
        # A row that only expires has no values for the other fields.
        nullable = all(field.nullable for field in self._schema.fields.values())
        expires = self._schema.expires if nullable else None
        if gone and expires is not None:
            vector = [1.0, *[0.0] * (self._schema.dim - 1)]
            named += [{"id": id, self._schema.vector: vector, expires: _LONG_AGO} for id in gone]
        await store.upsert(self.table, named)
        if gone and expires is None:
            await store.delete(self.table, gone)

    async def _delete(self, store: VectorStore | None) -> None:
        """Delete the passages of documents that are gone, of those below ``base``."""
        # Another import may have added some since. If none is left, the folder may be unmounted.
        present = await in_thread(self.look) or self._known
        unread = tuple(source for source in present if source.endswith("/"))
        gone = self.gone = sorted(
            source
            for source in self._known.keys() - self.files.keys() - present.keys()
            if (source.startswith(self.base) if self.base else "://" not in source)
            and not source.startswith(unread)
        )
        self.counts["deleted"] = len(gone)
        if store is None:
            return
        for start in range(0, len(gone), _DELETED_AT_ONCE):
            sources = gone[start : start + _DELETED_AT_ONCE]
            await store.delete(self.table, where=F[self._ref("source")].in_(sources))
