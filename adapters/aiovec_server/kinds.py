"""The values that a request may hold: each checked, and described for the OpenAPI document."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from aiovec.errors import InvalidArgumentError

from .bounds import check_argument, check_hits
from .problems import RequestError

Json = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of JSON value: what it is in words, its JSON schema, and the test that it passes."""

    words: str
    schema: Json
    fits: Callable[[Any], bool]
    of_text: Callable[[str], Any] = str
    """Read the value of a query parameter; ValueError where it is none."""

    def check(self, name: str, value: object) -> None:
        if not self.fits(value):
            raise InvalidArgumentError(name, value, self.words)


def _is_number(value: object) -> bool:
    return type(value) is float or type(value) is int


def _is_texts(value: object) -> bool:
    return type(value) is list and all(type(item) is str for item in value)


def _is_id(value: object) -> bool:
    return type(value) is str or type(value) is int


def _flag_of(text: str) -> bool:
    if text not in ("true", "false"):
        raise ValueError(text)
    return text == "true"


def _whole_of(text: str) -> int:
    if not (text.isascii() and text.isdigit()):  # int() takes 1_0 and spaces too
        raise ValueError(text)
    return int(text)


def _names_of(text: str) -> list[str]:
    return [name for name in text.split(",") if name]


TEXT = Kind("text", {"type": "string"}, lambda v: type(v) is str)
FLAG = Kind("true or false", {"type": "boolean"}, lambda v: type(v) is bool, _flag_of)
COUNT = Kind(
    "a whole number of at least 1", {"type": "integer", "minimum": 1},
    lambda v: type(v) is int and v >= 1, _whole_of,
)  # fmt: skip
WHOLE = Kind(
    "a whole number of at least 0", {"type": "integer", "minimum": 0},
    lambda v: type(v) is int and v >= 0, _whole_of,
)  # fmt: skip
NUMBER = Kind("a number", {"type": "number"}, _is_number, float)
TEXTS = Kind(
    "a list of texts", {"type": "array", "items": {"type": "string"}}, _is_texts, _names_of
)
AN_ID: Json = {"type": ["string", "integer"]}
ID = Kind("an id: text or a whole number", AN_ID, _is_id)
# The store looks at the ids of a list itself.
IDS = Kind(
    "an id or a list of ids",
    {"oneOf": [AN_ID, {"type": "array", "items": AN_ID}]},
    lambda v: _is_id(v) or type(v) is list,
)
OBJECT = Kind("an object", {"type": "object"}, lambda v: type(v) is dict)
FIELD = Kind(
    "the name of a type, or an object with the type and its options",
    {"oneOf": [{"type": "string"}, {"type": "object"}]},
    lambda v: type(v) is str or type(v) is dict,
)
NUMBERS: Json = {"type": "array", "items": {"type": "number"}}
# The store looks at the numbers itself.
VECTOR = Kind("a list of numbers", NUMBERS, lambda v: type(v) is list)
VECTORS = Kind("a list of vectors", {"type": "array", "items": NUMBERS}, lambda v: type(v) is list)
FILTERS = Kind(
    "a filter as text, or a list of them",
    {
        "oneOf": [
            {"type": "string"},
            {"type": "array", "items": {"type": ["string", "null"]}},
        ]
    },
    lambda v: (
        type(v) is str or (type(v) is list and all(item is None or type(item) is str for item in v))
    ),
)
ORDER = Kind(
    "a key or a list of keys",
    {"oneOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]},
    lambda v: type(v) is str or _is_texts(v),
)


def one_of(*names: str) -> Kind:
    """Return the kind of a value that is one of these texts."""
    return Kind(
        " or ".join(map(repr, names)), {"type": "string", "enum": list(names)},
        lambda v: type(v) is str and v in names,
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Key:
    """A key of a JSON body, or a query parameter.

    ``argument`` is the argument of the store's method that it becomes.
    """

    name: str
    argument: str
    kind: Kind
    about: str
    required: bool = False
    default: object = None
    also: tuple[str, ...] = ()
    """Other names under which it is taken, besides its name in snake_case."""

    def json_schema(self) -> dict[str, Any]:
        """Return the JSON schema of the value."""
        found = dict(self.kind.schema)
        return found if self.default is None else {**found, "default": self.default}

    @property
    def names(self) -> set[str]:
        return {self.name, snake_case(self.name), *self.also}


def snake_case(name: str) -> str:
    return "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in name)


@dataclass(frozen=True, slots=True)
class Keys:
    """The keys that a body or a query string may have."""

    keys: Sequence[Key]
    _by_name: dict[str, Key] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for key in self.keys:
            self._by_name.update(dict.fromkeys(key.names, key))

    def json_schema(self) -> dict[str, Any]:
        """Return the JSON schema of a body with these keys."""
        return {
            "type": "object",
            "properties": {
                key.name: {**key.json_schema(), "description": key.about} for key in self.keys
            },
            "required": [key.name for key in self.keys if key.required],
            "additionalProperties": False,
        }

    def of_body(self, body: object) -> dict[str, Any]:
        """Return the arguments in a JSON object. A null counts as absent."""
        if type(body) is not dict:
            raise InvalidArgumentError("the body", body, f"a JSON object with {self._listed()}")
        found: dict[str, Any] = {}
        for name, value in body.items():
            key = self._key(name, "the body's keys")
            if value is not None:
                key.kind.check(name, value)
                self._put(found, key, name, value)
        return self._complete(found)

    def of_query(self, pairs: Sequence[tuple[str, str]]) -> dict[str, Any]:
        """Return the arguments in a query string.

        A required one may be absent: the endpoint says what it is needed for.
        """
        found: dict[str, Any] = {}
        for name, text in pairs:
            key = self._key(name, "the query parameters")
            try:
                value = key.kind.of_text(text)
            except ValueError:
                raise InvalidArgumentError(name, text, key.kind.words) from None
            key.kind.check(name, value)
            self._put(found, key, name, value)
        return found

    def _key(self, name: str, of: str) -> Key:
        key = self._by_name.get(name)
        if key is None:
            expected = f"among {self._listed()}" if self.keys else "none"
            raise InvalidArgumentError(of, name, expected)
        return key

    def _put(self, found: dict[str, Any], key: Key, name: str, value: object) -> None:
        if key.argument in found:
            raise RequestError(422, f"{name!r} is given twice, under one name or two; pass it once")
        check_argument(name, key.argument, value)
        found[key.argument] = value

    def _complete(self, found: dict[str, Any]) -> dict[str, Any]:
        for key in self.keys:
            if key.required and key.argument not in found:
                raise InvalidArgumentError(key.name, None, key.kind.words)
        check_hits(found)
        return found

    def _listed(self) -> str:
        return ", ".join(key.name for key in self.keys) or "no keys"
