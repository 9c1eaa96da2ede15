"""Each call on a damaged store soon ends in an answer or an ``AiovecError``."""

from __future__ import annotations

import asyncio
import random
import shutil
import tempfile
from collections import Counter
from pathlib import Path

import pytest
from tests.files.calls import QUERY, READS, WRITES, Calls, exported
from tests.harness.cases import Seeds
from tests.harness.scripts import DIM, KINDS, TABLE, path_of, row, target_in

import aiovec
from aiovec import AiovecError, Field, Schema, VectorStore

SCHEMA = Schema(
    DIM,
    fields={"name": Field(str, text=True), "year": Field(int, index="btree"), "tags": list[str]},
)
CALLS: Calls = {
    **READS,
    "export": lambda store: validated(store),
    "search where": lambda store: store.search(TABLE, QUERY, where="tags CONTAINS 'a'", exact=True),
    "search_text": lambda store: store.search_text(TABLE, "note"),
    **{name: WRITES[name] for name in ("upsert", "update", "delete", "add_field", "optimize")},
}


async def validated(store: VectorStore) -> None:
    for batch in await exported(store):
        batch.validate(full=True)


async def make(target: str) -> None:
    """Create a store in several calls."""
    async with aiovec.connect(target) as store:
        await store.create_table(TABLE, SCHEMA)
        for start in (0, 50, 100):
            rows = [{**row(f"r{n}", n), "tags": ["a", f"t{n}"]} for n in range(start, start + 50)]
            await store.insert(TABLE, rows)
        await store.delete(TABLE, [f"r{n}" for n in range(0, 20, 3)])


def damage(whole: Path, chance: random.Random) -> None:
    """Flip bits of a file of the store, cut it, or overwrite a part."""
    files = [whole] if whole.is_file() else sorted(f for f in whole.rglob("*") if f.is_file())
    file = chance.choice([path for path in files if path.stat().st_size])
    data = bytearray(file.read_bytes())
    place = chance.randrange(len(data))
    kind = chance.choice(["bits", "cut", "zeros", "garbage"])
    if kind == "bits":
        for _ in range(chance.randrange(1, 9)):
            data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
    elif kind == "cut":
        del data[place:]
    else:
        length = min(chance.choice([16, 200, 4096]), len(data) - place)
        data[place : place + length] = (
            bytes(length) if kind == "zeros" else chance.randbytes(length)
        )
    file.write_bytes(bytes(data))


async def try_all(target: str) -> str:
    """Return ``answered``, ``error`` or ``refused``; raise any error that is not aiovec's."""
    outcome = "answered"
    try:
        async with aiovec.connect(target) as store:
            for name, call in CALLS.items():
                try:
                    async with asyncio.timeout(120):
                        await call(store)
                except AiovecError:
                    outcome = "error"
                except BaseException as exc:
                    exc.add_note(name)
                    raise
    except AiovecError:
        return "refused"
    return outcome


@pytest.mark.soak(minutes=15)
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("kind", KINDS)
def test_a_damaged_store_gives_answers_or_errors(tmp_path: Path, kind: str, seeds: Seeds) -> None:
    target = target_in(tmp_path, kind)
    asyncio.run(make(target))
    whole = path_of(target)
    outcomes: Counter[str] = Counter()
    for seed in seeds(3000):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, whole.name)
            (shutil.copytree if whole.is_dir() else shutil.copy)(whole, path)
            damage(path, random.Random(seed))
            outcomes[asyncio.run(try_all(target_in(path.parent, kind)))] += 1
    assert {"answered", "error"} <= set(outcomes)
