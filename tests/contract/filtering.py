"""Contract tests for filters: each selects the same rows in every method."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from tests.contract.base import ContractBase, case, filled
from tests.harness.values import DIM, ids_of, vectors

import aiovec
from aiovec import F, Field, Schema, VectorStore
from aiovec.errors import FilterError, InvalidArgumentError

SCHEMA = Schema(
    DIM,
    fields={
        "name": str,
        "year": Field(int, index="btree"),
        "score": float,
        "seen": Field(datetime, index="btree"),
        "live": Field(bool, index="bitmap"),
        "tags": list[str],
        "nums": list[int],
        "weights": list[float],
        "part": Field(str, partition=True),
        "shard": Field(int, partition=True),
        "order": str,
    },
)


def _day(day: int) -> datetime:
    return datetime(2024, 1, day, tzinfo=UTC)


_ROWS: list[dict[str, Any]] = [
    {
        "id": "a", "name": "alpha", "year": 2020, "score": 0.5, "seen": _day(1), "live": True,
            "nums": [1, 2], "weights": [0.5, 1.0],
        "tags": ["x", "y"], "part": "p", "shard": 1, "order": "first",
        "kind": "text", "n": 1, "deep": {"key": "v", "list": ["q", 1, True]}, "mixed": 1,
    },
    {
        "id": "b", "name": "Alpha", "year": 2021, "score": -1.0, "seen": _day(2), "live": False,
            "nums": [], "weights": [],
        "tags": [], "part": "q", "shard": 2, "order": "second",
        "kind": "te%xt", "n": 2.5, "deep": {"key": None, "list": []}, "mixed": "1",
    },
    {
        "id": "c", "name": "al%a_", "year": 2022, "score": 1e300, "seen": _day(3), "live": None,
            "nums": [2**53 + 1], "weights": [-0.0],
        "tags": ["y"], "part": "p", "shard": 2, "order": None,
        "kind": True, "n": -3, "deep": "flat", "mixed": 1.0,
    },
    {
        "id": "d", "name": None, "year": None, "score": None, "seen": None, "live": True,
        "tags": None, "part": None, "shard": None, "order": "O'Brien", "mixed": True,
    },
    {
        "id": "E", "name": "", "year": -1, "score": 0.0, "seen": datetime(1969, 1, 1, tzinfo=UTC),
            "nums": [2**63 - 1, -(2**63)], "weights": [1e300, 0.1],
        "live": False, "tags": ["x%", "Y"], "part": "", "shard": 0, "order": "",
        "kind": None, "n": 2**53 + 1, "a.b": "dotted", 'say "hi"': 7, "mixed": None,
    },
    {
        "id": "ü", "name": "naïve 日本", "year": 2**63 - 1, "score": 2020.0, "seen": _day(1),
            "nums": [2, 2], "weights": [5e-324],
        "live": None, "tags": ["x", "x"], "part": "p' OR 1=1", "shard": -(2**63),
        "order": "first", "kind": "text", "n": 1.0, "mixed": [1, "1"],
    },
]  # fmt: skip

# Filters as text, the same with F (None if that is not possible), and the ids that they select.
# ``tests/filters/test_agreement.py`` draws many more for both backends.
CASES: list[tuple[str, Any, str]] = [
    # Comparisons, and nulls that match neither a condition nor its opposite
    ("year = 2020", F.year == 2020, "a"),
    ("year != 2020", F.year != 2020, "b c E ü"),
    ("2021 <= year", None, "b c ü"),
    ("year >= 2020.5", F.year >= 2020.5, "b c ü"),
    ("year = 2020.5", F.year == 2020.5, ""),
    ("NOT year = 2020.5", ~(F.year == 2020.5), "a b c E ü"),
    ("score = 2020", F.score == 2020, "ü"),
    ("name >= 'naïve'", F.name >= "naïve", "ü"),
    ("\"order\" = 'O''Brien'", F["order"] == "O'Brien", "d"),
    ("seen > TIMESTAMP '2024-01-01T02:00:00+02:00'", F.seen > _day(1), "b c"),
    ("seen < TIMESTAMP '1970-01-01T00:00:00Z'", F.seen < datetime(1970, 1, 1, tzinfo=UTC), "E"),
    # Booleans
    ("live", F.live, "a d"),
    ("NOT live", ~F.live, "b E"),
    ("live IN (TRUE, FALSE)", F.live.in_([True, False]), "a b d E"),
    ("TRUE", None, "a b c d E ü"),
    ("FALSE", None, ""),
    # IN, BETWEEN, IS NULL
    ("year IN (2020.0, 2021.5)", F.year.in_([2020.0, 2021.5]), "a"),
    ("year NOT BETWEEN 2020 AND 2021", ~F.year.between(2020, 2021), "c E ü"),
    ("name IS NULL", F.name.is_null(), "d"),
    # Text patterns
    ("name NOT LIKE '%a%'", ~F.name.like("%a%"), "E"),
    ("name LIKE '%日_'", F.name.like("%日_"), "ü"),
    ("name LIKE '[a]lpha'", F.name.like("[a]lpha"), ""),
    ("name STARTSWITH 'al%'", F.name.startswith("al%"), "c"),
    # Lists
    ("NOT tags CONTAINS 'x'", ~F.tags.contains("x"), "b c E"),
    ("tags CONTAINS 'x%'", F.tags.contains("x%"), "E"),
    ("tags IS EMPTY", F.tags.is_empty(), "b"),
    ("tags IS NOT EMPTY", F.tags.is_not_empty(), "a c E ü"),
    ("tags <> ['x','x'] AND tags != []", (F.tags != ["x", "x"]) & (F.tags != []), "a c E"),
    ("NOT nums CONTAINS 2.5", ~F.nums.contains(2.5), "a b c E ü"),
    ("nums CONTAINS 9007199254740993", F.nums.contains(2**53 + 1), "c"),
    ("nums CONTAINS 9007199254740992", F.nums.contains(2**53), ""),
    ("nums = [1, 2.0]", F.nums == [1, 2.0], "a"),
    ("nums != [1.5]", F.nums != [1.5], "a b c E ü"),
    ("weights CONTAINS 0", F.weights.contains(0), "c"),
    ("weights = [-0.0]", F.weights == [-0.0], "c"),
    ("weights != [9007199254740993]", F.weights != [2**53 + 1], "a b c E ü"),
    # IS TRUE: two-valued
    ("(year = 2020) IS NOT TRUE", (F.year == 2020).is_not_true(), "b c d E ü"),
    ("(year = 2020) IS FALSE", (~(F.year == 2020)).is_true(), "b c E ü"),
    ("(year = 2020) is not false", (~(F.year == 2020)).is_not_true(), "a d"),
    ("live IS NOT TRUE", F.live.is_not_true(), "b c E ü"),
    ("live IS FALSE", None, "b E"),
    ("((year = 2020) IS TRUE) IS NOT TRUE", (F.year == 2020).is_true().is_not_true(), "b c d E ü"),
    ("(payload.mixed = 1) IS NOT TRUE", (F["payload.mixed"] == 1).is_not_true(), "b d E ü"),
    ("payload.kind IS TRUE", F["payload.kind"].is_true(), "c"),
    ("payload.kind IS NOT TRUE", F["payload.kind"].is_not_true(), "a b d E ü"),
    ("(TRUE) IS TRUE AND (FALSE) IS NOT TRUE", None, "a b c d E ü"),
    # Case, escapes and literal parts of text
    ("name ILIKE 'aL%'", F.name.ilike("aL%"), "a b c"),
    ("name ILIKE 'NAÏVE%_本'", F.name.ilike("NAÏVE%_本"), "ü"),
    ("payload.kind ILIKE 'TE_XT'", F["payload.kind"].ilike("TE_XT"), "b"),
    ("name LIKE 'al!%a!_' ESCAPE '!'", F.name.like("al!%a!_", escape="!"), "c"),
    ("name LIKE '_al%%' ESCAPE '_'", F.name.like("_al%%", escape="_"), "a c"),
    ("name NOT LIKE 'al\\%%' ESCAPE '\\'", ~F.name.like("al\\%%", escape="\\"), "a b E ü"),
    ("name CONTAINS_TEXT '%a_'", F.name.contains_text("%a_"), "c"),
    ("name NOT CONTAINS_TEXT 'a'", ~F.name.contains_text("a"), "E"),
    ("payload.kind contains_text '%'", F["payload.kind"].contains_text("%"), "b"),
    # Lists in the payload
    ("payload.mixed = [1.0, '1']", F["payload.mixed"] == [1.0, "1"], "ü"),
    ("payload.mixed != ['1', 1]", F["payload.mixed"] != ["1", 1], "ü"),
    ("payload.deep.list = ['q', 1, TRUE]", F["payload.deep.list"] == ["q", 1, True], "a"),
    ("(payload.mixed IS EMPTY) IS NOT TRUE", F["payload.mixed"].is_empty().is_not_true(),
     "a b c d E ü"),
    # Partitions
    ("part IS NULL", F.part.is_null(), "d"),
    ("part IN ('p', '') AND shard = 2", F.part.in_(["p", ""]) & (F.shard == 2), "c"),
    ("part = 'p'' OR 1=1'", F.part == "p' OR 1=1", "ü"),
    # Ids
    ("id >= 'b' AND id < 'e'", (F.id >= "b") & (F.id < "e"), "b c d"),
    ("id IN ('ü', 'E', 'zz')", F.id.in_(["ü", "E", "zz"]), "E ü"),
    ("id LIKE '_'", F.id.like("_"), "a b c d E ü"),
    # Payload
    ("payload.kind != 'text'", F["payload.kind"] != "text", "b"),
    ("payload.kind STARTSWITH 'te%'", F["payload.kind"].startswith("te%"), "b"),
    ("payload.kind IS NOT NULL", F["payload.kind"].is_not_null(), "a b c ü"),
    ("payload.kind = TRUE", F["payload.kind"] == True, "c"),  # noqa: E712
    ("payload.n = 1", F["payload.n"] == 1, "a ü"),
    ("payload.n = 9007199254740993", F["payload.n"] == 2**53 + 1, "E"),
    ("payload.n IN (1, 2.5, 'x')", F["payload.n"].in_([1, 2.5, "x"]), "a b ü"),
    ("payload.mixed = 1", F["payload.mixed"] == 1, "a c"),
    ("payload.mixed IN (1, '1', TRUE)", F["payload.mixed"].in_([1, "1", True]), "a b c d"),
    # IN is the OR of its equalities: 1 = '2' is null, and so is NOT null.
    ("NOT payload.mixed IN (2, '2')", F["payload.mixed"].not_in([2, "2"]), ""),
    ("NOT (payload.mixed = 2 OR payload.mixed = '2')", None, ""),
    ("payload.mixed CONTAINS 1", F["payload.mixed"].contains(1), "ü"),
    ("payload.deep.key IS NULL", F["payload.deep.key"].is_null(), "b c d E ü"),
    ("NOT payload.deep.list CONTAINS 'q'", ~F["payload.deep.list"].contains("q"), "b"),
    ("payload.\"a.b\" = 'dotted'", F.payload["a.b"] == "dotted", "E"),
    ("payload.a.b = 'dotted'", F["payload.a.b"] == "dotted", ""),
    ('payload."say ""hi""" = 7', F.payload['say "hi"'] == 7, "E"),
    # AND, OR, NOT
    ("year = 2020 OR year = 2021 AND live", (F.year == 2020) | (F.year == 2021) & F.live, "a"),
    ("(year = 2020 OR year = 2021) AND NOT live",
     ((F.year == 2020) | (F.year == 2021)) & ~F.live, "b"),
    ("year != 2020 AND year != 2021", (F.year != 2020) & (F.year != 2021), "c E ü"),
    ("NOT (live AND year = 2020)", ~(F.live & (F.year == 2020)), "b c E ü"),
    ("live OR NOT live", F.live | ~F.live, "a b d E"),
]  # fmt: skip


class FilteringContract(ContractBase):
    """``where`` in every method that takes one."""

    async def _filled(self, store: VectorStore) -> None:
        given = zip(_ROWS, vectors(len(_ROWS)), strict=True)
        await filled(store, SCHEMA, [{**row, "embedding": vector} for row, vector in given])

    async def test_each_filter_selects_its_rows(self, store: VectorStore) -> None:
        await self._filled(store)
        for text, expression, ids in CASES:
            for where in (text, text if expression is None else expression):
                with case(where):
                    assert ids_of(await store.find("notes", where)) == sorted(ids.split())

    @pytest.mark.core
    @pytest.mark.arrow
    async def test_every_method_selects_the_same(self, store: VectorStore) -> None:
        await self._filled(store)
        everything = await store.get("notes", [row["id"] for row in _ROWS])
        query = vectors(1, seed=3)[0]
        for number, (text, _, ids) in enumerate(CASES):
            wanted = sorted(ids.split())
            with case(text):
                match (
                    number % 5
                ):  # in turn: test_each_filter_selects_its_rows has all of them with find
                    case 0:
                        hits = await store.search("notes", query, where=text, limit=50, select=[])
                        assert sorted(ids_of(hits)) == wanted
                    case 1:
                        exported = [
                            id
                            async for batch in store.export("notes", where=text, select=[])
                            for id in batch.column("id").to_pylist()
                        ]
                        assert sorted(exported) == wanted
                    case 2:
                        marked = await store.update("notes", {"mark": number}, where=text)
                        assert marked == len(wanted)
                        matches = await store.find("notes", F["payload.mark"] == number)
                        assert ids_of(matches) == wanted
                    case 3 if number % 3 == 0:
                        assert await store.delete("notes", where=text) == len(wanted)
                        left = sorted({row["id"] for row in _ROWS} - set(wanted))
                        assert ids_of(await store.find("notes")) == left
                        await store.upsert("notes", everything)
                    case _:
                        assert await store.count("notes", text) == len(wanted)

    async def test_filter_may_be_list_mapping_or_closed_text(self, store: VectorStore) -> None:
        await self._filled(store)
        cases: list[tuple[Any, str]] = [
            ([F.year >= 2021, "live = FALSE OR live IS NULL", None], "b c ü"),
            (("year > 2020", {"part": "p"}), "c"),
            ({"year": 2020, "part": "p"}, "a"),
            ({"year": [2020, 2022], "name": ("alpha",)}, "a"),
            ({"year": None}, "d"),
            ({"payload.kind": "text", "order": "first"}, "a ü"),
            ({"year": []}, ""),
            ({"year": [2020, None]}, "a d"),
            ({"year": [None]}, "d"),
            ({"tags": "x"}, "error"),
            ([{}, []], "error"),
            ({}, "a b c d E ü"),
            ([], "a b c d E ü"),
            ((F.part == "p") & aiovec.where("year = 2020 OR part = 'q'"), "a"),
            (~aiovec.where("year = 2020 OR part = 'q'") & aiovec.where("live"), ""),
            ([F.part == "p", "year = 2020) OR (part = 'q'"], "error"),
        ]
        for where, ids in cases:
            with case(where):
                if ids == "error":
                    with pytest.raises(FilterError):
                        await store.find("notes", where)
                else:
                    assert ids_of(await store.find("notes", where)) == sorted(ids.split())
                    assert await store.count("notes", where) == len(ids.split())
        for empty in ([], {}, [None], None):
            with case(empty):
                with pytest.raises(InvalidArgumentError):
                    await store.delete("notes", where=empty)
                with pytest.raises(InvalidArgumentError):
                    await store.update("notes", {"year": 1}, where=empty)
        assert await store.delete("notes", where={"part": "p"}) == 2
        assert await store.update("notes", {"year": 1}, where=[{"part": "q"}, F.year > 0]) == 1

    async def test_filter_selects_rows_with_and_without_vector(self, store: VectorStore) -> None:
        schema = Schema(DIM, vector="v", vector_nullable=True, fields={"year": int})
        rows = [{"id": f"r{n}", "v": [1.0] * DIM if n % 3 else None, "year": n} for n in range(9)]
        await filled(store, schema, rows)
        expected: dict[Any, list[int]] = {
            "v IS NULL": [0, 3, 6],
            "v IS NOT NULL": [1, 2, 4, 5, 7, 8],
            F.v.is_null() & (F.year > 2): [3, 6],
            "NOT (v IS NULL OR year < 5)": [5, 7, 8],
            "(v IS NULL) IS TRUE OR year = 1": [0, 1, 3, 6],
        }
        for where, years in expected.items():
            with case(where):
                ids = [f"r{year}" for year in years]
                assert ids_of(await store.find("notes", where)) == ids
                assert await store.count("notes", where) == len(ids)
                near = await store.search("notes", [1.0] * DIM, where=where, limit=9)
                assert sorted(ids_of(near)) == [id for id in ids if int(id[1]) % 3]
        assert await store.set_vectors("notes", ["r3"], [[1.0] * DIM]) == 1
        assert await store.delete("notes", where="v IS NULL") == 2
        assert await store.count("notes", F.v == None) == 0  # noqa: E711
        await store.create_table("whole", Schema(DIM))
        await store.insert("whole", [{"id": "a", "embedding": [1.0] * DIM}])
        assert await store.count("whole", "embedding IS NULL") == 0
        assert await store.count("whole", "embedding IS NOT NULL") == 1

    async def test_a_key_within_lists_only_is_refused(self, store: VectorStore) -> None:
        """Filters do not search objects in lists, and an empty result would look like an answer."""
        offers = [{"price": 3}, {"price": 7, "of": [{"shop": "x"}]}]
        rows: list[dict[str, Any]] = [
            {"id": "a", "embedding": vectors(1)[0], "year": 1, "offers": offers, "meta": []},
            {"id": "b", "embedding": vectors(1)[0], "year": 2, "meta": []},
        ]
        await filled(store, Schema(DIM, fields={"year": int}), rows)
        price = F["payload.offers.price"]
        refused = [
            price > 5, ~(price > 5), price.in_([3, 4]), price.is_not_null(), price.like("x%"),
            (F.year == 1) & (price > 5), (F.year == 3) | (price > 5), (price > 5).is_true(),
            F["payload.offers.of.shop"] == "x", (price > 5) & (F["payload.meta.a"] == 1),
        ]  # fmt: skip
        for where in refused:
            with case(where):
                for call in (
                    store.find("notes", where),
                    store.count("notes", where),
                    store.search("notes", vectors(1)[0], where=str(where)),
                    store.delete("notes", where=where),
                    store.update("notes", {"year": 9}, where=where),
                    store.distinct("notes", "year", where),
                    anext(store.rows("notes", where)),
                ):
                    with pytest.raises(
                        FilterError, match=r"payload\.offers.* is a list of objects"
                    ):
                        await call
        answered = {
            (F.year == 2) & (price > 5): [],
            (F.year == 2) | (price > 5): ["b"],
            F["payload.offers.cost"] > 5: [],
            F["payload.meta.a"] == 1: [],
            price.is_null(): ["a", "b"],
        }
        for where, ids in answered.items():
            with case(where):
                assert ids_of(await store.find("notes", where)) == ids
        # If one row has the key outside a list, an empty result is a valid answer.
        await store.insert(
            "notes", [{"id": "c", "embedding": vectors(1)[0], "offers": {"price": 1}}]
        )
        assert await store.find("notes", price > 5) == []
        assert ids_of(await store.find("notes", price < 5)) == ["c"]

    async def test_large_filters(self, notes: VectorStore) -> None:
        """Each large filter returns rows or raises FilterError."""
        numbers = ", ".join(str(n) for n in range(5, 10_005))
        assert await notes.count("notes", F.year.not_in(range(5, 10_005))) == 5
        assert await notes.count("notes", F.id.in_(f"r{n:04}" for n in range(10_000))) == 10
        hits = await notes.search("notes", vectors(1)[0], where=f"year IN ({numbers})")
        assert len(hits) == 5
        answers: dict[str, int] = {
            " OR ".join(f"year = {n}" for n in range(5, 5_000)): 5,
            " AND ".join(f"year != {n}" for n in range(5, 5_000)): 5,
            " OR ".join(f"name LIKE '%{n}'" for n in range(2_000)): 0,
            " OR ".join(f"payload.k{n} = {n}" for n in range(2_000)): 0,
            " OR ".join(f"name STARTSWITH 's{n}'" for n in range(100)): 0,
            " OR ".join(f"payload.tags CONTAINS 't{n}'" for n in range(100)): 0,
            " OR ".join(f"year IN ({n}, {n + 1}) AND year > {n - 1}" for n in range(100)): 10,
            " AND ".join(["name IS NOT NULL"] * 100): 10,
            "(" * 60 + "year > 4" + ") IS TRUE" * 60: 5,
            "(" * 14 + "year > 4" + " OR name IS NULL) IS NOT TRUE AND year < 99" * 14: 5,
            "name ILIKE '" + "%x" * 500 + "'": 0,
            "name LIKE '" + "!%" * 20_000 + "' ESCAPE '!'": 0,
            "payload.x = [" + ", ".join(f"'{n}'" for n in range(1_000)) + "]": 0,
            "name = '" + "x" * 1_000_000 + "'": 0,
        }
        for text, count in answers.items():
            with case(text[:60]):
                try:
                    assert await notes.count("notes", text) == count
                except FilterError:
                    assert len(text) > 4_096

    async def test_ilike_folds_letter_by_letter(self, store: VectorStore) -> None:
        """ILIKE uses simple case folding, which depends on no language and no other letters."""
        folded = (
            "aA", "kK\u212a", "sS\u017f", "\u03c3\u03c2\u03a3", "\u00df\u1e9e",
            "\u01c4\u01c5\u01c6",
            "\u00b5\u03bc\u039c", "\u1fb3\u1fbc", "\u10d0\u1c90", "\U00010400\U00010428",
            "\u0390", "\u1fd3", "\ufb05", "\ufb06", "iI", "\u0130", "\u0131", "\u0149", "\ufb01",
            "日", "1", "%",
        )  # fmt: skip
        letters = [letter for group in folded for letter in group]
        rows = [
            {"id": f"{n:02}", "embedding": [1.0] * DIM, "name": f"x{letter}\n", "p": {"k": letter}}
            for n, letter in enumerate(letters)
        ]
        await filled(store, Schema(DIM, fields={"name": str}), rows)
        for group in folded:
            wanted = [f"{letters.index(letter):02}" for letter in group]
            for letter in group:
                for where in (
                    F.name.ilike(f"X\\{letter}\n", escape="\\"),
                    F.name.ilike(f"%!{letter}%", escape="!"),
                    F["payload.p.k"].ilike(f"!{letter}", escape="!"),
                ):
                    assert ids_of(await store.find("notes", where)) == wanted, (letter, where)
        assert await store.count("notes", F.name.ilike("xss_")) == 0
        assert await store.count("notes", F.name.ilike("x_")) == 0
        assert await store.count("notes", F.name.ilike("x__")) == len(letters)
