"""A store over HTTP in apps and commands."""

from __future__ import annotations

import asyncio
import itertools
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.contract.remote_server import Server
from tests.harness.command import run
from tests.harness.handovers import counted_handovers
from tests.harness.proxy import Proxy

import aiovec
import aiovec.sync
from aiovec import Field, Schema

SCHEMA = Schema(2, fields={"year": int, "body": Field(str, text=True), "tags": list[str]})
ROWS: list[dict[str, Any]] = [
    {"id": "a", "embedding": [1, 0], "year": 1, "body": "some words", "more": {"x": 1}},
    {"id": "b", "embedding": [0, 1], "year": 2, "body": "other words", "tags": ["t"]},
]


def test_a_migration_to_a_server_and_back_keeps_the_rows(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, target_place = tmp_path / "here.db", tmp_path / "there.db"
    with aiovec.sync.connect(target_place), aiovec.sync.connect(here) as store:
        store.create_table("notes", SCHEMA)
        store.insert("notes", ROWS)
    for number, (source, target) in enumerate(itertools.pairwise((here, url, target_place))):
        (tmp_path / str(number)).mkdir()
        monkeypatch.chdir(tmp_path / str(number))
        done = run("migrate", "run", "--from", source, "--to", target)
        assert done.code == 0, done.err
    with aiovec.sync.connect(target_place) as store:
        assert [row["id"] for row in store.find("notes")] == ["a", "b"]


def test_an_infinity_that_json_would_carry_is_refused(url: str) -> None:
    """The docs list this difference of the client. Rows with the same keys are sent as Arrow."""
    row: dict[str, Any] = {"id": "a", "embedding": [1, 0], "x": float("inf")}
    with aiovec.sync.connect(url) as store:
        store.create_table("notes", Schema(2, fields={"x": float}))
        assert store.upsert("notes", [row]) == 1
        assert store.update("notes", [{"id": "a", "x": float("-inf")}]) == 1
        for fields, where in (
            ({"x": float("inf")}, {"ids": ["a"]}),
            ([{"id": "a", "x": float("inf"), "payload.k": 1}], {}),
        ):
            with pytest.raises(aiovec.InvalidArgumentError, match="infinite"):
                store.update("notes", fields, **where)
        assert store.get("notes", "a")[0]["x"] == float("-inf")


def test_commands_work_on_server(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")  # no call uses it
    monkeypatch.delenv("no_proxy", raising=False)
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, ROWS)))
    (tmp_path / "schema.json").write_text(SCHEMA.to_json())
    for words, shown in (
        (("import", "rows.jsonl", "-s", url, "--table", "notes", "--schema", "schema.json"), ""),
        (("tables", "-s", url), "notes"),
        (("rows", "-s", url, "notes"), "some words"),
        (("search", "-s", url, "notes", "other", "--by", "text"), "other words"),
        (("export", "-s", url, "notes", "out.parquet"), ""),
        (("import", "out.parquet", "-s", url, "--table", "again"), ""),
        (("info", "-s", url, "--json"), '"remote"'),
        (("doctor", "-s", url), "status ok, backend sqlite"),
        (("optimize", "-s", url, "notes"), ""),
    ):
        done = run(*words)
        assert done.code == 0, (words, done.err)
        assert shown in done.out, words
    done = run("backup", "-s", url, "copy.db")
    assert done.code == 1
    assert "does not support 'backup'" in done.err


async def test_each_search_sends_one_request(url: str) -> None:
    async with Proxy(url) as proxy, aiovec.connect(proxy.url) as store:
        await store.create_table("notes", SCHEMA)
        await store.insert("notes", ROWS)
        for endpoint, search in (
            ("search_many", store.search("notes", [1.0, 0.0], limit=100, group_by="year")),
            ("search_many", store.search_many("notes", [[1.0, 0.0]] * 50, diversity=0.5)),
            ("search_text", store.search_text("notes", "other words", highlight=True)),
            ("search_hybrid", store.search_hybrid("notes", "other words", [1.0, 0.0])),
        ):
            before = len(proxy.requests)
            await search
            (request,) = proxy.requests[before:]
            assert f"/tables/notes/{endpoint} " in request.line


async def test_versions_and_indexes_are_those_of_the_servers_store(
    server: Server, tmp_path: Path
) -> None:
    pytest.importorskip("lancedb")
    async with aiovec.connect(server.url("lancedb", tmp_path)) as store:
        await store.create_table("notes", SCHEMA)
        await store.insert("notes", [{"id": str(n), "embedding": [1, n]} for n in range(300)])
        await store.create_index("notes", "ivf_flat")
        versions, indexes = await store.versions("notes"), await store.indexes("notes")
        await store.delete("notes", ["1"])
        await store.revert("notes", versions[-1]["version"])
        assert await store.count("notes") == 300
    server.forget()
    async with aiovec.connect(f"lancedb://{tmp_path}/store") as store:
        assert (await store.versions("notes"))[: len(versions)] == versions
        assert await store.indexes("notes") == indexes


async def test_small_answers_are_read_without_a_thread(url: str) -> None:
    async with aiovec.connect(url) as store:
        await store.create_table("notes", SCHEMA)
        await store.insert("notes", [{"id": str(n), "embedding": [1, n]} for n in range(9000)])
        with counted_handovers() as handed:
            assert len(await store.search("notes", [1.0, 0.0])) == 10
            assert len(await store.get("notes", ["1", "2"])) == 2
            assert await store.upsert("notes", ROWS) == 2
            assert handed == []
            assert len(await store.find("notes", limit=9000)) == 9000
            assert handed != []


LEFT_OPEN = """
import asyncio, sys, aiovec, aiovec.sync
left = aiovec.sync.connect(sys.argv[1])
print(left.tables())
async def main():
    global store
    store = await aiovec.connect(sys.argv[1])
    print(await store.tables())
asyncio.run(main())
"""


@pytest.mark.slow
async def test_a_script_that_leaves_stores_open_exits(url: str) -> None:
    command = [sys.executable, "-c", LEFT_OPEN, url]
    done = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "[]\n[]\n")
    assert "Traceback" not in done.stderr  # a warning of unclosed sessions is fine
