"""Change the embedding model during a migration: compute every row's vector from a text.

Vectors of two models in one table cannot be compared, but searches would raise no error. So a row
with a vector and no text stops the run with an error that names the row's id; the run can continue
once the row has a text or is deleted. A row with neither text nor vector, which ``vector_nullable``
allows, has no vector in the new table.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from aiovec._embed.registry import configured_embedder
from aiovec.backend import Schema, from_matrix
from aiovec.backend.place import find_place
from aiovec.backend.threads import in_thread
from aiovec.errors import InvalidVectorError, MigrationError


class Reembedding:
    """Computes new vectors for rows, with an embedder from the TOML file.

    In tables whose vectors are made from texts (``Schema(embed=...)``), it embeds the field that
    the schema names, and these tables use this embedder from then on; in other tables, it embeds
    ``field``. The embedder itself splits texts into batches and retries failed calls.
    """

    def __init__(self, name: str, field: str, config: Path | None) -> None:
        self._name = name
        self._field = field
        self._embedder = configured_embedder(name, find_place(config=config).settings)

    def field_of(self, schema: Schema) -> str:
        """Return the text field to embed; raise MigrationError if ``field`` does not fit."""
        if schema.embed is not None:
            if self._field not in ("", schema.embed.field):
                raise MigrationError(
                    f"its vectors are made from the field {schema.embed.field!r}, so they cannot "
                    f"be computed from {self._field!r}"
                )
            return schema.embed.field
        field = schema.fields.get(self._field)
        if field is None or field.kind != "text":
            texts = [name for name, each in schema.fields.items() if each.kind == "text"]
            fault = f"{self._field!r} is not a text field" if self._field else "no field was named"
            listed = ", ".join(texts) or "none"
            raise MigrationError(
                f"{fault}; name the text to embed with --from-field, one of: {listed}"
            )
        return self._field

    def target_schema(self, schema: Schema) -> Schema:
        """Return the schema with the embedder's model and vector length."""
        self.field_of(schema)
        dim = self._embedder.dim
        quantized = schema.quantized if dim % 8 == 0 else None
        embed = schema.embed
        if embed is not None:
            made_by = self._embedder
            weight = made_by.weight(schema.analyzer)
            embed = replace(embed, using=self._name, recipe=made_by.recipe, weight=weight)
        model = self._embedder.model
        return replace(schema, model=model, dim=dim, quantized=quantized, embed=embed)

    async def __call__(self, rows: pa.Table) -> pa.Table:
        """Return the rows in the target's layout, with new vectors."""
        schema = Schema.from_arrow(rows.schema)
        field = self.field_of(schema)
        has_text, texts = await in_thread(_texts, rows, schema.vector, field)
        vectors = await self._embedder.embed(texts, "document") if texts else None
        return await in_thread(_with_vectors, rows, self.target_schema(schema), vectors, has_text)

    async def close(self) -> None:
        """Close the embedder's connections."""
        await self._embedder.close_service()


def _texts(rows: pa.Table, vector: str, field: str) -> tuple[np.ndarray, list[str]]:
    """Return a mask of the rows that have a text, and the texts of these rows."""
    has_text = pc.is_valid(rows.column(field))
    lacking = pc.and_(pc.invert(has_text), pc.is_valid(rows.column(vector)))
    ids = rows.filter(lacking).column("id").to_pylist()
    if ids:
        listed = ", ".join(map(repr, ids[:5])) + (" …" if len(ids) > 5 else "")
        raise MigrationError(
            f"these rows have no {field!r} to compute a vector from: {listed}; give them a text or "
            "delete them, and run again"
        )
    texts: list[str] = rows.filter(has_text).column(field).to_pylist()
    return np.asarray(has_text.to_pylist(), dtype=np.bool_), texts


def _with_vectors(
    rows: pa.Table, schema: Schema, vectors: np.ndarray | None, has_text: np.ndarray
) -> pa.Table:
    """Return the rows with new vectors; ``vectors`` has a vector for each row that has a text."""
    every = np.zeros((rows.num_rows, schema.dim), dtype=np.float32)
    if vectors is not None:
        every[has_text] = vectors
    wrong = ~np.isfinite(every).all(axis=1)
    if schema.metric == "cosine":
        wrong |= has_text & ~every.any(axis=1)
    for row in np.flatnonzero(wrong)[:1]:
        raise InvalidVectorError(
            "from the embedder is zero, NaN or infinite", id=rows.column("id")[row].as_py()
        )
    arrow = schema.to_arrow()
    at = rows.schema.get_field_index(schema.vector)
    missing = None if has_text.all() else ~has_text
    changed = rows.set_column(at, arrow.field(schema.vector), from_matrix(every, missing))
    return changed.replace_schema_metadata(arrow.metadata)
