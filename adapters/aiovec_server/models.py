"""Bodies and query strings of requests: a model for each, which checks it and describes it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal, Self, get_args

import pyarrow as pa
from pydantic import (
    AfterValidator,
    AliasChoices,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    WithJsonSchema,
    create_model,
)
from pydantic.alias_generators import to_camel

from aiovec.errors import InvalidArgumentError

from .problems import RequestError

AN_ID: dict[str, Any] = {"type": ["string", "integer"]}
_NUMBERS: dict[str, Any] = {"type": "array", "items": {"type": "number"}}
_PREFIXES = ("Value error, ", "Input should be ")


class Model(BaseModel):
    """A JSON object or a query string. Keys are in camelCase, and others are refused.

    A field has the name of the store's argument that it becomes.
    """

    model_config = ConfigDict(
        extra="forbid", strict=True, alias_generator=to_camel, arbitrary_types_allowed=True,
        allow_inf_nan=True,
    )  # fmt: skip

    @classmethod
    def of(cls, value: object, place: str = "the body") -> Self:
        """Return the model of a JSON object, in which a null counts as absent."""
        listed = ", ".join(cls.keys()) or "no keys"
        if type(value) is not dict:
            raise InvalidArgumentError(place, value, f"a JSON object with {listed}")
        known = {name for field in cls.model_fields.values() for name in _names(field)}
        given = {key: one for key, one in value.items() if one is not None or key not in known}
        try:
            return cls.model_validate(given)
        except ValidationError as exc:
            error = exc.errors(include_url=False)[0]
        name = ".".join(map(str, error["loc"][:1]))
        if error["type"] == "extra_forbidden":
            if name in known:
                raise RequestError(422, f"{name!r} is given twice, under two names; pass it once")
            raise InvalidArgumentError(f"the keys of {place}", name, f"among {listed}")
        if error["type"] == "missing":
            raise InvalidArgumentError(name, None, "given")
        words = error["msg"]
        for prefix in _PREFIXES:
            words = words.removeprefix(prefix)
        raise InvalidArgumentError(name, given.get(name), words)

    @classmethod
    def of_query(cls, pairs: Sequence[tuple[str, str]]) -> Self:
        """Return the model of a query string."""
        texts = dict(pairs)
        if len(texts) < len(pairs):
            raise RequestError(422, "a query parameter is given twice; pass it once")
        kinds = {name: field for field in cls.model_fields.values() for name in _names(field)}
        value = {
            name: _of_text(kinds[name].annotation, text) if name in kinds else text
            for name, text in texts.items()
        }
        return cls.of(value, "the query")

    def arguments(self) -> dict[str, Any]:
        """Return the store's arguments that were given."""
        return {name: getattr(self, name) for name in self.model_fields_set}

    @classmethod
    def keys(cls) -> list[str]:
        return [_names(field)[0] for field in cls.model_fields.values()]

    @classmethod
    def takes_columns(cls) -> bool:
        """Return whether lists of the body may come as columns of Arrow."""
        return not {"ids", "vectors"}.isdisjoint(cls.model_fields)


def _names(field: Any) -> list[str]:
    found = field.validation_alias
    return [str(one) for one in found.choices] if isinstance(found, AliasChoices) else [found]


def _of_text(kind: Any, text: str) -> Any:
    """Return the value that a text in a query string stands for; the text where it is none."""
    kinds = get_args(kind) or (kind,)
    if bool in kinds:
        return {"true": True, "false": False}.get(text, text)
    if int in kinds:  # int() takes 1_0 and spaces too
        return int(text) if text.isascii() and text.isdigit() and len(text) < 20 else text
    if any(str(one).startswith("list") for one in kinds):
        return [name for name in text.split(",") if name]
    return text


def _ids(value: Any) -> Any:
    if type(value) in (str, int, list) or isinstance(value, pa.ChunkedArray):
        return value
    raise ValueError("an id or a list of ids")


def _vectors(value: Any) -> Any:
    if type(value) is list or isinstance(value, pa.ChunkedArray):
        return value
    raise ValueError("a list of vectors")


def _id(value: Any) -> Any:
    if type(value) in (str, int):
        return value
    raise ValueError("an id: text or a whole number")


# The store looks at the ids and the numbers themselves.
Id = Annotated[Any, AfterValidator(_id), WithJsonSchema(AN_ID)]
Ids = Annotated[
    Any, AfterValidator(_ids),
    WithJsonSchema({"oneOf": [AN_ID, {"type": "array", "items": AN_ID}]}),
]  # fmt: skip
Vector = Annotated[list[Any], WithJsonSchema(_NUMBERS)]
Vectors = Annotated[
    Any, AfterValidator(_vectors), WithJsonSchema({"type": "array", "items": _NUMBERS})
]
Count = Annotated[int, Field(ge=1)]
Whole = Annotated[int, Field(ge=0)]
IndexKind = Literal["btree", "bitmap", "text"]
_FILTER = AliasChoices("filter", "where")


class Nothing(Model):
    """A body, or a query string, without keys."""


# Tables


class Counted(Model):
    rows: bool = Field(True, description="Count the rows; without, `rows` is null.")


class CreateTable(Model):
    table: str = Field(validation_alias="name", description="The table's name.")
    schema_: dict[str, Any] | None = Field(
        None, validation_alias="schema",
        description="Its schema; by default rows of text of the configured length.",
    )  # fmt: skip
    exist_ok: bool = Field(False, description="Accept a table that has the same schema.")


class Rename(Model):
    name: str = Field(description="The new name.")


class Confirm(Model):
    confirm: str = Field("", description="The name once more.")


class AddField(Model):
    name: str = Field(description="The field's name.")
    field: str | dict[str, Any] = Field(
        description="Its type, or an object with the type and its options."
    )


class FieldIndex(Model):
    kind: IndexKind = Field(description="`text` is for keyword search.")


class DropFieldIndex(Model):
    kind: IndexKind | None = Field(None, description="By default all indexes over the field.")


class VectorIndex(Model):
    kind: str = Field("auto", description="A kind of index that the backend has.")
    wait: bool = Field(
        True, description="Answer when the index is built; else when its build has begun."
    )
    recall: float | None = Field(
        None, description="The part of the true nearest rows to find, up to 1."
    )
    num_partitions: Count | None = Field(None, description="Partitions of an IVF index.")
    target_partition_size: Count | None = Field(
        None, description="Rows of a partition, in place of numPartitions."
    )
    max_iterations: Count | None = Field(None, description="Iterations of the training.")
    sample_rate: Count | None = Field(
        None, description="Rows for each partition that are trained on."
    )
    m: Count | None = Field(None, description="Links of a row in a graph.")
    ef_construction: Count | None = Field(None, description="Candidates while a graph is built.")
    num_sub_vectors: Count | None = Field(None, description="Parts of a vector's code.")
    num_bits: Count | None = Field(None, description="Bits of each part.")


class Restore(Model):
    version: Whole = Field(description="The version.")


# Rows


class Filtered(Model):
    where: str | None = Field(
        None, validation_alias=_FILTER, description="A condition on the rows."
    )


class Write(Model):
    mode: Literal["insert", "upsert"] = Field(
        "insert", description="`upsert` replaces rows of the same ids."
    )
    on_conflict: Literal["fail", "skip", "replace"] = Field(
        "fail", description="What an insert does with a row whose id exists."
    )
    model: str | None = Field(
        None, description="The model that made the vectors; another than the table's is refused."
    )


class Export(Filtered):
    select: list[str] | None = Field(
        None, description="Fields, the vector or payload; all by default."
    )
    batch_size: Count = Field(1000, description="Rows that are read at once.")
    after: str | None = Field(None, description="A cursor: go on behind it.")
    cursors: bool = Field(
        False,
        description="In JSON Lines, put a line with the cursor behind each batch: "
        '`{"cursor": "…"}`.',
    )


class Get(Model):
    ids: Ids = Field(description="The ids of the rows.")
    select: list[str] | None = Field(None, description="Fields of the records; all by default.")
    include_vector: bool = Field(True, description="Give the vectors too.")


class Find(Filtered):
    order_by: str | list[str] | None = Field(
        None, description="Fields, id or payload.<key>; a minus sorts falling."
    )
    descending: bool = Field(False, description="Turn every direction around.")
    limit: Count = Field(100, description="Records, at most.")
    offset: Whole = Field(0, description="Records that are passed over first.")
    select: list[str] | None = Field(None, description="Fields of the records; all by default.")
    include_vector: bool = Field(False, description="Give the vectors too.")


class Update(Filtered):
    fields: dict[str, Any] | None = Field(
        None, validation_alias="set",
        description="New values of fields, payload keys or payload.<key>.",
    )  # fmt: skip
    remove: list[str] | None = Field(None, description="Payload keys to remove, as payload.<key>.")
    ids: Ids | None = Field(None, description="The ids of the rows.")
    vector: Vector | None = Field(
        None,
        description="The vector of the new text, where the table makes its vectors of one and the "
        "client has made it.",
    )


class Delete(Filtered):
    ids: Ids | None = Field(None, description="The ids of the rows.")


class Exists(Model):
    ids: Ids = Field(description="The ids of the rows.")


class Distinct(Filtered):
    field: str = Field(description="A field, id, or payload.<key>.")
    limit: Count | None = Field(None, description="Values, at most.")


class Bounds(Filtered):
    field: str = Field(description="A field, id, or payload.<key>.")


class SetVectors(Model):
    ids: Ids = Field(description="The ids of the rows.")
    vectors: Vectors = Field(description="A vector for each id.")
    model: str | None = Field(None, description="The model that made them.")


# Searches


class _Search(Model):
    where: str | None = Field(
        None, validation_alias=_FILTER, description="A condition that hits meet."
    )
    limit: Count = Field(
        10, validation_alias=AliasChoices("topK", "limit"), description="Hits, at most."
    )
    select: list[str] | None = Field(None, description="Fields of the hits; all by default.")
    include_vector: bool = Field(False, description="Give each hit's vector.")
    min_score: float | None = Field(None, description="Leave out hits with a lower score.")
    group_by: str | None = Field(
        None, description="A field: the hits are the best rows of its best values."
    )
    per_group: Count = Field(1, description="Hits of each group, at most.")
    diversity: float | None = Field(None, description="From 0 to 1: trade nearness for variety.")
    fetch_k: Count | None = Field(None, description="Hits from which diversity chooses.")


class _Near(_Search):
    exact: bool = Field(False, description="Find the true nearest, not those of an index.")
    tuning: dict[str, Any] | None = Field(
        None,
        description="The effort of an approximate search: nprobes, ef, refine, recall, dims, "
        "oversample.",
    )
    max_distance: float | None = Field(None, description="Leave out hits that are further away.")


class _ByVector(_Near):
    model: str | None = Field(
        None, description="The model that made the vector; another than the table's is refused."
    )


class Search(_ByVector):
    vector: Vector | None = Field(None, description="The vector to search for.")
    text: str | None = Field(
        None, description="In its place, a text, if the table has an embedder."
    )


class SearchMany(_ByVector):
    where: str | list[str | None] | None = Field(  # type: ignore[assignment]  # it may be more
        None, validation_alias=_FILTER, description="A condition for all, or one for each."
    )
    vectors: Vectors | None = Field(None, description="The vectors to search for.")
    texts: list[str] | None = Field(
        None, description="In their place, texts, if the table has an embedder."
    )


_WORDS: dict[str, Any] = {
    "query": (str, Field(description='Words, "exact phrases", -without and field:word.')),
    "any": (bool | None, Field(None, description="One matching word is enough.")),
    "highlight": (
        bool | list[str],
        Field(
            False,
            description="Give a snippet of each field that matched, with matches between <mark> "
            "and </mark>, or between two texts.",
        ),
    ),
}
SearchText = create_model("SearchText", __base__=_Search, **_WORDS)
SearchHybrid = create_model(
    "SearchHybrid", __base__=Search, **_WORDS,
    fusion=(
        dict[str, Any] | None,
        Field(
            None,
            description='{"type": "rrf", "k": 60} (the default), or '
            '{"type": "weighted", "vector": 0.7, "text": 0.3}.',
        ),
    ),
)  # fmt: skip


class SearchLike(_Near):
    id: Id = Field(description="The id of the row.")
