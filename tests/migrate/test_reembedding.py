"""New vectors on the way: computed in calls that may fail, and checked before they are believed."""

from __future__ import annotations

import asyncio
import functools
import os
import threading
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

import aiovec
import aiovec_migrate
from aiovec import Embed, Schema
from aiovec.errors import InvalidArgumentError, InvalidVectorError, MigrationError
from aiovec_migrate import show
from aiovec_migrate.host import RealHost
from aiovec_migrate.limits import Limits
from aiovec_migrate.planning.look import make_plan
from aiovec_migrate.reembed import Reembedding, load
from aiovec_migrate.state import Options, Phase

from .support import contents_at, differences, migrated, rolled_back, write_toml
from .test_resume import Stop, StoppedError

SCHEMA = Schema(3, model="old", fields={"body": str, "year": int})


def table(count: int, **columns: Any) -> pa.Table:
    data = {
        "id": [f"id{n}" for n in range(count)],
        "embedding": [[1.0, 2.0, 3.0]] * count,
        "body": [f"text {n}" for n in range(count)],
        "year": list(range(count)),
        "payload": ['{"a":1}'] * count,
        **columns,
    }
    arrow = SCHEMA.to_arrow()
    plain = pa.table(
        [
            pa.array(data[field.name], type=getattr(field.type, "storage_type", field.type))
            for field in arrow
        ],
        names=arrow.names,
    )
    return plain.cast(arrow)


def vector(text: str, dim: int = 4) -> list[float]:
    return [1.0 + len(text), *[float(sum(map(ord, text)))] * (dim - 1)]


def vectors(rows: pa.Table) -> list[list[float]]:
    return [list(each) for each in rows.column("embedding").to_pylist()]


class Hasty(RealHost):
    """A machine on which pauses take no time, and are written down."""

    def __init__(self) -> None:
        super().__init__(Limits(notice=0.0))
        self.slept: list[float] = []

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        await asyncio.sleep(0)


def embedding(embed: Callable[..., Any], **options: Any) -> Reembedding:
    return Reembedding(embed, **{"field": "body", "model": "new", "dim": 4, **options})


async def test_an_async_callable_gets_the_texts_in_batches() -> None:
    seen: list[list[str]] = []

    async def embed(texts: list[str]) -> list[list[float]]:
        seen.append(texts)
        return [vector(text) for text in texts]

    rows = table(10)
    found = await embedding(embed, batch_size=4)(rows)
    assert sorted(map(len, seen)) == [2, 4, 4]
    assert vectors(found) == [vector(f"text {n}") for n in range(10)]
    expected = Schema(4, model="new", fields=SCHEMA.fields)
    assert found.schema.equals(expected.to_arrow(), check_metadata=True)
    assert Schema.from_arrow(found.schema) == expected
    for name in ("id", "body", "year", "payload"):
        assert found.column(name).equals(rows.column(name))


async def test_a_plain_callable_runs_in_a_thread_and_may_give_an_array() -> None:
    threads = set()

    def embed(texts: list[str]) -> Any:
        threads.add(threading.current_thread())
        return np.array([vector(text) for text in texts])

    found = await embedding(embed, batch_size=3)(table(7))
    assert vectors(found) == [vector(f"text {n}") for n in range(7)]
    assert threading.main_thread() not in threads


class _Model:
    async def __call__(self, texts: list[str]) -> list[list[float]]:
        return [vector(text) for text in texts]

    async def embed(self, texts: list[str], *, dim: int) -> list[list[float]]:
        return [vector(text, dim) for text in texts]


@pytest.mark.parametrize("embed", [_Model(), functools.partial(_Model().embed, dim=4)])
async def test_any_sort_of_async_callable(embed: Any) -> None:
    assert vectors(await embedding(embed)(table(2))) == [vector("text 0"), vector("text 1")]


async def test_no_more_calls_at_once_than_allowed() -> None:
    at_once = most = 0

    async def embed(texts: list[str]) -> list[list[float]]:
        nonlocal at_once, most
        at_once += 1
        most = max(most, at_once)
        await asyncio.sleep(0.01)
        at_once -= 1
        return [vector(text) for text in texts]

    transform = embedding(embed, batch_size=1, concurrency=3)
    await asyncio.gather(transform(table(9)), transform(table(9)))
    assert most == 3


async def test_rows_that_are_none() -> None:
    found = await embedding(_Model())(table(0))
    assert found.num_rows == 0
    assert Schema.from_arrow(found.schema).model == "new"


async def test_the_length_stays_without_another() -> None:
    transform = embedding(lambda texts: [[1.0, 0.0, 0.0]] * len(texts), dim=None)
    assert Schema.from_arrow((await transform(table(2))).schema).dim == 3


async def test_a_call_that_fails_is_tried_again_after_growing_pauses() -> None:
    host, calls = Hasty(), 0

    async def embed(texts: list[str]) -> list[list[float]]:
        nonlocal calls
        calls += 1
        if calls < 5:
            raise ConnectionError("the service is tired")
        return [vector(text) for text in texts]

    found = await embedding(embed, host=host, attempts=5)(table(2))
    assert vectors(found) == [vector("text 0"), vector("text 1")]
    assert len(host.slept) == 4
    for n, slept in enumerate(host.slept):
        assert 0.25 * 2**n <= slept <= 0.5 * 2**n


async def test_a_call_that_always_fails_ends_in_words() -> None:
    host = Hasty()

    async def embed(texts: list[str]) -> list[list[float]]:
        raise ConnectionError("the service is gone")

    with pytest.raises(MigrationError, match=r"failed 3 times.*ConnectionError: the service is"):
        await embedding(embed, host=host, attempts=3)(table(2))
    assert len(host.slept) == 2


async def test_one_failure_ends_the_other_calls() -> None:
    ended = asyncio.Event()

    async def embed(texts: list[str]) -> list[list[float]]:
        if texts == ["text 0"]:
            raise ConnectionError
        try:
            await asyncio.sleep(3600)
        finally:
            ended.set()
        return []

    with pytest.raises(MigrationError):
        await embedding(embed, batch_size=1, attempts=1)(table(2))
    assert ended.is_set()


WRONG: list[tuple[Any, str]] = [
    (lambda texts: None, "gave NoneType, not a list of vectors"),
    (lambda texts: "text", "gave str, not a list"),
    (lambda texts: 3, "gave no list of vectors"),
    (lambda texts: [1.0, 2.0], "gave no list of vectors"),
    (lambda texts: [["a"] * 4] * 2, "gave no list of vectors"),
    (lambda texts: [[1.0] * 4], "gave 1 vectors for 2 texts"),
    (lambda texts: [[1.0] * 4] * 3, "gave 3 vectors for 2 texts"),
    (lambda texts: [[1.0] * 4, [1.0] * 5], "of 5 dimensions, not 4; pass --dim 5"),
    (lambda texts: np.ones((2, 3)), "of 3 dimensions, not 4"),
]


@pytest.mark.parametrize(("embed", "reason"), WRONG)
async def test_what_are_no_vectors_is_refused_at_once(embed: Any, reason: str) -> None:
    host = Hasty()
    with pytest.raises(MigrationError, match=reason):
        await embedding(embed, host=host)(table(2))
    assert not host.slept


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        ([float("nan"), 1, 1, 1], "NaN or infinity"),
        ([float("inf"), 1, 1, 1], "NaN or infinity"),
        ([1e39, 1, 1, 1], "NaN or infinity"),
        ([0.0] * 4, "is zero"),
    ],
)
async def test_vectors_that_cannot_be_compared_are_refused(bad: list[float], reason: str) -> None:
    with pytest.raises(InvalidVectorError, match=f"id1.*{reason}"):
        await embedding(lambda texts: [[1.0] * 4, bad])(table(2))


async def test_a_row_without_a_text_is_named_and_not_dropped() -> None:
    with pytest.raises(MigrationError, match=r"no 'body' to compute a vector from: 'id1'"):
        await embedding(_Model())(table(3, body=["a", None, ""]))
    found = await embedding(_Model())(table(1, body=[""]))
    assert vectors(found) == [vector("")]


def test_the_target_s_schema() -> None:
    transform = embedding(_Model(), dim=12)
    schema = Schema(8, model="old", metric="dot", fields={"body": str}, quantized="bit")
    found = transform.target_schema(schema)
    assert schema.differences(found) == [
        "dim is 8, not 12", "model is 'old', not 'new'", "quantized is 'bit', not None",
    ]  # fmt: skip
    for field, reason in (("absent", "is not a field"), ("seen", "is not a text field")):
        with pytest.raises(MigrationError, match=f"{reason}; the text fields are: body"):
            embedding(_Model(), field=field).target_schema(
                Schema(8, fields={"body": str, "seen": datetime})
            )


def test_the_name_tells_runs_apart() -> None:
    names = {
        embedding(_Model(), name="a:b").name,
        embedding(_Model(), name="a:c").name,
        embedding(_Model(), name="a:b", model="x").name,
        embedding(_Model(), name="a:b", field="x").name,
        embedding(_Model(), name="a:b", dim=5).name,
    }
    assert len(names) == 5
    assert embedding(_Model(), name="a:b", batch_size=2).name in names


@pytest.mark.parametrize(
    "options", [{"model": ""}, {"batch_size": 0}, {"concurrency": 0}, {"attempts": 0}]
)
def test_options_out_of_range(options: dict[str, Any]) -> None:
    with pytest.raises(InvalidArgumentError):
        embedding(_Model(), **options)
    with pytest.raises(InvalidArgumentError):
        embedding(3)  # type: ignore[arg-type]  # no callable


def test_a_callable_named_on_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "named_embedder.py").write_text(
        "class Model:\n  @staticmethod\n  def embed(texts):\n    return texts\nnumber = 3\n",
        "utf-8",
    )
    assert load("named_embedder:Model.embed")(["a"]) == ["a"]
    for path, reason in (
        ("named_embedder:absent", "has no 'absent'"),
        ("named_embedder:number", "is not callable"),
        ("no_such_module:x", "cannot be imported"),
    ):
        with pytest.raises(MigrationError, match=reason):
            load(path)
    for path in ("named_embedder", ":x", "named_embedder:"):
        with pytest.raises(InvalidArgumentError, match="module:callable"):
            load(path)


async def test_the_plan_counts_rows_without_a_text(store: Any, tmp_path: Path) -> None:
    await store.create_table("notes", Schema(2, model="old", fields={"body": str}))
    await store.create_table("pictures", Schema(2, fields={"place": int}))
    rows = [{"id": f"id{n}", "embedding": [1, n], "body": "x" if n else None} for n in range(3)]
    await store.insert("notes", rows)
    transform = embedding(_Model())
    target = f"{tmp_path}/t.db"
    found = await make_plan(store.target, target, transform=transform)
    assert [(problem.kind, problem.table) for problem in found.problems] == [
        ("null-text", "notes"), ("reembed", "pictures"),
    ]  # fmt: skip
    assert "1 rows have no 'body'" in str(found.problems[0])
    await store.delete("notes", "id0")
    await store.drop_table("pictures")
    found = await make_plan(store.target, target, transform=transform)
    assert found.ok
    assert found.tables[0].schema["dim"] == 4
    assert found.tables[0].schema["model"] == "new"
    assert "the estimate does not include the time to compute the new vectors" in found.notes[-1]


async def test_a_run_that_failed_goes_on_behind_what_it_has_computed(
    store: Any, tmp_path: Path
) -> None:
    count = 9_000
    await store.create_table("notes", Schema(2, model="old", fields={"body": str}))
    ids = [f"id{n}" for n in range(count)]
    ones = np.ones((count, 2), dtype=np.float32)
    await store.insert("notes", {"id": ids, "embedding": ones, "body": ids})
    computed: set[str] = set()
    twice: set[str] = set()

    async def embed(texts: list[str]) -> list[list[float]]:
        if len(computed) >= 6_000 and not twice:
            raise ConnectionError("the service is gone")
        twice.update(computed.intersection(texts))
        computed.update(texts)
        return [vector(text) for text in texts]

    async def go() -> Any:
        transform = embedding(embed, attempts=1, batch_size=500)
        return await migrated(
            store.target,
            tmp_path / "t.db",
            journal=tmp_path / "j.db",
            options=Options(reembed=transform.name),
            transform=transform,
        )

    with pytest.raises(MigrationError, match="the service is gone; run again to continue"):
        await go()
    twice.add("the service is there again")
    outcome = await go()
    assert outcome.state.phase is Phase.DONE
    assert computed == set(ids)
    # What was in the target was not computed again.
    assert len(twice) < 5_000
    async with aiovec.connect(tmp_path / "t.db") as target:
        assert await target.count("notes") == count
        [row] = await target.get("notes", ["id4321"])
        assert list(row.vector) == vector("id4321")


async def test_rows_that_have_neither_text_nor_vector_stay_without_one(
    store: Any, tmp_path: Path
) -> None:
    """``vector_nullable`` allows them, and one of them stopped the whole run."""
    schema = Schema(2, model="old", fields={"body": str}, vector_nullable=True)
    await store.create_table("notes", schema)
    rows = [
        {"id": "both", "embedding": [1, 2], "body": "some text"},
        {"id": "neither", "embedding": None, "body": None},
        {"id": "text", "embedding": None, "body": "another"},
        {"id": "last", "embedding": [2, 1], "body": "more"},
    ]
    await store.insert("notes", rows)
    transform = embedding(_Model())
    target = tmp_path / "t.db"
    options = Options(reembed=transform.name)
    found = await make_plan(store.target, str(target), transform=transform)
    assert found.ok
    assert any("1 rows of the table 'notes' have no 'body'" in note for note in found.notes)

    async def go() -> Any:
        return await migrated(
            store.target, target, journal=tmp_path / "j.db", options=options, transform=transform
        )

    await store.insert("notes", [{"id": "stops", "embedding": [3, 1], "body": None}])
    with pytest.raises(MigrationError, match=r"these rows have no 'body' .*: 'stops'; give"):
        await go()
    await store.delete("notes", "stops")
    outcome = await go()
    assert outcome.state.phase is Phase.DONE
    async with aiovec.connect(target) as there:
        records = await there.get("notes", ["both", "neither", "text", "last"])
    given = [None if one.vector is None else list(one.vector) for one in records]
    assert given == [vector("some text"), None, vector("another"), vector("more")]


async def test_a_switch_to_another_model_is_one_way_and_says_so_before(tmp_path: Path) -> None:
    """C12: a rollback was promised, always refused, and the advice led nowhere."""
    config = await asyncio.to_thread(write_toml, tmp_path, "sqlite")
    async with aiovec.connect(config=config) as store:
        await store.create_table("notes", Schema(2, model="old", fields={"body": str}))
        await store.insert("notes", [{"id": "a", "embedding": [1, 0], "body": "a text"}])
    transform = embedding(_Model())
    options = Options(switch=True, index=False)
    found = await aiovec_migrate.plan(
        None, "lancedb", config=config, options=options, transform=transform
    )
    assert [problem.kind for problem in found.problems] == ["one-way"]
    with pytest.raises(MigrationError, match=r"cannot be rolled back: .* --one-way"):
        await migrated(None, "lancedb", config=config, options=options, transform=transform)
    assert await aiovec_migrate.status(config=config) is None
    options = replace(options, one_way=True)
    outcome = await migrated(None, "lancedb", config=config, options=options, transform=transform)
    told = show.summary(outcome.state, show.report_of(outcome), begun=True, options="")
    assert "rollback" not in "".join(told)
    with pytest.raises(MigrationError, match="migrate finish") as refused:
        await aiovec_migrate.abort(config=config)
    assert "rollback" not in str(refused.value)
    async with aiovec.connect(config=config) as store:
        assert (await store.schema("notes")).model == "new"
    with pytest.raises(MigrationError, match=r"migrate finish.* migrate forget.* in the TOML"):
        await rolled_back(config=config)
    # What that error advises, typed as it stands there.
    await aiovec_migrate.finish(config=config)
    await aiovec_migrate.forget(tmp_path / "notes.db")
    await asyncio.to_thread(write_toml, tmp_path, "sqlite")
    async with aiovec.connect(config=config) as store:
        assert (await store.schema("notes")).model == "old"
        await store.insert("notes", [{"id": "b", "embedding": [0, 1], "body": "b"}])
        assert await store.count("notes") == 2


async def test_texts_are_embedded_by_the_new_embedder_behind_the_switch(tmp_path: Path) -> None:
    class Newer(_Model):
        model, dim = "new", 4

    class Older(_Model):
        model, dim = "old", 4

    config = await asyncio.to_thread(write_toml, tmp_path, "sqlite")
    embedders = {"default": Older(), "newer": Newer()}
    async with aiovec.connect(config=config, embedders=embedders) as store:
        schema = Schema(4, model="old", fields={"body": str, "other": str}, embed=Embed("body"))
        await store.create_table("notes", schema)
        await store.insert("notes", [{"id": "a", "body": "a text", "other": "b"}])
    options = Options(switch=True, one_way=True, index=False)
    plan = await aiovec_migrate.plan(
        None, "lancedb", config=config, options=options, transform=embedding(Newer())
    )
    assert plan.ok
    assert any("'default': after the switch" in note for note in plan.notes)
    other = embedding(Newer(), field="other")
    plan = await aiovec_migrate.plan(None, "lancedb", config=config, transform=other)
    assert [problem.kind for problem in plan.problems] == ["reembed"]
    named = embedding(Newer(), using="newer")
    plan = await aiovec_migrate.plan(
        None, "lancedb", config=config, options=options, transform=named
    )
    assert not any("after the switch" in note for note in plan.notes)
    outcome = await migrated(None, "lancedb", config=config, options=options, transform=named)
    assert outcome.report is not None
    assert outcome.report.equal
    async with aiovec.connect(config=config, embedders=embedders) as store:
        assert store.backend_name == "lancedb"
        assert [hit.id for hit in await store.search("notes", "a text")] == ["a"]
        await store.insert("notes", [{"id": "b", "body": "another"}])


@pytest.mark.parametrize("old", ["old", None])
async def test_no_vector_is_written_among_those_of_another_model(
    tmp_path: Path, old: str | None
) -> None:
    """The lengths are the same, so nothing else could tell."""
    config = await asyncio.to_thread(write_toml, tmp_path, "sqlite")
    async with aiovec.connect(config=config) as store:
        await store.create_table("notes", Schema(4, model=old, fields={"body": str}))
        rows = [{"id": f"{n}", "embedding": [1, 0, 0, n], "body": "a text"} for n in range(9)]
        await store.insert("notes", rows)
    transform = embedding(_Model())
    options = Options(switch=True, one_way=True, index=False)
    with pytest.raises(StoppedError):
        await migrated(
            None, "lancedb", config=config, options=options, transform=transform,
            step=Stop("phase:cutting-over"),
        )  # fmt: skip
    new = f"lancedb://{tmp_path / 'notes.lance'}"
    kept = await contents_at(new)
    for ends in ((), ("sqlite", "lancedb"), (tmp_path / "notes.db", new)):
        with pytest.raises(MigrationError, match="another model"):
            await aiovec_migrate.verify(*ends, config=config, repair=True)
    assert (await aiovec_migrate.verify("sqlite", "lancedb", config=config)).equal
    journal = tmp_path / "none.db"
    report = await aiovec_migrate.verify("sqlite", "lancedb", journal=journal, config=config)
    assert not report.equal
    await migrated(None, "lancedb", config=config, options=options, transform=transform)
    await aiovec_migrate.finish(config=config)
    await aiovec_migrate.forget(tmp_path / "notes.db")
    assert differences(await contents_at(new), kept) == []
    other = tmp_path / "other.db"
    await aiovec_migrate.sync(new, other)
    source = tmp_path / "notes.db"
    report = await aiovec_migrate.verify(source, other, journal=journal, repair=True)
    assert "of the model" in report.tables[0].problem
    with pytest.raises(MigrationError, match="no rows are written"):
        await aiovec_migrate.sync(source, other)
    assert differences(await contents_at(other), kept) == []


async def test_a_model_that_is_named_must_be_passed(tmp_path: Path) -> None:
    """Else vectors of the old model would be written as those of the new one."""
    for call in (aiovec_migrate.plan, aiovec_migrate.run):
        with pytest.raises(InvalidArgumentError, match="reembed"):
            await call(tmp_path / "a.db", tmp_path / "b.db", options=Options(reembed="model"))
    assert await asyncio.to_thread(os.listdir, tmp_path) == []


async def test_a_mistake_in_the_code_is_told_at_once() -> None:
    host, calls = Hasty(), 0

    def embed(texts: list[str]) -> Any:
        nonlocal calls
        calls += 1
        return texts.absent  # type: ignore[attr-defined]

    with pytest.raises(MigrationError, match=r"another try would not change: AttributeError: .*ab"):
        await embedding(embed, host=host)(table(2))
    assert (calls, host.slept) == (1, [])


async def test_a_service_says_how_long_to_wait() -> None:
    host = Hasty()

    class BusyError(Exception):
        status_code = 429
        headers = MappingProxyType({"retry-after": "7"})

        @property
        def response(self) -> BusyError:
            return self

    async def embed(texts: list[str]) -> list[list[float]]:
        if len(host.slept) < 2:
            raise BusyError("slowly")
        return [vector(text) for text in texts]

    found = await embedding(embed, host=host)(table(1))
    assert vectors(found) == [vector("text 0")]
    assert host.slept == [7.0, 7.0]


async def test_plain_callables_run_at_once_and_learn_what_the_texts_are_for() -> None:
    together = threading.Barrier(3)

    def embed(texts: list[str], *, kind: str = "query") -> Any:
        assert kind == "document"
        together.wait(timeout=30)
        return (vector(text) for text in texts)  # read in the thread too

    found = await embedding(embed, batch_size=1, concurrency=3)(table(3))
    assert vectors(found) == [vector(f"text {n}") for n in range(3)]
