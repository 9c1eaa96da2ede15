"""Errors as HTTP tells them, by RFC 9457, and back: one table from error class to status.

``problem_of`` makes the answer to an error, ``error_of`` gives a client the same error again.

No path of this machine leaves, no target, traceback or cause: only the facts named in the table do,
and the texts that this machine writes (a driver's message, an operating system's) have their places
taken out. A message made of the caller's own values goes as it is.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import NamedTuple

from .. import errors
from .._model.redaction import without_secrets
from ..errors import AiovecError, shown

Json = None | bool | int | float | str | list["Json"] | dict[str, "Json"]

MEDIA_TYPE = "application/problem+json"

LONGEST_TEXT = 2000
"""Characters of a message or of a fact; the rest is cut off."""
MOST_ITEMS = 100
"""Items of a fact that is a list, such as the ids of a DuplicateIdError."""

_TYPE = "urn:aiovec:error:"
_BEGUN = "begun"


@dataclass(frozen=True, slots=True)
class Problem:
    """An answer of a server that is an error, as RFC 9457 lays it out.

    ``error`` is the name of a class of ``aiovec.errors`` and ``facts`` are its attributes; both are
    empty where the problem is one of HTTP alone, such as a body that is too large.
    """

    status: int
    title: str
    detail: str
    error: str = ""
    facts: Mapping[str, Json] = field(default_factory=dict)
    retry_after: int | None = None
    """Seconds after which the same request may succeed."""
    begun: bool = False
    """True if the call was ended within, so that a write may have been done."""

    @classmethod
    def plain(cls, status: int, detail: str, *, retry_after: int | None = None) -> Problem:
        """Return a problem of HTTP alone; its title is the status's own."""
        return cls(status, HTTPStatus(status).phrase, detail, retry_after=retry_after)

    def to_dict(self) -> dict[str, Json]:
        """Return the members of the JSON document."""
        document: dict[str, Json] = {
            "type": _TYPE + self.error if self.error else "about:blank",
            "title": self.title,
            "status": self.status,
            "detail": self.detail,
        }
        if self.error:
            document |= {"error": self.error, "facts": dict(self.facts)}
        if self.begun:
            document[_BEGUN] = True
        return document

    def body(self) -> bytes:
        """Return the JSON document."""
        return json.dumps(self.to_dict(), allow_nan=False).encode()

    def headers(self) -> dict[str, str]:
        """Return the headers that belong to the document."""
        found = {"content-type": MEDIA_TYPE}
        if self.retry_after is not None:
            found["retry-after"] = str(self.retry_after)
        return found


class _Fact(NamedTuple):
    """A kind of attribute: to JSON, and from JSON of somebody else."""

    given: Callable[[object], Json]
    read: Callable[[object], object]


def _text_given(value: object) -> Json:
    return None if value is None else _short(value if isinstance(value, str) else shown(value))


def _text_read(value: object) -> str:
    return _short(value) if isinstance(value, str) else ""


def _number_given(value: object) -> Json:
    finite = isinstance(value, (int, float)) and -(2**63) <= value < 2**63
    return value if finite and isinstance(value, (int, float)) else None


def _integer_read(value: object) -> int:
    whole = isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**63
    return value if whole and isinstance(value, int) else 0


def _seconds_read(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return 0.0
    return float(value) if 0 <= value < 1e9 else 0.0


def _texts_given(value: object) -> Json:
    items = value if isinstance(value, (list, tuple)) else []
    return [_text_given(item) for item in items[:MOST_ITEMS]]


def _texts_read(value: object) -> list[str]:
    items = value if isinstance(value, list) else []
    return [_short(item) for item in items[:MOST_ITEMS] if isinstance(item, str)]


def _value_given(value: object) -> Json:
    """Return any value that a caller gave: as it is if JSON has it, else as a message shows it."""
    if value is None or isinstance(value, (bool, str)):
        return _short(value) if isinstance(value, str) else value
    if type(value) is int and abs(value) < 2**63:
        return value
    if type(value) is float and math.isfinite(value):
        return value
    if isinstance(value, (list, tuple)) and all(isinstance(item, str) for item in value[:1000]):
        return _texts_given(value)
    return shown(value)


def _value_read(value: object) -> object:
    if isinstance(value, list):
        return _texts_read(value)
    if isinstance(value, str):
        return _short(value)
    return value if value is None or isinstance(value, (bool, int, float)) else shown(value)


def _or_none(fact: _Fact) -> _Fact:
    return _Fact(fact.given, lambda value: None if value is None else fact.read(value))


_TEXT = _Fact(_text_given, _text_read)
_INTEGER = _Fact(_number_given, _integer_read)
_SECONDS = _Fact(_number_given, _seconds_read)
_FLAG = _Fact(lambda value: value is True, lambda value: value is True)
_TEXTS = _Fact(_texts_given, _texts_read)
_VALUE = _Fact(_value_given, _value_read)
_TEXT_OR_NONE = _or_none(_TEXT)
_INTEGER_OR_NONE = _or_none(_INTEGER)


@dataclass(frozen=True, slots=True)
class _Row:
    status: int
    title: str
    facts: Mapping[str, _Fact] = field(default_factory=dict)
    """The attributes that leave."""
    places: Mapping[str, str] = field(default_factory=dict)
    """The attributes that say where something is. They stay, and these words leave instead."""
    machine: bool = False
    """True if this machine wrote a part of the message, so that a path may be in it."""
    retry_after: int | None = None


_STORE = {"target": "the store"}
_OF_ROW = {"row": _INTEGER_OR_NONE, "id": _TEXT_OR_NONE}

_TABLE: dict[type[AiovecError], _Row] = {
    AiovecError: _Row(500, "The store failed", machine=True),
    errors.ConfigError: _Row(
        500,
        "The server is not set up for this",
        {"key": _TEXT_OR_NONE, "accepted": _TEXT_OR_NONE},
        places={"file": "the settings"},
        machine=True,
    ),
    errors.BackendNotInstalledError: _Row(
        500, "The backend is not installed", {"backend": _TEXT, "extra": _TEXT}, machine=True
    ),
    errors.ExtensionUnavailableError: _Row(
        500, "SQLite lacks an extension", {"reason": _TEXT, "cure": _TEXT}, machine=True
    ),
    errors.InvalidArgumentError: _Row(
        422, "Invalid argument", {"argument": _TEXT, "value": _VALUE, "expected": _TEXT}
    ),
    errors.InvalidNameError: _Row(
        422, "Invalid name", {"name": _VALUE, "kind": _TEXT, "rule": _TEXT}
    ),
    errors.TableNotFoundError: _Row(404, "No such table", {"table": _TEXT, "tables": _TEXTS}),
    errors.TableExistsError: _Row(409, "The table exists", {"table": _TEXT}),
    errors.SchemaMismatchError: _Row(
        409, "The table has another schema", {"table": _TEXT, "differences": _TEXTS}
    ),
    errors.ModelMismatchError: _Row(
        409,
        "The table has another embedding model",
        {"table": _TEXT, "expected": _TEXT_OR_NONE, "given": _TEXT_OR_NONE},
    ),
    errors.DimensionMismatchError: _Row(
        422,
        "The vector has another length",
        {"expected": _INTEGER, "given": _INTEGER, **_OF_ROW},
    ),
    errors.InvalidVectorError: _Row(422, "Invalid vector", {"reason": _TEXT, **_OF_ROW}),
    errors.InvalidRowError: _Row(
        422, "Invalid row", {"reason": _TEXT, "field": _TEXT_OR_NONE, **_OF_ROW}
    ),
    errors.EmbeddingError: _Row(
        502,  # 503 if a retry may help: see problem_of
        "The embedder gave no vector",
        {
            "embedder": _TEXT,
            "reason": _TEXT,
            "model": _TEXT_OR_NONE,
            "status": _INTEGER_OR_NONE,
            "retryable": _FLAG,
            **_OF_ROW,
        },
        machine=True,
    ),
    errors.DuplicateIdError: _Row(
        409, "The id exists", {"table": _TEXT, "ids": _TEXTS, "within_call": _FLAG}
    ),
    errors.FilterError: _Row(
        422,
        "Invalid filter",
        {"text": _TEXT_OR_NONE, "position": _INTEGER_OR_NONE, "expected": _TEXT_OR_NONE},
    ),
    # Not 501, which says that the server knows no such request at all: another store would do it.
    errors.UnsupportedError: _Row(
        422,
        "The backend does not support this",
        {"ability": _TEXT, "backend": _TEXT, "table": _TEXT_OR_NONE},
        machine=True,  # a hint may name the target
    ),
    errors.StoreClosedError: _Row(
        503,
        "The store is closed",
        {"reason": _TEXT_OR_NONE},
        places=_STORE,
        machine=True,
        retry_after=5,
    ),
    errors.StoreBusyError: _Row(
        503,
        "The store is busy",
        {"reason": _TEXT, "waited": _SECONDS, "in_part": _FLAG},
        machine=True,
        retry_after=1,
    ),
    errors.StoreFullError: _Row(
        507,
        "The store is full",
        {"reason": _TEXT, "in_part": _FLAG},
        places=_STORE,
        machine=True,
    ),
    # Not 503: a client that repeats the request by itself may do it twice.
    errors.OutcomeUnknownError: _Row(
        500, "The outcome is not known", {"reason": _TEXT}, places=_STORE, machine=True
    ),
    errors.StoreMovedError: _Row(
        503,
        "The store has moved",
        {"backend": _TEXT, "generation": _INTEGER},
        places={**_STORE, "moved_to": "another place", "config": ""},
        machine=True,
        retry_after=2,
    ),
    errors.StoreReplacedError: _Row(
        503,
        "The store was replaced",
        {"reason": _TEXT},
        places=_STORE,
        machine=True,
        retry_after=10,
    ),
    errors.CorruptStoreError: _Row(
        500, "The store is damaged", {"reason": _TEXT}, places=_STORE, machine=True
    ),
    errors.MigrationError: _Row(409, "The migration cannot do this", machine=True),
}
_BY_NAME = {cls.__name__: cls for cls in _TABLE}
_EMBEDDER_RETRY = 5


def problem_of(error: BaseException, places: Iterable[str] = ()) -> Problem:
    """Return the answer of a server to an error.

    ``places`` are further texts that must not leave, such as the target of the store; the error's
    own target, paths, addresses and secrets never do. An error that is none of ours says nothing.
    """
    cls = next((base for base in type(error).__mro__ if base in _TABLE), None)
    if cls is None or not isinstance(error, AiovecError):
        return Problem.plain(500, "the server failed; its log has the reason")
    row = _TABLE[cls]
    hidden: list[tuple[object, str]] = [(place, "the store") for place in places]
    hidden += [(getattr(error, name, None), words) for name, words in row.places.items()]
    facts: dict[str, Json] = {}
    for name, fact in row.facts.items():
        value = getattr(error, name, None)
        if row.machine and isinstance(value, str) and name != "id":  # a caller's own
            value = _without_places(value, hidden)
        facts[name] = fact.given(value)
    detail = str(error)
    detail = _short(_without_places(detail, hidden) if row.machine else detail)
    status, retry_after = row.status, row.retry_after
    if isinstance(error, errors.EmbeddingError) and error.retryable:
        status, retry_after = 503, _EMBEDDER_RETRY
    return Problem(status, row.title, detail, cls.__name__, facts, retry_after)


def error_of(document: object, *, target: str = "the server's store") -> AiovecError:
    """Return the error that a server's problem tells of: its class, its message and its facts.

    ``document`` is the JSON as it was read, from a server that may be none of ours: an unknown
    class gives ``AiovecError``, and a fact of another type the one for "nothing". ``target``
    stands where the error names its store, whose place the server keeps for itself.
    """
    members = document if isinstance(document, Mapping) else {}
    name, detail, given = (members.get(key) for key in ("error", "detail", "facts"))
    cls = _BY_NAME.get(name, AiovecError) if isinstance(name, str) else AiovecError
    row = _TABLE[cls]
    facts = given if isinstance(given, Mapping) else {}
    error = cls.__new__(cls)
    text = detail if isinstance(detail, str) and detail else members.get("title")
    message = text if isinstance(text, str) and text else "the server told of no reason"
    error.args = (_short(message),)
    attributes: dict[str, object] = {
        name: fact.read(facts.get(name)) for name, fact in row.facts.items()
    }
    for name, words in row.places.items():
        attributes[name] = target if name == "target" else words
    error.__dict__.update(attributes)
    return error


def was_begun(document: Mapping[str, object]) -> bool:
    """Return whether a server's problem tells of a call that it ended within."""
    return document.get(_BEGUN) is True


def _short(text: str) -> str:
    """Return a text that JSON of every language reads, cut to a length."""
    if len(text) > LONGEST_TEXT:
        text = text[: LONGEST_TEXT - 1] + "…"
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


# A path or an address in a text that this machine wrote. In quotes it may have spaces.
_PLACE = re.compile(
    r"""(?P<quote>['"`])(?:file:|~|[A-Za-z]:|\\)?[/\\](?:(?!(?P=quote)).){0,2000}(?P=quote)"""
    r"""|(?<![\w.+-])[A-Za-z][\w.+-]{0,30}:/[^\s'"<>`,;)]*"""
    r"""|(?<![\w/\\])(?:\.{1,2}|~\w*|[A-Za-z]:|\\)?[/\\][^\s'"<>`,;:)]+""",
    re.DOTALL,
)


def _without_places(text: str, hidden: Iterable[tuple[object, str]]) -> str:
    """Return a text of this machine without the places and the secrets that it names."""
    # Cut first: no later step shall take long.
    text = text[: 10 * LONGEST_TEXT]
    known: dict[str, str] = {}
    for place, words in hidden:
        if isinstance(place, str) and len(place) > 2:
            known[place] = words or "…"
            folder = os.path.dirname(place) if os.path.isabs(place) else ""
            if len(folder) > 2:
                known.setdefault(folder, "…")
    for place in sorted(known, key=len, reverse=True):
        words = known[place]
        text = text.replace(f"{words} {place}", words).replace(place, words)
    return _PLACE.sub("…", without_secrets(text))
