"""``aiovec migrate`` as a user types it: each command once, in lines and as JSON."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

import aiovec

from .conftest import Run
from .support import a_store, assert_same, contents_at, rows


async def write(config: Path, name: str) -> None:
    async with aiovec.connect(config=config) as store:
        await store.insert("notes", rows(name, 2))


@pytest.mark.slow
def test_each_command_from_the_plan_to_the_end(run: Run, tmp_path: Path) -> None:
    config = asyncio.run(a_store(tmp_path, "sqlite"))
    here = ["--config", config]
    assert run("status", *here) == (0, "no migration is open\n", "")
    code, out, err = run("plan", *here, "--to", "lancedb", "--switch")
    assert (code, err) == (0, "")
    assert "notes: 38 rows" in out
    code, out, err = run("run", *here, "--to", "lancedb", "--switch")
    assert code == 0, err
    assert "verifying" in err.splitlines()  # plain lines, for nobody looks
    assert "copying notes done: 38 rows" in err
    assert "\x1b" not in out + err
    assert "table   notes: 38 rows, equal" in out
    assert "switched: apps use" in out
    code, out, _ = run("status", *here, "--json")
    assert code == 0
    told = json.loads(out)["migration"]
    assert (told["state"], told["open"]) == ("moved", False)
    assert "other direction" in run("status", *here)[1]
    asyncio.run(write(config, "since"))
    code, out, _ = run("verify", *here)
    assert code == 1  # the store in use has newer rows
    assert "2 only in the target" in out
    code, _, err = run("abort", *here)
    assert code == 1
    assert "too late to abort" in err
    assert "complete" not in err
    wanted = asyncio.run(contents_at(config=config))
    code, out, err = run("run", *here, "--to", "sqlite", "--switch", "--json")  # an event a line
    assert code == 0, err
    events = [json.loads(line) for line in out.splitlines()]
    assert events[0] == {"kind": "phase", "phase": "marking"}
    assert (events[-1]["kind"], events[-1]["switched"]) == ("result", True)
    assert_same(wanted, asyncio.run(contents_at(tmp_path / "notes.db")))
    assert run("verify", *here)[0] == 0
    assert run("forget", "lancedb", *here)[0] == 0
    asyncio.run(write(config, "more"))
    copy = str(tmp_path / "copy.db")
    for rows_there in (42, 44):
        code, out, _ = run("run", *here, "--to", copy)
        assert code == 0
        assert f"notes: {rows_there} rows, equal" in out
        asyncio.run(write(config, f"behind{rows_there}"))
    assert run("run", *here, "--to", copy)[0] == 0
    assert_same(asyncio.run(contents_at(config=config)), asyncio.run(contents_at(copy)))
