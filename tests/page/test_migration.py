"""The page's view of a migration: its endpoint while a run goes on, and what the browser shows."""

from __future__ import annotations

import tomllib
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest

import aiovec
import aiovec_migrate
from aiovec_migrate.progress import progress
from aiovec_server import create_app
from aiovec_server.page import migrations

if TYPE_CHECKING:
    from playwright.async_api import Page, Route

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def readers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Read journals by this tree's function, whatever is installed."""
    monkeypatch.setattr(migrations, "_readers", lambda: [progress])


def test_the_entry_point_is_the_function() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    module, name = project["entry-points"][migrations.GROUP]["migrate"].split(":")
    assert getattr(import_module(module), name) is progress


@pytest.mark.usefixtures("readers")
async def test_a_run_from_its_first_phase_to_its_last(
    store: aiovec.VectorStore, tmp_path: Path
) -> None:
    await store.create_table("notes", aiovec.Schema(2))
    await store.insert("notes", [{"id": f"n{n}", "embedding": [1, n]} for n in range(40)])
    transport = httpx.ASGITransport(app=create_app(store=store))
    seen: list[dict[str, Any]] = []
    base = "http://127.0.0.1:4002"
    async with httpx.AsyncClient(transport=transport, base_url=base) as client:

        async def look() -> dict[str, Any]:
            answer = await client.get("/page/migration")
            assert answer.status_code == 200
            assert str(tmp_path) not in answer.text
            found: dict[str, Any] = answer.json()
            return found

        async def step(name: str) -> None:
            if name.startswith("phase:"):
                seen.append(await look())

        assert await look() == {"state": "none", "run": None, "generation": 0, "progress": None}
        await aiovec_migrate.run(
            store.target, tmp_path / "target.db", journal=tmp_path / "journal.db", step=step
        )
        last = await look()
    phases = [found["progress"]["phase"] for found in seen if found["progress"]]
    assert phases[0] == "copying"
    assert "verifying" in phases
    tables = [found["progress"]["tables"] for found in seen if found["progress"]]
    assert tables[-1][0]["name"] == "notes"
    assert tables[-1][0]["rows"] == tables[-1][0]["total"] == 40
    # The mark is off by then; the server knows the run's journal all the same.
    assert last["state"] == "none"


@pytest.mark.usefixtures("readers")
@pytest.mark.parametrize(
    "content", [None, b"", b"no database", b"SQLite format 3\x00" + b"\xff" * 99]
)
async def test_a_journal_that_cannot_be_read(
    store: aiovec.VectorStore, tmp_path: Path, content: bytes | None
) -> None:
    journal = tmp_path / "journal.db"
    if content is not None:
        journal.write_bytes(content)
    runs = migrations.Runs()
    runs._journals = {"": str(journal)}
    facts = await runs.facts(store)
    assert facts["progress"] is None
    assert content is not None or not journal.exists()


PROGRESS: dict[str, Any] = {
    "run": "5f0c2c1e", "phase": "catching-up", "over": False, "switches": True, "verifies": True,
    "from": "sqlite", "to": "lancedb", "started": "2026-01-01T00:00:00+00:00",
    "changed": "2026-01-01T00:00:00+00:00", "rate": 51234.5, "lag": 1, "left": 75.0,
    "longestPause": 0.0,
    "tables": [
        {"name": "notes", "rows": 45_000, "total": 90_000, "copied": False, "indexed": False,
         "verified": False},
        {"name": "others", "rows": 10, "total": 9, "copied": True, "indexed": True,
         "verified": False},
    ],
}  # fmt: skip


@pytest.mark.asyncio(loop_scope="session")
class TestView:
    async def show(self, page: Page, **found: Any) -> None:
        async def answer(route: Route) -> None:
            await route.fulfill(
                json={"state": "none", "run": None, "generation": 0, "progress": None, **found}
            )

        await page.route("**/page/migration", answer)
        await page.goto("#/migration")
        await page.get_by_role("heading", level=1).wait_for()

    async def test_phases_and_tables(self, page: Page) -> None:
        expect = pytest.importorskip("playwright.async_api").expect
        axe = pytest.importorskip("axe_playwright_python.async_playwright").Axe()
        await self.show(page, state="open", run="5f0c2c1e", progress=PROGRESS)
        main = page.locator("main")
        for text in ("51,235 rows/s", "75 s left", "1 change behind", "sqlite to lancedb"):
            await expect(main).to_contain_text(
                text.replace(" ", "\u00a0") if text[0].isdigit() else text
            )
        await expect(page.locator("[aria-current=step]")).to_contain_text("Catching up")
        await expect(page.locator(".phases li.past")).to_have_count(2)
        bars = page.get_by_role("progressbar")
        await expect(bars).to_have_count(2)
        assert await bars.evaluate_all("all => all.map((one) => one.value)") == [0.5, 1]
        assert not (await axe.run(page)).response["violations"]

    @pytest.mark.parametrize(
        ("found", "text"),
        [
            ({"state": "open"}, "Rows are being copied"),
            ({"state": "paused"}, "Writers wait"),
            ({"state": "moved"}, "can still be rolled back"),
            ({"state": "finished"}, "is over"),
            ({"generation": 1, "run": "abc"}, "moved here by the run abc"),
            ({"progress": {**PROGRESS, "phase": "rolling-back"}}, "coming into use again"),
            ({"progress": {**PROGRESS, "phase": "done", "over": True}}, "aiovec migrate rollback"),
            ({"progress": {**PROGRESS, "phase": "a later version's"}}, "Catching up"),
        ],
    )
    async def test_each_state(self, page: Page, found: dict[str, Any], text: str) -> None:
        expect = pytest.importorskip("playwright.async_api").expect
        await self.show(page, **found)
        await expect(page.locator("main")).to_contain_text(text)
