"""``aiovec migrate`` as a user types it: each command once, in lines and as JSON."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

import aiovec

from .conftest import Run
from .support import a_store, assert_same, contents_at, place_of, rows


async def write(config: Path, name: str) -> None:
    async with aiovec.connect(config=config) as store:
        await store.insert("notes", rows(name, 2))


@pytest.mark.slow
def test_each_command_from_the_plan_to_the_end(run: Run, tmp_path: Path) -> None:
    config = asyncio.run(a_store(tmp_path, "sqlite"))
    here = ["--config", config]
    code, out, err = run("status", *here)
    assert (code, out, err) == (0, "no migration is open here\n", "")
    code, out, err = run("plan", *here, "--to", "lancedb", "--switch")
    assert (code, err) == (0, "")
    assert "notes: 38 rows" in out
    code, out, err = run(
        "run", *here, "--to", "lancedb", "--switch", "--report", tmp_path / "r.json"
    )
    assert code == 0, err
    assert "catching up" in err.splitlines()  # plain lines, for nobody looks
    assert "notes: 38 of 38 rows" in err.replace("copying ", "").replace(" done", "")
    assert "\x1b" not in out + err
    assert json.loads((tmp_path / "r.json").read_text("utf-8"))["equal"] is True
    assert "migrate rollback" in out
    code, out, _ = run("status", *here, "--json")
    assert code == 0
    assert json.loads(out)["run"]["phase"] == "done"
    asyncio.run(write(config, "since"))
    code, out, _ = run("verify", *here)
    assert code == 1  # the store in use has newer rows
    assert "only in the target: 'since/0', 'since/1'" in out
    code, _, err = run("verify", *here, "--repair")
    assert code == 1
    assert err.splitlines()[-1].startswith("error: ")
    assert "is the store in use" in err
    wanted = asyncio.run(contents_at(config=config))
    code, out, err = run("rollback", *here, "--json")  # an event a line
    assert code == 0, err
    events = [json.loads(line) for line in out.splitlines()]
    assert events[0]["kind"] == "phase"
    assert events[-1]["run"]["phase"] == "rolled-back"
    assert_same(wanted, asyncio.run(contents_at(tmp_path / "notes.db")))
    assert run("finish", *here, "--json")[0] == 0
    code, _, err = run("run", *here, "--to", "lancedb", "--switch")
    assert code == 1
    assert "migrate forget" in err
    assert run("forget", "lancedb", *here)[0] == 0
    asyncio.run(write(config, "more"))
    new = place_of(config, "lancedb")
    code, out, _ = run("sync", *here, "--from", "sqlite", "--to", new)
    assert code == 0
    assert "2 rows copied, 0 deleted, of 42" in out
    assert_same(asyncio.run(contents_at(config=config)), asyncio.run(contents_at(new)))
