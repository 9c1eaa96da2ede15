"""The calls of fault tests, and the rows that a store must have afterwards.

A script makes numbered calls. A call takes a store or its model, so the same code makes the call
and computes its expected result. Whatever stops a call, it is done completely or not at all.
"""

from __future__ import annotations

import asyncio
import itertools
import shutil
from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tests.harness.oracle import Oracle, OracleTable, checked_row

import aiovec
from aiovec import F, Field, Schema, VectorStore
from aiovec.backend.context import CallContext, WriteKey, calling

KINDS = ("sqlite", "lancedb")
DIM = 4
SCHEMA = Schema(DIM, fields={"name": str, "year": int})
TABLE = "notes"
BACKUP = "backup"
# Ids of rows that are never deleted, and of ten rows that may be.
KEPT = [f"r{n:02}" for n in range(10)]
COMING = [f"r{n:02}" for n in range(10, 20)]

Row = dict[str, Any]
Call = Callable[[Any], Any]
"""Takes a Place, for which it returns a coroutine, or a Model, which it changes immediately."""
State = dict[tuple[str, ...], Any]
"""The contents of a store: the fields of each table, its rows, and whether there is a backup."""


def target_in(folder: Path, kind: str, name: str = "store") -> str:
    """Return the target of a store of this kind in the folder."""
    return str(folder / f"{name}.db") if kind == "sqlite" else f"lancedb://{folder / name}"


def kind_of(target: str) -> str:
    return "lancedb" if "://" in target else "sqlite"


def path_of(target: str) -> Path:
    return Path(target.removeprefix("lancedb://"))


def row(id: str, year: int) -> Row:
    """Return a row; its vector, too, depends on the year."""
    return {
        "id": id,
        "embedding": [1.0, float(year), 2.0, 3.0],
        "name": f"note of {year}",
        "year": year,
    }


class Model(Oracle):
    """The oracle, with all calls of the scripts."""

    def __init__(self) -> None:
        super().__init__()
        self.saved: dict[str, OracleTable] | None = None
        self._number = 100

    def copy(self) -> Model:
        return deepcopy(self)

    def next(self) -> int:
        """Return a number that no call has used."""
        self._number += 1
        return self._number

    def state(self) -> State:
        result: State = {("backup",): True} if self.saved is not None else {}
        return result | flat(self.held)

    def create_field_index(self, table: str, name: str, kind: Any) -> None:
        field = Field(str, text=True) if kind == "text" else Field(int, index=kind)
        self._declare(table, name, field)

    def drop_field_index(self, table: str, name: str, kind: Any) -> None:
        self._declare(table, name, Field(str if kind == "text" else int))

    def _declare(self, table: str, name: str, field: Field) -> None:
        held = self.held[table]
        held.schema = held.schema.without_field(name).with_field(name, field)

    def backup(self, name: str) -> None:
        self.saved = deepcopy(self.held)

    def remove_backup(self) -> None:
        self.saved = None

    def restore_backup(self) -> None:
        assert self.saved is not None
        self.held = deepcopy(self.saved)

    def __getattr__(self, call: str) -> Callable[..., None]:
        """Return a call that changes no row, such as a search or ``optimize``."""
        if call.startswith("_"):
            raise AttributeError(call)
        return lambda *args, **options: None


def flat(tables: dict[str, OracleTable]) -> State:
    """Return the fields of tables by name, and rows without nulls by table and id."""
    result: State = {}
    for name, table in tables.items():
        result[name,] = dict(table.schema.fields)
        for id, row in table.rows.items():
            plain = {field: value for field, value in row.flat().items() if value is not None}
            assert row.vector is not None
            result[name, id] = plain | {"embedding": row.vector.tolist()}
    return result


class Place:
    """A store at a target. It passes on calls that it does not define to the open store."""

    def __init__(self, target: str) -> None:
        self.target = target
        self.store: VectorStore | None = None
        self.saved = path_of(target_in(path_of(target).parent, "sqlite", BACKUP))
        if "://" in target:
            self.saved = self.saved.with_suffix("")

    async def __aenter__(self) -> Place:
        await self.reopen()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def reopen(self) -> None:
        """Open the store if it is closed."""
        if self.store is None:
            self.store = await aiovec.connect(self.target)

    async def close(self) -> None:
        store, self.store = self.store, None
        if store is not None:
            await store.close()

    def __getattr__(self, call: str) -> Any:
        return getattr(self.store, call)

    async def backup(self, name: str) -> None:
        assert self.store is not None
        await self.store.backup(self.saved)

    async def remove_backup(self) -> None:
        await asyncio.to_thread(_removed, self.saved)

    async def restore_backup(self) -> None:
        """Close the store, and replace it with the backup."""
        await self.close()
        await aiovec.restore(self.saved, self.target, overwrite=True)

    async def read_all(self) -> None:
        """Search, find and export concurrently."""
        store = self.store
        assert store is not None

        async def export() -> None:
            async for _ in store.export(TABLE, batch_size=7):
                pass

        query = [1.0, 2.0, 3.0, 4.0]
        await asyncio.gather(
            store.search(TABLE, query, limit=30), store.search_many(TABLE, [query] * 5),
            store.search(TABLE, query, where="year < 12", exact=True), store.get(TABLE, KEPT),
            store.find(TABLE, order_by="name"), store.count(TABLE), store.stats(TABLE), export(),
        )  # fmt: skip


def _removed(path: Path) -> None:
    """Remove a file or folder in one step, so that a kill cannot leave a part of it."""
    gone = path.with_name(f"{path.name}.gone")
    path.rename(gone)
    if gone.is_dir():
        shutil.rmtree(gone)
    else:
        gone.unlink()


async def tables_in(store: VectorStore) -> dict[str, OracleTable]:
    """Return all tables and rows of a store."""
    result = {}
    for table in await store.tables():
        schema = await store.schema(table)
        rows = await store.find(table, limit=100_000, include_vector=True)
        result[table] = OracleTable(
            schema, {row.id: checked_row(row.to_dict(), schema, n) for n, row in enumerate(rows)}
        )
    return result


async def state_of(place: Place) -> State:
    """Return the current contents of the place's store."""
    assert place.store is not None
    result: State = {}
    if await asyncio.to_thread(place.saved.exists):
        result["backup",] = True
    return result | flat(await tables_in(place.store))


@dataclass(frozen=True)
class Script:
    """A script makes ``calls`` concurrently, after ``first`` has prepared the store for them."""

    calls: Callable[[int], list[Call]]
    first: Callable[[Model, int], list[Call]] = lambda model, n: []
    # True if a call that is repeated under a key takes effect once, if the backend supports keys.
    once: bool = False
    # True if a failed call has had no effect, except with OutcomeUnknownError. A file may have been
    # replaced before the flush of its folder failed.
    exact: bool = True


def _one(call: Callable[[Any, int], Any], **options: Any) -> Script:
    return Script(lambda n: [lambda s: call(s, n)], **options)


def _without(table: str) -> Callable[[Model, int], list[Call]]:
    return lambda m, n: [lambda s: s.drop_table(table)] if table in m.held else []


def _with_made(model: Model, n: int) -> list[Call]:
    """Return calls that create a table to drop or rename, and drop the table of the new name."""
    calls = _without("other")(model, n)
    if "made" not in model.held:
        calls.append(lambda s: s.create_table("made", MADE))
        calls.append(lambda s: s.insert("made", [row("a", n), row("b", n)]))
    return calls


def _field(wanted: str | None) -> Callable[[Model, int], list[Call]]:
    """Return a function whose calls leave only the wanted one of the fields late and later."""

    def first(model: Model, n: int) -> list[Call]:
        existing = {"late", "later"} & model.held[TABLE].schema.fields.keys()
        calls: list[Call] = [lambda s, f=f: s.drop_field(TABLE, f) for f in existing - {wanted}]
        if wanted and wanted not in existing:
            calls.append(lambda s: s.add_field(TABLE, wanted, Field(int, index="btree")))
            calls.append(lambda s: s.update(TABLE, {wanted: n}, ids=KEPT))
        return calls

    return first


def _marked_for_deletion(model: Model, n: int) -> list[Call]:
    """Return a call that marks all rows made by scripts, to delete them and keep tables small."""
    ids = [id for id in model.held[TABLE].rows if id not in KEPT]
    return [lambda s: s.update(TABLE, {"seen": 0}, ids=ids)]


def _without_index(field: str, kind: str) -> Callable[[Model, int], list[Call]]:
    def first(model: Model, n: int) -> list[Call]:
        result = model.held[TABLE].schema.fields[field]
        existing = result.text if kind == "text" else result.index == kind
        return [lambda s: s.drop_field_index(TABLE, field, kind)] if existing else []

    return first


def _backed_up(model: Model, n: int) -> list[Call]:
    return [] if model.saved is not None else [lambda s: s.backup(BACKUP)]


def _not_backed_up(model: Model, n: int) -> list[Call]:
    return [] if model.saved is None else [lambda s: s.remove_backup()]


def _many(n: int) -> list[Call]:
    """Return calls that share a commit, each with different rows."""
    inserts = [
        lambda s, i=i: s.insert(TABLE, [row(f"m{n}-{i}-{k}", n) for k in range(3)])
        for i in range(6)
    ]
    updates = [
        lambda s, id=id: s.update(TABLE, {"name": f"note of many {n}", "deep": {"n": n}}, ids=[id])
        for id in KEPT[:3]
    ]
    return [*inserts, *updates, lambda s: s.delete(TABLE, [COMING[n % 10]])]


def _large(model: Model, n: int) -> list[Call]:
    """Return calls that create a table with enough rows for an index."""
    rows = [row(f"l{i}", i) for i in range(400)]
    held = model.held.get("large")
    create = [] if held else [lambda s: s.create_table("large", SCHEMA)]
    return [] if held and held.rows else [*create, lambda s: s.insert("large", rows)]


MADE = Schema(DIM, fields={"name": Field(str, index="bitmap"), "year": int})

BEGIN = Script(
    lambda n: [lambda s: s.insert(TABLE, [row(id, int(id[1:])) for id in KEPT + COMING])],
    lambda m, n: [lambda s: s.create_table(TABLE, SCHEMA)] if TABLE not in m.held else [],
)
"""The first script of every test."""

SCRIPTS: dict[str, Script] = {
    "insert": _one(
        lambda s, n: s.insert(TABLE, [row(f"n{n}-{i}", n) for i in range(5)]), once=True),
    "upsert": _one(
        lambda s, n: s.upsert(TABLE, [row(COMING[n % 10], n), row(KEPT[n % 10], n % 10),
                                      row(f"u{n}", n)]), once=True),
    "skip": _one(
        lambda s, n: s.insert(TABLE, [row(KEPT[0], n), row(f"s{n}", n), row(COMING[n % 10], n)],
                              on_conflict="skip")),
    "update by ids": _one(
        lambda s, n: s.update(TABLE, {"name": f"note by id {n}", "seen": n}, ids=KEPT[:6]),
        once=True),
    "update by a filter": _one(
        lambda s, n: s.update(TABLE, {"name": f"note by filter {n}"}, where=F.year < 15),
        once=True),
    "set_vectors": _one(
        lambda s, n: s.set_vectors(TABLE, KEPT[:4], [[1.0, float(n), 5.0, 6.0]] * 4), once=True),
    "delete": _one(
        lambda s, n: s.delete(TABLE, [COMING[n % 10], COMING[(n + 1) % 10], "absent"])),
    "many at once": Script(_many),
    "delete by a filter": _one(
        lambda s, n: s.delete(TABLE, where=F.payload["seen"] < 1), first=_marked_for_deletion),
    "create_table": _one(lambda s, n: s.create_table("made", MADE), first=_without("made")),
    "rename_table": _one(lambda s, n: s.rename_table("made", "other"), first=_with_made),
    "drop_table": _one(lambda s, n: s.drop_table("made"), first=_with_made),
    "add_field": _one(
        lambda s, n: s.add_field(TABLE, "late", Field(int, index="btree")), first=_field(None)),
    "rename_field": _one(lambda s, n: s.rename_field(TABLE, "late", "later"), first=_field("late")),
    "drop_field": _one(lambda s, n: s.drop_field(TABLE, "late"), first=_field("late")),
    "index a field": _one(
        lambda s, n: s.create_field_index(TABLE, "year", "btree"),
        first=_without_index("year", "btree")),
    "index a text": _one(
        lambda s, n: s.create_field_index(TABLE, "name", "text"),
        first=_without_index("name", "text")),
    "optimize": _one(
        lambda s, n: s.optimize(TABLE),
        first=lambda m, n: [lambda s: s.upsert(TABLE, [row(f"o{n}", n)])]),
    "backup": _one(lambda s, n: s.backup(BACKUP), first=_not_backed_up, exact=False),
    "restore": _one(lambda s, n: s.restore_backup(), first=_backed_up, exact=False),
    "read": _one(lambda s, n: s.read_all()),
}  # fmt: skip
LANCEDB_SCRIPTS: dict[str, Script] = {
    **SCRIPTS,
    "create_index": _one(lambda s, n: s.create_index("large", "ivf_flat"), first=_large),
}


def scripts_of(kind: str) -> dict[str, Script]:
    return SCRIPTS if kind == "sqlite" else LANCEDB_SCRIPTS


# The oracle


def settle(
    model: Model, calls: Sequence[Call], acknowledged: Collection[int], actual: State
) -> Model:
    """Return the model after the calls that were done; each is done completely or not at all.

    ``acknowledged`` has the indexes of the calls that returned. Each call changes different rows,
    which show whether it was done.
    """
    for number, call in enumerate(calls):
        after = model.copy()
        call(after)
        before, wanted = model.state(), after.state()
        changed = [
            key for key in before.keys() | wanted.keys() if before.get(key) != wanted.get(key)
        ]
        done = all(actual.get(key) == wanted.get(key) for key in changed)
        assert done or number not in acknowledged, (
            f"call {number} is lost: {differences(actual, wanted)}"
        )
        if done:
            model = after
    assert actual == model.state(), differences(actual, model.state())
    return model


def differences(actual: State, wanted: State) -> str:
    """Describe the first few differences, for the message of a failure."""
    keys = [key for key in actual.keys() | wanted.keys() if actual.get(key) != wanted.get(key)]
    lines = [f"{key}: {actual.get(key)} instead of {wanted.get(key)}" for key in sorted(keys)[:5]]
    return f"{len(keys)} differ: {'; '.join(lines)}"


async def settled(
    target: str, model: Model, calls: Sequence[Call] = (), acknowledged: Collection[int] = (),
) -> Model:  # fmt: skip
    """Like ``settle``, with the state from a newly opened store, which must then be usable."""
    async with Place(target) as place:
        model = settle(model, calls, acknowledged, await state_of(place))
        await check_usable(place)
    if model.saved is not None:
        async with aiovec.connect(_as_target(place), read_only=True) as saved:
            result = flat(await tables_in(saved))
        assert result == flat(model.saved), differences(result, flat(model.saved))
    return model


def _as_target(place: Place) -> str:
    return f"lancedb://{place.saved}" if "://" in place.target else str(place.saved)


async def check_usable(place: Place) -> None:
    """Check that all reads agree, that ids are unique, and that a write is found and deleted."""
    store = place.store
    assert store is not None
    for table in await store.tables():
        exported = [
            id async for batch in store.export(table) for id in batch.column("id").to_pylist()
        ]
        assert len(exported) == len(set(exported)), f"an id stands twice in {table}"
        assert len(exported) == await store.count(table)
        query = np.ones(DIM, dtype=np.float32)
        hits = await store.search(table, query, limit=len(exported) + 1, exact=True)
        assert {hit.id for hit in hits} == set(exported), table
        if (await store.schema(table)).fields["name"].text and exported:
            await store.optimize(table)  # continues an interrupted build
            words = await store.search_text(table, "note", limit=len(exported) + 1)
            assert {hit.id for hit in words} == set(exported), f"the keywords of {table}"
        assert await store.upsert(table, [row("probe", 7)]) == 1
        (hit,) = await store.search(table, query, limit=3, where="id = 'probe'")
        assert hit.id == "probe"
        assert await store.delete(table, ["probe"]) == 1


async def prepared(place: Place, model: Model, script: Script, n: int) -> Model:
    """Make a script's first calls without a fault; return the model after them."""
    model = model.copy()
    for call in script.first(model, n):
        await call(place)
        call(model)
        await place.reopen()
    return model


async def begun(place: Place) -> Model:
    """Fill an empty store with the first rows of every test; return its model."""
    model = Model()
    n = model.next()
    model = await prepared(place, model, BEGIN, n)
    for call in BEGIN.calls(n):
        await call(place)
        call(model)
    return model


async def keyed(key: str, call: Call, place: Place) -> Any:
    """Make the call under a key, so that it can be repeated."""
    with calling(CallContext(key=WriteKey(key, b"digest"))):
        return await call(place)


Broken = tuple[bool, list[Call], Collection[int]]
"""Whether a run of a script reached the place where it breaks, the calls that may have been done,
and the indexes of the calls that must have been done."""


async def campaign(
    target: str,
    names: Collection[str],
    ways: Sequence[Any],
    places: Iterable[int],
    run_and_break: Callable[[Place, Script, list[Call], Any, int], Awaitable[Broken]],
) -> None:
    """Run these scripts on one store, and break them in each way at each place, until a run ends
    before it reaches the place.

    After each run, every call must be done completely or not at all.
    """
    met: set[str] = set()
    async with Place(target) as place:
        model = await begun(place)
        for name, way in itertools.product(names, ways):
            script = scripts_of(kind_of(target))[name]
            for at in places:
                n = model.next()
                model = await prepared(place, model, script, n)
                try:
                    far, calls, done = await run_and_break(place, script, script.calls(n), way, at)
                    await place.reopen()
                    model = settle(model, calls, done, await state_of(place))
                except BaseException as exc:
                    exc.add_note(f"{name}, broken by {way} at {at}")
                    raise
                if not far:
                    break
                met.add(name)
    await settled(target, model)
    assert met == {*names}, "some script was never broken"
