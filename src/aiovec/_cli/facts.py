"""``aiovec info`` and ``aiovec tables``: a store's properties and its tables."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from .output import Listing
from .stores import At, OnlyTable, Shown, of_each_table, on_store

if TYPE_CHECKING:
    from ..backend.contract import IndexInfo


@on_store(shows_progress=True)
async def tables(at: At) -> Shown:
    """List the tables with their number of rows, dimensions, metric and model."""
    vectors = await at.open(reading=True)

    async def of(name: str) -> dict[str, Any]:
        schema = await vectors.schema(name)
        facts = {"dim": schema.dim, "metric": schema.metric, "model": schema.model}
        return {"name": name, "rows": await vectors.count(name), **facts}

    listed = await of_each_table(vectors, None, of, "counting")
    rows = [[t["name"], t["rows"], t["dim"], t["metric"], t["model"] or "-"] for t in listed]
    listing = Listing(["table", "rows", "dim", "metric", "model"], rows, ["rows", "dim"])
    return Shown({"tables": listed}, [listing] if listed else [])


@on_store(shows_progress=True)
async def info(at: At, table: OnlyTable = None) -> Shown:
    """Show where a store is, and each table's schema, size and indexes."""
    from ..backend.contract import ABILITIES

    vectors = await at.open(reading=True)

    async def of(name: str) -> dict[str, Any]:
        schema, stats = await vectors.schema(name), await vectors.stats(name)
        facts = asdict(stats)
        if vectors.supports("indexes"):
            facts["indexes"] = await vectors.indexes(name)
        return {"name": facts.pop("table"), "schema": schema.to_dict(), **facts}

    store_facts: dict[str, Any] = {
        "target": vectors.target,
        "backend": vectors.backend_name,
        "abilities": [name for name in ABILITIES if vectors.supports(name)],
        "tables": await of_each_table(vectors, table and [table], of, "reading"),
    }
    shown: list[str | Mapping[str, object]] = [
        {
            "store": store_facts["target"],
            "backend": store_facts["backend"],
            "tables": len(store_facts["tables"]),
        }
    ]
    for table_facts in store_facts["tables"]:
        shown += ["", _lines(table_facts)]
    return Shown(store_facts, shown)


def _lines(table: dict[str, Any]) -> dict[str, object]:
    schema, optimized = table["schema"], table["last_optimize"]
    embed, fields = schema.get("embed"), schema["fields"]
    texts = [name for name, field in fields.items() if "text=True" in _kind(field)]
    lines = {
        "table": table["name"],
        "rows": f"{table['rows']:,}",
        "bytes": f"{table['bytes']:,}",
        "vectors": f"{schema['vector']}, {schema['dim']} dimensions, {schema['metric']}",
        "model": schema["model"] or "not set",
        "fields": ", ".join(f"{name}: {_kind(field)}" for name, field in fields.items()) or "none",
        "keywords": "no field; aiovec text-index adds one",
        "embedder": f"{embed['using']}, of the field {embed['field']}" if embed else "none",
        "other keys": "kept as JSON" if schema["payload"] else "refused",
        "searches": table["index"],
    }
    if optimized:  # None if it was never optimized, or only by another process
        lines["optimized"] = optimized.isoformat(timespec="seconds")
    if keys := schema.get("payload_indexes"):
        lines["other keys"] += f", indexed: {', '.join(keys)}"
    if texts:
        lines["keywords"] = f"{', '.join(texts)} (analyzer {schema.get('analyzer', 'plain')})"
    if "indexes" in table:
        lines["indexes"] = "; ".join(map(index_line, table["indexes"])) or "none"
        lines["unindexed"] = f"{table['unindexed_rows']:,} rows"
    return lines


def index_line(index: IndexInfo) -> str:
    """Return an index as one line."""
    recall = "" if index.recall is None else f", recall {index.recall:.3f}"
    return f"{index.kind} on {index.column} ({index.rows_indexed:,} rows{recall})"


def _kind(field: str | dict[str, Any]) -> str:
    if isinstance(field, str):
        return field
    options = ", ".join(f"{k}={v}" for k, v in field.items() if k != "type")
    return f"{field['type']} ({options})"
