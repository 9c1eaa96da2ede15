"""Rows, vectors, ids and values in every form of ``tests.harness.forms``: they come back as listed
there, or are refused whole, with row and field."""

from __future__ import annotations

import asyncio
import re
import threading
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from tests.contract.base import case, filled
from tests.harness import forms
from tests.harness.forms import GOOD, Model
from tests.harness.oracle import arrow_table
from tests.harness.values import (
    DIM,
    EVERY_KIND,
    SMALL,
    assert_same_rows,
    ids_of,
    in_forms,
    rows_of_every_kind,
    same_value,
    small_rows,
    vectors,
)

import aiovec
from aiovec import REMOVE, DuplicateIdError, F, Field, InvalidRowError, Schema, VectorStore, new_id

# Rows


async def test_rows_of_every_form_are_stored_alike(store: VectorStore) -> None:
    rows = rows_of_every_kind(40)
    ids = [row["id"] for row in rows]
    await store.create_table("notes", EVERY_KIND)
    every = {**forms.ROWS, **{f"{name}, once": form for name, form in forms.READ_ONCE.items()}}
    for number, (name, form) in enumerate(every.items()):
        method = store.upsert if number % 2 else store.insert
        with case(name):
            assert await method("notes", form(rows)) == 40
            assert await store.count("notes") == 40
            assert_same_rows(await store.get("notes", ids), rows, EVERY_KIND)
            assert await store.delete("notes", ids) == 40


async def test_other_things_than_rows_are_refused(notes: VectorStore) -> None:
    for number, wrong in enumerate(forms.NO_ROWS):
        with case((number, wrong)), pytest.raises(InvalidRowError):
            await notes.insert("notes", wrong)
    bad = forms.Data(**{**rows_of_every_kind(1)[0], "year": True})
    with pytest.raises(InvalidRowError) as caught:
        await notes.insert("notes", [Model(**rows_of_every_kind(1)[0]), bad])
    assert caught.value.row == 1
    assert await notes.count("notes") == 10


async def test_a_form_that_can_be_read_once_is_read_once(tmp_path: Path) -> None:
    """Also by a call that starts again because another store altered the table."""
    rows = rows_of_every_kind(6)
    ids, queries = [row["id"] for row in rows], [row["embedding"] for row in rows]
    place = tmp_path / "store.db"
    async with aiovec.connect(place) as store, aiovec.connect(place) as other:
        await store.create_table("notes", EVERY_KIND)
        for number, (name, form) in enumerate(forms.READ_ONCE.items()):
            with case(name):
                await store.delete("notes", iter(ids))
                await other.add_field("notes", f"new{number}", Field(str))
                assert await store.insert("notes", form(rows)) == 6
                assert await store.count("notes") == 6

        async def exported() -> list[Any]:
            batches = store.export("notes", select=iter(["name"]))
            return [row async for batch in batches for row in batch.to_pylist()]

        reads: dict[str, Callable[[], Awaitable[Any]]] = {
            "search_many": lambda: store.search_many("notes", iter(queries), limit=1),
            "search_many's select": lambda: store.search_many(
                "notes", queries, limit=1, select=iter(["name"])
            ),
            "search's select": lambda: store.search("notes", queries[0], select=iter(["name"])),
            "find's select": lambda: store.find("notes", select=iter(["name"])),
            "an IN": lambda: store.find("notes", F.id.in_(iter(ids))),
            "get": lambda: store.get("notes", iter(ids)),
            "export's select": exported,
            "update": lambda: store.update("notes", {"year": 7}, ids=iter(ids)),
            "delete": lambda: store.delete("notes", iter(ids)),
        }
        for number, (name, read) in enumerate(reads.items()):
            with case(name):
                await other.add_field("notes", f"more{number}", Field(str))
                answer = await read()
                assert (answer if isinstance(answer, int) else len(answer)) == 6
                if name == "find's select":
                    assert set(answer[0].fields) == {"name"}


async def test_results_and_exports_can_be_stored_again(store: VectorStore) -> None:
    rows = rows_of_every_kind(25)
    await filled(store, EVERY_KIND, rows, name="one")
    ids = [row["id"] for row in rows]
    records = await store.get("one", ids)
    given: dict[str, Any] = {
        "records": records,
        "dicts": [record.to_dict() for record in records],
        "export": store.export("one", batch_size=4),
        "batches": [batch async for batch in store.export("one", batch_size=4)],
    }
    for name, again in given.items():
        await filled(store, EVERY_KIND, again, name=name)
        with case(name):
            assert_same_rows(await store.get(name, ids), rows, EVERY_KIND)


async def test_the_callers_rows_are_left_alone(store: VectorStore) -> None:
    rows = rows_of_every_kind(5)
    copies = [dict(row) for row in rows]
    matrix = vectors(3)
    await filled(store, EVERY_KIND, rows)
    await store.insert("notes", {"id": ["x", "y", "z"], "embedding": matrix})
    matrix[:] = 0  # what was stored does not change with the caller's array
    for row, copy in zip(rows, copies, strict=True):
        assert row.keys() == copy.keys()
        assert all(row[name] is copy[name] for name in copy)
    stored = [record.vector for record in await store.get("notes", ["x", "y", "z"])]
    assert np.array_equal(np.stack(stored), vectors(3))  # type: ignore[arg-type]  # each has one


async def test_many_rows_are_checked_in_a_thread(store: VectorStore) -> None:
    """The event loop goes on meanwhile."""
    threads: set[threading.Thread] = set()

    class Vector:
        def __array__(self, *_: Any, **__: Any) -> np.ndarray:
            threads.add(threading.current_thread())
            return np.ones(DIM, dtype=np.float32)

    await store.create_table("many", Schema(DIM))
    for call in (store.insert, store.upsert):
        assert await call("many", [{"id": str(n), "embedding": Vector()} for n in range(3000)])
    assert await store.set_vectors("many", map(str, range(3000)), [Vector()] * 3000) == 3000
    assert threads
    assert threading.main_thread() not in threads


async def test_an_iterable_is_read_to_its_end_before_the_write(notes: VectorStore) -> None:
    seen = []

    async def rows() -> AsyncIterator[dict[str, Any]]:
        for row in small_rows(300, start=100):
            if row["year"] % 50 == 0:
                seen.append(await notes.count("notes"))
            yield row

    assert await notes.insert("notes", rows()) == 300
    assert seen == [10] * len(seen)
    assert await notes.count("notes") == 310


async def test_an_iterable_that_fails_writes_nothing(notes: VectorStore) -> None:
    def rows() -> Iterator[dict[str, Any]]:
        yield from small_rows(300, start=100)
        raise OSError("the source broke")

    async def batches() -> AsyncIterator[dict[str, Any]]:
        for row in rows():
            yield row

    for given in (rows(), batches()):
        with pytest.raises(OSError, match="the source broke"):
            await notes.insert("notes", given)
    assert await notes.count("notes") == 10


async def test_an_id_in_two_batches_of_one_insert_is_refused(notes: VectorStore) -> None:
    table = arrow_table(small_rows(4, start=50), SMALL)
    with pytest.raises(DuplicateIdError) as caught:
        await notes.insert("notes", [table, table.slice(2, 1)])
    assert caught.value.ids == ["r0052"]
    assert await notes.upsert("notes", [table, table.slice(2, 1)]) == 4


# Vectors


async def test_vectors_of_every_form_are_stored_and_searched_alike(store: VectorStore) -> None:
    base = np.array([3, 1, 4, 2], dtype=np.float32)
    await store.create_table("notes", Schema(DIM, metric="l2"))
    for name, form in forms.VECTORS.items():
        with case(name):
            rows = [{"id": "x", "embedding": form(base)}, {"id": "y", "embedding": form(-base)}]
            await store.insert("notes", rows)
            (record,) = await store.get("notes", "x")
            assert record.vector is not None
            assert record.vector.tolist() == np.asarray(form(base), dtype=np.float32).tolist()
            many = await store.search_many("notes", [form(base), form(-base)], limit=1)
            assert [hits[0].distance for hits in many] == [0.0, 0.0]
            assert await store.set_vectors("notes", iter("y"), [form(base)]) == 1
            hits = await store.search("notes", form(base), limit=2)
            assert [(hit.id, hit.distance) for hit in hits] == [("x", 0.0), ("y", 0.0)]
            assert await store.delete("notes", ["x", "y"]) == 2
    pair = np.stack([base, -base])
    for name, form in forms.MATRICES.items():
        with case(name):
            await store.upsert("notes", {"id": ["x", "y"], "embedding": np.ones((2, DIM))})
            assert await store.set_vectors("notes", ["x", "y"], form(pair)) == 2
            stored = [record.vector for record in await store.get("notes", ["x", "y"])]
            assert np.array_equal(np.stack(stored), pair)  # type: ignore[arg-type]  # they have one
    assert await store.set_vectors("notes", "x", [[5.0, 0, 0, 0]]) == 1


async def test_a_bad_vector_is_refused_by_every_call(notes: VectorStore) -> None:
    """The error names the row; a library's own error is its cause."""
    before = await notes.find("notes", include_vector=True)
    ids = ["new", "r0001"]
    for name, (vector, error, words) in forms.BAD_VECTORS.items():
        pair = [GOOD, vector]
        calls: dict[str, Awaitable[Any]] = {
            "insert": notes.insert("notes", [{"id": id, "embedding": v} for id, v in
                                             zip(ids, pair, strict=True)]),
            "upsert": notes.upsert("notes", {"id": ids, "embedding": pair}),
            "set_vectors": notes.set_vectors("notes", ids, pair),
            "search_many": notes.search_many("notes", pair),
            "search": notes.search("notes", vector),
        }  # fmt: skip
        for call, outcome in zip(
            calls, await asyncio.gather(*calls.values(), return_exceptions=True), strict=True
        ):
            with case((name, call)):
                assert isinstance(outcome, error)
                assert isinstance(outcome, ValueError)
                assert re.search(words, str(outcome))
                facts = vars(outcome)
                assert facts["row"] == (None if call == "search" else 1)
                assert facts["id"] == (None if call.startswith("search") else "r0001")
                if isinstance(outcome, aiovec.DimensionMismatchError):
                    assert (outcome.expected, outcome.given) == (DIM, len(vector))
                assert outcome.__cause__ is not None or ")" not in words
    masked = np.ma.masked_array(np.ones((2, DIM)), mask=[[False] * DIM, [True] * DIM])
    with pytest.raises(aiovec.InvalidVectorError, match="masked"):
        await notes.insert("notes", {"id": ids, "embedding": masked})
    assert await notes.find("notes", include_vector=True) == before


async def test_set_vectors_refuses_ids_and_vectors_that_do_not_pair(store: VectorStore) -> None:
    schema = Schema(DIM, model="m", fields={"year": int})
    await filled(store, schema, [{"id": "a", "embedding": [1.0, 0, 0, 0]}])
    for given in ([GOOD], [GOOD] * 3, GOOD, 7, "text", {"a": GOOD}):
        with case(given), pytest.raises((aiovec.InvalidArgumentError, aiovec.InvalidVectorError)):
            await store.set_vectors("notes", ["x", "a"], given)  # type: ignore[arg-type]  # bad
    for ids in (None, b"ab", {"a": 1}, ["a", None], ["a", b"b"]):
        with case(ids), pytest.raises(aiovec.InvalidArgumentError):
            await store.set_vectors("notes", ids, [GOOD, GOOD])  # type: ignore[arg-type]  # bad
    with pytest.raises(aiovec.ModelMismatchError):
        await store.set_vectors("notes", ["a"], [GOOD], model="other")
    with pytest.raises(aiovec.TableNotFoundError):
        await store.set_vectors("absent", ["a"], [GOOD])
    (record,) = await store.get("notes", "a")
    assert record.vector is not None
    assert record.vector.tolist() == [1.0, 0, 0, 0]
    assert await store.set_vectors("notes", ["a"], [GOOD], model="m") == 1


async def test_a_nullable_vector_may_be_null_or_absent_in_every_form(store: VectorStore) -> None:
    schema = Schema(DIM, vector_nullable=True, fields={"name": str, "year": int})
    await store.create_table("notes", schema)
    column = pa.array([GOOD, None], pa.list_(pa.float32(), DIM))
    given = in_forms({"id": ["a", "b"], "embedding": [GOOD, None]}) | {
        "no key": [{"id": "a", "embedding": GOOD}, {"id": "b"}],
        "Arrow of one length": pa.table({"id": ["a", "b"], "embedding": column}),
    }
    for name, rows in given.items():
        with case(name):
            assert await store.upsert("notes", rows) == 2
            given_row, null_row = await store.get("notes", ["a", "b"])
            assert given_row.vector is not None
            assert (given_row.vector.tolist(), null_row.vector) == (GOOD, None)
    for rows in ({"id": ["c"]}, pa.table({"id": ["c"]}), [{"id": "c"}]):
        with case(rows):
            await store.upsert("notes", rows)
            assert [r.vector for r in await store.get("notes", "c")] == [None]
    with pytest.raises(aiovec.InvalidVectorError):
        await store.insert("notes", [{"id": "d", "embedding": [forms.NAN] * DIM}])
    with pytest.raises(aiovec.InvalidVectorError):
        await store.set_vectors("notes", ["a"], [None])  # type: ignore[list-item]  # bad
    assert Schema.from_json(schema.to_json()) == schema == await store.schema("notes")
    assert Schema.from_arrow(schema.to_arrow()) == schema


# Ids


async def test_whole_numbers_and_uuids_are_ids_in_every_call(store: VectorStore) -> None:
    texts = list(forms.IDS.values())
    rows = [{"id": id, "embedding": GOOD} for id in forms.IDS]
    await filled(store, SMALL, rows)
    assert ids_of(await store.get("notes", list(forms.IDS))) == texts
    assert await store.upsert("notes", {"id": list(forms.IDS), "embedding": [GOOD] * len(rows)})
    assert await store.count("notes") == len(rows)
    for id, text in forms.IDS.items():
        with case(id):
            assert ids_of(await store.get("notes", id)) == [text]
            assert await store.exists("notes", [id, 99]) == {text}
            assert await store.set_vectors("notes", [id], [GOOD]) == 1
            assert await store.update("notes", {"year": 1}, ids=[id]) == 1
            literal = text if id == 2**70 else id  # which is too large a number for a filter
            assert ids_of(await store.find("notes", F.id == literal)) == [text]
            assert ids_of(await store.find("notes", F.id.in_([literal, 99]))) == [text]
            assert await store.count("notes", F.id != literal) == len(rows) - 1
            assert await store.delete("notes", [id, 99]) == 1
            assert await store.insert("notes", [{"id": text, "embedding": GOOD}]) == 1
            with pytest.raises(DuplicateIdError):  # the same one in two forms
                await store.insert("notes", [{"id": i, "embedding": GOOD} for i in (id, text)])
    assert ids_of(await store.find("notes", "id = 12")) == ["12"]
    given = in_forms({"id": [20, 21], "embedding": [GOOD, GOOD]})
    small = pa.array([20, 21], pa.uint8())
    for name, column in {"an array": np.array([20, 21]), "small Arrow": small}.items():
        given[name] = {"id": column, "embedding": [GOOD, GOOD]}
        assert await store.exists("notes", column) <= {"20", "21"}
    for name, form in given.items():
        with case(name):
            assert await store.upsert("notes", form) == 2
            assert await store.exists("notes", [20, 21]) == {"20", "21"}
            assert await store.delete("notes", [20, 21]) == 2
    for bad in forms.BAD_IDS:
        for call in (
            store.get("notes", [bad]), store.delete("notes", [bad]), store.exists("notes", [bad]),
            store.update("notes", {"year": 1}, ids=[bad]),
        ):  # fmt: skip
            with case(bad), pytest.raises(aiovec.InvalidArgumentError):
                await call


@dataclass
class _MaybeId:
    id: str | None
    embedding: list[float]
    year: int


@dataclass
class _NoId:
    embedding: list[float]
    year: int


async def test_ids_are_made_where_rows_have_none(store: VectorStore) -> None:
    await store.create_table("notes", SMALL)
    columns: dict[str, list[Any]] = {"embedding": [GOOD] * 5, "year": list(range(5))}
    given = in_forms(columns) | {
        "an array": {**columns, "embedding": np.array([GOOD] * 5)},
        "dataclasses": [_NoId(GOOD, n) for n in range(5)],
        "batches": iter(pa.table(columns).to_batches(2)),
    }
    for name, rows in given.items():
        with case(name):
            before = new_id()
            assert await store.insert("notes", rows) == 5
            new = await store.find("notes", F.id > before)
            # In the order of the rows, as UUIDs of version 7.
            assert [record["year"] for record in new] == list(range(5))
            assert {uuid.UUID(record.id).version for record in new} == {7}
            assert new_id() > new[-1].id
    mixed: list[dict[str, Any]] = [{"id": "own", "embedding": GOOD}, {"embedding": GOOD}]
    assert await store.upsert("notes", mixed) == 2
    assert await store.exists("notes", "own") == {"own"}
    assert await store.count("notes") == 32
    many = [{"embedding": GOOD} for _ in range(300)]
    counts = await asyncio.gather(*(store.insert("notes", many) for _ in range(2)))
    assert (counts, await store.count("notes")) == ([300] * 2, 632)
    with pytest.raises(aiovec.InvalidVectorError):
        await store.insert("notes", [{"year": 1}])
    for empty in ({}, {"year": [1]}, pa.table({"year": [1]})):
        with case(empty), pytest.raises(InvalidRowError):
            await store.insert("notes", empty)


async def test_an_id_that_is_none_is_no_id(store: VectorStore) -> None:
    """As models have it whose id is optional."""
    await store.create_table("notes", SMALL)
    columns: dict[str, Any] = {
        "id": [None, "own", None],
        "embedding": [GOOD] * 3,
        "year": [1, 2, 3],
    }
    given = in_forms(columns) | {
        "models": [_MaybeId(*row) for row in zip(*columns.values(), strict=True)],
        "numbers": {**columns, "id": pa.array([None, 7, None])},
    }
    for name, rows in given.items():
        with case(name):
            assert await store.upsert("notes", rows) == 3
            made = await store.find("notes", F.year != 2)
            assert [row["year"] for row in made] == [1, 3]  # in their order
            assert {uuid.UUID(row.id).version for row in made} == {7}
            assert len(await store.exists("notes", ["own", "7"])) == 1
            await store.delete("notes", where="TRUE")
    with pytest.raises(InvalidRowError, match="needs an id"):
        await store.update("notes", [{"id": None, "year": 1}])


async def test_rows_whose_id_has_another_name_are_refused(store: VectorStore) -> None:
    """Otherwise each upsert of the same rows would add them again."""
    await store.create_table("notes", Schema(DIM))
    values = {"embedding": GOOD, "year": 2024}
    columns: dict[str, Any] = {name: [value] for name, value in values.items()}
    for name in ("ID", "_id", "Id"):
        given: dict[str, Any] = {
            "row": [{name: "a", **values}],
            "second row": [{"id": "x", **values}, {name: "a", **values}],
            "columns": {name: ["a"], **columns},
            "arrow": pa.table({name: ["a"], **columns}),
        }
        for form, rows in given.items():
            for call in (store.insert, store.upsert, store.create_table_from):
                table = "new" if call == store.create_table_from else "notes"
                with case((name, form)):
                    with pytest.raises(InvalidRowError, match="rename it") as caught:
                        await call(table, rows)
                    assert caught.value.field == name
        assert await store.tables() == ["notes"]
        # Beside an id it is a key as any other.
        assert await store.upsert("notes", [{"id": name, name: 5, **values}]) == 1
        assert (await store.get("notes", name))[0][name] == 5
    assert await store.count("notes") == 3
    assert await store.upsert("notes", [{"uid": 5, **values}]) == 1


# Values


async def test_values_of_every_form_come_back_as_one(store: VectorStore) -> None:
    """However they are written, and a filter takes a value of the payload in the same form."""
    await store.create_table("notes", forms.TABLES["every"][0])
    for name, pairs in forms.VALUES.items():
        ids = [f"r{n:02}" for n in range(len(pairs))]
        given, expected = zip(*pairs, strict=True)
        rows = [{"id": id, "embedding": GOOD, name: v} for id, v in zip(ids, given, strict=True)]
        columns = {"id": ids, "embedding": [GOOD] * len(ids), name: list(given)}

        async def update(name: str = name, ids: Any = ids, given: Any = given) -> None:
            await store.upsert("notes", [{"id": id, "embedding": GOOD} for id in ids])
            for id, value in zip(ids, given, strict=True):
                await store.update("notes", {name: value}, ids=id)

        for write in (store.insert("notes", rows), store.upsert("notes", columns), update()):
            await write
            for record, (value, kept) in zip(await store.get("notes", ids), pairs, strict=True):
                with case((name, value)):
                    assert same_value(record[name], kept)
        for value, kept in pairs if name == "key" else ():
            if not isinstance(kept, (list, dict)):
                with case(("a filter", value)):
                    same = sum(same_value(kept, other) for other in expected)
                    key = F.payload[name]
                    assert await store.count("notes", key == value) == same
                    assert await store.count("notes", key.in_([value])) == same
        await store.delete("notes", where="TRUE")
    await store.insert("notes", [{"id": "a", "embedding": GOOD, "key": forms.MOMENT}])
    for later in (timedelta(microseconds=1), timedelta(seconds=0.5), timedelta(days=400)):
        assert await store.count("notes", F.payload["key"] < forms.MOMENT + later) == 1
        assert await store.count("notes", F.payload["key"] > forms.MOMENT - later) == 1
        assert await store.count("notes", F.payload["key"] >= forms.MOMENT + later) == 0


def _changed(good: dict[str, Any], name: str, value: Any) -> dict[str, Any]:
    """A row with this value; without the name where it is ``...``."""
    return {key: item for key, item in {**good, name: value}.items() if item is not ...}


@pytest.mark.parametrize("kind", forms.TABLES)
async def test_a_bad_row_in_the_middle_keeps_nothing(store: VectorStore, kind: str) -> None:
    """The error names the row, its id if it has one, and the field that is wrong."""
    schema, values = forms.TABLES[kind]
    good = [{"id": f"r{n}", "embedding": GOOD, **values} for n in range(10)]
    await filled(store, schema, good[:3])
    before = await store.find("notes", include_vector=True)
    for name, wrong in forms.BAD_VALUES[kind].items():
        for value in wrong:
            row = _changed({"id": "bad", "embedding": GOOD, **values}, name, value)
            with case((name, value)):
                for write in (store.insert, store.upsert):
                    with pytest.raises(InvalidRowError) as caught:
                        await write("notes", [*good[3:8], row, *good[8:]])
                    assert isinstance(caught.value, ValueError)
                    assert (caught.value.row, caught.value.field) == (5, name)
                    assert caught.value.id == row["id"] or not isinstance(row["id"], str)
                if name != "id" and value is not ...:
                    with pytest.raises(InvalidRowError) as caught:
                        await store.update("notes", {**values, name: value}, where="TRUE")
                    assert caught.value.field == name
                assert await store.find("notes", include_vector=True) == before


async def test_columns_of_arrow_are_taken_if_their_values_fit(store: VectorStore) -> None:
    await store.create_table("notes", forms.TABLES["every"][0])
    good = {"id": pa.array(["a", "b"]), "embedding": pa.array([GOOD] * 2)}
    for name, columns in forms.COLUMNS.items():
        for column, expected in columns:
            with case((name, column)):
                await store.upsert("notes", pa.table({**good, name: column}))
                rows = [record.to_dict() for record in await store.get("notes", ["a", "b"])]
                assert [row[name] for row in rows] == expected
    await store.delete("notes", where="TRUE")
    for name, wrong in forms.BAD_COLUMNS.items():
        for column in wrong:
            with case((name, column)):
                with pytest.raises(InvalidRowError) as caught:
                    await store.insert("notes", pa.table({**good, name: column}))
                assert caught.value.field == name
                if column[0].as_py() is None:
                    assert (caught.value.row, caught.value.id) == (1, "b")
    for payload, more, field in (('{"k": 1}', {"k": [1, 2]}, "k"), ('{"a":"\\ud800"}', {}, "a")):
        with pytest.raises(InvalidRowError) as caught:
            await store.insert("notes", pa.table({**good, "payload": [None, payload], **more}))
        assert (caught.value.field, caught.value.id) == (field, "b")
    assert await store.count("notes") == 0
    ids = pa.array([uuid.UUID(int=5).bytes], pa.uuid())
    await store.insert("notes", pa.table({"id": ids, "embedding": [GOOD]}))
    assert await store.exists("notes", uuid.UUID(int=5))


# Updates


async def test_an_update_of_every_row_has_to_say_so(notes: VectorStore) -> None:
    """A forgotten ``where`` changes nothing."""
    before = await notes.find("notes")
    everything: Any = None
    with pytest.raises(aiovec.InvalidArgumentError, match="'TRUE'"):
        await notes.update("notes", {"name": "x"})
    with pytest.raises(aiovec.InvalidArgumentError, match="'TRUE'"):
        await notes.table("notes").update({"name": "x"}, ids=None, where=None)
    with pytest.raises(aiovec.InvalidArgumentError, match="'TRUE'"):
        await notes.delete("notes", where=everything)
    assert await notes.update("notes", {"name": "x"}, ids=[]) == 0
    assert await notes.find("notes") == before


async def test_a_bad_update_changes_nothing(store: VectorStore) -> None:
    rows = [{"id": "1", "embedding": GOOD, "a": 1}]
    await filled(store, SMALL, rows)
    await filled(store, Schema(DIM, payload=False, fields={"year": int}), name="plain")
    bad: list[tuple[Any, type[Exception]]] = [
        *(({name: 1}, aiovec.InvalidNameError) for name in (
            "payload.", "payload.a..b", 'payload."a', 'payload.a"b', "payload.\ud800",
            "payload." + ".".join("a" * 150),
        )),
        *((change, InvalidRowError) for change in (
            {"id": "other"}, {"embedding": GOOD}, {"payload.a": 1, "a": 2},
            {"payload.a.b": 1, "payload.a": 2}, {"payload.a": REMOVE, "payload.a.b.c": 2},
            {"payload.year": 1}, {"payload.id": "x"}, {"payload.embedding": [1]},
            {"year": REMOVE}, {"id": REMOVE}, {"payload.a": {1}}, {"payload.a": forms.NAN},
            {"payload.a": {"b": REMOVE}},
        )),
        *((change, aiovec.InvalidArgumentError) for change in (
            {}, None, [("name", "x")], dict.fromkeys(map(str, range(10_001))),
        )),
    ]  # fmt: skip
    for change, error in bad:
        with case(change):
            with pytest.raises(error) as caught:
                await store.update("notes", change, where="TRUE")
            assert ("set_vectors" in str(caught.value)) == (change == {"embedding": GOOD})
    with pytest.raises(InvalidRowError):
        await store.insert("notes", [{"id": "2", "embedding": GOOD, "a": REMOVE}])
    assert_same_rows(await store.get("notes", "1"), rows, SMALL)
    for change in ({"payload.a": 1}, {"payload.a.b": REMOVE}, {"a": REMOVE}):
        with case(change), pytest.raises(InvalidRowError):
            await store.update("plain", change, where="TRUE")
