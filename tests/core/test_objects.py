"""Objects that apps hold rows in: models, dataclasses, tuples with names, hits and records."""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta, timezone
from typing import Any, NamedTuple

import numpy as np
import pydantic
import pytest
from tests.contract.base import case

from aiovec import Hit, InvalidRowError, Record, Schema, VectorStore

SCHEMA = Schema(2, fields={"year": int, "seen": datetime, "tags": list[str]})
MOMENT = datetime(2024, 5, 6, 7, 8, 9, 123456, tzinfo=UTC)
BERLIN = timezone(timedelta(hours=2))


@pytest.fixture
async def notes(store: VectorStore) -> VectorStore:
    await store.create_table("t", SCHEMA)
    return store


class Inner(pydantic.BaseModel):
    x: int


class Model(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(populate_by_name=True, serialize_by_alias=True)

    id: str = pydantic.Field(alias="ID")
    embedding: list[float]
    year: int | None = pydantic.Field(default=None, alias="publishedIn")
    seen: datetime | None = None
    tags: list[str] = pydantic.Field(default_factory=list)
    inner: Inner | None = None
    secret: str = pydantic.Field(default="hidden", exclude=True)


class WithArray(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(arbitrary_types_allowed=True, extra="allow")

    id: str
    embedding: np.ndarray


@dataclass(frozen=True, slots=True)
class DataInner:
    x: int


@dataclass
class Data:
    id: str
    embedding: Any
    year: int | None = None
    seen: datetime | None = None
    tags: list[str] = field(default_factory=list)
    inner: DataInner | None = None


class Tuple(NamedTuple):
    id: str
    embedding: Any
    year: int | None = None


OBJECTS: dict[str, Callable[[], list[Any]]] = {
    "pydantic": lambda: [
        Model(id="a", embedding=[1, 2], year=5, seen=MOMENT.astimezone(BERLIN), tags=["t"],
              inner=Inner(x=1)),
        Model.model_validate({"ID": "b", "embedding": [3, 4]}),
    ],
    "dataclasses": lambda: [
        Data("a", np.array([1, 2.0]), 5, MOMENT, ["t"], DataInner(1)), Data("b", [3, 4]),
    ],
}  # fmt: skip


async def test_models_and_dataclasses_are_rows(notes: VectorStore) -> None:
    for name, make in OBJECTS.items():
        for rows in (make(), iter(make()), tuple(make())):
            with case(name):
                assert await notes.insert("t", rows) == 2
            first, second = await notes.get("t", ["a", "b"])
            assert first.fields == {
                "year": 5, "seen": MOMENT, "tags": ["t"], "inner": {"x": 1},
            }  # fmt: skip
            assert (second["year"], second["tags"], second["inner"]) == (None, [], None)
            assert "secret" not in first
            await notes.delete("t", ["a", "b"])


async def test_other_objects_that_are_rows(notes: VectorStore) -> None:
    plain = namedtuple("plain", "id embedding year")
    for rows in (
        [Tuple("a", [1, 2], 5), Tuple("b", [3, 4])],
        [plain("a", [1, 2], 5), plain("b", (3, 4), None)],
        [WithArray(id="a", embedding=np.ones(2), note="kept")],
        [Hit("a", 0.5, 0.5, {"year": 5}, np.ones(2, np.float32), vector_name="other")],
        [Record("a", np.ones(2, np.float32), {"year": 5})],
    ):
        await notes.upsert("t", rows)
        assert "a" in {record.id for record in await notes.find("t")}
        await notes.delete("t", where="TRUE")


async def test_objects_that_are_no_rows(notes: VectorStore) -> None:
    good = Model(id="a", embedding=[1, 2])

    class Root(pydantic.RootModel[list[int]]):
        pass

    wrong: Any
    for wrong in (
        good, Data("a", [1, 2]), Tuple("a", [1, 2]), [Model], [Data], [good, object()],
        [Root([1])], [good, ("a", [1, 2])], [{"id": "a"}.items()],
    ):  # fmt: skip
        with pytest.raises(InvalidRowError):
            await notes.insert("t", wrong)
    for bad in (Model(id="", embedding=[1, 2]), Data(id="b", embedding=[1, 2], year=True)):
        with pytest.raises(InvalidRowError) as caught:
            await notes.insert("t", [good, bad])
        assert caught.value.row == 1
    assert await notes.count("t") == 0
