"""What comes out of a store: records and hits."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

_NOTHING: Mapping[str, Any] = MappingProxyType({})


def _nothing() -> Mapping[str, Any]:
    # Not a plain default: Python 3.11 takes a mapping proxy for a mutable one and refuses it.
    return _NOTHING


def _same_vector(one: Any, other: Any) -> bool:
    if one is None or other is None:
        return one is other
    return bool(np.array_equal(one, other))


@dataclass(frozen=True, slots=True, eq=False)
class Record:
    """A row: its id, its vector (None where it was not asked for) and its fields.

    ``record["year"]`` reads a field. ``vector_name`` is what the vector is called in the flat
    mapping that ``to_dict`` gives and ``insert`` takes.
    """

    id: str
    vector: npt.NDArray[np.float32] | Any | None = None
    fields: Mapping[str, Any] = field(default_factory=_nothing)
    vector_name: str = field(default="embedding", repr=False)

    def __getitem__(self, name: str) -> Any:
        return self.fields[name]

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Record):
            return NotImplemented
        return (
            self.id == other.id
            and self.fields == other.fields
            and _same_vector(self.vector, other.vector)
        )

    def __hash__(self) -> int:
        return hash(self.id)

    def to_dict(self) -> dict[str, Any]:
        """The flat mapping that ``insert`` takes; the vector as a list of floats, if it is here."""
        flat: dict[str, Any] = {"id": self.id}
        if self.vector is not None:
            flat[self.vector_name] = np.asarray(self.vector, dtype=np.float32).tolist()
        return flat | dict(self.fields)


@dataclass(frozen=True, slots=True, eq=False)
class Hit:
    """A row that a search found.

    ``score`` is higher for the better hit, ``distance`` lower (None for a text search).
    ``hit["year"]`` reads a field. ``ranks`` tells the places, from 1, that the parts of a hybrid
    search gave this row.
    """

    id: str
    score: float
    distance: float | None
    fields: Mapping[str, Any] = field(default_factory=_nothing)
    vector: npt.NDArray[np.float32] | None = None
    ranks: Mapping[str, int] = field(default_factory=_nothing)
    highlights: Mapping[str, str] = field(default_factory=_nothing)

    def __getitem__(self, name: str) -> Any:
        return self.fields[name]

    def __contains__(self, name: object) -> bool:
        return name in self.fields

    def __iter__(self) -> Iterator[str]:
        # Without this, Python would fall back to indexing with 0, 1, 2 … and raise KeyError.
        return iter(self.fields)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Hit):
            return NotImplemented
        return (
            (self.id, self.score, self.distance) == (other.id, other.score, other.distance)
            and self.fields == other.fields
            and _same_vector(self.vector, other.vector)
        )

    def __hash__(self) -> int:
        return hash(self.id)

    def to_dict(self) -> dict[str, Any]:
        """Id, score, distance and fields; the rest where it is there."""
        shown: dict[str, Any] = {
            "id": self.id,
            "score": self.score,
            "distance": self.distance,
            "fields": dict(self.fields),
        }
        if self.vector is not None:
            shown["vector"] = self.vector.tolist()
        if self.ranks:
            shown["ranks"] = dict(self.ranks)
        if self.highlights:
            shown["highlights"] = dict(self.highlights)
        return shown
