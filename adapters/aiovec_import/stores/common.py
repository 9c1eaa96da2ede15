"""Code shared by the readers of other stores: each collection of points becomes a table."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib import import_module
from itertools import count
from pathlib import Path
from types import NoneType
from typing import Any, ClassVar, NamedTuple

from aiovec._input.infer import field_of_kinds, fields_of, kinds_in
from aiovec.backend import Field, Metric, Schema
from aiovec.bridge import storable
from aiovec.errors import AiovecError, ConfigError

from ..files import reading
from ..sources import (
    Chunk,
    ForeignTable,
    Reject,
    Source,
    Wanted,
    free_name,
    legal_table_name,
    legal_vector,
    refuse,
)

_METRICS: dict[str, Metric] = {
    "cosine": "cosine", "l2": "l2", "euclid": "l2", "ip": "dot", "dot": "dot",
}  # fmt: skip
# In LangChain's stores: the key of a text, and the key of the object with its metadata.
_TEXTS_WITH_METADATA = (
    ("text", "metadata"), ("page_content", "metadata"), ("document", "cmetadata"),
    ("content", "langchain_metadata"),
)  # fmt: skip
# Number of points to infer the type of a key from.
FIRST_POINTS = 1000


@dataclass(frozen=True, slots=True)
class Vectors:
    """A vector column. Without a ``dim``, it cannot be imported; messages show its ``kind``.

    ``metric`` is the other store's name for the metric, or None if the store names no metric; then
    the table gets ``usual``, and a note says so.
    """

    name: str
    dim: int | None = None
    metric: str | None = "cosine"
    kind: str = "dense"
    usual: Metric = "l2"

    def __str__(self) -> str:
        return f"{self.name} ({self.kind})"


@dataclass(frozen=True, slots=True)
class Collection:
    """A collection of points. ``rows`` is the number of points, or None if they are not counted.

    ``fields`` maps each typed column to its field, or to None if its values go into the payload.
    ``omitted`` describes the columns, other than vectors, that are not imported. ``handle`` is the
    object that the reader uses to read points. ``unfolded`` is the key of an object whose keys are
    imported as keys of the point.
    """

    name: str
    vectors: Sequence[Vectors]
    rows: int | None
    handle: Any = None
    fields: Mapping[str, Field | None] = field(default_factory=dict)
    model: str | None = None
    omitted: Sequence[str] = ()
    new_ids: bool = False
    layout: str = ""
    unfolded: str | None = None


class Point(NamedTuple):
    """A row. Its ``fields`` are imported unchanged; its metadata is converted to storable values.

    The metadata may contain fields of the collection, which are not converted. If ``place`` is
    None, the place is the row's number.
    """

    id: Any
    vector: Any
    metadata: Mapping[str, Any]
    fields: Mapping[str, Any] | None = None
    place: int | str | None = None


class CollectionSource(Source):
    """A store of collections, read with its own client.

    ``layout`` is the word for a collection in messages. If a collection cannot be imported, the
    others are still imported. The user can name the id column if ``chooses_ids``, the type of the
    vectors if ``takes_dtypes``, and a query if ``takes_queries``.
    """

    layout: ClassVar[str]
    chooses_ids: ClassVar[bool] = False
    takes_dtypes: ClassVar[bool] = False
    takes_queries: ClassVar[bool] = False

    def __init__(self, place: str, wanted: Wanted) -> None:
        if not (self.takes_queries and wanted.is_of_texts):
            refuse(wanted, "query", "SQLite and PostgreSQL, with the --embed COLUMN of a text")
        if wanted.query is not None and wanted.origin is not None:
            fault = f"leave out #{wanted.origin}: --query says what is read"
            raise ConfigError(fault, key="--query")
        if not self.takes_dtypes:
            refuse(wanted, "dtype", "SQLite databases")
        if wanted.id_column not in (None, "none") and not self.chooses_ids:
            raise ConfigError(
                f"each {self.layout} has its own ids; --id-column can only be none",
                key="--id-column",
            )
        self._wanted = wanted
        if "://" not in place:
            path = Path(place).expanduser()
            # Some clients create a missing store.
            if not self.recognise(path):
                fix = ""
                if self.layout == "SQLite database" and place.startswith("///"):
                    fix = (
                        "; three slashes begin an absolute path here, a relative one in "
                        f"SQLAlchemy: if you mean that, write {place[3:]}"
                    )
                raise ConfigError(f"there is no {self.layout} at {path}{fix}", file=str(path))
            place = str(path)
            self.remark: str = (
                f"{path} is read by its own library, which may change it: import a copy"
            )
        with reading(None):
            self.open(place)

    @abstractmethod
    def open(self, place: str) -> None:
        """Open the store at a path or URL."""

    @abstractmethod
    def names(self) -> Iterable[str]:
        """Return the names of the collections."""

    @abstractmethod
    def collection(self, name: str) -> Collection:
        """Return the facts about a collection that are known before its points are read."""

    @abstractmethod
    def points(
        self, collection: Collection, vector: str, size: int
    ) -> Iterator[Iterable[Point | Reject]]:
        """Yield points with their vectors from the named column, up to ``size`` at a time."""

    def close(self) -> None:
        """Close the store."""

    def tables(self) -> list[ForeignTable]:
        with reading(None):
            names = list(self.names())
        wanted = [
            name for name in names if self._wanted.origin in (None, name, legal_table_name(name))
        ]
        tables: list[ForeignTable] = []
        skipped: list[str] = []
        self.failed: dict[str, str] = {}
        for name in wanted:
            try:
                with reading(None):
                    collection = self.collection(name)
                if (chosen := self._chosen(collection)) is None:
                    skipped.append(name)
                else:
                    taken = [table.name for table in tables]
                    tables.append(self._table(collection, chosen, taken))
            except AiovecError as exc:
                if len(wanted) == 1 and (self._wanted.origin or not self._wanted.dry_run):
                    raise
                self.failed[name] = str(exc)
        if tables or (self._wanted.dry_run and self.failed):
            if skipped:
                self.remark += f"; left out, without dense vectors: {', '.join(skipped)}"
            return tables
        if why := {**dict.fromkeys(skipped, "no dense vectors"), **self.failed}:
            reasons = "; ".join(f"{name}: {reason}" for name, reason in why.items())
            raise ConfigError(f"no {self.layout} can be imported: {reasons}")
        raise ConfigError(
            f"there is no {self.layout} {self._wanted.origin or 'here'}; there are: "
            f"{', '.join(names) or 'none'}",
            key="SOURCE",
        )

    def _chosen(self, collection: Collection) -> Vectors | None:
        """Return the vector column that the user names, or the first dense column, if any."""
        wanted = self._wanted.vector_column
        able = [vectors for vectors in collection.vectors if vectors.dim]
        chosen = next((vectors for vectors in able if wanted in (None, vectors.name)), None)
        if chosen is None and not (wanted is None is self._wanted.origin):
            named = "" if wanted is None else f" {wanted!r}"
            has = ", ".join([v.name for v in able] or map(str, collection.vectors)) or "none"
            raise ConfigError(
                f"{collection.name} has no dense vectors{named}; it has: {has}",
                key="--vector-column",
            )
        return chosen

    def _table(self, collection: Collection, chosen: Vectors, taken: Sequence[str]) -> ForeignTable:
        metric = _METRICS.get((chosen.metric or "").lower())
        notes = []
        if metric is None and self._wanted.metric is None:
            unknown = f"the metric {chosen.metric} is unknown to aiovec"
            why = "nothing names the metric" if chosen.metric is None else unknown
            notes.append(f"{why}; the table gets {chosen.usual} unless you pass --metric")
        others = [f"the vectors {vectors}" for vectors in collection.vectors if vectors != chosen]
        vector = legal_vector(chosen.name)
        fields, _ = fields_of(collection.fields, vector)
        searched: dict[str, Field] = {}
        if (pair := self._text_with_metadata(collection, chosen.name)) is not None:
            text, key = pair
            collection = replace(collection, unfolded=key)
            fields.pop(key, None)
            searched = {text: Field(str, text=True)}
            fields |= {text: searched[text]} if text in fields else {}
        schema = Schema(
            chosen.dim or 1,
            metric=metric or chosen.usual,
            model=collection.model,
            vector=vector,
            fields=searched | fields | self._named_keys(collection, chosen.name, fields),
        )
        return ForeignTable(
            legal_table_name(collection.name, taken), collection.name,
            collection.layout or self.layout, collection.rows, schema, tuple(notes),
            (*others, *collection.omitted),
            (replace(collection, fields=fields), chosen.name),
            new_ids=collection.new_ids or self._wanted.wants_new_ids,
        )  # fmt: skip

    def _text_with_metadata(self, collection: Collection, vector: str) -> tuple[str, str] | None:
        """Return the keys of the text and of the object with its metadata, if points have both."""
        keys: Mapping[str, Any] = collection.fields
        if not keys:
            for point in self._first(collection, vector, 1)[:1]:
                found = point.metadata.items()
                keys = {key: value for key, value in found if isinstance(value, (str, Mapping))}
        return next((pair for pair in _TEXTS_WITH_METADATA if keys.keys() >= {*pair}), None)

    def _named_keys(
        self, collection: Collection, vector: str, columns: Mapping[str, Field]
    ) -> dict[str, Field]:
        """Return fields for the metadata keys that ``--text``, ``--index`` and ``--embed`` name.

        The types of keys with an index are inferred from the first points.
        """
        keys = {name: Field(str) for name in self._wanted.texts if name not in columns}
        if indexed := set(self._wanted.index) - columns.keys() - keys.keys():
            first = self._first(collection, vector, FIRST_POINTS)
            for name in indexed:
                kinds = kinds_in(
                    [_unfolded(point.metadata, collection).get(name) for point in first]
                )
                if (field := field_of_kinds(kinds) if kinds else None) is None:
                    raise ConfigError(
                        f"--index {name}: the first {len(first):,} rows of {collection.name} have "
                        "values of several types in it, or none; give it a type in a --schema",
                        key="--index",
                    )
                keys[name] = field
        return keys

    def _first(self, collection: Collection, vector: str, size: int) -> list[Point]:
        with reading(None):
            page = next(self.points(collection, vector, size), ())
            return [point for point in page if isinstance(point, Point)]

    def read(self, table: ForeignTable, schema: Schema, size: int) -> Iterator[Chunk]:
        numbers = count(1)
        collection, vector = table.part
        collection = replace(collection, new_ids=table.new_ids)
        pages = self.points(collection, vector, size)
        while True:
            with reading(None):
                points = next(pages, None)
            if points is None:
                return
            yield chunk_of(points, collection, schema, numbers)


def chunk_of(
    points: Iterable[Point | Reject], collection: Collection, schema: Schema, numbers: Iterator[int]
) -> Chunk:
    """Convert points to rows for a table of this schema, numbering them with ``numbers``."""
    rows: list[dict[str, Any]] = []
    places: list[int | str] = []
    rejects: list[Reject] = []
    for point, number in zip(points, numbers, strict=False):
        if isinstance(point, Reject):
            rejects.append(point)
            continue
        place = number if point.place is None else point.place
        try:
            rows.append(_row(point, collection, schema))
            places.append(place)
        except AiovecError as exc:
            rejects.append(Reject(place, str(point.id), str(exc)))
    return Chunk(rows, places, rejects)


def _row(point: Point, collection: Collection, schema: Schema) -> dict[str, Any]:
    fields = point.fields or {}
    taken = (*fields, "id", schema.vector)
    row = {
        free_name(key, taken): value
        if key in collection.fields
        else storable(value, key, large=str)
        for key, value in _unfolded(point.metadata, collection).items()
    }
    ids = {} if collection.new_ids else {"id": point.id}
    return {**row, **fields, schema.vector: point.vector, **ids}


def _unfolded(metadata: Mapping[str, Any], collection: Collection) -> dict[str, Any]:
    """Merge the ``unfolded`` object into the metadata, adding "_" to its keys that clash."""
    outer = dict(metadata)
    inner = outer.pop(collection.unfolded or "", None)
    if not isinstance(inner, (Mapping, NoneType)):
        return dict(metadata)
    return {free_name(key, outer): value for key, value in (inner or {}).items()} | outer


def client(module: str, package: str) -> Any:
    """Import a store's client, or raise an error that names the package to install."""
    try:
        return import_module(module)
    except ImportError as exc:
        raise ConfigError(f"this import needs another package: pip install {package}") from exc
