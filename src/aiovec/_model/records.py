"""Records and hits: the rows that a store returns."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn, TypeVar

import numpy as np

from ..errors import shown
from .arrays import Float32Array

if TYPE_CHECKING:
    from collections.abc import Sequence

    Vector = Sequence[float] | Float32Array


_R = TypeVar("_R", bound="_Row")

_NOTHING: Mapping[str, Any] = MappingProxyType({})
# The names that a hit's own facts have in its flat form. A stored key that looks so gets one more.
_OWN = re.compile(r"_+(score|distance|ranks|highlights)\Z")
_SHOWN_FIELDS = 6
_SHOWN_LENGTH = 40


def _same_vector(one: Any, other: Any) -> bool:
    if one is None or other is None:
        return one is other
    return bool(np.array_equal(one, other))


class _Row(Mapping[str, Any]):
    """An immutable row: a mapping of ``id`` and the fields, with its other facts as attributes.

    A field may have the name of an attribute or a method: ``row["score"]`` and ``row["get"]`` are
    always the fields, ``row.score`` and ``row.get`` never.
    """

    # No dataclass: pandas and Polars would take that for its attributes, not for the mapping.
    __slots__ = ("fields", "id", "vector", "vector_name")
    _facts: ClassVar[tuple[str, ...]]

    id: str
    fields: Mapping[str, Any]
    vector: Float32Array | None
    vector_name: str

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError(f"a {type(self).__name__} cannot be changed")

    def __delattr__(self, name: str) -> NoReturn:
        raise AttributeError(f"a {type(self).__name__} cannot be changed")

    def __getitem__(self, name: str) -> Any:
        return self.id if name == "id" else self.fields[name]

    def __contains__(self, name: object) -> bool:
        return name == "id" or name in self.fields

    def __iter__(self) -> Iterator[str]:
        yield "id"
        yield from self.fields

    def __len__(self) -> int:
        return 1 + len(self.fields)

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        return all(
            getattr(self, name) == getattr(other, name)
            for name in self._facts
            if name not in ("vector", "vector_name")
        ) and _same_vector(self.vector, getattr(other, "vector"))  # noqa: B009 - mypy sees no type

    def __hash__(self) -> int:
        return hash(self.id)

    def __replace__(self: _R, /, **changes: Any) -> _R:
        return type(self)(**{**{name: getattr(self, name) for name in self._facts}, **changes})

    def __reduce__(self) -> tuple[Any, ...]:
        facts = (getattr(self, name) for name in self._facts)
        return type(self), tuple(dict(f) if isinstance(f, Mapping) else f for f in facts)

    def _repr(self, *facts: str) -> str:
        parts = [repr(self.id), *facts]
        fields = islice(self.fields.items(), _SHOWN_FIELDS)
        parts += [f"{name}={shown(value, _SHOWN_LENGTH)}" for name, value in fields]
        if len(self.fields) > _SHOWN_FIELDS:
            parts.append(f"… {len(self.fields) - _SHOWN_FIELDS} more fields")
        if self.vector is not None:
            parts.append(f"{self.vector_name}=<{len(self.vector)} numbers>")
        return f"{type(self).__name__}({', '.join(parts)})"

    def _vector(self) -> dict[str, Any]:
        if self.vector is None:
            return {}
        return {self.vector_name: np.asarray(self.vector, dtype=np.float32).tolist()}


class Record(_Row):
    """A row: its id, its vector (None where it was not asked for) and its fields.

    It is a mapping of ``id`` and the fields. ``vector_name`` is what the vector is called in the
    flat mapping that ``to_dict`` gives and ``insert`` takes.
    """

    __slots__ = ()
    __match_args__ = ("id", "vector", "fields", "vector_name")
    _facts = __match_args__

    def __init__(
        self,
        id: str,
        vector: Vector | None = None,
        fields: Mapping[str, Any] = _NOTHING,
        vector_name: str = "embedding",
    ) -> None:
        _put_id(self, id)
        _put_vector(self, vector)
        _put_fields(self, fields)
        _put_vector_name(self, vector_name)

    def __repr__(self) -> str:
        return self._repr()

    def to_dict(self) -> dict[str, Any]:
        """The flat mapping that ``insert`` takes; the vector as a list of floats, if it is here."""
        return {"id": self.id, **self._vector(), **self.fields}


class Rank(int):
    """A place, from 1, in one of the lists of a hybrid search, and the ``score`` there."""

    score: float

    def __new__(cls, rank: int, score: float) -> Rank:
        made = super().__new__(cls, rank)
        made.__dict__["score"] = score
        return made

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError("a Rank cannot be changed")

    def __repr__(self) -> str:
        return f"Rank({int(self)}, score={self.score:.6g})"

    __str__ = int.__repr__

    def __reduce__(self) -> tuple[Any, ...]:
        return Rank, (int(self), self.score)

    def to_dict(self) -> dict[str, Any]:
        return {"rank": int(self), "score": self.score}


class Hit(_Row):
    """A row that a search found: a mapping of ``id`` and the fields.

    ``score`` is higher for the better hit, ``distance`` lower (None for a text search). ``ranks``
    has the places of this row in the lists of a hybrid search, "vector" and "text": each is a
    number from 1 whose ``score`` is the row's score in that list. ``highlights`` has a snippet of
    each text field in which a keyword search found something, if that was asked for.
    """

    __slots__ = ("distance", "highlights", "ranks", "score")
    __match_args__ = (
        "id", "score", "distance", "fields", "vector", "ranks", "highlights", "vector_name",
    )  # fmt: skip
    _facts = __match_args__

    score: float
    distance: float | None
    ranks: Mapping[str, Rank]
    highlights: Mapping[str, str]

    def __init__(
        self,
        id: str,
        score: float,
        distance: float | None,
        fields: Mapping[str, Any] = _NOTHING,
        vector: Vector | None = None,
        ranks: Mapping[str, Rank] = _NOTHING,
        highlights: Mapping[str, str] = _NOTHING,
        vector_name: str = "embedding",
    ) -> None:
        _put_id(self, id)
        _put_score(self, score)
        _put_distance(self, distance)
        _put_fields(self, fields)
        _put_vector(self, vector)
        _put_ranks(self, ranks)
        _put_highlights(self, highlights)
        _put_vector_name(self, vector_name)

    def __repr__(self) -> str:
        distance = "" if self.distance is None else f"distance={self.distance:.6g}"
        return self._repr(*filter(None, (f"score={self.score:.6g}", distance)))

    def to_dict(self) -> dict[str, Any]:
        """The row as one flat dict, with ``_score`` and ``_distance`` behind the id.

        The vector is in it, under its column's name, if the search read it; ``_ranks`` and
        ``_highlights`` are, if the search gives them. A stored key with such a name gets one more
        underscore in front, so ``_score`` is always the hit's.
        """
        flat: dict[str, Any] = {
            "id": self.id, "_score": self.score, "_distance": self.distance,
        }  # fmt: skip
        if self.ranks:
            flat["_ranks"] = {
                name: rank.to_dict() if isinstance(rank, Rank) else rank
                for name, rank in self.ranks.items()
            }
        if self.highlights:
            flat["_highlights"] = dict(self.highlights)
        flat |= self._vector()
        for name, value in self.fields.items():
            flat[f"_{name}" if _OWN.match(name) else name] = value
        return flat


def _setter(kind: type, name: str) -> Callable[[object, object], None]:
    put: Callable[[object, object], None] = vars(kind)[name].__set__
    return put


# A row's attributes cannot be set. Its own methods do so by these, which is quicker than
# ``object.__setattr__``: a search makes many hits on the event loop.
_put_id = _setter(_Row, "id")
_put_vector = _setter(_Row, "vector")
_put_fields = _setter(_Row, "fields")
_put_vector_name = _setter(_Row, "vector_name")
_put_score = _setter(Hit, "score")
_put_distance = _setter(Hit, "distance")
_put_ranks = _setter(Hit, "ranks")
_put_highlights = _setter(Hit, "highlights")
