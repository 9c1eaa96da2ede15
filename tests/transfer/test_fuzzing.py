"""B24: files that are damaged, cut or made to do harm end in rows, rejects or a clear error."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from aiovec import ConfigError
from aiovec._transfer import open_input

ROOT = Path(__file__).resolve().parents[2]


def run(folder: Path, *arguments: object, seconds: float) -> str:
    finished = subprocess.run(
        [sys.executable, "-W", "error::RuntimeWarning", "-X", "faulthandler",
         "-m", "tests.transfer.fuzzing", str(folder), *map(str, arguments)],
        cwd=ROOT, capture_output=True, text=True, timeout=seconds, check=False,
    )  # fmt: skip
    case = folder / "case"
    said = f"{case.read_text('utf-8') if case.exists() else ''}\n{finished.stdout}{finished.stderr}"
    assert finished.returncode == 0, said[-4000:]
    return finished.stdout


@pytest.mark.parametrize("count", [220, pytest.param(10_000, marks=pytest.mark.soak)])
def test_mutated_files_of_every_format(count: int, tmp_path: Path) -> None:
    """B24: no crash, no hang and no raw exception, whatever bytes are changed."""
    outcomes = json.loads(run(tmp_path, 24, count, seconds=60 + count))
    assert sum(outcomes.values()) == count
    assert {"rows", "refused"} <= outcomes.keys()


@pytest.mark.slow
def test_small_files_that_ask_for_much(tmp_path: Path) -> None:
    """B24: a Parquet file of 10 KB asked for 4 GB; so do lines, lists and shapes without end."""
    outcomes = dict(line.split() for line in run(tmp_path, 0, 0, seconds=300).splitlines())
    assert outcomes == {
        "text.parquet": "refused", "nested.parquet": "refused", "wide.parquet": "refused",
        "rows.parquet": "refused", "line.jsonl": "refused", "deep.jsonl": "refused",
        "list.jsonl": "refused", "deep.parquet": "refused", "shape.npy": "refused",
        "cell.csv": "refused", "header.csv": "refused", "columns.csv": "refused",
        "deep.csv": "refused", "negative.npy": "refused", "nested.npy": "refused",
    }  # fmt: skip


def test_files_that_pretend_to_be_others(tmp_path: Path) -> None:
    """B24: an .npz archive renamed, a header cut, columns of one name; errors name the file."""
    np.savez(tmp_path / "archive.npz", a=np.ones((2, 2), "f4"))
    (tmp_path / "renamed.npy").write_bytes((tmp_path / "archive.npz").read_bytes())
    np.save(tmp_path / "whole.npy", np.ones((2, 2), "f4"))
    (tmp_path / "cut.npy").write_bytes((tmp_path / "whole.npy").read_bytes()[:60])
    (tmp_path / "short.npy").write_bytes((tmp_path / "whole.npy").read_bytes()[:-4])
    np.save(tmp_path / "objects.npy", np.array([{}], dtype=object), allow_pickle=True)
    for name in ("renamed", "cut", "short", "objects"):
        (tmp_path / f"{name}.jsonl").write_text('{"id": "a"}\n', "utf-8")
    column = pa.array([[1.0, 2.0]])
    twice = pa.Table.from_arrays([pa.array(["a"]), column, column], ["id", "v", "v"])
    pq.write_table(twice, tmp_path / "twice.parquet")
    (tmp_path / "cut.parquet").write_bytes((tmp_path / "twice.parquet").read_bytes()[:-5])
    (tmp_path / "rows.jsonl").write_text('{"id": "a", "v": [1, 2]}\n', "utf-8")
    deep = b'{"dim": 2, "fields": ' + b"[" * 10**6
    (tmp_path / "rows.schema.json").write_bytes(deep)
    for name, says in (
        ("renamed.npy", "numpy.save"), ("cut.npy", "header"), ("short.npy", "shape (2, 2)"),
        ("objects.npy", "cannot be read"), ("twice.parquet", "several columns of one name ('v')"),
        ("cut.parquet", "cannot be read"), ("rows.jsonl", "nested too deeply"),
    ):  # fmt: skip
        with pytest.raises(ConfigError) as caught:
            open_input(tmp_path / name)
        assert says in str(caught.value)
        assert str(tmp_path) in str(caught.value)
