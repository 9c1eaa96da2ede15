"""``aiovec info`` and ``aiovec tables``: what a store is and what it holds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from functools import partial
from typing import Annotated, Any

import typer

from .._model.schema import Schema
from .._store.store import VectorStore
from ..backend.contract import ABILITIES, TableStats
from .output import out, print_facts, print_json, print_rows
from .run import failing_clearly, run
from .stores import AsJson, Config, Store, of_each_table, opened


@failing_clearly
def tables(store: Store = None, config: Config = None, json: AsJson = False) -> None:
    """List the tables with their rows, dimensions, metric and model."""
    found = run(_tables(store, config))
    if json:
        print_json({"tables": found})
    elif found:
        print_rows(
            ["table", "rows", "dim", "metric", "model"],
            [[t["name"], t["rows"], t["dim"], t["metric"], t["model"] or "-"] for t in found],
            right=["rows", "dim"],
        )


@failing_clearly
def info(
    store: Store = None,
    table: Annotated[
        str | None,
        typer.Argument(metavar="TABLE", help="Only this table.", show_default=False),
    ] = None,
    config: Config = None,
    json: AsJson = False,
) -> None:
    """Show where a store lies, what it can do, and each table's schema, size and upkeep."""
    found = run(_info(store, table, config))
    if json:
        print_json(found)
        return
    print_facts(
        {
            "store": found["target"],
            "backend": found["backend"],
            "abilities": ", ".join(found["abilities"]) or "none besides those of every store",
            "tables": len(found["tables"]),
        }
    )
    for one in found["tables"]:
        out().print()
        print_facts(_lines(one))


async def _tables(store: str | None, config: str | None) -> list[dict[str, Any]]:
    async with opened(store, config, reading=True) as vectors:

        async def look(name: str) -> dict[str, Any]:
            schema = await vectors.schema(name)
            rows = await vectors.count(name)
            return {
                "name": name,
                "rows": rows,
                "dim": schema.dim,
                "metric": schema.metric,
                "model": schema.model,
            }

        return await of_each_table(vectors, None, look, "looking")


async def _info(store: str | None, table: str | None, config: str | None) -> dict[str, Any]:
    async with opened(store, config, reading=True) as vectors:
        named = None if table is None else [table]
        return {
            "target": vectors.target,
            "backend": vectors.backend_name,
            "abilities": [name for name in ABILITIES if vectors.supports(name)],
            "tables": await of_each_table(vectors, named, partial(_table, vectors), "looking"),
        }


async def _table(vectors: VectorStore, name: str) -> dict[str, Any]:
    schema: Schema = await vectors.schema(name)
    stats: TableStats = await vectors.stats(name)
    facts = asdict(stats)
    if vectors.supports("indexes"):
        facts["indexes"] = [asdict(info) for info in await vectors.indexes(name)]
    return {"name": facts.pop("table"), "schema": schema.to_dict(), **facts}


def _lines(table: dict[str, Any]) -> dict[str, object]:
    schema = table["schema"]
    fields = ", ".join(f"{name}: {_kind(field)}" for name, field in schema["fields"].items())
    optimized = table["last_optimize"]
    return {
        "table": table["name"],
        "rows": f"{table['rows']:,}",
        "bytes": f"{table['bytes']:,}",
        "vectors": f"{schema['vector']}, {schema['dim']} dimensions, {schema['metric']}",
        "model": schema["model"] or "not said",
        "fields": fields or "none",
        "keywords": _keywords(schema),
        "embedder": _embedder(schema),
        "payload": "any further keys" if schema["payload"] else "no further keys",
        "index": table["index"],
        "unindexed": f"{table['unindexed_rows']:,} rows",
        **({"indexes": _indexes(table["indexes"])} if "indexes" in table else {}),
        "memory": f"{table['scan_memory']:,} bytes",
        "optimized": optimized.isoformat(timespec="seconds") if optimized else "never",
        **{_label(name): shown_for_people(value) for name, value in table["details"].items()},
    }


def _keywords(schema: dict[str, Any]) -> str:
    covered = [name for name, field in schema["fields"].items() if _is_text(field)]
    if not covered:
        return "none: no field has text=True"
    return f"{', '.join(covered)} (analyzer {schema.get('analyzer', 'plain')})"


def _is_text(field: str | dict[str, Any]) -> bool:
    return isinstance(field, dict) and bool(field.get("text"))


def _embedder(schema: dict[str, Any]) -> str:
    embed = schema.get("embed")
    return f"{embed['using']}, of the field {embed['field']}" if embed else "none"


def _indexes(found: list[dict[str, Any]]) -> str:
    shown = []
    for info in found:
        recall = "" if info["recall"] is None else f", recall {info['recall']:.3f}"
        shown.append(f"{info['kind']} on {info['column']} ({info['rows_indexed']:,} rows{recall})")
    return "; ".join(shown) or "none"


def _label(name: object) -> str:
    return str(name).replace("_", " ")


def shown_for_people(value: object) -> object:
    """A detail of a backend, for people: figures in groups, a mapping as one line."""
    if isinstance(value, Mapping):
        return ", ".join(_fact(str(name), item) for name, item in value.items()) or "none"
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return value
    if isinstance(value, int):
        return f"{value:,}"
    # Three digits tell enough of what was measured.
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def _fact(name: str, value: object) -> str:
    if name.endswith("_ms"):
        return f"{_label(name.removesuffix('_ms'))} {shown_for_people(value)} ms"
    return f"{_label(name)} {shown_for_people(value)}"


def _kind(field: str | dict[str, Any]) -> str:
    if isinstance(field, str):
        return field
    options = ", ".join(f"{k}={v}" for k, v in field.items() if k != "type")
    return f"{field['type']} ({options})"
