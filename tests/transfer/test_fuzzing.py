"""An import of any bytes ends in rows, rejects or one clear error."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path

import pytest
from tests.harness.cases import Seeds
from tests.harness.command import run
from tests.harness.values import EVERY_KIND, rows_of_every_kind
from tests.harness.vec0 import connect

from .support import made

NUMBERS = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1)


def sound_files(folder: Path) -> dict[str, bytes]:
    made("sound.db", EVERY_KIND, rows_of_every_kind(40))
    # Leave out Parquet: some damaged metadata makes pyarrow end the process.
    for name in ("a.arrow", "a.arrows", "a.jsonl", "b.csv"):
        assert run("export", "-s", "sound.db", "notes", folder / name).code == 0
    db = connect(folder / "vec0.db")
    db.execute("PRAGMA page_size = 1024")
    db.execute("CREATE VIRTUAL TABLE items USING vec0(e float[4], tenant TEXT, +body TEXT)")
    for i in range(40):
        values = (i, bytes(range(i, i + 16)), "t", "b")
        db.execute("INSERT INTO items (rowid, e, tenant, body) VALUES (?, ?, ?, ?)", values)
    db.close()
    names = ("a.arrow", "a.arrows", "a.jsonl", "b.csv", "vec0.db")
    return {name: (folder / name).read_bytes() for name in names}


def mutated(sound: bytes, rng: random.Random) -> bytes:
    """Return the bytes with one to four faults, many of them near the beginning or the end."""
    data = bytearray(sound)
    for _ in range(rng.choice((1, 1, 2, 4))):
        at = rng.choice((rng.randrange(len(data)), rng.randrange(400), -1 - rng.randrange(400)))
        at %= len(data)
        size = rng.choice((1, 2, 4, 8))
        match rng.randrange(6):
            case 0:
                data[at] ^= 1 << rng.randrange(8)
            case 1:
                number = rng.choice(NUMBERS) & (2 ** (8 * size) - 1)
                data[at : at + size] = number.to_bytes(size, rng.choice(("little", "big")))
            case 2:
                del data[at + 1 :]
            case 3:
                del data[at + 1 : at + rng.randrange(64)]
            case 4:
                data[at:at] = data[at : at + rng.randrange(1, 64)] * rng.choice((1, 2, 50))
            case 5:
                data[at : at + size] = rng.randbytes(size)
    return bytes(data)


@pytest.mark.soak(minutes=10)
@pytest.mark.timeout(3600)
def test_a_mutated_file_ends_in_rows_rejects_or_one_error(folder: Path, seeds: Seeds) -> None:
    files = sound_files(folder)
    outcomes: Counter[int] = Counter()
    for seed in seeds(2_000):
        name = list(files)[seed % len(files)]
        path = folder / f"case-{name}"
        path.write_bytes(mutated(files[name], random.Random(seed)))
        options = ("--table", "notes", "--id-column", "id")
        finished = run("import", path, "-s", folder / "case.db", *options)
        outcomes[finished.code] += 1
        assert finished.code in (0, 1)
        assert "Traceback" not in finished.err
        if finished.code and not finished.out:
            assert "error: " in finished.err
        for left in folder.glob("*case*"):
            left.unlink()
    assert outcomes.keys() == {0, 1}
