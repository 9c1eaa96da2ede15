"""Models that check and describe bodies, query strings and responses."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import MISSING, fields
from functools import cache
from typing import Annotated, Any, ClassVar, Literal

import pyarrow as pa
from pydantic import (
    AfterValidator,
    AliasChoices,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    RootModel,
    ValidationError,
    WithJsonSchema,
    create_model,
)
from pydantic.alias_generators import to_camel
from pydantic.json_schema import JsonSchemaMode, models_json_schema

from aiovec import RRF, Decay, Factor, Tuning, Weighted
from aiovec.backend import shown
from aiovec.errors import InvalidArgumentError

_LIMIT, _WHERE = ("limit", "topK"), ("where", "filter")
OLDER_NAMES = dict((_LIMIT, _WHERE))
"""Maps the current names of arguments to the names that older clients send."""

_MOST_REMOVED, _MOST_BOOSTS = 2_000, 16
"""Maximum number of payload keys to remove, and of boosts. Python code checks each of them."""


class Model(BaseModel):
    """A JSON object or a query string.

    Keys are in camelCase; unknown keys are refused. Each field has the name of the store
    argument that it sets.
    """

    model_config: ClassVar[ConfigDict] = ConfigDict(
        extra="forbid", strict=True, alias_generator=to_camel, arbitrary_types_allowed=True,
        allow_inf_nan=True,
    )  # fmt: skip

    @classmethod
    def read(cls, given: Mapping[str, Any], place: str, *, texts: bool = False) -> dict[str, Any]:
        """Return the arguments for the store.

        A null counts as absent. ``place`` names the body or query string in errors. With ``texts``,
        all values are strings, as in a query string.
        """
        given = {key: value for key, value in given.items() if value is not None}
        # Checked here, because pydantic would collect an error for each unknown key.
        unknown = next((key for key in given if key not in cls._accepted()), None)
        if unknown is not None:
            raise cls._unknown(unknown, place)
        try:
            model = cls.model_validate_strings(given) if texts else cls.model_validate(given)
        except ValidationError as exc:
            raise cls._error(exc, given, place) from None
        return {name: getattr(model, name) for name in model.model_fields_set}

    @classmethod
    @cache
    def keys(cls) -> list[str]:
        return list(cls.model_json_schema().get("properties", ()))

    @classmethod
    @cache
    def _accepted(cls) -> frozenset[str]:
        present = cls.keys()
        return frozenset([*present, *(OLDER_NAMES[key] for key in present if key in OLDER_NAMES)])

    @classmethod
    def is_needed(cls) -> bool:
        """Return whether the body is required."""
        return any(field.is_required() for field in cls.model_fields.values())

    @classmethod
    def _error(cls, exc: ValidationError, given: Mapping[str, Any], place: str) -> Exception:
        """Return an exception for the first error, worded like aiovec's other errors."""
        errors = exc.errors(include_url=False)
        name = str(errors[0]["loc"][0])
        # A value that may be an item or a list has an error for each form. If an item of a list is
        # wrong, its error has the longer location.
        same = (error for error in errors if error["loc"][0] == errors[0]["loc"][0])
        error = max(same, key=lambda error: (len(error["loc"]), error["type"] == "too_long"))
        if error["type"] == "extra_forbidden":  # both the older and the current name of an argument
            return cls._unknown(name, place)
        if error["type"] == "too_long":
            most = error["ctx"]["max_length"]
            return InvalidArgumentError(name, given.get(name), f"at most {most:,} items")
        if error["type"] == "missing":
            words = f"{place} lacks the key {name!r}"
            return InvalidArgumentError(name, None, reason=words)
        if isinstance(cause := error.get("ctx", {}).get("error"), InvalidArgumentError):
            return cause  # raised by a class that refused its values
        words = error["msg"].removeprefix("Value error, ").removeprefix("Input should be ")
        return InvalidArgumentError(name, given.get(name), words)

    @classmethod
    def _unknown(cls, key: str, place: str) -> Exception:
        known = ", ".join(cls.keys())
        keys = f"its keys are: {known}" if known else "it takes none"
        words = f"{place} has the unknown key {shown(key)}; {keys}"
        return InvalidArgumentError(f"the keys of {place}", key, reason=words)


def _made(default: type, *others: type) -> Any:
    """Return the annotation for a JSON object that becomes an instance of one of these classes.

    The object's key ``type`` names the class; the default is the first class.
    """
    usual = default.__name__.lower()
    kinds = {usual: default, **{kind.__name__.lower(): kind for kind in others}}

    def make(value: dict[str, Any]) -> Any:
        options = dict(value)
        name = options.pop("type", usual) if others else usual
        kind = kinds.get(name) if isinstance(name, str) else None
        if kind is None:
            raise ValueError(f"an object whose type is {' or '.join(kinds)}")
        known = {to_camel(field.name): field for field in fields(kind)}
        needed = {
            key for key, field in known.items() if field.default is field.default_factory is MISSING
        }
        if not needed <= options.keys() <= known.keys():
            also = f"; {' and '.join(sorted(needed))} are needed" if needed else ""
            raise ValueError(f"an object with the keys {', '.join(known)}{also}")
        # The handler or the store checks these values.
        return kind(**{known[key].name: value for key, value in options.items()})

    return Annotated[dict[str, Any], AfterValidator(make), WithJsonSchema({"type": "object"})]


def _maybe(about: str, *names: str, default: Any = None) -> Any:
    """Return a model's field for an optional argument; ``names`` replace its key in requests."""
    alias = AliasChoices(*names) if names else None
    return Field(default, description=about, validation_alias=alias)


# The store itself checks the ids and the numbers.
_AN_ID: dict[str, Any] = {"type": ["string", "integer"]}
_NUMBERS: dict[str, Any] = {"type": "array", "items": {"type": "number"}}
Ids = Annotated[
    str | int | list[Any] | pa.ChunkedArray,
    WithJsonSchema({"oneOf": [_AN_ID, {"type": "array", "items": _AN_ID}]}),
]
Vector = Annotated[list[Any], WithJsonSchema(_NUMBERS)]
Vectors = Annotated[
    list[Any] | pa.ChunkedArray, WithJsonSchema({"type": "array", "items": _NUMBERS})
]
Count = Annotated[int, Field(ge=1)]
Whole = Annotated[int, Field(ge=0)]
_TO_FIRST = Field(fail_fast=True)  # refuse a list at its first bad item
Texts = Annotated[list[str], _TO_FIRST]
Names = Annotated[
    Texts,  # in a query string, separated by commas
    BeforeValidator(lambda v: [*filter(None, v.split(","))] if isinstance(v, str) else v),
]
IndexKind = Literal["btree", "bitmap", "text"]


# Tables


class Counted(Model):
    rows: bool = Field(True, description="Count the rows; otherwise `rows` is null.")


class CreateTable(Model):
    table: str = Field(validation_alias="name", description="The table's name.")
    schema_: dict[str, Any] | None = _maybe(
        "Its schema; by default rows of text of the configured length.", "schema"
    )
    exist_ok: bool = Field(False, description="Accept a table that has the same schema.")


class Rename(Model):
    name: str = Field(description="The new name.")


class Confirm(Model):
    confirm: str = Field("", description="The name again, to confirm.")


class ChangeNotes(Model):
    notes: dict[str, str | None] = Field(description="Texts by the names of the notes.")


class AddField(Model):
    name: str = Field(description="The field's name.")
    field: str | dict[str, Any] = Field(
        description="Its type, or an object with the type and its options."
    )


class FieldIndex(Model):
    kind: IndexKind = Field(description="`text` is for keyword search.")


class DropFieldIndex(Model):
    kind: IndexKind | None = _maybe("Default: all indexes over the field.")


class VectorIndex(Model):
    kind: str = Field("auto", description="A kind of index that the backend has.")
    wait: bool = Field(
        True, description="Answer when the index is built; otherwise as soon as the build begins."
    )
    recall: float | None = _maybe("The share of the true nearest rows to find, up to 1.")
    num_partitions: Count | None = _maybe("Partitions of an IVF index.")
    target_partition_size: Count | None = _maybe("Rows per partition, instead of numPartitions.")
    max_iterations: Count | None = _maybe("Training iterations.")
    sample_rate: Count | None = _maybe("Training rows per partition.")
    m: Count | None = _maybe("Links per row in the graph.")
    ef_construction: Count | None = _maybe("Candidates per row while the graph is built.")
    num_sub_vectors: Count | None = _maybe("Number of parts in the code of a vector.")
    num_bits: Count | None = _maybe("Bits of each part.")
    others: dict[str, Any] | None = _maybe("Options of a backend from another package.")


class Revert(Model):
    version: Whole = Field(description="The version.")


# Rows


class Filtered(Model):
    where: str | None = _maybe("A condition on the rows.", *_WHERE)


class ById(Model):
    ids: Ids = Field(description="The ids of the rows.")


class Selected(Model):
    select: Names | None = _maybe("Fields, the vector or payload; all fields by default.")
    include_vector: bool = Field(False, description="Return the vectors too.")


class ByModel(Model):
    model: str | None = _maybe(
        "The model that made the vectors; any other than the table's is refused."
    )


class Write(ByModel):
    mode: Literal["insert", "upsert"] = Field(
        "insert", description="`upsert` replaces rows with the same ids."
    )
    on_conflict: Literal["fail", "skip", "replace"] = Field(
        "fail", description="Fail at, skip or replace rows whose id exists."
    )


class Export(Filtered):
    select: Names | None = _maybe("Fields, the vector or payload; all by default.")
    batch_size: Count = Field(1000, description="Rows to read at a time.")
    after: str | None = _maybe("A cursor: continue after it.")
    cursors: bool = Field(
        False,
        description="In JSON Lines, add a line with the cursor after each batch: "
        '`{"cursor": "…"}`.',
    )


class Get(ById, Selected):
    include_vector: bool = Field(True, description="Return the vectors too.")


class Find(Filtered, Selected):
    order_by: str | Texts | None = _maybe(
        "Fields, id or payload.<key>; a leading minus sorts descending."
    )
    descending: bool = Field(False, description="Reverse all directions.")
    limit: Count = _maybe("Maximum number of records to return.", *_LIMIT, default=100)
    offset: Whole = Field(0, description="Records to skip.")


class Delete(Filtered):
    ids: Ids | None = _maybe("The ids of the rows.")


_Removed = Annotated[Texts, Field(max_length=_MOST_REMOVED)]


class Update(Delete):
    fields: dict[str, Any] | None = _maybe(
        "New values of fields, payload keys or payload.<key>.", "set"
    )
    remove: _Removed | None = _maybe("Payload keys to remove, as payload.<key>.")
    vector: Vector | None = _maybe(
        "New vector of the rows. By default, a table with an embedder computes it from the "
        "new text, and other tables keep the old vector."
    )


class UpdateRows(Model):
    strict: bool = Field(False, description="Refuse all records if one of the ids is absent.")


class Bounds(Filtered):
    field: str = Field(description="A field, id, or payload.<key>.")


class Distinct(Bounds):
    limit: Count | None = _maybe("Maximum number of values to return.", *_LIMIT)


class SetVectors(ById, ByModel):
    vectors: Vectors = Field(description="A vector for each id.")


# Searches


_Boost = _made(Decay, Factor)
_Boosts: Any = Annotated[
    list[_Boost], Field(fail_fast=True, max_length=_MOST_BOOSTS)  # type: ignore[valid-type]
]


class _Search(Selected, Filtered):
    limit: Count = _maybe("Maximum number of hits to return.", *_LIMIT, default=10)
    offset: Whole = Field(0, description="Hits to skip.")
    min_score: float | None = _maybe("Leave out hits with a lower score.")
    group_by: str | None = _maybe(
        "A field to group by: the hits are the best rows of its best values."
    )
    per_group: Count = Field(1, description="Maximum number of hits in each group.")
    diversity: float | None = _maybe("From 0 to 1: trade nearness for variety.")
    rerank: _Boost | _Boosts | None = _maybe(  # type: ignore[valid-type]
        'Prefer newer hits, {"field": "at", "halfLife": "7d", "weight": 0.3, "pinned": '
        '"payload.keep"}, or higher numbers, {"type": "factor", "field": "importance", "weight": '
        '0.3, "most": 1}.'
    )
    fetch_k: Count | None = _maybe(
        "Number of hits from which diversity, rerank and perGroup choose, 40 by default; at least "
        "offset + limit, and the same for every page. Up to 10,000 with diversity."
    )


class _Near(_Search):
    exact: bool = Field(False, description="Find the true nearest rows, without an index.")
    tuning: _made(Tuning) | None = _maybe(  # type: ignore[valid-type]
        "The effort of an approximate search: nprobes, ef, refine, measure, dims, oversample."
    )
    max_distance: float | None = _maybe("Leave out hits at a greater distance.")


class Search(_Near, ByModel):
    vector: Vector | None = _maybe("The query vector.")
    text: str | None = _maybe("A query text instead of a vector, if the table has an embedder.")


class SearchMany(_Near, ByModel):
    each_where: Annotated[list[str | None], _TO_FIRST] | None = _maybe(
        "A condition or null for each vector or text; it applies in addition to `where`."
    )
    vectors: Vectors | None = _maybe("The query vectors.")
    texts: Texts | None = _maybe("Query texts instead of vectors, if the table has an embedder.")


class _Words(Model):
    query: str = Field(description='Words, "exact phrases", -without and field:word.')
    match: Literal["any", "all", "best"] | None = _maybe(
        "Rows that match: with at least one of the words (the default); with all; with all and "
        "then, if too few, with some."
    )
    highlight: bool | Annotated[Texts, AfterValidator(tuple)] = Field(
        False,
        description="Return a snippet of each field that matched, with matches between <mark> "
        "and </mark>, or between two texts.",
    )


class SearchText(_Words, _Search):
    """A search by keywords."""


class SearchHybrid(_Words, Search):
    fusion: _made(Weighted, RRF) | None = _maybe(  # type: ignore[valid-type]
        '{"type": "weighted", "vector": 0.5, "text": 0.5}, or {"type": "rrf", "k": 60}. By '
        "default weighted, with the weight of the table's embedder."
    )


class SearchLike(_Near):
    ids: Ids = Field(description="The id of a row, or a list of ids, whose mean is the query.")
    not_like: Ids | None = _maybe("The ids of rows to search away from.")


# Responses: these models only describe them


class Record(BaseModel):
    model_config: ClassVar[ConfigDict] = ConfigDict(extra="allow")

    id: str


class NewRecord(BaseModel):
    model_config: ClassVar[ConfigDict] = ConfigDict(extra="allow")

    id: Annotated[Any, WithJsonSchema(_AN_ID)] = None


class NewRecords(RootModel[list[NewRecord]]):
    """Records to write."""


class Hit(Record):
    score: Annotated[float | None, Field(alias="_score")]
    distance: Annotated[float | None, Field(alias="_distance")]
    ranks: Annotated[dict[str, Any], Field(alias="_ranks")] = {}
    highlights: Annotated[dict[str, Any], Field(alias="_highlights")] = {}


class Problem(BaseModel):
    """A problem as in RFC 9457. ``error`` and ``facts`` describe an aiovec error."""

    type: str
    title: str
    status: int
    detail: str
    error: str = ""
    facts: dict[str, Any] = {}


class Health(BaseModel):
    status: str
    backend: str
    version: str
    watching: list[dict[str, Any]] = []


def _answer(name: str, /, **keys: Any) -> Any:
    """Return the model of a response that has these keys."""
    fields: dict[str, Any] = {key: (kind, ...) for key, kind in keys.items()}
    return create_model(name, **fields)


ListedTable = _answer("ListedTable", name=str, rows=Whole | None)
CountedValue = _answer("CountedValue", value=Any, count=int)
BuiltIndex = _answer(
    "BuiltIndex", name=str, kind=str, column=str, parameters=dict[str, Any], rowsIndexed=Whole,
    rowsUnindexed=Whole, recall=float | None,
)  # fmt: skip
Hits = _answer("Hits", hits=list[Hit])
HitsOfMany = _answer("HitsOfMany", results=list[Hits])  # type: ignore[valid-type]
Records = _answer("Records", records=list[Record])
ANSWERS_OF_ROWS = (Hits, HitsOfMany, Records)
Counts = _answer("Count", count=Whole)
Deleted = _answer("Deleted", deleted=Whole)
Updated = _answer("Updated", updated=Whole)
Existing = _answer("Existing", ids=list[str])
FieldsInfo = _answer("FieldsInfo", fields=dict[str, dict[str, int]])
Values = _answer("Values", values=list[CountedValue])  # type: ignore[valid-type]
Ends = _answer("Ends", min=Any, max=Any)
Ready = _answer("Ready", ready=bool)
Store = _answer("Store", backend=str, version=str, abilities=list[str])
Tables = _answer("Tables", tables=list[ListedTable])  # type: ignore[valid-type]
Table = create_model("Table", __base__=ListedTable, schema_=(dict[str, Any], Field(alias="schema")))
Stats = _answer("Stats", table=str, backend=str, rows=Whole, bytes=Whole)
Notes = _answer("Notes", notes=dict[str, str])
Indexes = _answer("Indexes", indexes=list[BuiltIndex])  # type: ignore[valid-type]
Versions = _answer("Versions", versions=list[dict[str, Any]])


def schemas_of(models: Iterable[type[BaseModel]]) -> tuple[dict[Any, Any], Any]:
    """Return a reference to the JSON schema of each model, and the schemas."""
    inputs: list[tuple[type[BaseModel], JsonSchemaMode]] = [(cls, "validation") for cls in models]
    places, document = models_json_schema(inputs, ref_template="#/components/schemas/{model}")
    return {model: place for (model, _), place in places.items()}, document["$defs"]
