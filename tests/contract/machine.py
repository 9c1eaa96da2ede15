"""A state machine that makes the same calls to a store and the oracle, and compares the results."""

from __future__ import annotations

import asyncio
import json
import tempfile
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule, run_state_machine_as_test
from tests.harness import strategies as draws
from tests.harness.oracle import (
    Oracle,
    OracleRow,
    arrow_table,
    assert_same_hit_fields,
    assert_same_hits,
)
from tests.harness.values import assert_same_fields, python_rows

from aiovec import REMOVE, Record, Schema
from aiovec.errors import (
    AiovecError,
    DuplicateIdError,
    InvalidArgumentError,
    TableNotFoundError,
)

_COMPARED_FACTS = ("table", "row", "id", "field", "expected", "given", "within_call", "name")


def machine_settings(*, max_examples: int = 7, steps: int = 25) -> settings:
    """Return settings. With 7 examples, which take a second, the calls are always the same."""
    return settings(
        max_examples=max_examples,
        stateful_step_count=steps,
        derandomize=max_examples == 7,
        database=None,
        deadline=None,
        print_blob=True,
        suppress_health_check=list(HealthCheck),
    )


_PAYLOAD_KEYS = ("payload.kind", "payload.n", 'payload."a.b".n')


def run_machine(
    connect: Callable[[Path], Any],
    path: Path,
    *,
    persistent: bool = True,
    options: settings | None = None,
) -> None:
    """Run the state machine over stores that ``connect`` opens in folders under ``path``.

    A failure is reported as the shortest sequence of calls that shows it.
    """

    class Machine(StoreMachine):
        pass

    Machine.connect = staticmethod(connect)
    Machine.root = path
    Machine.persistent = persistent
    run_state_machine_as_test(Machine, settings=options or machine_settings())


class StoreMachine(RuleBasedStateMachine):
    """The rules. ``run_machine`` sets the class variables."""

    connect: ClassVar[Any]  # set as a static method
    root: ClassVar[Path]
    persistent: ClassVar[bool] = True

    def __init__(self) -> None:
        super().__init__()
        self._path = Path(tempfile.mkdtemp(dir=self.root))
        self._runner = asyncio.Runner()
        self._oracle = Oracle()
        self._store = self._run(self.connect(self._path))

    # Tables

    @rule(table=st.sampled_from(draws.TABLES), schema=draws.schemas(), exist_ok=st.booleans())
    def create_table(self, table: str, schema: Schema, exist_ok: bool) -> None:
        self._both(
            self._store.create_table(table, schema, exist_ok=exist_ok),
            lambda: self._oracle.create_table(table, schema, exist_ok=exist_ok),
        )
        assert self._run(self._store.tables()) == self._oracle.tables()

    @rule(data=st.data(), exist_ok=st.booleans(), model=st.sampled_from((None, "m", "other")))
    @precondition(lambda self: self._oracle.tables())
    def create_table_again(self, data: st.DataObject, exist_ok: bool, model: str | None) -> None:
        table, existing = self._drawn_table(data)
        schema = Schema.from_json({**existing.to_dict(), "model": model})
        self.create_table(table, schema, exist_ok)

    @rule(data=st.data(), field=draws.fields(added=True))
    @precondition(lambda self: self._oracle.tables())
    def add_field(self, data: st.DataObject, field: Any) -> None:
        table, _ = self._drawn_table(data)
        name = data.draw(st.sampled_from((*draws.FIELD_NAMES, "late", "kind")), label="name")
        self._both(
            self._store.add_field(table, name, field),
            lambda: self._oracle.add_field(table, name, field),
        )
        assert self._run(self._store.schema(table)) == self._oracle.schema(table)

    @rule(data=st.data(), drop=st.booleans())
    @precondition(lambda self: self._oracle.tables())
    def alter_field(self, data: st.DataObject, drop: bool) -> None:
        table, schema = self._drawn_table(data)
        old = data.draw(st.sampled_from((*schema.fields, "none")), label="field")
        new = data.draw(st.sampled_from((*draws.FIELD_NAMES, "late", "kind")), label="new")
        if drop:
            self._both(
                self._store.drop_field(table, old), lambda: self._oracle.drop_field(table, old)
            )
        else:
            self._both(
                self._store.rename_field(table, old, new),
                lambda: self._oracle.rename_field(table, old, new),
            )
        after = self._run(self._store.schema(table))
        assert after == self._oracle.schema(table)
        assert list(after.fields) == list(self._oracle.schema(table).fields)

    @rule(table=st.sampled_from(draws.TABLES), missing_ok=st.booleans(), sure=st.integers(0, 2))
    def drop_table(self, table: str, missing_ok: bool, sure: int) -> None:
        if sure:  # drop tables rarely, or few rows would be left to compare
            return
        self._both(
            self._store.drop_table(table, missing_ok=missing_ok),
            lambda: self._oracle.drop_table(table, missing_ok=missing_ok),
        )

    # Writing

    @rule(
        data=st.data(),
        call=st.sampled_from(("insert", "upsert", "skip", "replace")),
        model=st.sampled_from((None, None, "m", "other")),
        bad=st.integers(0, 5),
    )
    @precondition(lambda self: self._oracle.tables())
    def write(self, data: st.DataObject, call: str, model: str | None, bad: int) -> None:
        table, schema = self._drawn_table(data)
        rows = data.draw(st.lists(draws.good_rows(schema), max_size=6), label="rows")
        if not bad:
            place = data.draw(st.integers(0, len(rows)), label="place")
            rows.insert(place, data.draw(draws.bad_rows(schema), label="bad row"))
            given: Any = rows
        else:
            given = self._in_some_form(data, rows, schema)
        options: dict[str, Any] = {"model": model}
        if call in ("skip", "replace"):
            options["on_conflict"] = call
        real = self._store.upsert if call == "upsert" else self._store.insert
        model_of = self._oracle.upsert if call == "upsert" else self._oracle.insert
        self._both(real(table, given, **options), lambda: model_of(table, rows, **options))

    @rule(data=st.data())
    @precondition(lambda self: self._oracle.tables())
    def write_at_once(self, data: st.DataObject) -> None:
        """Make several overlapping calls with different ids."""
        table, schema = self._drawn_table(data)
        rows = data.draw(
            st.lists(draws.good_rows(schema), max_size=8, unique_by=lambda row: row["id"]),
            label="rows",
        )
        calls = [rows[n::3] for n in range(3)]

        async def together() -> list[Any]:
            return await asyncio.gather(
                *(self._store.insert(table, part) for part in calls), return_exceptions=True
            )

        for outcome, part in zip(self._run(together()), calls, strict=True):
            try:
                expected: Any = self._oracle.insert(table, part)
            except AiovecError as error:
                expected = error
            assert_same_outcome(outcome, expected)

    @rule(data=st.data(), by_ids=st.booleans())
    @precondition(lambda self: self._oracle.tables())
    def update(self, data: st.DataObject, by_ids: bool) -> None:
        table, schema = self._drawn_table(data)
        change = data.draw(self._changes(schema), label="change")
        ids = data.draw(_ids(), label="ids") if by_ids else None
        tree, where = data.draw(draws.wheres(schema), label="where")
        if not change:
            return
        self._both(
            self._store.update(table, change, ids=ids, where=where),
            lambda: self._oracle.update(table, change, ids=ids, where=tree),
        )

    @rule(data=st.data(), strict=st.booleans(), shape=st.sampled_from(("mixed", "alike", "many")))
    @precondition(lambda self: self._oracle.tables())
    def update_rows(self, data: st.DataObject, strict: bool, shape: str) -> None:
        """Update rows with different keys, with the same keys, or so many rows that a backend
        writes them in another way."""
        table, schema = self._drawn_table(data)
        ids = data.draw(_ids(), label="ids")
        vector = st.fixed_dictionaries({}, optional={schema.vector: draws.vectors(schema)})
        change = st.builds(lambda fields, own: fields | own, self._changes(schema), vector)
        if shape == "alike":
            change = st.just(data.draw(change, label="change of all"))
        drawn = [data.draw(change, label="change") for _ in ids]
        rows = [{"id": id, **change} for id, change in zip(ids, drawn, strict=True) if change]
        if shape == "many" and rows:
            rows += [{**rows[-1], "id": f"absent {n}"} for n in range(70)]
        self._both(
            self._store.update(table, rows, strict=strict),
            lambda: self._oracle.update_rows(table, rows, strict=strict),
        )

    @rule(data=st.data(), model=st.sampled_from((None, None, "m", "other")))
    @precondition(lambda self: self._oracle.tables())
    def set_vectors(self, data: st.DataObject, model: str | None) -> None:
        table, schema = self._drawn_table(data)
        ids = data.draw(_ids(), label="ids")
        size = data.draw(st.sampled_from((len(ids), len(ids), len(ids), 2)), label="size")
        given = data.draw(
            st.lists(draws.vectors(schema), min_size=size, max_size=size), label="vectors"
        )
        self._both(
            self._store.set_vectors(table, ids, given, model=model),
            lambda: self._oracle.set_vectors(table, ids, given, model=model),
        )

    @rule(data=st.data(), ids=st.lists(st.sampled_from(draws.IDS), max_size=2))
    @precondition(lambda self: self._oracle.tables())
    def delete(self, data: st.DataObject, ids: list[str]) -> None:
        table, _ = self._drawn_table(data)
        self._both(self._store.delete(table, ids), lambda: self._oracle.delete(table, ids))

    @rule(data=st.data())
    @precondition(lambda self: self._oracle.tables())
    def delete_selected(self, data: st.DataObject) -> None:
        table, schema = self._drawn_table(data)
        where = data.draw(draws.filters(schema), label="where")
        self._both(
            self._store.delete(table, where=where),
            lambda: self._oracle.delete(table, where=where),
        )

    # Reading

    @rule(data=st.data(), limit=st.integers(1, 15), vectors=st.booleans())
    @precondition(lambda self: self._oracle.tables())
    def search(self, data: st.DataObject, limit: int, vectors: bool) -> None:
        table, schema = self._drawn_table(data)
        query = data.draw(draws.vectors(schema), label="query")
        tree, where = data.draw(draws.wheres(schema), label="where")
        hits, expected = self._both(
            self._store.search(table, query, limit=limit, where=where, include_vector=vectors),
            lambda: self._oracle.search(table, query, limit=limit, where=tree),
        )
        assert_same_hits(hits, expected)
        assert_same_hit_fields(hits, expected)
        rows = {hit.row.id: hit.row for hit in expected.candidates}
        for hit in hits:
            assert (hit.vector is not None) == vectors
            assert hit.vector is None or np.array_equal(hit.vector, rows[hit.id].vector)

    @rule(data=st.data())
    @precondition(lambda self: self._oracle.tables())
    def get(self, data: st.DataObject) -> None:
        table, _ = self._drawn_table(data)
        ids = data.draw(_ids(), label="ids")
        records, expected = self._both(
            self._store.get(table, ids), lambda: self._oracle.get(table, ids)
        )
        assert_same_records(records, expected)
        existing, known = self._both(
            self._store.exists(table, ids), lambda: self._oracle.exists(table, ids)
        )
        assert existing == known

    @rule(
        data=st.data(),
        descending=st.booleans(),
        limit=st.integers(1, 12),
        offset=st.integers(0, 4),
    )
    @precondition(lambda self: self._oracle.tables())
    def find(self, data: st.DataObject, descending: bool, limit: int, offset: int) -> None:
        table, schema = self._drawn_table(data)
        able = [name for name, field in schema.fields.items() if not field.is_list]
        if schema.payload:
            able += _PAYLOAD_KEYS
        keys = st.sampled_from(["id", *able, *(f"-{name}" for name in able)])
        order_by = data.draw(
            st.one_of(st.none(), keys, st.lists(keys, max_size=3)), label="order_by"
        )
        tree, where = data.draw(draws.wheres(schema), label="where")
        options: dict[str, Any] = {
            "order_by": order_by, "descending": descending, "limit": limit, "offset": offset,
        }  # fmt: skip
        records, expected = self._both(
            self._store.find(table, where, **options),
            lambda: self._oracle.find(table, tree, **options),
        )
        assert_same_records(records, expected, vectors=False)

    @rule(data=st.data())
    @precondition(lambda self: self._oracle.tables())
    def count(self, data: st.DataObject) -> None:
        table, schema = self._drawn_table(data)
        tree, where = data.draw(draws.wheres(schema), label="where")
        self._both(self._store.count(table, where), lambda: self._oracle.count(table, tree))

    @rule(data=st.data(), limit=st.one_of(st.none(), st.integers(1, 3)))
    @precondition(lambda self: self._oracle.tables())
    def summarize(self, data: st.DataObject, limit: int | None) -> None:
        table, schema = self._drawn_table(data)
        tree, where = data.draw(draws.wheres(schema), label="where")
        able = ["id", *schema.fields, *_PAYLOAD_KEYS]
        name = data.draw(st.sampled_from(able), label="name")
        self._both(
            self._store.distinct(table, name, where, limit),
            lambda: self._oracle.distinct(table, name, tree, limit),
        )
        self._both(
            self._store.bounds(table, name, where),
            lambda: self._oracle.bounds(table, name, tree),
        )

    @rule(data=st.data(), batch_size=st.integers(1, 6), stop=st.integers(0, 3))
    @precondition(lambda self: self._oracle.tables())
    def export(self, data: st.DataObject, batch_size: int, stop: int) -> None:
        """Read some batches, then continue after the last one's cursor."""
        table, schema = self._drawn_table(data)
        tree, where = data.draw(draws.wheres(schema), label="where")
        options: dict[str, Any] = {"batch_size": batch_size, "where": where}

        async def read() -> list[Any]:
            batches = [batch async for batch in self._store.export(table, **options)]
            if stop and len(batches) > stop:
                cursor = batches[stop - 1].schema.metadata[b"aiovec.cursor"]
                after = self._store.export(table, after=cursor, **options)
                batches = batches[:stop] + [batch async for batch in after]
            return batches

        batches, expected = self._both(read(), lambda: self._oracle.rows(table, tree))
        rows = [row for batch in batches for row in python_rows(batch)]
        assert sorted(row["id"] for row in rows) == sorted(expected)
        for row in rows:
            _assert_same_exported(row, expected[row["id"]], schema)

    # Upkeep

    @rule(data=st.data())
    @precondition(lambda self: self._oracle.tables())
    def optimize(self, data: st.DataObject) -> None:
        table, _ = self._drawn_table(data)
        self._run(self._store.optimize(table))
        assert self._run(self._store.stats(table)).rows == self._oracle.count(table)

    @rule()
    @precondition(lambda self: self.persistent)
    def reopen(self) -> None:
        self._run(self._store.close())
        self._store = self._run(self.connect(self._path))
        assert self._run(self._store.tables()) == self._oracle.tables()

    @rule(table=st.sampled_from(draws.TABLES))
    def look_at_any_table(self, table: str) -> None:
        try:
            expected = self._oracle.count(table)
        except TableNotFoundError as error:
            expected = error  # type: ignore[assignment]  # an outcome like any other
        try:
            outcome: Any = self._run(self._store.count(table))
        except AiovecError as error:
            outcome = error
        assert_same_outcome(outcome, expected)

    def teardown(self) -> None:
        """Compare everything once more, then close."""
        try:
            for table in self._oracle.tables():
                rows = self._oracle.rows(table)
                assert self._run(self._store.schema(table)) == self._oracle.schema(table)
                records = self._run(self._store.get(table, list(rows)))
                assert_same_records(records, list(rows.values()))
                assert self._run(self._store.count(table)) == len(rows)
        finally:
            self._run(self._store.close())
            self._runner.close()

    # Inside

    def _run(self, call: Awaitable[Any]) -> Any:
        async def wait() -> Any:
            return await call

        return self._runner.run(wait())

    def _both(self, real: Coroutine[Any, Any, Any], model: Callable[[], Any]) -> tuple[Any, Any]:
        """Make a call to both, and compare the results or the errors; return both outcomes."""
        try:
            expected = model()
        except AiovecError as error:
            expected = error
        try:
            outcome = self._run(real)
        except AiovecError as error:
            outcome = error
        assert_same_outcome(outcome, expected)
        return outcome, expected

    def _drawn_table(self, data: st.DataObject) -> tuple[str, Schema]:
        table = data.draw(st.sampled_from(self._oracle.tables()), label="table")
        return table, self._oracle.schema(table)

    @staticmethod
    def _changes(schema: Schema) -> st.SearchStrategy[dict[str, Any]]:
        fields = {name: draws.values(field) for name, field in schema.fields.items()}
        if schema.payload:
            free = [key for key in draws.PAYLOAD_KEYS if key not in fields]
            fields |= dict.fromkeys(free, draws.json_values | st.just(REMOVE))
            plain = [key for key in free if key and not {".", '"'} & {*key}]
            nested = [f"payload.{key}.within" for key in plain]
            fields |= dict.fromkeys(nested, draws.json_values | st.just(REMOVE))
        if not fields:
            return st.just({})
        names = st.lists(
            st.sampled_from(sorted(fields)),
            max_size=3,
            unique_by=lambda name: name.split(".")[-2:][0],
        )
        return names.flatmap(lambda drawn: st.fixed_dictionaries({n: fields[n] for n in drawn}))

    @staticmethod
    def _in_some_form(data: st.DataObject, rows: list[dict[str, Any]], schema: Schema) -> Any:
        match data.draw(st.sampled_from(("dicts", "records", "arrow", "iterator")), label="form"):
            case "records":
                own = ("id", schema.vector)
                return [
                    Record(
                        row["id"],
                        None
                        if row[schema.vector] is None
                        else np.asarray(row[schema.vector], dtype=np.float32),
                        {key: value for key, value in row.items() if key not in own},
                    )
                    for row in rows
                ]
            case "arrow":
                return arrow_table(rows, schema)
            case "iterator":
                return iter(rows)
            case _:
                return rows


def _ids() -> st.SearchStrategy[list[str]]:
    return st.lists(st.sampled_from((*draws.IDS, "absent")), max_size=5)


def assert_same_outcome(outcome: Any, expected: Any) -> None:
    if isinstance(expected, AiovecError):
        assert type(outcome) is type(expected), f"came {outcome!r}, not {expected!r}"
        facts = () if isinstance(expected, InvalidArgumentError) else _COMPARED_FACTS
        for fact in facts:
            if fact in vars(expected):
                given, right = vars(outcome)[fact], vars(expected)[fact]
                assert given == right, f"{fact} of {outcome!r} is {given!r}, not {right!r}"
        if isinstance(expected, DuplicateIdError):
            ids = set(vars(outcome)["ids"])
            assert ids
            assert ids <= set(expected.ids)
        return
    if isinstance(outcome, BaseException):
        raise AssertionError(f"came {outcome!r}, not {expected!r}") from outcome
    if expected is None or isinstance(expected, int):
        assert outcome == expected, f"came {outcome!r}, not {expected!r}"


def assert_same_records(
    records: Sequence[Record], expected: Sequence[OracleRow], *, vectors: bool = True
) -> None:
    assert [record.id for record in records] == [row.id for row in expected]
    for record, row in zip(records, expected, strict=True):
        assert_same_fields(record.fields, row.flat(), f"row {row.id!r:.30}")
        assert (record.vector is not None) == (vectors and row.vector is not None)
        if record.vector is not None and row.vector is not None:
            assert np.array_equal(record.vector, row.vector), f"row {row.id!r:.30}: the vector"


def _assert_same_exported(row: dict[str, Any], expected: OracleRow, schema: Schema) -> None:
    flat = {key: row[key] for key in schema.fields}
    assert_same_fields(flat, expected.fields, f"exported row {expected.id!r:.30}")
    vector = None if expected.vector is None else expected.vector.tolist()
    assert row[schema.vector] == vector
    if schema.payload:
        payload = json.loads(row["payload"]) if row["payload"] is not None else {}
        assert_same_fields(payload, expected.payload, f"exported payload {expected.id!r:.30}")
