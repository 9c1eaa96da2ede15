"""Records and hits: the rows that a store returns."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from datetime import datetime
from itertools import islice
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, NoReturn, TypeVar

import numpy as np

from .._tools.messages import did_you_mean, shown
from .arrays import Float32Array
from .serialized import Serialized

if TYPE_CHECKING:
    from collections.abc import Sequence

    Vector = Sequence[float] | Float32Array


_R = TypeVar("_R", bound="_Row")

NOTHING: Mapping[str, Any] = MappingProxyType({})
# Names that ``Hit.to_dict`` and the table of several searches add. A stored key with one of these
# names gets one more underscore.
_OWN = re.compile(r"_+(score|distance|ranks|highlights|query)\Z")
_SHOWN_FIELDS = 6
# Sets the attributes of immutable rows.
_put = object.__setattr__


class _Row(Serialized, Mapping[str, Any]):
    """An immutable row: a mapping of ``id`` and the fields, with attributes for the rest.

    A field may have the name of an attribute or a method: ``row["score"]`` and ``row["get"]`` are
    always the fields, ``row.score`` and ``row.get`` never.
    """

    # Not a dataclass: pandas and Polars would read its attributes instead of the mapping.
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

    if not TYPE_CHECKING:  # type checkers report these themselves

        def __setitem__(self, name: str, value: object) -> NoReturn:
            raise TypeError(f"a {type(self).__name__} cannot be changed; update() changes rows")

    def __getitem__(self, name: str) -> Any:
        if name == "id":
            return self.id
        try:
            return self.fields[name]
        except KeyError:
            fault = f"{shown(name)}{did_you_mean(name, ['id', *self.fields])}"
        raise KeyError(fault)

    def get(self, name: str, default: Any = None) -> Any:
        """Return the id or a field; the default if the row does not have the field."""
        return self.id if name == "id" else self.fields.get(name, default)

    if not TYPE_CHECKING:  # so that type checkers still report unknown names

        def __getattr__(self, name: str) -> NoReturn:
            kind = type(self).__name__
            has_none = f"{kind!r} object has no attribute {name!r}"
            # Copy and pickle read these attributes before they are set.
            if name.startswith("_") or name in _Row.__slots__:
                raise AttributeError(has_none)
            fix = f"write row[{name!r}]" if name in self else "fields are its items: row['name']"
            raise AttributeError(f"{has_none}; {fix}")

    def __contains__(self, name: object) -> bool:
        return name == "id" or name in self.fields

    def __iter__(self) -> Iterator[str]:
        yield "id"
        yield from self.fields

    def __len__(self) -> int:
        return 1 + len(self.fields)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, type(self)) or not isinstance(self, type(other)):
            return NotImplemented
        names = [name for name in self._facts if name not in ("vector", "vector_name")]
        if any(getattr(self, name) != getattr(other, name) for name in names):
            return False
        vector, other_vector = self.vector, other.vector
        return vector is other_vector or (
            vector is not None and other_vector is not None and np.array_equal(vector, other_vector)
        )

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
        parts += [f"{name}={_shown(value)}" for name, value in fields]
        if len(self.fields) > _SHOWN_FIELDS:
            parts.append(f"… {len(self.fields) - _SHOWN_FIELDS} more fields")
        if self.vector is not None:
            parts.append(f"{self.vector_name}=<{len(self.vector)} numbers>")
        return f"{type(self).__name__}({', '.join(parts)})"

    def to_dict(self) -> dict[str, Any]:
        raise NotImplementedError

    def _plain(self) -> dict[str, Any]:
        return self.to_dict()

    def _vector(self) -> dict[str, Any]:
        if self.vector is None:
            return {}
        return {self.vector_name: np.asarray(self.vector, dtype=np.float32).tolist()}


def time_text(moment: datetime) -> str:
    """Return the shortest RFC 3339 text of a time."""
    return moment.isoformat().replace("+00:00", "Z")


def _shown(value: object) -> str:
    return time_text(value) if isinstance(value, datetime) else shown(value, 40)


class Record(_Row):
    """A row: its id, its vector (None if it was not read) and its fields.

    It is a mapping of ``id`` and the fields. ``vector_name`` is the key of the vector in the flat
    mapping that ``to_dict`` returns and ``insert`` takes.
    """

    __slots__ = ()
    __match_args__ = ("id", "vector", "fields", "vector_name")
    _facts = __match_args__

    def __init__(
        self,
        id: str,
        vector: Vector | None = None,
        fields: Mapping[str, Any] = NOTHING,
        vector_name: str = "embedding",
    ) -> None:
        _put(self, "id", id)
        _put(self, "vector", vector)
        _put(self, "fields", fields)
        _put(self, "vector_name", vector_name)

    def __repr__(self) -> str:
        return self._repr()

    def to_dict(self) -> dict[str, Any]:
        """Return the flat mapping that ``insert`` takes, with the vector, if any, as a list."""
        return {"id": self.id, **self._vector(), **self.fields}


class Rank(NamedTuple):
    """A row's rank, from 1, in one list of a hybrid search, with its ``score`` there."""

    rank: int
    score: float


class Hit(_Row):
    """A matching row of a search: a mapping of ``id`` and the fields.

    A better hit has a higher ``score``: the cosine, the dot product, ``1 / (1 + distance)`` under
    "l2", or BM25 in a keyword search. Fused and boosted scores are comparable within one search
    only. ``distance`` is ``1 - cosine``, the negative dot product or the Euclidean distance; it is
    None in a keyword search, and for a row without a vector. ``ranks`` has the row's ``rank``, from
    1, and ``score`` in each list of a hybrid search, "vector" and "text". With ``highlight``,
    ``highlights`` has a snippet of each text field that a keyword search matched.
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
        fields: Mapping[str, Any] = NOTHING,
        vector: Vector | None = None,
        ranks: Mapping[str, Rank] = NOTHING,
        highlights: Mapping[str, str] = NOTHING,
        vector_name: str = "embedding",
    ) -> None:
        _put(self, "id", id)
        _put(self, "score", score)
        _put(self, "distance", distance)
        _put(self, "fields", fields)
        _put(self, "vector", vector)
        _put(self, "ranks", ranks)
        _put(self, "highlights", highlights)
        _put(self, "vector_name", vector_name)

    def __repr__(self) -> str:
        distance = "" if self.distance is None else f"distance={self.distance:.6g}"
        return self._repr(*filter(None, (f"score={self.score:.6g}", distance)))

    def to_dict(self) -> dict[str, Any]:
        """Return the row as one flat dict, with ``_score`` and ``_distance`` after the id.

        It also has the vector, under its column's name, if the search read it, and ``_ranks`` and
        ``_highlights`` if the hit has them. A stored key with one of these names gets one more
        underscore in front, so ``_score`` is always the hit's score.
        """
        flat: dict[str, Any]
        flat = {"id": self.id, "_score": self.score, "_distance": self.distance}
        if self.ranks:
            flat["_ranks"] = {
                name: rank._asdict() if isinstance(rank, Rank) else rank
                for name, rank in self.ranks.items()
            }
        if self.highlights:
            flat["_highlights"] = dict(self.highlights)
        flat |= self._vector()
        for name, value in self.fields.items():
            flat[f"_{name}" if _OWN.match(name) else name] = value
        return flat
