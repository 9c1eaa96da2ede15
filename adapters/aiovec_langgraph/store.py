"""A table of items as a LangGraph ``BaseStore``."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, Self

from langchain_core.embeddings import Embeddings
from langgraph.store.base import (
    BaseStore,
    GetOp,
    IndexConfig,
    Item,
    ListNamespacesOp,
    MatchCondition,
    Op,
    PutOp,
    Result,
    SearchItem,
    SearchOp,
    TTLConfig,
    ensure_embeddings,
    get_text_at_path,
)
from langgraph.store.base import validate_op_namespace as check_namespace

from aiovec import Counts, Decay, F, Factor, Field, Hit, InvalidArgumentError, Record, Schema, Table
from aiovec.bridge import (
    Bridge,
    Closable,
    StoreOrTarget,
    blocking,
    keys_below,
    metadata_filter,
    storable,
)

# The most bytes of an id in aiovec.
_LONGEST_ID = 512
# The most vectors of an item. Each vector's row repeats the item's value for filters and boosts, so
# an item with a long list of indexed texts takes at most this many times its size.
_MOST_TEXTS = 16
_LONGEST_TTL = 1e9  # minutes, 1,900 years: today plus this is still a valid date
# The most repetitions of a search while concurrent puts replace the items that it finds.
_REPEATS = 5
_FIELDS = {
    "namespace": Field(str, nullable=False, index="btree"),  # labels, each followed by a "."
    "key": Field(str, nullable=False),
    "created_at": Field(datetime, nullable=False),
    "updated_at": Field(datetime, nullable=False, index="btree"),
    "expires_at": Field(datetime, index="btree", expires=True),
    "ttl": Field(float),  # minutes
}


class AiovecStore(Closable, BaseStore):
    """Items by namespace and key in one table of an aiovec store, searched by meaning and filters.

    ``store`` is a store from ``aiovec.sync.connect`` or a target such as ``"memory.db"``; a store
    from ``aiovec.connect`` supports only the async methods. For a target, ``options`` are passed to
    ``aiovec.connect``. ``index`` and ``ttl`` are LangGraph's settings. Each text in an item's
    indexed fields has a vector and a row, and a search ranks an item by its best text. Texts from
    the 16th on share a vector. Filters take the operators of ``aiovec.bridge.metadata_filter``.
    ``boost`` is passed to ``VectorStore.search`` as ``rerank``: it also ranks hits by age, from
    "updated_at", or by importance, a number in "payload.value.KEY". Expired items are never
    returned. ``sweep_ttl`` deletes them, and so does a write once an hour;
    ``sweep_interval_minutes`` has no effect.
    """

    # The item's row has the vector of the item's first text. Each other text has a row with the
    # item's fields and value, and "place", the number of the text, counted from 0. "texts" is the
    # number of texts. A killed put, or two concurrent puts, may leave stale rows. So a search
    # uses another text's row only if its "updated_at" equals the "updated_at" of the item's row.

    supports_ttl = True

    def __init__(
        self,
        store: StoreOrTarget = ":memory:",
        table: str = "langgraph",
        *,
        index: IndexConfig | None = None,
        ttl: TTLConfig | None = None,
        boost: Decay | Factor | Sequence[Decay | Factor] | None = None,
        **options: Any,
    ) -> None:
        if index is not None and not {"dims", "embed"} <= index.keys():
            raise InvalidArgumentError(
                "index",
                sorted(index),
                "a mapping with the keys 'dims', the length of the vectors, and 'embed'",
            )
        self.ttl_config = ttl
        self.index_config = index
        self.embeddings: Embeddings | None = (
            None if index is None else ensure_embeddings(index.get("embed"))
        )
        self._boost = boost
        self._paths = ["$"] if index is None else index.get("fields") or ["$"]
        dim = 1 if index is None else index["dims"]
        schema = Schema(dim=dim, vector_nullable=True, fields=_FIELDS)
        self._bridge = Bridge(store, table, lambda _: schema, **options)

    @classmethod
    def from_conn_string(cls, conn_string: str, **options: Any) -> Self:
        """Return a store for a target. ``with`` or ``async with`` closes it."""
        return cls(conn_string, **options)

    async def asetup(self) -> None:
        """Create the table if it does not exist. The first write also creates it."""
        await self._bridge.write(1, Table.schema)

    @blocking(asetup)
    def setup(self) -> Any:
        """Like ``asetup``."""

    def batch(self, ops: Iterable[Op]) -> list[Result]:
        """Run the reads, then the writes. If a key is written several times, the last write counts.

        All puts are one transaction, and all deletes are another. If an item now has fewer texts
        than before, a third transaction deletes the rows of the missing texts.
        """
        plan = self._plan(ops)
        if self.embeddings is not None:
            plan.of_queries = {text: self.embeddings.embed_query(text) for text in plan.queries}
            vectors = self.embeddings.embed_documents(plan.texts) if plan.texts else []
            plan.of_texts = dict(zip(plan.texts, vectors, strict=True))
        return self._bridge.run(lambda table: self._execute(table, plan))

    async def abatch(self, ops: Iterable[Op]) -> list[Result]:
        """Like ``batch``."""
        plan = self._plan(ops)
        if self.embeddings is not None:
            for text in plan.queries:
                plan.of_queries[text] = await self.embeddings.aembed_query(text)
            vectors = await self.embeddings.aembed_documents(plan.texts) if plan.texts else []
            plan.of_texts = dict(zip(plan.texts, vectors, strict=True))
        return await self._bridge.aio(lambda table: self._execute(table, plan))

    async def asweep_ttl(self) -> int:
        """Delete expired items, if any, by optimizing the table; return the number of deleted rows.

        An item with several vectors has one row for each vector; all other items have one row.
        """

        async def sweep(table: Table) -> int:
            expired = int((await table.stats()).details.get("expired_rows", 0))
            if expired:
                await table.optimize()
            return expired

        return await self._bridge.read(sweep, 0)

    @blocking(asweep_ttl)
    def sweep_ttl(self) -> Any:
        """Like ``asweep_ttl``."""

    # Inside

    def _plan(self, ops: Iterable[Op]) -> _Plan:
        plan = _Plan(list(ops))
        for op in plan.ops:
            check_namespace(op)
            for name in ("limit", "offset"):
                if (value := getattr(op, name, 0)) < 0:
                    raise InvalidArgumentError(name, value, "a whole number from 0")
            if isinstance(op, PutOp):
                if not isinstance(op.value, Mapping | None):
                    raise InvalidArgumentError("value", op.value, "a mapping")
                if op.ttl is not None and not 0 < op.ttl < _LONGEST_TTL:
                    words = "a number of minutes above 0, or None to keep the item"
                    raise InvalidArgumentError("ttl", op.ttl, words)
                plan.puts[_id_of(op.namespace, op.key)] = op, self._texts_of(op)
            elif isinstance(op, SearchOp) and op.query:
                plan.queries[op.query] = None
        plan.texts = list(dict.fromkeys(text for _, texts in plan.puts.values() for text in texts))
        return plan

    def _texts_of(self, op: PutOp) -> list[str]:
        """Return the texts to embed for an item; an empty list if it gets no vector."""
        if self.embeddings is None or op.value is None or op.index is False:
            return []
        paths = self._paths if op.index is None else op.index
        texts = [text for path in paths for text in get_text_at_path(op.value, path) if text]
        first, rest = texts[: _MOST_TEXTS - 1], texts[_MOST_TEXTS - 1 :]
        return list(dict.fromkeys([*first, "\n".join(rest)] if rest else first))

    async def _execute(self, table: Table, plan: _Plan) -> list[Result]:
        ids = [_id_of(op.namespace, op.key) for op in plan.ops if isinstance(op, GetOp)]
        items = {row.id: row for row in await self._rows([*ids, *plan.puts])}
        results: list[Result] = []
        read: list[Record | Hit] = []
        for op in plan.ops:
            rows: Sequence[Record | Hit] = ()
            match op:
                case GetOp():
                    item = items.get(_id_of(op.namespace, op.key))
                    rows = () if item is None else [item]
                    results.append(None if item is None else _item_of(item))
                case SearchOp():
                    rows = await self._search(op, plan.of_queries.get(op.query or ""))
                    results.append(list(map(_search_item_of, rows)))
                case ListNamespacesOp():
                    results.append(await self._namespaces(op))
                case _:
                    results.append(None)
            if getattr(op, "refresh_ttl", False):
                read += rows
        await self._refresh(table, read)
        await self._write(table, plan, items)
        return results

    async def _rows(self, ids: Sequence[str]) -> list[Record]:
        return await self._bridge.read(lambda table: table.get(ids, include_vector=False), [])

    async def _search(self, op: SearchOp, vector: Sequence[float] | None) -> Sequence[Record | Hit]:
        if op.limit < 1:
            return ()
        prefix = "".join(f"{label}." for label in op.namespace_prefix)
        where: list[Any] = [F.namespace.startswith(prefix)]
        if op.filter:
            where.append(metadata_filter(op.filter, partial(keys_below, F.payload["value"])))
        if vector is not None:
            hits: list[Hit] = await self._bridge.read(
                lambda table: self._nearest(table, vector, where, op.offset + op.limit), []
            )
            return hits[op.offset :]
        where.append(F.payload["place"].is_null())
        latest = ["-updated_at", "id"]
        return await self._bridge.read(
            lambda table: table.find(where, order_by=latest, limit=op.limit, offset=op.offset), ()
        )

    async def _nearest(
        self, table: Table, vector: Sequence[float], where: list[Any], wanted: int
    ) -> list[Hit]:
        """Return the nearest items, each as the hit of its best text."""
        count = wanted * len(self._paths)
        repeats = _REPEATS
        known: set[tuple[str, Any]] = set()
        while True:
            hits = await table.search(
                vector, limit=count, where=where, rerank=self._boost, fetch_k=max(count, 100)
            )
            ids = [_id_of(_space_of(hit), hit["key"]) for hit in hits]
            checked = [id for id, hit in zip(ids, hits, strict=True) if "place" in hit]
            times = {}
            if checked:
                rows = await table.get(checked, select=["updated_at"], include_vector=False)
                times = {row.id: row["updated_at"] for row in rows}
            stale = {
                (hit.id, hit["updated_at"])
                for id, hit in zip(ids, hits, strict=True)
                if "place" in hit and times.get(id) != hit["updated_at"]
            }
            # A row that is stale for the first time may belong to an item that a put has just
            # replaced. After the last repetition, use the row as if the search had run before that
            # put.
            if repeats and not stale <= known:
                repeats -= 1
                known |= stale
                continue
            best: dict[str, Hit] = {}
            for id, hit in zip(ids, hits, strict=True):
                if (hit.id, hit["updated_at"]) not in known:
                    best.setdefault(id, hit)
            if len(best) >= wanted or len(hits) < count:
                return list(best.values())[:wanted]
            count *= 4

    async def _namespaces(self, op: ListNamespacesOp) -> list[tuple[str, ...]]:
        counts = await self._bridge.read(lambda table: table.distinct("namespace"), Counts())
        spaces = [tuple(str(name).split(".")[:-1]) for name in counts]
        matches = {
            space[: op.max_depth]
            for space in spaces
            if all(_matches(space, condition) for condition in op.match_conditions or ())
        }
        return sorted(matches)[op.offset : op.offset + op.limit]

    async def _refresh(self, table: Table, rows: Iterable[Record | Hit]) -> None:
        """Restart the ttl of the items that these rows belong to, unless the store is read-only."""
        if table.store.read_only:
            return
        ids_of: dict[float, list[str]] = {}
        for row in rows:
            if row["ttl"] is not None:
                ids_of.setdefault(row["ttl"], []).extend(_ids_of(row))
        for ttl, ids in ids_of.items():
            # Update only rows with the same ttl: a put may have changed it since the read.
            later = {"expires_at": _now() + timedelta(minutes=ttl)}
            await table.update(later, ids=ids, where=F.ttl == ttl)

    async def _write(self, table: Table, plan: _Plan, existing: Mapping[str, Record]) -> None:
        now, rows, times = _now(), [], set()
        stale: list[str] = []
        deleted: list[str] = []
        for id, (op, texts) in plan.puts.items():
            id_at = partial(_id_of, op.namespace, op.key)
            if op.value is None:
                deleted += map(id_at, range(_MOST_TEXTS))
                continue
            row = {
                "namespace": "".join(f"{label}." for label in op.namespace),
                "key": op.key,
                "value": storable(op.value, "value"),
                "created_at": existing[id]["created_at"] if id in existing else now,
                "updated_at": now,
                "ttl": op.ttl,
                "expires_at": None if op.ttl is None else now + timedelta(minutes=op.ttl),
            }
            if len(texts) > 1:
                row["texts"] = len(texts)
            for place, text in enumerate(texts or [None]):
                vector = None if text is None else plan.of_texts[text]
                further = {"place": place} if place else {}
                rows.append({**row, **further, "id": id_at(place), "embedding": vector})
            if id in existing:
                stale += _ids_of(existing[id])[max(len(texts), 1) :]
                times.add(existing[id]["updated_at"])
        if rows:
            await self._bridge.write(1, lambda table: table.upsert(rows))
        # Delete only rows unchanged since the read: another put may have replaced them.
        if stale:
            await table.delete(stale, where=F.updated_at.in_(times))
        if deleted:
            await self._bridge.read(lambda table: table.delete(deleted), 0)


class _Plan:
    """The operations of a batch, the texts to embed for them, and the vectors of these texts."""

    def __init__(self, ops: list[Op]) -> None:
        self.ops = ops
        self.puts: dict[str, tuple[PutOp, list[str]]] = {}
        self.queries: dict[str, None] = {}
        self.texts: list[str] = []
        self.of_queries: dict[str, list[float]] = {}
        self.of_texts: dict[str, list[float]] = {}


def _now() -> datetime:
    return datetime.now(UTC)


def _id_of(namespace: tuple[str, ...], key: str, place: int = 0) -> str:
    """Return the unique id of row number ``place`` of an item; row 0 is the item's own row."""
    parts = [*namespace, key, *([place] if place else [])]
    path = json.dumps(parts, ensure_ascii=False, separators=(",", ":"))
    if len(path.encode("utf-8", "surrogatepass")) <= _LONGEST_ID:
        return path
    return hashlib.sha256(path.encode("utf-8", "surrogatepass")).hexdigest()


def _ids_of(row: Record | Hit) -> list[str]:
    """Return the ids of all rows of the item to which a row belongs, the item's own row first."""
    space = _space_of(row)
    return [_id_of(space, row["key"], place) for place in range(row.get("texts", 1))]


def _space_of(row: Record | Hit) -> tuple[str, ...]:
    return tuple(row["namespace"].split(".")[:-1])


def _parts_of(row: Record | Hit) -> dict[str, Any]:
    return {
        "namespace": _space_of(row),
        "key": row["key"],
        "value": row["value"],
        "created_at": row["created_at"],
        "updated_at": row["updated_at"],
    }


def _item_of(row: Record | Hit) -> Item:
    return Item(**_parts_of(row))


def _search_item_of(row: Record | Hit) -> SearchItem:
    return SearchItem(**_parts_of(row), score=row.score if isinstance(row, Hit) else None)


def _matches(space: tuple[str, ...], wanted: MatchCondition) -> bool:
    path = tuple(wanted.path)
    if len(path) > len(space):
        return False
    first = 0 if wanted.match_type == "prefix" else len(space) - len(path)
    return all(part in ("*", label) for part, label in zip(path, space[first:], strict=False))
