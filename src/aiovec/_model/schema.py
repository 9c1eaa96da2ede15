"""A table's vectors and fields, and their form in Arrow and JSON."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping
from dataclasses import KW_ONLY, dataclass, fields, replace
from dataclasses import field as attribute
from functools import cached_property
from itertools import islice
from types import MappingProxyType, UnionType
from typing import Any, Literal, TypeAlias, Union, cast, get_args, get_origin

from .._tools.hints import hints_creation
from .._tools.lazy_arrow import pa
from .._tools.messages import listed
from ..errors import InvalidArgumentError, InvalidNameError
from .kinds import BY_TYPE, KINDS, Kind

Metric = Literal["cosine", "l2", "dot"]
Index = Literal["btree", "bitmap"]
FieldIndex = Literal["btree", "bitmap", "text"]
"""A kind of field index, as ``create_field_index`` takes it."""
Analyzer = Literal[
    "plain", "english", "ngram", "cjk", "arabic", "danish", "dutch", "finnish", "french", "german",
    "greek", "hungarian", "italian", "norwegian", "portuguese", "romanian", "russian", "spanish",
    "swedish", "turkish",
]  # fmt: skip
FieldType = type[object] | Kind
"""A field's type: a Python type such as ``int`` or ``list[str]``, or its name in JSON."""

# sqlite-vec's limit. LanceDB has none, but a table must be able to move in both directions.
MAX_DIM = 8192
# SQLite has at most 2,000 columns, four of which are not fields.
MAX_FIELDS = 1_996
MAX_PARTITIONS = 4
MAX_MODEL_LENGTH = 1_000
MAX_ID_BYTES = 512
MAX_PAYLOAD_INDEXES = 64

_METADATA_KEY = b"aiovec.schema"

EMBEDDER_NAME = "^[a-z][a-z0-9_-]{0,62}$"
# The keys of an embedder that affect its vectors, besides dim, which the schema has. It also has
# the model, unless "model" is where a package has one.
RECIPE_KEYS = frozenset(
    {
        "kind", "model", "base_url", "api_key_env", "request_dim", "query_prefix",
        "document_prefix", "pooling", "max_tokens",
    }
)  # fmt: skip
_TABLE_NAME = re.compile(r"[a-z][a-z0-9_-]{0,62}\Z")
_FIELD_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,62}\Z")
_PAYLOAD_KEY = re.compile(r"payload(?:\.[A-Za-z_][A-Za-z0-9_-]{0,62}){1,8}\Z")
_LOWER_CASE = (
    "it must start with a lower-case letter and hold at most 63 lower-case letters, digits, "
    "'_' or '-'"
)
_ANY_CASE = "it must start with a letter and hold at most 63 letters, digits or '_'"
_LONE_SURROGATE = re.compile("[\ud800-\udfff]")


def check_table_name(name: object, of: str = "table") -> str:
    """Return the name, or raise InvalidNameError."""
    if not isinstance(name, str):
        first = "the first argument is its name, as in search('docs', vector)"
        raise InvalidNameError(name, of, first if of == "table" else "it must be text")
    if not _TABLE_NAME.match(name):
        raise InvalidNameError(name, of, _LOWER_CASE)
    return name


def check_field_name(name: object) -> str:
    """Return the name, or raise InvalidNameError."""
    if not isinstance(name, str) or not _FIELD_NAME.match(name):
        raise InvalidNameError(name, "field", _ANY_CASE)
    return name


def check_payload_key(name: object) -> str:
    """Return the name of a payload key that can have an index, or raise InvalidNameError."""
    if not isinstance(name, str) or not _PAYLOAD_KEY.match(name):
        raise InvalidNameError(
            name,
            "payload index",
            "it must be payload.<key>, or payload.<key>.<key> of at most 8 keys, each of which "
            "starts with a letter or '_' and holds at most 63 letters, digits, '_' or '-'; for "
            "another key add a field",
        )
    return name


def _check_choices(**options: tuple[object, tuple[str | bool | None, ...]]) -> None:
    """Raise InvalidArgumentError for an option whose value is not among its choices."""
    for name, (value, choices) in options.items():
        # The type is compared first: 1 equals True, and an array has no single truth value.
        if type(value) not in set(map(type, choices)) or value not in choices:
            *most, last = (f"{choice!r}{_IN_WORDS.get(choice, '')}" for choice in choices)
            raise InvalidArgumentError(name, value, f"{', '.join(most)} or {last}")


_FLAG = (True, False)
_INDEXES = (None, "btree", "bitmap")
_METRICS = ("cosine", "l2", "dot")
_IN_WORDS: dict[object, str] = {"l2": " (Euclidean)", "dot": " (inner product)"}
_IN_WORDS |= {"btree": " (the usual one)", "bitmap": " (for few distinct values)"}
_TYPES = "one of str, int, float, bool, datetime, list[str], list[int], list[float], or in JSON "
_TYPES += ", ".join(KINDS)
_EVERY_FIELD = "every field may be null: give a field's type without None, as in Field(str)"
_NO_TYPE: dict[object, str] = {Union: _EVERY_FIELD, UnionType: _EVERY_FIELD}
_NO_TYPE[list] = "the items of a list field need a type: list[str], list[int] or list[float]"
ANALYZERS = get_args(Analyzer)
LANGUAGES = frozenset(ANALYZERS[4:])
"""The languages with Snowball stemmers on both backends; FTS5's own stemmer is for English only."""


@hints_creation
@dataclass(frozen=True)
class Field:
    """A column of a table other than the id and the vector.

    - ``type``: the Python type of the values. ``kind`` is the name of the type in JSON: text, int,
      float, bool, datetime, list[text], list[int] or list[float].
    - ``nullable``: False refuses rows without a value.
    - ``index``: "btree", or "bitmap" for few distinct values, makes filters fast. A list field
      cannot have an index. SQLite builds the same index for both kinds.
    - ``partition``: SQLite stores the vectors of each value together, with space for at least 64
      vectors, and a search that filters by a value scans only the vectors of that value. Up to
      four text or int fields can have this option.
    - ``text``: keyword search covers this text field. SQLite looks at the first 32,768 bytes of a
      word.
    - ``expires``: a row disappears at the time in this datetime field, and is deleted later; a row
      without a time stays. At most one field can have this option.

    ``aiovec.Fields`` is the type of a mapping of names to fields or Python types.
    """

    type: FieldType
    kind: Kind = attribute(init=False)
    _: KW_ONLY
    nullable: bool = True
    index: Index | None = None
    partition: bool = False
    text: bool = False
    expires: bool = False

    def __post_init__(self) -> None:
        try:
            known = KINDS.get(cast("Kind", self.type)) or BY_TYPE.get(self.type)
        except (TypeError, ValueError):  # unhashable or not comparable, so it is not a type
            known = None
        if known is None:
            reason = _NO_TYPE.get(self.type if self.type is list else get_origin(self.type))
            expected = "" if reason else _TYPES
            raise InvalidArgumentError("a field's type", self.type, expected, reason=reason)
        object.__setattr__(self, "type", known.python)
        # An attribute instead of a property, because each column of a call reads it.
        object.__setattr__(self, "kind", known.name)
        flags = {name: (getattr(self, name), _FLAG) for name in _DEFAULTS if name != "index"}
        _check_choices(index=(self.index, _INDEXES), **flags)
        if self.index is not None and self.is_list:
            raise InvalidArgumentError("index", self.index, "None for a list field")
        for option, kinds in _ONLY_FOR.items():
            if getattr(self, option) and self.kind not in kinds:
                raise InvalidArgumentError(option, True, f"False for a field of {self.kind}")

    @property
    def is_list(self) -> bool:
        """True if the field holds lists."""
        return KINDS[self.kind].item is not None

    @property
    def item_kind(self) -> Kind:
        """The type of a single value; for a list field, the type of an item."""
        return KINDS[self.kind].single.name

    def with_index(self, kind: FieldIndex) -> Field:
        """Return the field with this index; "text" is independent of the other kinds."""
        if kind == "text":
            return replace(self, text=True)
        return replace(self, index=kind)

    def without_index(self, kind: FieldIndex | None = None) -> Field:
        """Return the field without this index; without ``kind``, without any index."""
        return replace(
            self,
            index=None if kind in (None, self.index) else self.index,
            text=self.text and kind not in (None, "text"),
        )

    def __repr__(self) -> str:
        python = KINDS[self.kind].python
        name = str(python) if self.is_list else python.__name__
        options = (f"{name}={value!r}" for name, value in self._options().items())
        return f"Field({', '.join([name, *options])})"

    def _options(self) -> dict[str, Any]:
        """Return the options that differ from their defaults."""
        options = ((name, getattr(self, name)) for name in _DEFAULTS)
        return {name: value for name, value in options if value != _DEFAULTS[name]}

    def to_dict(self) -> str | dict[str, Any]:
        """Return the JSON form: the type's name, or a mapping if options are set."""
        options = self._options()
        return {"type": self.kind, **options} if options else self.kind

    @classmethod
    def from_dict(cls, value: object) -> Field:
        """Return a field from its JSON form; the inverse of ``to_dict``."""
        if isinstance(value, str):
            return cls(cast("Kind", value))  # the constructor checks the values
        if isinstance(value, Mapping) and "type" in value:
            if unknown := _unknown(value, {"type", *_DEFAULTS}):
                expected = f"among {', '.join(_DEFAULTS)}"
                raise InvalidArgumentError("a field's options", unknown, expected)
            options = {k: v for k, v in value.items() if k != "type"}
            return cls(value["type"], **options)
        raise InvalidArgumentError("a field", value, "a type's name or a mapping with 'type'")

    def arrow_type(self) -> pa.DataType:
        return KINDS[self.kind].arrow()


Fields: TypeAlias = Mapping[str, Field | FieldType]
"""The fields of a schema by name."""

_DEFAULTS = {option.name: option.default for option in fields(Field) if option.kw_only}
# The kinds of fields that may have these options.
_ONLY_FOR = {"partition": ("text", "int"), "text": ("text",), "expires": ("datetime",)}


def is_share(value: object) -> bool:
    """Return whether a value is a number from 0 to 1."""
    return type(value) in (int, float) and 0 <= cast("float", value) <= 1


@dataclass(frozen=True, slots=True)
class Embed:
    """The text field from which a table's vectors are made, and the name of the embedder.

    ``using`` is a key of ``connect(embedders={...})`` or of ``[retrieval.embedders]`` in the TOML
    file.

    ``recipe`` has the embedder's settings that other programs need to make the same vectors, never
    a service's API key. ``weight`` is the weight of the vectors in hybrid searches, from 0 to 1, if
    they pass no ``fusion``. ``create_table`` fills in both; comparisons ignore them.
    """

    field: str
    using: str = "default"
    recipe: Mapping[str, str | int] | None = attribute(default=None, compare=False)
    weight: float | None = attribute(default=None, compare=False)

    def __post_init__(self) -> None:
        if not isinstance(self.field, str):
            raise InvalidArgumentError("Embed's field", self.field, "the name of one text field")
        check_field_name(self.field)
        check_table_name(self.using, "embedder")
        if self.weight is not None and not is_share(self.weight):
            raise InvalidArgumentError(
                "Embed's weight", self.weight, "a number from 0 to 1, or None"
            )
        if self.recipe is None:
            return
        known = isinstance(self.recipe, Mapping) and {"kind"} <= self.recipe.keys() <= RECIPE_KEYS
        values = self.recipe.values() if known else ()
        whole = all(isinstance(value, (str, int)) for value in values)
        if not known or not whole or not isinstance(self.recipe["kind"], str):
            expected = f"None or a mapping with 'kind', of {', '.join(sorted(RECIPE_KEYS))}"
            raise InvalidArgumentError("recipe", self.recipe, expected)

    @property
    def kind(self) -> str | None:
        """The kind of the embedder, such as "local"; None if the table does not describe it."""
        return None if self.recipe is None else str(self.recipe["kind"])

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form."""
        recipe = {} if self.recipe is None else {"recipe": dict(self.recipe)}
        weight = {} if self.weight is None else {"weight": self.weight}
        return {"field": self.field, "using": self.using, **recipe, **weight}

    @classmethod
    def from_dict(cls, value: object) -> Embed:
        """Return an ``Embed`` from its JSON form; the inverse of ``to_dict``."""
        known = {each.name for each in fields(cls)}
        if not isinstance(value, Mapping) or not {"field"} <= value.keys() <= known:
            raise InvalidArgumentError("embed", value, f"a mapping of {', '.join(sorted(known))}")
        return cls(**value)


@hints_creation
@dataclass(frozen=True, init=False)
class Schema:
    """The vectors and fields of a table. Immutable, and compared by value. An invalid option raises
    InvalidArgumentError.

    - ``dim``: the length of every vector, up to 8192. With ``embed``, ``dim`` can be omitted; then
      it is 0 until ``create_table`` takes it from the embedder.
    - ``metric``: "cosine", "l2" (Euclidean) or "dot" (inner product).
    - ``model``: the name of the embedding model, of at most 1,000 characters; with ``embed``, by
      default the embedder's. Calls that name another model raise ModelMismatchError.
    - ``vector``: the name of the vector in rows and batches.
    - ``fields``: at most 1,996 fields by name; a Python type suffices if no option is needed, as in
      ``{"year": int}``.
    - ``payload``: True stores keys that no field declares, as JSON; False refuses them.
    - ``analyzer``: how keyword search splits texts into words: "cjk" for Chinese, Japanese and
      Korean. With "ngram", words of one or two characters take longer to find, and white space in
      quotes is significant.
    - ``quantized``: "bit" also stores 1-bit codes for approximate searches. SQLite only; ``dim``
      must be a multiple of 8.
    - ``embed``: the text field from which vectors are made.
    - ``vector_nullable``: rows may have no vector. Vector searches skip them; ``set_vectors`` or
      ``upsert`` adds the vector later.
    - ``payload_indexes``: the payload keys with an index, as filters name them ("payload.user"),
      at most 64. SQLite only; a table that moves to LanceDB keeps the names, for a move back.
    """

    dim: int
    metric: Metric
    model: str | None
    vector: str
    fields: Mapping[str, Field]
    payload: bool
    analyzer: Analyzer
    quantized: Literal["bit"] | None
    embed: Embed | None
    vector_nullable: bool
    payload_indexes: tuple[str, ...]

    def __init__(
        self,
        dim: int = 0,
        *,
        metric: Metric = "cosine",
        model: str | None = None,
        vector: str = "embedding",
        fields: Fields | None = None,
        payload: bool = True,
        analyzer: Analyzer = "plain",
        quantized: Literal["bit"] | None = None,
        embed: Embed | None = None,
        vector_nullable: bool = False,
        payload_indexes: Collection[str] = (),
    ) -> None:
        if dim == 0 and embed is None and type(dim) is int:
            reason = "dim is missing: pass the length of the vectors, as in Schema(384), or embed"
            raise InvalidArgumentError("dim", None, reason=reason)
        least = 1 if embed is None else 0
        if isinstance(dim, bool) or not isinstance(dim, int) or not least <= dim <= MAX_DIM:
            raise InvalidArgumentError("dim", dim, f"a whole number from 1 to {MAX_DIM}")
        if model is not None and not (
            isinstance(model, str) and 1 <= len(model) <= MAX_MODEL_LENGTH
        ):
            expected = f"None or a name of at most {MAX_MODEL_LENGTH:,} characters"
            raise InvalidArgumentError("model", model, expected)
        if model is not None and _LONE_SURROGATE.search(model):
            raise InvalidArgumentError("model", model, "None or a name in valid Unicode")
        _check_choices(
            metric=(metric, _METRICS),
            payload=(payload, _FLAG),
            analyzer=(analyzer, ANALYZERS),
            quantized=(quantized, (None, "bit")),
            vector_nullable=(vector_nullable, _FLAG),
        )
        if quantized and dim % 8:
            raise InvalidArgumentError("dim", dim, "a multiple of 8 for quantized='bit'")
        checked = _checked_fields(vector, {} if fields is None else fields)
        _check_embed(embed, checked)
        keys = _checked_payload_indexes(payload_indexes, payload)
        values = (dim, metric, model, vector, checked, payload, analyzer, quantized, embed)
        for name, value in zip(_NAMES, (*values, vector_nullable, keys), strict=True):
            object.__setattr__(self, name, value)

    def __reduce__(self) -> tuple[Any, ...]:
        return Schema.from_json, (self.to_json(),)  # its mapping proxies cannot be pickled

    def __hash__(self) -> int:
        return hash((self.dim, self.model, self.vector, frozenset(self.fields)))

    @classmethod
    def context_vectors(cls, dim: int = 768) -> Schema:
        """Return the default schema, which a table gets if it is created without one.

        It has the text fields "source_id", "source_type", "text_chunk", "created_at" and "tags".
        """
        return cls(
            dim,
            fields={
                "source_id": Field(str),
                "source_type": Field(str),
                "text_chunk": Field(str),
                "created_at": Field(str),
                "tags": Field(str),
            },
        )

    @cached_property
    def expires(self) -> str | None:
        """The name of the field with the times at which rows expire; None if rows never expire."""
        return next((name for name, field in self.fields.items() if field.expires), None)

    def with_field(self, name: str, field: Field) -> Schema:
        """Return the schema with one more field. Raises InvalidNameError if the name is taken."""
        if name in self.fields:
            raise InvalidNameError(name, "field", "a field of this name already exists")
        return replace(self, fields={**self.fields, name: field})

    def without_field(self, name: str) -> Schema:
        """Return the schema without a field. Raises InvalidArgumentError if the schema needs it."""
        if self.fields[name].partition:
            reason = f"the field {name!r} cannot be dropped: it is a partition key"
            raise InvalidArgumentError("field", name, reason=reason)
        if self.embed is not None and self.embed.field == name:
            reason = f"the field {name!r} cannot be dropped: the table's vectors are made from it"
            raise InvalidArgumentError("field", name, reason=reason)
        return replace(self, fields={n: f for n, f in self.fields.items() if n != name})

    def with_renamed_field(self, old: str, new: str) -> Schema:
        """Return the schema with a field renamed. Raises InvalidNameError if the name is taken."""
        if new in self.fields:
            raise InvalidNameError(new, "field", "a field of this name already exists")
        fields = {new if name == old else name: field for name, field in self.fields.items()}
        embed = self.embed
        if embed is not None and embed.field == old:
            embed = replace(embed, field=new)
        return replace(self, fields=fields, embed=embed)

    def with_changed_field(self, name: str, field: Field) -> Schema:
        """Return the schema with one of its fields replaced."""
        return replace(self, fields={**self.fields, name: field})

    def with_payload_index(self, key: str) -> Schema:
        """Return the schema with an index over a payload key."""
        return replace(self, payload_indexes=(*self.payload_indexes, key))

    def without_payload_index(self, key: str) -> Schema:
        """Return the schema without the index over a payload key, if there is one."""
        kept = tuple(each for each in self.payload_indexes if each != check_payload_key(key))
        return replace(self, payload_indexes=kept)

    def differences(self, other: Schema) -> list[str]:
        """Return a description of each difference from another schema; empty if there is none."""
        differences = [
            f"{key} is {getattr(self, key)!r}, not {getattr(other, key)!r}"
            for key in _NAMES
            if key != "fields" and getattr(self, key) != getattr(other, key)
        ]
        for name in [*self.fields, *(name for name in other.fields if name not in self.fields)]:
            field, other_field = self.fields.get(name), other.fields.get(name)
            if field != other_field:
                differences.append(
                    f"field {name!r} is {field or 'absent'}, not {other_field or 'absent'}"
                )
        if not differences and list(self.fields) != list(other.fields):
            differences.append("the fields are in another order")
        return differences

    # JSON

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form as a mapping."""
        form = {name: getattr(self, name) for name in _ALWAYS}
        form["fields"] = {name: field.to_dict() for name, field in self.fields.items()}
        for name, usual in _RARE.items():
            if (value := getattr(self, name)) != usual:
                form[name] = value.to_dict() if isinstance(value, Embed) else value
        if self.payload_indexes:
            form["payload_indexes"] = [*self.payload_indexes]
        return form

    def to_json(self) -> str:
        """Return the schema as JSON text; ``from_json`` is the inverse."""
        return json.dumps(self.to_dict(), ensure_ascii=False)

    @classmethod
    def from_json(cls, value: str | bytes | Mapping[str, Any]) -> Schema:
        """Return a schema from its JSON form, as text or already parsed."""
        if isinstance(value, (str, bytes)):
            try:
                value = json.loads(value)
            except ValueError as exc:
                reason = f"the schema is not valid JSON: {exc}"
                raise InvalidArgumentError("a schema", value, reason=reason) from exc
            except RecursionError as exc:
                reason = "the schema is nested too deeply"
                raise InvalidArgumentError("a schema", None, reason=reason) from exc
        if not isinstance(value, Mapping) or not value.keys() & {"dim", "embed"}:
            raise InvalidArgumentError("a schema", value, "a mapping with 'dim'")
        if unknown := _unknown(value, _NAMES):
            raise InvalidArgumentError("a schema's keys", unknown, f"among {sorted(_NAMES)}")
        options = dict(value)
        fields = options.pop("fields", None)
        fields = {} if fields is None else fields
        _check_count(fields)
        if options.get("embed") is not None:
            options["embed"] = Embed.from_dict(options["embed"])
        return cls(
            fields={name: Field.from_dict(field) for name, field in fields.items()},
            **options,
        )

    # Arrow

    def to_arrow(self) -> pa.Schema:
        """Return the Arrow schema of the table's batches; ``from_arrow`` is the inverse."""
        return self._arrow

    @cached_property
    def _arrow(self) -> pa.Schema:
        if not self.dim:
            reason = "an Arrow schema needs the length of the vectors: pass dim="
            raise InvalidArgumentError("dim", 0, reason=reason)
        columns = [
            pa.field("id", pa.utf8(), nullable=False),
            pa.field(self.vector, pa.list_(pa.float32(), self.dim), self.vector_nullable),
            *(
                pa.field(name, field.arrow_type(), nullable=field.nullable)
                for name, field in self.fields.items()
            ),
        ]
        if self.payload:
            columns.append(pa.field("payload", pa.json_(pa.utf8())))
        return pa.schema(columns, metadata={_METADATA_KEY: self.to_json().encode()})

    @classmethod
    def from_arrow(cls, schema: pa.Schema) -> Schema:
        """Return the schema in an Arrow schema's metadata; the inverse of ``to_arrow``."""
        carried = (getattr(schema, "metadata", None) or {}).get(_METADATA_KEY)
        if carried is None:
            expected = (
                "a schema made by Schema.to_arrow() (for other Arrow data, pass the data itself to "
                "create_table_from())"
            )
            raise InvalidArgumentError("an Arrow schema", schema, expected)
        return cls.from_json(carried)


_NAMES = tuple(field.name for field in fields(Schema))
# Keys that are always in the JSON form, and keys that are left out if they have these defaults.
_ALWAYS = ("dim", "metric", "model", "vector", "payload")
_RARE = {"analyzer": "plain", "quantized": None, "embed": None, "vector_nullable": False}


def _unknown(given: Mapping[Any, Any], known: Collection[str]) -> list[Any]:
    """Return unknown keys, checking only the first few, so a huge mapping is refused quickly."""
    return [key for key in islice(given, len(known) + 1) if key not in known]


def _check_count(fields: object) -> None:
    """Raise InvalidArgumentError unless ``fields`` maps at most ``MAX_FIELDS`` names."""
    if not isinstance(fields, Mapping):
        raise InvalidArgumentError("fields", fields, "a mapping of names to types")
    if len(fields) > MAX_FIELDS:
        expected = f"at most {MAX_FIELDS:,} fields"
        raise InvalidArgumentError(
            "fields", len(fields), reason=f"{expected} are allowed, not {len(fields):,}"
        )


def _checked_fields(vector: str, fields: Fields) -> Mapping[str, Field]:
    _check_count(fields)
    if check_field_name(vector).lower() in ("id", "payload"):
        raise InvalidNameError(vector, "field", "id and payload have their own columns")
    checked: dict[str, Field] = {}
    seen = {"id", "payload", vector.lower()}
    for name, field in fields.items():
        if check_field_name(name).lower() in seen:
            raise InvalidNameError(
                name,
                "field",
                "names must be distinct ignoring case, and 'id', 'payload' and the vector's name "
                f"({vector!r}) are taken",
            )
        seen.add(name.lower())
        checked[name] = field if isinstance(field, Field) else Field(field)
    partitions = [name for name, field in checked.items() if field.partition]
    if len(partitions) > MAX_PARTITIONS:
        reason = f"{len(partitions)} fields have partition=True; at most {MAX_PARTITIONS} may"
        raise InvalidArgumentError("partition", partitions, reason=reason)
    expiring = [name for name, field in checked.items() if field.expires]
    if len(expiring) > 1:
        reason = f"the fields {listed(expiring)} have expires=True; only one may"
        raise InvalidArgumentError("expires", expiring, reason=reason)
    return MappingProxyType(checked)


def _checked_payload_indexes(keys: object, payload: bool) -> tuple[str, ...]:
    if isinstance(keys, (str, Mapping)) or not isinstance(keys, Collection):
        raise InvalidArgumentError("payload_indexes", keys, 'names such as ["payload.user"]')
    checked = tuple(sorted({check_payload_key(key) for key in keys}))
    if checked and not payload:
        raise InvalidArgumentError("payload_indexes", keys, "empty with payload=False")
    if len(checked) > MAX_PAYLOAD_INDEXES:
        expected = f"at most {MAX_PAYLOAD_INDEXES} keys"
        raise InvalidArgumentError("payload_indexes", len(checked), expected)
    return checked


def _check_embed(embed: object, fields: Mapping[str, Field]) -> None:
    if embed is None:
        return
    if not isinstance(embed, Embed):
        raise InvalidArgumentError("embed", embed, 'Embed("field") or None')
    field = fields.get(embed.field)
    if field is None or field.kind != "text":
        texts = listed([name for name, each in fields.items() if each.kind == "text"])
        raise InvalidArgumentError(
            "embed", embed.field, f"a text field of the schema ({texts or 'it has none'})"
        )


def may_lack_vectors(schema: Schema) -> bool:
    """Return whether rows may be written without a vector."""
    return schema.embed is not None or schema.vector_nullable
