"""``aiovec mcp``, called by the official client in process, over standard input, and over HTTP."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("mcp", reason="needs aiovec[mcp]")

from mcp.client.client import Client
from mcp.client.stdio import StdioServerParameters
from mcp.client.streamable_http import streamable_http_client
from tests.harness.cases import case
from tests.harness.command import run, run_process
from tests.harness.waiting import until

import aiovec
from aiovec import Embed, Field, Schema, documents, sync
from aiovec_mcp import create_server

ARTICLES = Schema(fields={"title": Field(str, text=True), "year": int}, embed=Embed("title"))
ROWS = [
    {"id": "a", "title": "A red fox ran north.", "year": 2024},
    {"id": "b", "title": "Blocking an event loop.", "year": 2025},
    {"id": "c", "title": "The fox and the loop.", "year": 2026, "kind": "fable"},
]


@asynccontextmanager
async def client_of(
    folder: Path, *, writes: bool, readable: list[str] | None = None
) -> AsyncIterator[Client]:
    """Yield a client in the server's process, on a store with a table of articles."""
    async with aiovec.connect(folder / "agent.db", embedder="demo") as store:
        await store.create_table("articles", ARTICLES, exist_ok=True)
        await store.upsert("articles", ROWS)
        server = create_server(store, allow_writes=writes, readable=readable)
        async with Client(server) as client:
            yield client


async def call(client: Client, tool: str, **arguments: Any) -> dict[str, Any]:
    result = await client.call_tool(tool, arguments)
    assert not result.is_error, result.content
    (content,) = result.content
    assert json.loads(content.text) == result.structured_content  # type: ignore[union-attr]
    assert "\n" not in content.text  # type: ignore[union-attr]
    return dict(result.structured_content or {})


async def error_of(client: Client, tool: str, **arguments: Any) -> str:
    result = await client.call_tool(tool, arguments)
    assert result.is_error
    return str(result.content[0].text)  # type: ignore[union-attr]


async def test_a_memory_is_remembered_recalled_changed_and_forgotten(tmp_path: Path) -> None:
    async with client_of(tmp_path, writes=True) as client:
        assert await call(client, "recall", query="anything") == {"memories": []}
        assert await call(client, "forget", ids=["x"]) == {"deleted": 0}
        first = await call(
            client, "remember", text="Ana prefers short answers.", facts={"user": "ana", "n": 1}
        )
        await call(client, "remember", text="Order service 4711 failed.", facts={"user": "ben"})
        for query in ("which service failed", "4711"):
            (memory, *_) = (await call(client, "recall", query=query))["memories"]
            assert (memory["text"], memory["user"]) == ("Order service 4711 failed.", "ben")
        result = await call(client, "recall", query="4711", where="payload.user = 'ana'")
        assert [each["id"] for each in result["memories"]] == [first["id"]]
        await call(client, "remember", text="Ana prefers long answers.", id=first["id"])
        (changed,) = (await call(client, "get", table="memories", ids=[first["id"]]))["rows"]
        assert (changed["text"], changed.get("user")) == ("Ana prefers long answers.", None)
        newer = await call(client, "recall", query="answers", half_life="7d")
        assert newer["memories"][0]["id"] == first["id"]
        refused = await error_of(client, "recall", query="answers", half_life="soon")
        assert "half_life must be a timedelta above 0, or a text such as '30m'" in refused
        listed = await call(client, "list", table="memories", order_by="-at", limit=1)
        assert [row["id"] for row in listed["rows"]] == [first["id"]]
        assert await call(client, "forget", where="payload.user = 'ben'") == {"deleted": 1}
        assert await call(client, "forget", ids=[first["id"]]) == {"deleted": 1}
        assert (await call(client, "recall", query="answers"))["memories"] == []


async def test_a_memory_expires_after_its_time(tmp_path: Path) -> None:
    async with client_of(tmp_path, writes=True) as client:
        for text, span in (("The meeting is at noon.", "1s"), ("Ana likes tea.", "30d")):
            await call(client, "remember", text=text, expires_in=span)
        await call(client, "remember", text="Ben likes tea.")
        deadline = asyncio.get_running_loop().time() + 30
        while len(rows := (await call(client, "list", table="memories"))["rows"]) > 2:
            assert asyncio.get_running_loop().time() < deadline
            await asyncio.sleep(0.1)
        assert [("expires_at" in row) for row in rows] == [True, False]
        for wrong in ("soon", "0d", "9999w"):
            refused = await error_of(client, "remember", text="x", expires_in=wrong)
            assert (
                f"expires_in must be a time below 100 years, such as '12h' or '30d', not '{wrong}'"
                in refused
            )
    async with aiovec.connect(tmp_path / "old.db", embedder="demo") as store:
        text = {"text": Field(str, text=True)}
        until = {**text, "until": Field(datetime, expires=True)}
        await store.create_table("memories", Schema(fields=text, embed=Embed("text")))
        await store.create_table("others", Schema(fields=until, embed=Embed("text")))
        async with Client(create_server(store, allow_writes=True)) as client:
            await call(client, "remember", text="Kept.", id="a")
            refused = await error_of(client, "remember", text="x", expires_in="1d")
            assert "no field by which rows expire" in refused
            assert await store.count("memories") == 1
        async with Client(create_server(store, table="others", allow_writes=True)) as client:
            await call(client, "remember", text="Expires.", expires_in="1d")
        assert (await store.find("others"))[0]["until"] > datetime.now(UTC)


async def test_a_hit_has_one_measure_of_few_digits(tmp_path: Path) -> None:
    async with client_of(tmp_path, writes=False) as client:
        for by in ("text", "vector", "hybrid"):
            (hit, *_) = (await call(client, "search", table="articles", query="red fox", by=by))[
                "hits"
            ]
            # Fused scores mean nothing alone, so only keyword searches show a score.
            measure = "_score" if by == "text" else "_distance"
            assert set(hit) == {"id", measure, "title", "year"}
            assert len(f"{hit[measure]:g}".replace(".", "").strip("0")) <= 4


async def test_an_answer_is_bounded_and_names_what_it_omits(tmp_path: Path) -> None:
    async with client_of(tmp_path, writes=True) as client:
        for id in "abc":
            await call(client, "remember", text=f"tea {id} " + "x" * 90_000, id=id)
        listed = await call(client, "list", table="memories")
        assert [row["id"] for row in listed["rows"]] == ["a", "b"]
        assert listed["omitted"].startswith(
            "1 rows, from 'c' on: an answer has at most 200,000 bytes"
        )
        assert len((await call(client, "recall", query="tea"))["memories"]) == 2
        short = await call(client, "get", table="memories", ids=list("abc"), select=["at"])
        assert len(short["rows"]) == 3
        assert "omitted" not in short
    wide = Schema(2, fields={f"f{n}_{'x' * 50}": str for n in range(900)})
    async with aiovec.connect(tmp_path / "wide.db") as store:
        for name in ("t1", "t2", "t3", "t4", "t5"):
            await store.create_table(name, wide)
        async with Client(create_server(store)) as client:
            listed = await call(client, "list")
    described = [table["name"] for table in listed["tables"]]
    assert described == ["t1", "t2", "t3"]
    assert listed["omitted"].startswith("2 tables, from 't4' on")
    assert listed["omitted"].endswith("such as t4, t5")


async def test_an_agent_reads_only_the_tables_that_are_named(tmp_path: Path) -> None:
    async with client_of(tmp_path, writes=True, readable=[]) as client:
        assert (await call(client, "list"))["tables"] == []
        await call(client, "remember", text="Ana likes tea.")
        assert [table["name"] for table in (await call(client, "list"))["tables"]] == ["memories"]
        for tool, arguments in (
            ("search", {"query": "fox"}), ("get", {"ids": ["a"]}), ("list", {}),
        ):  # fmt: skip
            refused = await error_of(client, tool, table="articles", **arguments)
            assert "there is no table 'articles'; the tables are: memories" in refused.replace(
                "'memories'", "memories"
            )
    async with client_of(tmp_path, writes=False, readable=["articles"]) as client:
        names = [table["name"] for table in (await call(client, "list"))["tables"]]
        assert names == ["articles", "memories"]


async def test_tables_are_described_searched_and_listed(tmp_path: Path) -> None:
    async with client_of(tmp_path, writes=False) as client:
        (table,) = (await call(client, "list"))["tables"]
        assert (table["name"], table["rows"]) == ("articles", 3)
        assert set(table["schema"]["fields"]) == {"title", "year"}
        for by in ("text", "vector", "hybrid", None):
            hits = await call(
                client, "search", table="articles", query="event loop", by=by, limit=1
            )
            assert [hit["id"] for hit in hits["hits"]] == ["b"]
        options = {"where": "payload.kind = 'fable'", "select": ["year"]}
        result = await call(client, "search", table="articles", query="fox", **options)
        assert [(hit["id"], hit["year"], "title" in hit) for hit in result["hits"]] == [
            ("c", 2026, False)
        ]
        rows = await call(client, "list", table="articles", order_by="-year", offset=1, limit=1)
        assert [row["id"] for row in rows["rows"]] == ["b"]


async def test_a_search_without_a_table_takes_the_only_one(tmp_path: Path) -> None:
    """The memory does not count, unless it is the only table that the agent may read."""
    async with client_of(tmp_path, writes=True) as client:
        await call(client, "remember", text="Ana likes the fox.", id="memory")
        for id in [hit["id"] for hit in (await call(client, "search", query="fox"))["hits"]]:
            assert id in "abc"
    async with client_of(tmp_path, writes=False, readable=[]) as client:
        (hit,) = (await call(client, "search", query="fox"))["hits"]
        assert hit["id"] == "memory"
    async with aiovec.connect(tmp_path / "agent.db") as store:
        await store.create_table("pictures", Schema(2))
    async with client_of(tmp_path, writes=False) as client:
        refused = await error_of(client, "search", query="fox")
        assert "name a table, one of: articles, pictures" in refused
    async with aiovec.connect(":memory:") as store, Client(create_server(store)) as client:
        assert "no table that you may read" in await error_of(client, "search", query="fox")


@pytest.mark.parametrize("half_life", [None, "7d"])
async def test_the_newer_of_two_facts_that_contradict_each_other_is_recalled_first(
    tmp_path: Path, half_life: str | None
) -> None:
    async with client_of(tmp_path, writes=True) as client:
        await call(client, "remember", text="Ana lives in Paris.", id="old")
        await call(client, "remember", text="Ana now lives in Lisbon.", id="new")
        async with aiovec.connect(tmp_path / "agent.db") as store:
            then = datetime.now(UTC) - timedelta(days=4000)
            await store.update("memories", {"at": then}, ids="old")
        for more in (0, 1, 30):
            for n in range(more):
                await call(client, "remember", text=f"The shop {n} sells wool.")
            for limit in (1, 5):
                with case((more, limit)):
                    question = {"query": "where does Ana live?", "limit": limit}
                    found = await call(client, "recall", **question, half_life=half_life)
                    assert [row["id"] for row in found["memories"]][:2] == ["new", "old"][:limit]
        ages = {row["id"]: row["_age"] for row in found["memories"]}
        assert ages["old"] == "4000 days"
        assert ages["new"].endswith("seconds")


async def test_an_old_fact_that_nothing_replaces_is_recalled_before_new_ones(
    tmp_path: Path,
) -> None:
    async with client_of(tmp_path, writes=True) as client:
        await call(client, "remember", text="Ana hides the key under the flowerpot.", id="key")
        async with aiovec.connect(tmp_path / "agent.db") as store:
            then = datetime.now(UTC) - timedelta(days=4000)
            await store.update("memories", {"at": then}, ids="key")
        for n in range(30):
            await call(client, "remember", text=f"Ana met Olga about the keys of shop {n}.")
        found = await call(client, "recall", query="where does Ana hide the key?", limit=3)
        assert found["memories"][0]["id"] == "key"


async def test_a_passage_is_cited_by_file_and_line(tmp_path: Path) -> None:
    pytest.importorskip("semantic_text_splitter")
    text = "# Keys\n\n## Rotate\n\nEvery year.\n"
    async with aiovec.connect(tmp_path / "agent.db", embedder="demo") as store:
        await store.create_table("documents", documents.SCHEMA)
        await store.upsert("documents", documents.passages(text, source="keys.md"))
    async with client_of(tmp_path, writes=False) as client:
        (hit,) = (await call(client, "search", table="documents", query="every year"))["hits"]
        assert (hit["cite"], hit["title"]) == ("keys.md:1", "Keys > Rotate")
        assert "hash" not in hit


async def test_a_search_brings_the_passages_around_a_hit(tmp_path: Path) -> None:
    pytest.importorskip("semantic_text_splitter")
    text = "# Step 0\n\nDo it soon.\n\n# Step 1\n\nDo it now.\n\n# Step 2\n\nDo it late.\n"
    async with aiovec.connect(tmp_path / "agent.db", embedder="demo") as store:
        await store.create_table("documents", documents.SCHEMA)
        for source in ("a.md", "b.md"):
            await store.upsert("documents", documents.passages(text, source=source))
    async with client_of(tmp_path, writes=False) as client:
        options = {"table": "documents", "query": "do it now", "by": "text", "around": 1}
        hit, other, *_ = (await call(client, "search", **options))["hits"]
        assert {hit["source"], other["source"]} == {"a.md", "b.md"}
        assert hit["before"] == [
            {"cite": f"{hit['source']}:1", "title": "Step 0", "body": "# Step 0\n\nDo it soon."}
        ]
        assert [each["title"] for each in hit["after"]] == ["Step 2"]
        for wrong, words in (
            ({**options, "table": "articles", "query": "fox"}, "passages of documents"),
            ({**options, "select": ["body"]}, "with their source and part"),
            ({**options, "around": 11}, "less than or equal to 10"),
        ):
            with case(wrong):
                assert words in await error_of(client, "search", **wrong)


async def test_an_agent_has_writing_tools_only_if_it_may_write(tmp_path: Path) -> None:
    async with client_of(tmp_path, writes=False) as client:
        tools = {tool.name: tool for tool in (await client.list_tools()).tools}
        assert set(tools) == {"search", "get", "list"}
        assert all(tool.annotations.read_only_hint for tool in tools.values() if tool.annotations)
        assert "remember" in await error_of(client, "remember", text="x")
    async with client_of(tmp_path, writes=True) as client:
        tools = {tool.name: tool for tool in (await client.list_tools()).tools}
        assert set(tools) == {"recall", "search", "get", "list", "remember", "forget"}
        assert tools["forget"].annotations is not None
        assert tools["forget"].annotations.destructive_hint
        assert all(tool.description for tool in tools.values())
        assert "payload.NAME" in str(tools["recall"].description)
        await call(client, "remember", text="Ana likes tea.")
    async with client_of(tmp_path, writes=False) as client:
        assert "recall" in {tool.name for tool in (await client.list_tools()).tools}


async def test_an_error_reaches_the_model_with_its_text(tmp_path: Path) -> None:
    async with client_of(tmp_path, writes=True) as client:
        search = {"table": "articles", "query": "fox"}
        assert "expected a" in await error_of(client, "search", **search, where="year >")
        assert "title, year" in await error_of(client, "search", **search, where="yaer = 1")
        assert "no table 'nope'" in await error_of(client, "get", table="nope", ids=["a"])
        assert "where='TRUE'" in await error_of(client, "forget")
        assert "cannot have the key 'at'" in await error_of(
            client, "remember", text="x", facts={"at": 1}
        )
        assert "less than or equal to 100" in await error_of(client, "search", **search, limit=101)
        assert "1 to 512 bytes" in await error_of(client, "remember", text="x", id="")
        for tool, arguments, words in (
            ("search", {**search, "limit": "many"}, "limit: Input should be a valid integer"),
            ("search", {"table": "articles"}, "query: Field required"),
            ("get", {"table": "articles", "ids": ["a"] * 101}, "ids: List should have at most 100"),
            ("recall", {"query": ["x"]}, "query: Input should be a valid string"),
        ):
            refused = await error_of(client, tool, **arguments)
            assert refused.startswith(f"{tool} {words}"), refused
            assert "; its arguments are: " in refused
            assert "http" not in refused


async def test_an_argument_that_a_tool_does_not_have_is_refused(tmp_path: Path) -> None:
    """A misspelt filter would return, or delete, everybody's rows."""
    async with client_of(tmp_path, writes=True) as client:
        for id, user in (("m1", "ana"), ("m2", "ben")):
            await call(client, "remember", text="A text.", id=id, facts={"user": user})
        refused = await error_of(client, "recall", query="text", user="ben")
        assert refused == (
            "recall has no argument 'user'; its arguments are: query, limit, where, half_life"
        )
        wrong = {"where": "payload.user = 'ana'", "id": ["m1"], "all": True}
        assert "has no argument 'id'; has no argument 'all'" in await error_of(
            client, "forget", **wrong
        )
        assert len((await call(client, "recall", query="text"))["memories"]) == 2
        for tool in (await client.list_tools()).tools:
            assert tool.input_schema["additionalProperties"] is False


@pytest.mark.parametrize("declared", [False, True])
async def test_a_user_sees_and_changes_only_their_memories(tmp_path: Path, declared: bool) -> None:
    async with aiovec.connect(tmp_path / "agent.db", embedder="demo") as store:
        if declared:
            fields = {"text": Field(str, text=True), "at": datetime, "user": Field(str, index=None)}
            await store.create_table("memories", Schema(fields=fields, embed=Embed("text")))
        ana, ben = (create_server(store, allow_writes=True, user=name) for name in ("ana", "ben"))
        async with Client(ana) as of_ana, Client(ben) as of_ben:
            mine = await call(of_ana, "remember", text="Ana likes wool.", id="taste")
            await call(of_ana, "remember", text="Ana likes snow.", facts={"user": "ana"})
            other = await call(of_ben, "remember", text="Ben likes wool.", id="taste")
            for id in (mine["id"], "taste", other["id"]):  # none of these replaces Ana's memories
                await call(of_ben, "remember", text="Ben likes silk.", id=id)
            assert "leave the fact 'user' out" in await error_of(
                of_ben, "remember", text="x", facts={"user": "ana"}
            )
            everything = "payload.user = 'ana' OR TRUE" if not declared else "user = 'ana' OR TRUE"
            for where in (None, everything):
                seen = await call(of_ana, "recall", query="likes wool", limit=40, where=where)
                assert {row["user"] for row in seen["memories"]} == {"ana"}
                assert len(seen["memories"]) == 2
                for tool, arguments in (("search", {"query": "likes"}), ("list", {})):
                    arguments = {**arguments, "table": "memories", "where": where}
                    rows = (await call(of_ana, tool, **arguments)).popitem()[1]
                    assert {row["user"] for row in rows} == {"ana"}
            await store.upsert("memories", [{"id": "ben/app", "text": "Of Ana.", "user": "ana"}])
            assert "not yours" in await error_of(of_ben, "remember", text="x", id="app")
            assert (await store.get("memories", ["ben/app"]))[0]["text"] == "Of Ana."
            assert await store.delete("memories", ["ben/app"]) == 1
            ids = [mine["id"], other["id"]]
            rows = (await call(of_ana, "get", table="memories", ids=ids))["rows"]
            assert [row["id"] for row in rows] == [mine["id"]]
            assert (await call(of_ana, "list"))["tables"][0]["rows"] == 2
            assert await call(of_ben, "forget", ids=ids) == {"deleted": 1}
            assert await call(of_ben, "forget", where="TRUE") == {"deleted": 1}
            assert await store.count("memories") == 2
    with pytest.raises(aiovec.InvalidArgumentError, match="user"):
        create_server(store, user="a/b")


TEXTS: aiovec.Fields = {"text": Field(str, text=True), "at": datetime}
FOR_ONE = Schema(fields=TEXTS, embed=Embed("text"), payload=False)
FIX = "await store.add_field('memories', 'user', str)"


def test_the_command_refuses_a_table_that_cannot_keep_users_apart(tmp_path: Path) -> None:
    with sync.connect(tmp_path / "agent.db", embedder="demo") as store:
        store.create_table("memories", FOR_ONE)
    done = run("mcp", "-s", tmp_path / "agent.db", "--user", "ben")
    assert (done.code, FIX in done.err) == (1, True)


async def test_a_table_that_cannot_keep_users_apart_says_what_it_lacks(tmp_path: Path) -> None:
    async with aiovec.connect(tmp_path / "agent.db", embedder="demo") as store:
        await store.create_table("memories", FOR_ONE)
        async with Client(create_server(store, allow_writes=True, user="ben")) as client:
            calls: tuple[tuple[str, dict[str, Any]], ...] = (
                ("remember", {"text": "x"}), ("recall", {"query": "x"}),
                ("forget", {"where": "TRUE"}), ("list", {"table": "memories"}),
            )  # fmt: skip
            for tool, arguments in calls:
                with case(tool):
                    assert FIX in await error_of(client, tool, **arguments)
            await store.add_field("memories", "user", str)
            await store.insert("memories", [{"text": "Of nobody."}])
            await call(client, "remember", text="Ben likes tea.")
            (memory,) = (await call(client, "recall", query="tea nobody"))["memories"]
            assert (memory["text"], memory["user"]) == ("Ben likes tea.", "ben")
        numbered = replace(FOR_ONE, fields={**TEXTS, "user": int})
        await store.create_table("numbered", numbered)
        async with Client(create_server(store, table="numbered", user="ben")) as client:
            assert "'user' is int, not text" in await error_of(client, "recall", query="x")


async def test_half_life_needs_a_field_of_times(tmp_path: Path) -> None:
    async with aiovec.connect(tmp_path / "agent.db", embedder="demo") as store:
        await store.create_table("articles", ARTICLES)
        await store.upsert("articles", ROWS)
        async with Client(create_server(store, table="articles")) as client:
            assert len((await call(client, "recall", query="fox", limit=2))["memories"]) == 2
            refused = await error_of(client, "recall", query="fox", half_life="7d")
            assert "'at'" in refused
        await store.add_field("articles", "at", Field(datetime))
        now = datetime.now(UTC)
        await store.update("articles", {"at": now - timedelta(days=9)}, ids=["a"])
        await store.update("articles", {"at": now}, ids=["c"])
        async with Client(create_server(store, table="articles")) as client:
            result = await call(client, "recall", query="fox", half_life="1h", limit=2)
            assert [memory["id"] for memory in result["memories"]] == ["c", "a"]


async def test_memories_are_recalled_by_words_without_an_embedder(tmp_path: Path) -> None:
    async with aiovec.connect(tmp_path / "words.db") as store:
        server = create_server(store, table="notes", allow_writes=True)
        async with Client(server) as client:
            await call(client, "remember", text="Ana prefers short answers.")
            result = await call(client, "recall", query="which answers does Ana like?")
            assert [memory["text"] for memory in result["memories"]] == [
                "Ana prefers short answers."
            ]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "aiovec.toml").write_text('[retrieval.embedders.default]\nkind = "demo"\n')
    return tmp_path


@pytest.mark.slow
async def test_the_command_serves_standard_input_and_writes_only_if_allowed(tmp_path: Path) -> None:
    def server(*options: str) -> StdioServerParameters:
        arguments = ["-m", "aiovec", "mcp", "-s", "agent.db", *options]
        return StdioServerParameters(command=sys.executable, args=arguments, cwd=tmp_path)

    async with Client(server("--allow-writes", "--embedder", "demo")) as client:
        assert client.server_info.name == "aiovec"
        await call(client, "remember", text="Ana prefers short answers.")
    async with Client(server()) as client:
        (memory,) = (await call(client, "recall", query="short answers"))["memories"]
        assert memory["text"] == "Ana prefers short answers."
        assert {tool.name for tool in (await client.list_tools()).tools}.isdisjoint({"remember"})


@pytest.mark.slow
async def test_several_assistants_use_one_memory_at_once(tmp_path: Path) -> None:
    """Each client starts its own server, and a hook runs the command at the same time."""
    arguments = ["-m", "aiovec", "mcp", "-s", "agent.db", "--allow-writes", "--embedder", "demo"]
    server = StdioServerParameters(command=sys.executable, args=arguments, cwd=tmp_path)

    async def remember(client: Client, name: str) -> None:
        for n in range(20):
            await call(client, "remember", text=f"Fact {n} of {name}.", id=f"{name}{n}")

    async with Client(server) as one, Client(server) as two:
        await asyncio.gather(remember(one, "ana"), remember(two, "ben"))
        for client in (one, two):
            for name in ("ana", "ben"):
                ids = [f"{name}{n}" for n in range(20)]
                rows = (await call(client, "get", table="memories", ids=ids))["rows"]
                assert [row["id"] for row in rows] == ids
                query = {"query": f"fact 7 of {name}", "limit": 1}
                (memory,) = (await call(client, "recall", **query))["memories"]
                assert memory["id"] == f"{name}7"
        hook = run_process("delete", "memories", "ana0", "-s", tmp_path / "agent.db")
        assert hook.code == 0, hook.err
        assert (await call(client, "get", table="memories", ids=["ana0"]))["rows"] == []


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such signals")
@pytest.mark.parametrize("options", [(), ("--http", "--port", "0")])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_closes_the_store(
    tmp_path: Path, options: tuple[str, ...], number: signal.Signals
) -> None:
    """This holds even while a folder is watched and the client keeps standard input open."""
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "a.md").write_text("# Words")
    command = [sys.executable, "-m", "aiovec", "mcp", "-s", "agent.db", "--embedder", "demo"]
    process = await asyncio.create_subprocess_exec(
        *command, "--watch", "docs", *options, cwd=tmp_path, stdin=asyncio.subprocess.PIPE
    )

    async def is_imported(store: aiovec.VectorStore) -> bool:
        return "documents" in await store.tables() and await store.count("documents") == 1

    try:
        async with aiovec.connect(tmp_path / "agent.db") as store:
            await until(lambda: is_imported(store))
        process.send_signal(number)
        async with asyncio.timeout(60):
            assert await process.wait() == 0
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()
    assert sorted(os.listdir(tmp_path)) == ["agent.db", "docs"]


async def test_an_analyzer_is_that_of_a_new_memory_and_of_new_watched_tables(
    tmp_path: Path,
) -> None:
    pytest.importorskip("Stemmer")
    for name in ("docs", "more"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.md").write_text("# Wort")
    more = '{"source": "more", "table": "more", "analyzer": "danish"}'
    arguments = ["-m", "aiovec", "mcp", "-s", "agent.db", "--embedder", "demo", "--allow-writes"]
    arguments += ["--analyzer", "german", "--watch", "docs", "--watch", more]
    server = StdioServerParameters(command=sys.executable, args=arguments, cwd=tmp_path)
    expected = {"memories": "german", "documents": "german", "more": "danish"}
    async with Client(server) as client, aiovec.connect(tmp_path / "agent.db") as store:

        async def are_created() -> bool:
            names = await store.tables()
            return {name: (await store.schema(name)).analyzer for name in names} == expected

        await call(client, "remember", text="Die Häuser sind rot.")
        await until(are_created)


@pytest.mark.parametrize("key", ["short", "x" * 15, "no space in a key", "x" * 513])
def test_a_key_that_serve_would_refuse_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    monkeypatch.setenv("AIOVEC_MCP_KEY", key)
    done = run("mcp", "-s", tmp_path / "agent.db", "--allow-writes", "--http", "--port", "0")
    assert done.code == 1
    assert "the key in AIOVEC_MCP_KEY must be 16 to 512 visible ASCII characters" in done.err
    assert key not in done.err


def test_a_port_that_is_in_use_is_named(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        served = ("mcp", "-s", tmp_path / "agent.db", "--allow-writes", "--http", "--port", port)
        done = run(*served, "--embedder", "demo")
        by_words = run(*served)
    assert (done.code, f"cannot listen at port {port}: " in done.err) == (1, True)
    assert "--port 0" in done.err
    # A memory that is created without an embedder never gets one.
    assert ["--embedder" in one.err for one in (done, by_words)] == [False, True]


@pytest.mark.slow
def test_the_example_prints_the_output_of_its_page(tmp_path: Path) -> None:
    example = Path(__file__).parents[2] / "examples" / "agent_memory"
    folder = tmp_path / "copy"
    shutil.copytree(example, folder, ignore=shutil.ignore_patterns("data", "__pycache__"))
    command = [sys.executable, "agent.py"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")
    assert f"$ python agent.py\n{done.stdout}```" in (example / "README.md").read_text("utf-8")


@pytest.mark.slow
@pytest.mark.parametrize(
    "keys", [[""], ["a-key-of-some-length"], ["a-key-of-ana-of-16", "ben" * 9]]
)
async def test_the_command_serves_http_to_its_key_and_machine_only(
    folder: Path, keys: list[str]
) -> None:
    import httpx

    key = keys[0]
    environment = {"AIOVEC_MCP_KEY": key}
    if len(keys) > 1:
        environment = {"AIOVEC_MCP_KEYS": f"ana={keys[0]} ben={keys[1]}"}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "aiovec", "mcp", "-s", "agent.db", "--config", "aiovec.toml",
        "--allow-writes", "--http", "--port", "0", "--read", "articles",
        cwd=folder, stderr=asyncio.subprocess.PIPE, env=os.environ | environment,
    )  # fmt: skip
    try:
        assert process.stderr is not None
        line = b""
        while not (address := re.search(rb"http://127\.0\.0\.1:\d+/mcp", line)):
            line += await process.stderr.read(1024)
            assert not process.stderr.at_eof(), line
        url = address[0].decode()
        bearer = {"Authorization": f"Bearer {key}"} if key else {}
        async with httpx.AsyncClient(headers=bearer) as http:
            async with Client(streamable_http_client(url, http_client=http)) as client:
                await call(client, "remember", text="Ana prefers short answers.")
                assert len((await call(client, "recall", query="Ana"))["memories"]) == 1
            for other in keys[1:]:
                theirs = httpx.AsyncClient(headers={"Authorization": f"Bearer {other}"})
                async with theirs, Client(streamable_http_client(url, http_client=theirs)) as ben:
                    assert await call(ben, "recall", query="Ana") == {"memories": []}
            for headers in ({"Host": "evil.example"}, {"Origin": "http://evil.example"}):
                answer = await http.post(url, headers=headers, json={})
                assert answer.status_code in (403, 421)
        if key:
            async with httpx.AsyncClient() as http:
                lower = {"Authorization": f"bearer {key}"}
                assert (await http.post(url, headers=lower, json={})).status_code != 401
                for headers in ({}, {"Authorization": f"Bearer {key}x"}, {"Authorization": key}):
                    answer = await http.post(url, headers=headers, json={})
                    assert (answer.status_code, answer.headers["www-authenticate"]) == (
                        401,
                        "Bearer",
                    )
    finally:
        process.terminate()
        await process.wait()
