"""Messages about mistakes of users: the value, the rule, and what to do."""

from __future__ import annotations

import asyncio
import inspect
import sys
import traceback
from collections.abc import Awaitable, Callable, Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.contract.base import case

import aiovec
from aiovec import Embed, F, Schema, sync

LARGE = "text-embedding-3-large"


class Late:
    """An embedder class that is not instantiated."""

    model, dim = "late", 2

    def __call__(self, texts: list[str]) -> list[list[float]]:
        return [[1.0, 2.0] for _ in texts]


@pytest.fixture
async def store() -> Any:
    async with aiovec.connect(":memory:", embedder="demo") as opened:
        fields = {"year": int, "title": str, "at": datetime}
        await opened.create_table("docs", Schema(2, fields=fields))
        rows = [{"id": str(n), "embedding": [1, n], "year": 2000 + n} for n in range(4)]
        await opened.insert("docs", rows)
        texts = Schema(fields={"body": str}, embed=Embed("body"))
        await opened.create_table("texts", texts)
        await opened.create_table("words", Schema(2, fields={"body": aiovec.Field(str, text=True)}))
        await opened.create_table("nullable", Schema(2, vector_nullable=True))
        yield opened


FILTERS = {
    "kind = 'x'": r"no field 'kind' \(did you mean payload\.kind\?\)",
    "ID = 'x'": r"did you mean 'id'\?",
    "year = ?": r"unexpected '\?'; expected a value .*F\.year == value",
    "payload['kind'] = 'x'": r"follows a dot; expected payload\.<key>",
    "year = 2000 order by year": "a filter has no ORDER; order_by= is an argument",
    "year = 2000 limit 1": "a filter has no LIMIT; limit= is an argument",
    "year = 2024 && title = 'a'": "unexpected '&'; expected AND",
    "at > now()": "a filter has no functions; .*TIMESTAMP",
    "title = 'O'Neil'": "unexpected 'Neil' .*is written twice, as in 'O''Neil'",
    "'wool' IN title": "as in tags CONTAINS 'wool'",
}  # fmt: skip


def mistakes(store: Any) -> Iterator[tuple[Callable[[], Awaitable[Any]], type[Exception], str]]:
    named, where, vector = aiovec.InvalidNameError, aiovec.FilterError, [1.0, 0.0]
    yield lambda: store.search(vector, "docs"), named, r"search\('docs', vector\)"
    yield lambda: store.search("docs", vector, k=5), TypeError, "'k'; did you mean 'limit'"
    yield lambda: store.search("docs", vector, filter="x"), TypeError, "did you mean 'where'"
    yield lambda: store.search_text("docs", "x", exact=True), TypeError, "'exact'"
    columns = "the columns are id, embedding, year, title, at, payload, payload.<key>"
    yield lambda: store.find("docs", select=["color"]), named, columns
    yield lambda: store.find("docs", "title CONTAINS 'a'"), where, "CONTAINS_TEXT or LIKE"
    yield lambda: store.find("docs", 2024), where, r"F\.year == 2024"
    for text, says in FILTERS.items():
        yield partial(store.find, "docs", text), where, says
    qdrant: Any = {"must": [{"key": "year", "match": {"value": 2000}}]}
    yield lambda: store.find("docs", qdrant), where, "has the filter syntax of Qdrant; write text"
    plain = 'filter syntax of MongoDB; write text such as "year >= 2020'
    yield lambda: store.find("docs", {"year": {"gte": 1}}), where, plain
    in_text = r"for text F\.title\.contains_text"
    yield lambda: store.find("docs", F.title.contains("wool")), where, in_text
    for key, says in (
        ("year DESC", "write '-year'"), ("year asc", "write 'year'"),
        ([("year", "desc")], "write '-year'"), (("year", "desc"), "'-year' sorts descending"),
    ):  # fmt: skip
        ordered = partial(store.find, "docs", order_by=key)
        yield ordered, aiovec.InvalidArgumentError, f"order_by must be .*; {says}"
    arguments, rows = aiovec.InvalidArgumentError, aiovec.InvalidRowError
    for field in ("att", "year"):
        boosted = partial(store.search, "docs", vector, rerank=aiovec.Decay(field, "7d"))
        yield boosted, arguments, rf"a field of times: title, at, payload.<key>, not '{field}'"
    yield lambda: store.create_table("x", {"dim": 3}), arguments, r"must be an aiovec\.Schema \("
    yield lambda: store.insert("docs", ["hello"]), rows, "^row 0: a row must be a mapping.*not str$"
    yield lambda: store.insert("texts", ["hello"]), rows, r"write {'body': \['hello', \.\.\.\]}$"
    yield lambda: store.create_index("docs"), aiovec.UnsupportedError, "searches are exact"
    argument, rows = aiovec.InvalidArgumentError, [{"embedding": [1, 0]}]
    yield lambda: store.delete("docs"), argument, "^pass ids or where; to select every row, pass"
    create = store.create_table_from
    yield (
        lambda: store.create_table("new", rows),
        argument,
        r"create_table_from\(table, rows\) takes",
    )
    yield lambda: create("new", [{"x": 1}]), aiovec.InvalidRowError, r"columns \['x'\]"
    yield lambda: create("new", [{}]), aiovec.InvalidRowError, "there are no columns;"
    small = Schema(3, fields={"body": str}, embed=Embed("body"))
    makes = "^the embedder 'demo' makes vectors of 256 numbers.*leave dim out"
    yield lambda: store.create_table("new", small), aiovec.DimensionMismatchError, makes
    new = aiovec.Field(int, nullable=False)
    yield lambda: store.add_field("docs", "n", new), argument, "^the new field 'n' must be nullable"
    yield lambda: store.search_many("docs", np.ones(2)), argument, "put it in a list$"
    texts, many = ["wool", "cotton"], r"a list of texts; search_many\(\) searches for several$"
    yield lambda: store.search("docs", texts), aiovec.InvalidVectorError, many
    missing: Any = None
    for table in ("texts", "nullable"):
        asked = partial(store.search, table, missing)
        yield asked, aiovec.InvalidVectorError, r"^the vector is missing[,;] .*pass a vector"
    set_one = partial(store.set_vectors, "nullable", ["a"], [missing])
    yield set_one, aiovec.InvalidVectorError, r"is missing \(key 'embedding'\)$"
    started_again = r"^the changes since this number .* start again with since=0$"
    yield lambda: store.changes("docs", since=10**9), aiovec.ChangesPrunedError, started_again
    for part in ("select", "order_by"):
        named_by = partial(store.find, "docs", **{part: b"year"})
        yield named_by, argument, f"^{part} must be a name, an iterable of names or None"
    for dim, says in ((1, "1 dimension"), (3, "3 dimensions")):
        length = rf"^the vector has {says}, but this table's vectors have 2$"
        yield partial(store.search, "docs", [1.0] * dim), aiovec.DimensionMismatchError, length
    nothing = r"^rerank must return one finite number per hit \(there are 4\), or some .* None$"
    ranked = partial(store.search, "docs", vector, rerank=lambda hits: missing)
    yield ranked, argument, nothing
    too_long = "^the query has 100,001 characters; the limit is 100,000$"
    yield lambda: store.search_text("words", "x" * 100_001), argument, too_long
    quoted = "each dot must be followed by a payload key .*; put a key in double quotes if it is"
    yield lambda: store.find("docs", select=["payload."]), named, quoted
    several = r"a list of vectors; search_many\(\) searches for several$"
    for given in (np.ones((3, 2)), [vector, vector], np.ones((1, 2))):
        yield partial(store.search, "docs", given), aiovec.InvalidVectorError, several
    typed = r"aiovec\.Schema\(dim, fields={"
    yield lambda: create("new", {"body": str}), aiovec.InvalidRowError, typed
    late = [{"id": "a", "embedding": vector, "took": timedelta(1)}]
    yield lambda: store.insert("docs", late), aiovec.InvalidRowError, r"total_seconds\(\)"
    yield lambda: store.versions("docs"), aiovec.UnsupportedError, r"backup\(\)"
    for text, fix in (("[0.1, 0.2]", r"json\.loads"), (b"\0" * 8, r"np\.frombuffer")):
        sent = [{"id": "a", "embedding": text}]
        yield partial(store.insert, "docs", sent), aiovec.InvalidVectorError, fix
    yield (
        partial(store.search_hybrid, "docs", "x", vector, fusion="rrf"),
        argument,
        r"aiovec\.RRF\(",
    )
    yield partial(store.search, "docs", vector, rerank="cohere"), argument, "can call the model"
    exists = r"'0'; nothing was inserted\. upsert\(\) replaces .*on_conflict='skip'\) leaves"
    there = [{"id": "0", "embedding": vector}]
    yield partial(store.insert, "docs", there), aiovec.DuplicateIdError, exists
    twice = r"upsert\(\) keeps the last row of each id; .*on_conflict='skip'\) the first$"
    new = [{"id": "x", "embedding": vector}] * 2
    yield partial(store.insert, "docs", new), aiovec.DuplicateIdError, twice
    # Objects whose comparison is no truth
    for odd in (np.array([1, 2]), np.array(["all", "any"])):
        for name in ("match", "group_by"):
            yield partial(store.search_text, "docs", "x", **{name: odd}), argument, f"^{name} must"
        by_ids = partial(store.update, "docs", {"year": 1}, ids="0", strict=odd)
        yield by_ids, argument, "^strict must be True or False"


async def test_an_error_about_one_of_many_names_stays_short(store: Any) -> None:
    """Its message names the one that was meant and not all the others."""
    fields = {f"{'abcdefghij'[n % 10]}_name_{n:04}": str for n in range(1_900)}
    fields |= {"title": aiovec.Field(str, text=True), "titles": str}
    await store.create_table("many", Schema(2, fields=fields))
    select, vector = ["titel"], [1.0, 0.0]
    calls: dict[str, Callable[[], Awaitable[Any]]] = {
        "select": lambda: store.find("many", select=select),
        "select of a search": lambda: store.search("many", vector, select=select),
        "order_by": lambda: store.find("many", order_by="titel"),
        "group_by": lambda: store.search("many", vector, group_by="titel"),
        "distinct": lambda: store.distinct("many", "titel"),
        "bounds": lambda: store.bounds("many", "titel"),
        "text": lambda: store.search_text("many", "titel:wool"),
        "where": lambda: store.find("many", "titel = 'a'"),
        "index": lambda: store.create_field_index("many", "titel", "btree"),
        "drop": lambda: store.drop_field("many", "titel"),
        "rename": lambda: store.rename_field("many", "titel", "x"),
        "rerank": lambda: store.search("many", vector, rerank=aiovec.Decay("titel", "7d")),
        "update": lambda: store.update("many", {"titel": 5, "a_name_0000": 5}, ids=["0"]),
    }
    for name, call in calls.items():
        with case(name):
            with pytest.raises(aiovec.AiovecError) as caught:
                await call()
            assert len(str(caught.value)) < 1_500
            if name in ("select", "select of a search", "order_by", "group_by", "distinct", "text"):
                assert "did you mean 'title'?" in str(caught.value)
            if name not in ("text", "update"):
                assert " more" in str(caught.value)


async def test_a_mistake_in_a_call_says_what_to_write(store: Any) -> None:
    for call, kind, says in mistakes(store):
        with case(says), pytest.raises(kind, match=says):
            await call()


def test_a_mistake_in_a_condition_or_schema_says_what_to_write() -> None:
    wrong: Any = F.year
    names: Any = F
    several: Any = ["a", "b"]
    true: Any = True
    or_null: Any = str | None
    for make, kind, says in (
        (lambda: wrong & "x = 1", aiovec.FilterError, r"aiovec\.where"),
        (lambda: wrong in [2024], aiovec.FilterError, r"F\.x\.in_\(\["),
        (lambda: wrong.isnull(), AttributeError, "did you mean 'is_null'"),
        (lambda: wrong.kind, AttributeError, r'F\["year\.kind"\]'),
        (lambda: Schema(fields={"year": int}), aiovec.InvalidArgumentError, r"dim is missing"),
        (lambda: Schema(2, metric="euclidean"), aiovec.InvalidArgumentError, r"'l2' \(Eucl"),
        (lambda: names("year"), TypeError, r"F\['year'\]"),
        (lambda: Embed(several), aiovec.InvalidArgumentError, "the name of one text field"),
        (lambda: aiovec.connect(embedder=Late), aiovec.ConfigError, r"the class Late; .*Late\(\)"),
        (lambda: aiovec.connect(embedder=LARGE), aiovec.ConfigError,
         f"'openai', 'model': '{LARGE}'"),
        (lambda: aiovec.connect(embedder="all-MiniLM-L6-v2"), aiovec.ConfigError,
         "not a kind of embedder .*'kind': 'fastembed', 'model'"),
        (lambda: aiovec.connect(embedder="ollama"), aiovec.ConfigError, "Ollama .*11434"),
        (lambda: aiovec.Field(str, index=true), aiovec.InvalidArgumentError, "'btree' .the usual"),
        (lambda: aiovec.Field(or_null), aiovec.InvalidArgumentError, r"^every field may be null"),
    ):  # fmt: skip
        with case(says), pytest.raises(kind, match=says):
            make()


async def test_a_filter_in_the_place_of_ids_is_refused_with_the_fix(store: Any) -> None:
    for text in ("year > 2000", "year>2000", "title IS NULL", "NOT year = 2001"):
        with pytest.raises(aiovec.InvalidArgumentError, match="pass a filter as where="):
            await store.delete("docs", text)
    assert await store.count("docs") == 4
    await store.insert("docs", [{"id": "year > 2000", "embedding": [1, 1]}])
    assert await store.delete("docs", ["year > 2000"]) == 1
    for id in ("1", "no such", "a-1", "title", "TRUE", "a.b"):  # not one of these is a filter
        assert await store.delete("docs", id) == (id == "1")


async def test_another_embedder_than_the_tables_is_refused_with_the_fix(tmp_path: Path) -> None:
    async def two_letters(texts: list[str]) -> list[list[float]]:
        return [[1.0, 2.0] for _ in texts]

    schema = Schema(fields={"body": str}, embed=Embed("body"))
    row = {"id": "a", "body": "A text"}
    async with aiovec.connect(tmp_path / "a.db", embedder="demo") as store:
        await store.create_table("docs", schema)
    other = aiovec.embedder(two_letters, model="letters", dim=2)
    local = {"kind": "local"}
    for embedder, named in ((other, "leave the embedder out"), (local, "the embedder 'local' out")):
        async with aiovec.connect(tmp_path / "a.db", embedder=embedder) as store:
            for call in (
                lambda store=store: store.insert("docs", [row]),
                lambda store=store: store.search("docs", "text"),
                lambda store=store: store.create_table("docs", schema, exist_ok=True),
            ):
                with pytest.raises(aiovec.ModelMismatchError, match=named) as caught:
                    await call()
                assert "own, 'demo'" in str(caught.value)
                assert "aiovec migrate run --to TARGET --embedder NAME" in str(caught.value)
    async with aiovec.connect(tmp_path / "a.db") as store:  # the fix
        assert await store.insert("docs", [row]) == 1


async def _waited(call: Callable[[], Any]) -> None:
    returned = call()
    if inspect.isawaitable(returned):
        await returned


async def test_a_name_of_another_library_is_refused_with_ours(store: Any) -> None:
    docs, vector, row = store.table("docs"), [1.0, 0.0], {"id": "x", "embedding": [1.0, 0.0]}
    hits: Any = await store.search("docs", vector)
    calls: tuple[tuple[Callable[[], Any], type[Exception], str], ...] = (
        (lambda: store.create_table("x", exists_ok=True), TypeError, "mean 'exist_ok'"),
        (lambda: aiovec.connect(path="x.db"), TypeError, "did you mean 'target'"),
        (lambda: Schema(2, distance="l2"), TypeError, r"^Schema\(\).*did you mean 'metric'"),
        (lambda: aiovec.Field(str, primary_key=True), TypeError, "the id of a row is its"),
        (lambda: docs.update(year=3, ids="x"), TypeError, r"write update\(fields, …\)$"),
        (lambda: store.update("docs", "a", {}), TypeError, r"write update\(table, fields, …"),
        (lambda: docs.search(query="wool"), TypeError, r"take the text .*search\('a text'\)$"),
        (lambda: store.search("wool"), TypeError, r"'vector'; write search\(table, vector, …"),
        (lambda: store.search_hybrid("docs", "x", alpha=0), TypeError, "takes fusion=Weighted"),
        *((partial(docs.search, vector, **{name: 1}), TypeError, fix) for name, fix in {
            "boost": r"rerank=Decay\(", "decay": r"rerank=Decay\(", "threshold": "max_distance",
            "score_threshold": "min_score", "order_by": r"find\(\) takes", "weight": "Weighted",
        }.items()),
        (lambda: docs.insert([row], 5), TypeError, r"write insert\(rows, …\)$"),
        (lambda: docs.add, AttributeError, "'Table' object .*did you mean 'insert'"),
        (lambda: docs.serach, AttributeError, "did you mean 'search'"),
        (lambda: store.list_tables, AttributeError, "did you mean 'tables'"),
        (lambda: hits.to_df, AttributeError, "did you mean 'to_pandas'"),
        (lambda: hits[0]["yaer"], KeyError, "'yaer'; did you mean 'year'"),
        (lambda: store["docs"], TypeError, r"write store\.table\('docs'\)"),
        (lambda: docs.head(), AttributeError, r"write find\(limit=5\)$"),
        (lambda: len(docs), TypeError, r"write count\(\)$"),
        (lambda: docs.to_pandas(), AttributeError, r"find\(limit=None\)\.to_pandas\(\)$"),
        (lambda: hits[0].__setitem__("year", 1), TypeError, r"; update\(\) changes rows$"),
    )  # fmt: skip
    for call, kind, says in calls:
        with case(says), pytest.raises(kind, match=says):
            await _waited(call)
    # What asks for an attribute, or has a default, gets no error.
    assert not hasattr(store, "__array__")
    assert hits[0].get("yaer", 5) == 5
    assert dict(hits[0]) == {"id": "0", "year": 2000, "title": None, "at": None}


def test_a_name_of_another_library_is_refused_without_async_too(tmp_path: Path) -> None:
    with sync.connect(tmp_path / "a.db") as opened:
        store: Any = opened
        for call, kind, says in (
            (lambda: sync.connect("x.db", readonly=True), TypeError, "did you mean 'read_only'"),  # type: ignore[call-arg]
            (lambda: store.table("docs").update("a", {}), TypeError, r"update\(fields, …\)$"),
            (lambda: store.list_tables, AttributeError, "did you mean 'tables'"),
            (lambda: store["docs"], TypeError, r"write store\.table\('docs'\)"),
        ):
            with case(says), pytest.raises(kind, match=says):
                call()


async def test_an_attribute_of_a_row_is_refused_with_the_fix(store: Any) -> None:
    (hit,) = await store.search("docs", [1.0, 0.0], limit=1)
    (row,) = await store.get("docs", "0")
    for result in (hit, row):
        for name, fix in (("title", r"write row\['title'\]"), ("payload", "fields are its items")):
            with pytest.raises(AttributeError, match=f"no attribute '{name}'; {fix}"):
                getattr(result, name)
        assert not hasattr(result, "__array__")


async def test_a_forgotten_await_is_named() -> None:
    unopened: Any = aiovec.connect(":memory:")
    with pytest.raises(AttributeError, match=r"await aiovec\.connect"):
        unopened.search("docs", [1.0])
    assert not hasattr(unopened, "_repr_html_")
    with pytest.raises(TypeError, match=r"async with aiovec\.connect.*aiovec\.sync"), unopened:
        pass
    await (await unopened).close()


async def test_a_store_out_of_reach_or_without_rights_is_named(tmp_path: Path) -> None:
    with pytest.raises(aiovec.StoreUnreachableError, match="aiovec serve") as lost:
        await aiovec.connect("http://127.0.0.1:9")
    assert lost.value.target == "http://127.0.0.1:9"
    if sys.platform == "linux":  # not even root may make files there
        with pytest.raises(aiovec.AiovecError, match="/proc"):
            await aiovec.connect("/proc/notes.db")


def test_an_error_of_a_caller_shows_no_frames_of_ours(tmp_path: Path) -> None:
    def frames(error: BaseException) -> list[str]:
        return [frame.filename for frame in traceback.extract_tb(error.__traceback__)]

    async def find() -> BaseException:
        async with aiovec.connect(tmp_path / "a.db") as store:
            await store.create_table("docs", Schema(2, fields={"year": int}))
            with pytest.raises(aiovec.FilterError) as caught:
                await store.table("docs").find('year = "x"')
            with pytest.raises(aiovec.InvalidRowError) as refused:
                await store.insert("docs", [{"id": "a", "embedding": [1, 2], "year": "x"}])
            assert refused.value.__cause__ is not None
            assert frames(refused.value.__cause__) == []
            return caught.value

    errors = [asyncio.run(find())]
    with sync.connect(tmp_path / "a.db") as opened:
        with pytest.raises(aiovec.FilterError) as caught:
            opened.find("docs", 'year = "x"')
        errors.append(caught.value)
    for error in errors:
        product_frames = [name for name in frames(error) if name != __file__]
        assert len(product_frames) <= 1


async def test_a_row_shows_its_times(store: Any) -> None:
    at = datetime(2026, 1, 31, 12, tzinfo=UTC)
    await store.insert("docs", [{"id": "x", "embedding": [1, 1], "at": at, "year": 5}])
    (row,) = await store.get("docs", "x", select=["at", "year"], include_vector=False)
    assert repr(row) == "Record('x', at=2026-01-31T12:00:00Z, year=5)"
