"""Import documents into a table of passages."""

from __future__ import annotations

import os
from codecs import BOM_UTF8
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, ClassVar

from aiovec import VectorStore
from aiovec._input.rows import Collected, to_batch
from aiovec.backend.threads import in_thread
from aiovec.documents import Cutter
from aiovec.errors import ConfigError, DocumentError, InvalidRowError

from .folders import Documents, documents_in
from .loading import Load
from .sources import Chunk, Reject, RejectsFile, Wanted, refuse
from .syncing import Item, Row, SyncImport


@dataclass
class DocumentImport(SyncImport):
    """An import of documents. The passages of a changed document replace its earlier passages.

    Passages are replaced even if an app stored them. ``reasons`` has the reason for each document
    that cannot be imported.
    """

    unit: ClassVar[str] = "document"
    of_any_base: ClassVar[bool] = True

    source: Documents
    cutter: Cutter = field(default_factory=Cutter)
    reasons: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, wanted: Wanted, documents: Documents, rejects: RejectsFile) -> DocumentImport:
        """Return the import of documents into the requested table, by default ``documents``."""
        of_rows = "query id_column vector_column dtype"
        refuse(wanted, of_rows, "rows, and the sources are documents")
        if wanted.base and not (
            "://" in wanted.base and wanted.base.endswith("/") and wanted.base.isprintable()
        ):
            raise ConfigError(
                "the base of documents is a URL that ends in /, such as https://docs.example.com/, "
                f"not {wanted.base!r}", key="--base",
            )  # fmt: skip
        if wanted.delete and not any(map(os.path.isdir, map(os.path.expanduser, wanted.sources))):
            raise ConfigError("--delete needs a folder, or it would delete all other documents")
        load = Load(documents.tables()[0], wanted.table or "documents", wanted.schema)
        return cls(replace(wanted, upsert=True), documents, [load], rejects)

    def facts(self) -> dict[str, Any]:
        return {
            "table": self.table, **self.changed(), "failed": self.counts["failed"],
            "passages": self.counts["written"], "failures": self.reasons,
            "left_out": dict(self.source.left_out.most_common()), **self.load.words(),
        }  # fmt: skip

    def cutter_for(self, tokenizer: Any, most: int | None) -> Cutter:
        schema, body = self.schema, self.name("body")
        if schema.embed is None or schema.embed.field != body:
            made = f"from {schema.embed.field!r}" if schema.embed else "from no field"
            raise ConfigError(
                f"the table {self.table!r} computes its vectors {made}, not from {body!r}; name "
                "the field of the texts with --fields body=FIELD, or another table",
                key="--fields",
            )
        return Cutter(self.wanted.chunk_size, self.wanted.overlap, tokenizer)

    def items(self, chunk: Chunk) -> tuple[list[Item], list[Reject]]:
        cutter = self.cutter
        items = []
        for source, data, modified in chunk.rows:
            is_empty = not data.removeprefix(BOM_UTF8).strip()
            digest = "" if is_empty else cutter.hash(data)
            items.append(Item(source, source, digest, (data, modified)))
        return items, [*chunk.rejects]

    def rows(self, item: Item) -> list[Row]:
        data, modified = item.content
        changed, date = (self.schema.fields.get(self.name(n)) for n in ("modified", "date"))
        rows = []
        for row in self.cutter.rows(data, item.name, modified):
            row["base"] = self.base
            if changed is None or changed.kind == "text":  # None means a key of the payload
                row["modified"] = modified.isoformat()
            if date is not None and date.kind == "datetime" and "date" in row:
                with suppress(ValueError):  # a date without a time is midnight in UTC
                    day = datetime.fromisoformat(row["date"])
                    row["date"] = day if day.tzinfo else day.replace(tzinfo=UTC)
            rows.append({self.name(name): value for name, value in row.items()})
        try:
            to_batch(Collected(rows), self.schema)
        except InvalidRowError as exc:
            raise DocumentError(item.name, f"field {exc.field!r}: {exc.reason}") from exc
        return rows

    async def find(self, store: VectorStore) -> None:
        await super().find(store)
        # If the user names a wrong folder, this raises an error before anything is stored.
        if self.wanted.delete and self.load.exists:
            await self.find_gone(store, self.source.has)

    async def note(self, load: Load, rejects: Sequence[Reject]) -> None:
        await super().note(load, rejects)
        self.counts["failed"] += len(rejects)
        self.reasons |= {str(reject.id): reject.reason for reject in rejects}

    def is_over(self) -> bool:
        return True

    async def finish(self, store: VectorStore) -> Sequence[str]:
        if self.gone:
            # Another import may have stored documents that were added to the folder after this
            # import read it. If the folder has no documents left, it may be unmounted.
            present = await in_thread(documents_in, self.wanted)
            self.gone = {
                id: name
                for id, name in self.gone.items()
                if present.files and not present.has(name)
            }
        return await super().finish(store)
