"""Apps, servers and migrations with a store that follows a table."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route
from starlette.testclient import TestClient
from tests.harness.waiting import until

import aiovec
import aiovec.sync
from aiovec.asgi import get_store, lifespan
from aiovec_server import create_app

from .apps import App, contents, imported

pytestmark = pytest.mark.arrow


@pytest.fixture
def app(tmp_path: Path) -> Iterator[App]:
    with closing(App(tmp_path)) as made:
        yield made


def test_a_request_of_an_app_reads_what_was_written_before(app: App, tmp_path: Path) -> None:
    async def search(request: Request) -> JSONResponse:
        store = get_store(request)
        await store.watching[0].caught_up()
        return JSONResponse([hit.id for hit in await store.search_text("articles", "special")])

    source = {"source": app.source, "embed": "body", "text": ["body"]}
    run = lifespan(tmp_path / "s.db", embedder="demo", watch=[source])
    with TestClient(Starlette(routes=[Route("/", search)], lifespan=run)) as client:
        assert client.get("/").json() == []
        app.upsert(7, "special")
        assert client.get("/").json() == ["7"]
        app.db.execute("DELETE FROM articles WHERE id = 7")
        assert client.get("/").json() == []


def test_a_table_is_followed_without_await(app: App, tmp_path: Path) -> None:
    with (
        aiovec.sync.connect(tmp_path / "s.db", embedder="demo") as store,
        aiovec.sync.watch(store, app.source, embed="body") as watching,
    ):
        app.upsert(7, "special")
        watching.caught_up()
        assert "special" in store.get("articles", ["7"])[0]["body"]
        assert [each.state().waiting for each in store.watching] == [0]
    assert store.watching == []


async def test_stats_health_and_metrics_tell_how_far_behind_a_table_is(
    app: App, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with aiovec.connect(tmp_path / "s.db", embedder="demo") as store:
        bare, client = (
            httpx.AsyncClient(transport=httpx.ASGITransport(served), base_url="http://127.0.0.1")
            for served in (create_app(store=store), create_app(store=store))
        )
        assert "watching" not in (await bare.get("/health")).json()
        async with aiovec.watch(store, app.source, embed="body") as watching:
            await watching.caught_up()
            (state,) = (await store.stats("articles")).details["watching"]
            assert (state["source"], state["waiting"], state["error"]) == (app.source, 0, "")
            (facts,) = (await client.get("/health")).json()["watching"]
            fresh = {"ready": True, "waiting": 0, "seconds": 0.0, "failing": False}
            assert facts == {**fresh, "refused": 0}
            with monkeypatch.context() as patch:  # requests do not reach the app's database
                patch.setattr(type(watching), "state", None)
                assert (await client.get("/health")).json()["watching"] == [facts]
            assert (await client.get("/ready")).json() == {"ready": True}
            metrics = (await client.get("/metrics")).text
            assert 'aiovec_watch_waiting{table="articles"} 0.0' in metrics
        assert "watching" not in (await store.stats("articles")).details


async def test_metrics_of_a_table_with_two_sources_show_the_worse(app: App, tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"id": "row", "body": "on keys"}\n')
    async with aiovec.connect(tmp_path / "s.db", embedder="demo") as store:
        served = httpx.ASGITransport(create_app(store=store))

        async def metrics(waiting: str, failing: str) -> bool:
            async with httpx.AsyncClient(transport=served, base_url="http://127.0.0.1") as user:
                text = (await user.get("/metrics")).text
            wanted = {"waiting": waiting, "failing": failing}
            lines = (
                f'aiovec_watch_{name}{{table="articles"}} {it}\n' for name, it in wanted.items()
            )
            return all(line in text for line in lines)

        options: dict[str, Any] = {"embed": "body", "table": "articles", "every": 0.1}
        async with (
            aiovec.watch(store, rows, **options) as first,
            aiovec.watch(store, app.source, **options) as second,
        ):
            await first.caught_up()
            await second.caught_up()
            await until(lambda: metrics("0.0", "0.0"))
            rows.unlink()
            await until(lambda: metrics("NaN", "1.0"))
            assert f"{rows} cannot be read: No such file" in (await first.state()).error
            assert (await second.state()).waiting == 0


async def test_what_is_unknown_is_not_told_as_well(app: App, tmp_path: Path) -> None:
    """This holds while the first copy fails, and after the source has become unreadable."""
    is_down = True

    def embed(texts: list[str]) -> list[list[float]]:
        if is_down:
            raise ValueError("no vector today")
        return [[len(text), 1.0] for text in texts]

    embedder = aiovec.embedder(embed, model="own", dim=2)
    async with aiovec.connect(tmp_path / "s.db", embedder=embedder) as store:
        served = create_app(store=store)

        async def ask(path: str) -> httpx.Response:
            transport = httpx.ASGITransport(served)
            async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as user:
                return await user.get(path)

        async def tells(metric: str, **facts: object) -> bool:
            (told,) = (await ask("/health")).json()["watching"]
            line = f'aiovec_watch_waiting{{table="articles"}} {metric}\n'
            return facts.items() <= told.items() and line in (await ask("/metrics")).text

        async with aiovec.watch(store, app.source, embed="body") as watching:
            await until(lambda: tells("NaN", ready=False, waiting=None, failing=True))
            assert (await ask("/ready")).status_code == 503
            assert (await watching.state()).seconds > 0
            is_down = False
            await watching.caught_up()
            await until(lambda: tells("0.0", ready=True, waiting=0, failing=False, seconds=0.0))
            assert (await ask("/ready")).status_code == 200
            app.db.execute("DROP TABLE articles")
            await until(lambda: tells("NaN", ready=True, waiting=None, failing=True))
            before = (await watching.state()).seconds
            await until(lambda: _seconds_above(watching, before + 0.5))
            caught_up = asyncio.ensure_future(watching.caught_up())
            await asyncio.sleep(0.2)
            assert not caught_up.done()
            app.make()
            app.upsert(3)
            await caught_up
            assert await store.count("articles") == 1


async def test_rows_that_are_set_aside_are_counted(app: App, tmp_path: Path) -> None:
    """The texts of a column that a migration gave another type, for example."""
    down = False

    def embed(texts: list[str]) -> list[list[float]]:
        if down or any("poison" in text for text in texts):
            raise ValueError("no vector today")
        return [[len(text), 1.0] for text in texts]

    embedder = aiovec.embedder(embed, model="own", dim=2)
    app.upsert(7, "poison")
    async with aiovec.connect(tmp_path / "s.db", embedder=embedder) as store:
        transport = httpx.ASGITransport(create_app(store=store))
        async with (
            httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client,
            aiovec.watch(store, app.source, embed="body") as watching,
        ):
            await watching.caught_up()
            (facts,) = (await client.get("/health")).json()["watching"]
            assert (facts["waiting"], facts["refused"]) == (0, 1)
            assert (
                'aiovec_watch_refused{table="articles"} 1.0' in (await client.get("/metrics")).text
            )
            down = True
            other = {"embed": "body", "table": "others"}
            async with aiovec.watch(store, app.source, **other):  # type: ignore[arg-type]

                async def tells() -> bool:
                    detail = (await client.get("/ready")).json().get("detail", "")
                    return detail == (
                        "1 of 2 sources are being copied, and 1 rows or documents are set aside"
                    )

                await until(tells, 30)


async def _seconds_above(watching: aiovec.Watching, seconds: float) -> bool:
    return (await watching.state()).seconds > seconds


async def test_an_app_that_waits_serves_when_the_first_copy_is_complete(
    app: App, tmp_path: Path
) -> None:
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def embed(texts: list[str]) -> list[list[float]]:
        begun.set()
        await go_on.wait()
        return [[len(text), 1.0] for text in texts]

    embedder = aiovec.embedder(embed, model="own", dim=2)
    run = lifespan(
        tmp_path / "s.db",
        embedder=embedder,
        watch={"source": app.source, "embed": "body"},
        wait=True,
    )
    served: asyncio.Queue[int] = asyncio.Queue()

    async def serve() -> None:
        async with run(None) as state:
            served.put_nowait(await state["aiovec_store"].count("articles"))

    serving = asyncio.ensure_future(serve())
    await begun.wait()
    await asyncio.sleep(0.2)
    assert served.empty()
    go_on.set()
    assert await served.get() == 40
    await serving


@pytest.mark.slow
async def test_a_watched_table_moves_to_lancedb_and_back(app: App, tmp_path: Path) -> None:
    pytest.importorskip("lancedb")
    config = tmp_path / "aiovec.toml"
    config.write_text(
        '[retrieval]\nbackend = "sqlite"\nsqlite_path = "s.db"\nlancedb_url = "lance"\n'
        '[retrieval.embedders.default]\nkind = "demo"\n'
    )
    async with (
        aiovec.connect(config=config) as store,
        aiovec.watch(store, app.source, embed="body", text=["title"]) as watching,
    ):
        await watching.caught_up()
        for backend in ("lancedb", "sqlite"):
            command = [sys.executable, "-m", "aiovec", "migrate", "run", "--to", backend]
            move = await asyncio.create_subprocess_exec(
                *command, "--switch", "--config", str(config), cwd=tmp_path
            )
            while move.returncode is None:
                await asyncio.to_thread(app.write)
                await asyncio.sleep(0.01)
            assert move.returncode == 0
            app.upsert(5, backend)
            await watching.caught_up()
            assert store.backend_name == backend
            assert await contents(store) == await imported(app, tmp_path / f"clean-{backend}")


@pytest.mark.slow
@pytest.mark.parametrize("command", ["serve", "mcp"])
async def test_servers_follow_a_source(command: str, app: App, tmp_path: Path) -> None:
    if command == "mcp":
        pytest.importorskip("mcp")
    arguments = [sys.executable, "-m", "aiovec", command, "-s", str(tmp_path / "s.db")]
    arguments += ["--watch", json.dumps({"source": app.source, "embed": "body"})]
    arguments += ["--port", "0"] if command == "serve" else ["--http", "--port", "0"]
    async with aiovec.connect(tmp_path / "s.db", embedder="demo") as store:
        async with aiovec.watch(store, app.source, embed="body") as watching:
            await watching.caught_up()  # the schema then says what is embedded
        process = await asyncio.create_subprocess_exec(*arguments, stderr=subprocess.PIPE)
        try:
            app.upsert(3, "served")

            async def seen() -> bool:
                assert process.returncode is None
                return "served" in (await store.get("articles", ["3"]))[0]["body"]

            await until(seen)
        finally:
            process.terminate()
            await process.communicate()
