"""The page in a browser: each view by pointer and by keyboard, in both colour schemes, on a phone;
and rows that want to be more than text.

That no script of a row ran, no other host was asked and no policy was breached, the fixture of the
page looks at behind each test.
"""

from __future__ import annotations

import asyncio
import json
import re
import signal
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Literal
from urllib.parse import quote

import pytest
from tests.harness.cases import case
from tests.page.filling import CLOSING, HOSTILE_IDS, SCRIPT

from aiovec import connect, documents

playwright = pytest.importorskip("playwright.async_api")

if TYPE_CHECKING:
    from playwright.async_api import Browser, Page, Route
    from tests.page.conftest import Serve

expect = playwright.expect
pytestmark = [pytest.mark.slow, pytest.mark.asyncio(loop_scope="session")]

VIEWS = {
    "tables": "#/",
    "rows": "#/t/notes/rows?where=year+%3E%3D+2000&sort=year&down=1",
    "wrong filter": "#/t/notes/rows?where=year+%3E%3D",
    "empty": "#/t/empty/rows",
    "row": "#/t/notes/row/note-07",
    "no row": "#/t/notes/row/nothing",
    "words": "#/t/notes/search?by=words&q=night+train",
    "both": "#/t/notes/search?by=both&q=ship+in+the+harbour",
    "map": "#/t/notes/map?color=topic",
    "details": "#/t/notes/details",
    "no table": "#/t/nothing",
    "hostile rows": "#/t/hostile/rows",
}
SCHEMES: tuple[Literal["light", "dark"], ...] = ("light", "dark")
AXE = "async (options) => (await axe.run(document, options)).violations"


async def visit(page: Page, where: str) -> None:
    await page.goto(where)
    await page.locator("main:not([aria-busy]) h1, main:not([aria-busy]) .empty").first.wait_for()


async def test_rows_are_shown_by_page_filter_and_order(page: Page) -> None:
    await visit(page, "#/")
    await expect(page.locator("main")).to_contain_text("4 tables")
    await page.get_by_role("link", name="notes", exact=True).click()
    await expect(page.get_by_role("heading", level=1)).to_have_text("notes")
    await expect(page.get_by_label("Text", exact=True)).to_be_focused()
    await page.get_by_role("link", name="Rows").click()
    await expect(page.get_by_role("heading", level=1)).to_be_focused()
    status, rows = page.locator("[data-status]"), page.locator("tbody tr")
    await expect(rows).to_have_count(25)
    await expect(status).to_have_text("Rows 1\u201325 of 60")
    await page.get_by_role("link", name="Last").click()
    await expect(status).to_have_text("Rows 51\u201360 of 60")
    await page.go_back()
    await expect(status).to_have_text("Rows 1\u201325 of 60")
    field = page.get_by_label("Filter", exact=True)
    await field.fill("topic = 'sea' AND year < 2010")
    await page.get_by_label("Sort by").select_option("year")
    await page.get_by_label("Direction").select_option("Descending")
    await page.get_by_role("button", name="Show").click()
    await expect(status).to_have_text("Rows 1\u20135 of 5")
    years = await page.locator("td[data-label=year]").all_inner_texts()
    assert years == ["2006", "2002", "1998", "1994", "1990"]
    await visit(page, "#/t/notes/rows?where=yeer+%3D+1")
    await expect(page.get_by_role("alert")).to_contain_text("yeer")
    await field.fill("year = 1")
    await page.keyboard.press("Enter")
    await expect(page.locator("main")).to_contain_text("No row matches the filter")


async def test_a_row_is_shown_and_a_missing_one_is_named(page: Page) -> None:
    await visit(page, "#/t/notes/row/note-07")
    await expect(page.locator("dl.fields")).to_contain_text("9007199254740993")  # beyond a double
    await page.get_by_role("link", name="More like this").click()
    await expect(page.locator("[data-status]")).to_contain_text("10 hits in")
    await expect(page.locator(".hits > li").first).not_to_contain_text("note-07")
    await visit(page, "#/t/notes/row/nothing")
    await expect(page.locator("main")).to_contain_text("There is no such row")
    await visit(page, "#/some/where")
    await expect(page.locator("main")).to_contain_text("There is no such page")


async def test_each_way_of_searching_shows_hits(page: Page) -> None:
    for by, label in (("Keywords", "Words"), ("Meaning", "Text"), ("Both", "Text")):
        await visit(page, "#/t/notes/search")
        await page.get_by_text(by, exact=True).click()
        await page.get_by_label(label, exact=True).fill("ship harbour")
        await page.get_by_role("button", name="Search", exact=True).click()
        await expect(page.locator("[data-status]")).to_contain_text(re.compile(r"\d\shits? in \d"))
        await expect(page.locator(".hits > li").first).to_contain_text("topic sea")
    await visit(page, "#/t/plain/search")
    await page.get_by_text("Vector", exact=True).click()
    for numbers, message in (("[1, 2]", "has 2 numbers"), ("1, x, 2", "\u201cx\u201d")):
        await page.get_by_label("Numbers").fill(numbers)
        await page.get_by_role("button", name="Search", exact=True).click()
        await expect(page.get_by_role("alert")).to_contain_text(message)
    await page.get_by_label("Numbers").fill("2 4\n1e0")
    await page.get_by_role("button", name="Search", exact=True).click()
    await expect(page.locator(".hits > li").first).to_contain_text("p2")


async def test_the_search_box_is_focused_and_shows_hits_and_errors(page: Page) -> None:
    for width, height, fold in ((1280, 800, 480), (375, 700, 560)):
        await page.set_viewport_size({"width": width, "height": height})
        await visit(page, "#/t/notes")
        box = page.locator("input[name=q]")
        await expect(box).to_be_focused()
        await page.keyboard.type("night train")
        await page.keyboard.press("Enter")
        first = page.locator(".hits > li").first
        await expect(first.locator("mark").first).to_have_text(re.compile("night|train"))
        place = await first.bounding_box()
        assert place is not None
        assert place["y"] < fold
    await visit(page, "#/t/notes/details")
    await page.keyboard.press("/")
    await expect(box).to_be_focused()
    await visit(page, "#/t/hostile")  # its words can be searched, and it has no embedder
    for mode in ("Keywords", "Like a row", "Vector"):
        await expect(page.locator(".segments").get_by_text(mode, exact=True)).to_be_visible()
    await expect(page.locator(".segments label")).to_have_count(3)
    await visit(page, "#/t/plain")  # nothing in it can be searched by words
    await expect(page.get_by_role("link", name="Rows")).to_have_attribute("aria-current", "page")
    problem = json.dumps({"title": "x", "status": 502, "detail": "the embedder is gone"})

    async def answer(route: Route) -> None:
        await route.fulfill(status=502, content_type="application/problem+json", body=problem)

    await page.route("**/search_hybrid", answer)
    await visit(page, "#/t/notes/search?by=both&q=sea")
    await expect(page.get_by_role("alert")).to_have_text("the embedder is gone")
    await expect(box).to_have_value("sea")
    await page.unroute("**/search_hybrid")


async def test_the_map_is_used_by_keyboard_and_the_details_are_shown(page: Page) -> None:
    await visit(page, "#/t/notes/map")
    await expect(page.get_by_label("Color by")).to_have_value("topic")  # it has few values
    await expect(page.locator("[data-status]")).to_have_text("60 rows")
    await expect(page.locator(".groups li")).to_have_count(4)
    await page.locator("canvas.map").focus()
    for key in ("ArrowRight", "ArrowDown", "ArrowLeft", "ArrowUp"):
        await page.keyboard.press(key)
    await expect(page.locator(".nearest li")).to_have_count(10)
    chosen = await page.locator(".panel:not([aria-busy]) h2").inner_text()
    await page.keyboard.press("Enter")
    await expect(page).to_have_url(re.compile(f"/row/{chosen}$"))
    await visit(page, "#/t/notes/details")
    for text in ("every search is exact", "keyword search", "256 dimensions"):
        await expect(page.locator("main")).to_contain_text(text)


async def test_deleting_a_row_asks_first(page: Page) -> None:
    await visit(page, "#/t/plain/row/p4")
    button, dialog = page.get_by_role("button", name="Delete row"), page.get_by_role("dialog")
    await button.focus()
    await page.keyboard.press("Enter")
    await expect(dialog).to_contain_text("p4")
    for _ in range(4):  # the focus stays in the dialog, and comes back
        await page.keyboard.press("Tab")
        assert await page.evaluate(
            "document.activeElement === document.body"
            " || document.activeElement.closest('dialog') !== null"
        )
    await page.keyboard.press("Escape")
    await expect(dialog).to_have_count(0)
    await expect(button).to_be_focused()
    await button.click()
    await dialog.get_by_role("button", name="Delete").click()
    await expect(page.locator("[data-status]")).to_have_text("Rows 1\u20134 of 4")
    row = {"id": "p4", "embedding": [4, 16, 1], "n": 4}
    assert (await page.request.post("/tables/plain/records", data=[row])).ok


async def test_the_page_is_usable_by_keyboard_alone(page: Page) -> None:
    await visit(page, "#/")
    await page.keyboard.press("Tab")
    await expect(page.locator(".skip")).to_be_focused()
    await page.keyboard.press("Enter")
    await expect(page.get_by_role("heading", level=1)).to_be_focused()
    await visit(page, "#/t/notes/rows")
    seen = 0
    for _ in range(40):  # each focused element shows a focus ring
        await page.keyboard.press("Tab")
        outline = await page.evaluate(
            "(() => { const one = document.activeElement, style = getComputedStyle(one);"
            " return one === document.body ? null"
            " : [one.tagName, style.outlineStyle, parseFloat(style.outlineWidth)]; })()"
        )
        if outline is None:
            break
        assert outline[1] == "solid", outline
        assert outline[2] >= 2, outline
        seen += 1
    assert seen > 20


async def test_each_view_passes_axe_and_fits_a_phone(page: Page) -> None:
    axe = pytest.importorskip("axe_playwright_python.async_playwright").Axe()
    findings = []
    await visit(page, "#/")
    await page.evaluate(axe.axe_script)
    for name, where in VIEWS.items():
        await page.set_viewport_size({"width": 1280, "height": 720})
        await visit(page, where)
        for scheme in SCHEMES:
            await page.emulate_media(color_scheme=scheme)
            # Both schemes have the same elements, so only the colours are checked again.
            rules = {"runOnly": ["color-contrast"]} if scheme == "dark" else {}
            violations = await page.evaluate(AXE, {**rules, "resultTypes": ["violations"]})
            findings += [
                (name, scheme, each["id"], each["nodes"][0]["html"][:200]) for each in violations
            ]
        for width, size in ((375, "100%"), (640, "200%")):
            with case((name, width)):
                await page.set_viewport_size({"width": width, "height": 700})
                style = "document.documentElement.style"
                await page.evaluate(f"{style}.setProperty('font-size', '{size}')")
                assert await page.evaluate("document.documentElement.scrollWidth") <= width
                await page.evaluate(f"{style}.removeProperty('font-size')")
    assert not findings, json.dumps(findings, indent=1)


async def test_hostile_rows_are_text(page: Page) -> None:
    await visit(page, "#/t/hostile/rows")
    await expect(page.locator("tbody tr")).to_have_count(len(HOSTILE_IDS))
    text = await page.locator("table").inner_text()
    assert SCRIPT in text
    assert "safeU+202Egnp.exe" in text
    assert len(text) < 40_000  # long texts are shortened
    for id in HOSTILE_IDS:
        await visit(page, "#/t/hostile/rows")
        row = page.locator(f'tbody th a[href="#/t/hostile/row/{quote(id, safe=chr(39) + "!*()")}"]')
        await row.click()
        await expect(page.locator("dl.fields")).to_contain_text(SCRIPT)
        await page.get_by_role("link", name="More like this").click()
        await expect(page.locator(".hit-id")).to_have_count(len(HOSTILE_IDS) - 1)
    await visit(page, "#/t/hostile/search?by=words&q=needle")
    await expect(page.locator("mark").first).to_have_text("needle")
    assert await page.locator(".hits img, .hits script, .hits b").count() == 0
    await visit(page, "#/t/hostile/map?color=constructor")
    await expect(page.locator(".groups")).to_contain_text("<img src=x")


ADDRESSES = [
    f"#/t/{quote(SCRIPT)}", f"#/t/notes/row/{quote(SCRIPT, safe='')}",
    f"#/t/notes/rows?where={quote(SCRIPT)}&sort={quote(CLOSING)}&from=-5&size=9e9",
    f"#/t/notes/search?by=__proto__&q={quote(CLOSING)}&k=99999",
    f"#/t/notes/map?color={quote(SCRIPT)}&rows=9999999", "#/?from=99999999999999999999",
    "#/t/%E0%A4%A", "#/t/../../etc/passwd", "#/constructor", "#/t/notes/__proto__", "#///////",
]  # fmt: skip
PROBLEMS = [
    ("application/problem+json", json.dumps({"title": "x", "detail": SCRIPT})),
    ("application/problem+json", '{"detail": {"a": [1]}, "title": 7}'),
    ("text/html", f"<html>{SCRIPT}</html>"),
    ("application/json", ""),
]


async def test_hostile_addresses_and_answers_are_shown_as_text(page: Page) -> None:
    for where in ADDRESSES:
        with case(where):
            await visit(page, "#/t/empty/details")
            await page.goto(where)
            main = page.locator("main:not([aria-busy])")
            await expect(main).not_to_contain_text(re.compile("^empty"))
            await expect(main).to_contain_text(re.compile("[a-z]{3}"))
            assert await page.locator("main img").count() == 0, where
    for kind, body in PROBLEMS:

        async def answer(route: Route, kind: str = kind, body: str = body) -> None:
            await route.fulfill(status=500, content_type=kind, body=body)

        await page.goto("#/t/notes/details")
        await page.route("**/page/overview*", answer)
        await page.goto("#/")
        await expect(page.get_by_role("alert")).to_contain_text("That did not work")
        await page.unroute("**/page/overview*")
        await page.get_by_role("button", name="Try again").click()
        await expect(page.get_by_role("heading", level=1)).to_have_text("Tables")


async def test_the_page_recovers_when_its_server_comes_back(browser: Browser, serve: Serve) -> None:
    served = await asyncio.to_thread(serve)
    context = await browser.new_context(base_url=served.url)
    page = await context.new_page()
    await visit(page, "#/t/notes/row/note-01")
    await expect(page.locator("header")).to_contain_text("Page: view only")  # as it is by default
    await expect(page.get_by_role("button", name="Delete row")).to_have_count(0)
    await visit(page, "#/t/notes/rows")
    await asyncio.to_thread(served.stop, signal.SIGKILL)
    await page.get_by_role("link", name="Next").click()
    await expect(page.locator("#offline")).to_have_text(re.compile("does not answer"))
    await expect(page.locator("tbody tr")).to_have_count(25)  # the rows stay
    place = Path(served.facts["store"])
    await asyncio.to_thread(serve, place, "--port", str(served.port))
    await expect(page.locator("[data-status]")).to_have_text("Rows 26\u201350 of 60")
    await context.close()


async def test_the_page_keeps_a_key_for_its_session_only(browser: Browser, serve: Serve) -> None:
    reading, writing = "read-0123456789abcdef", "write-0123456789abcdef"
    env = {"AIOVEC_API_KEYS": f"read:{reading} {writing}"}
    served = await asyncio.to_thread(serve, writes=True, env=env)
    context = await browser.new_context(base_url=served.url)
    page = await context.new_page()
    await page.goto("#/t/notes/rows")
    dialog = page.get_by_role("dialog")
    field = dialog.get_by_label("API key", exact=True)
    await expect(field).to_be_focused()
    await field.fill("a-wrong-key-0123456789")
    await page.keyboard.press("Enter")
    await expect(dialog.get_by_role("alert")).to_contain_text("did not accept")
    await field.fill(reading)
    await page.keyboard.press("Enter")
    await expect(page.locator("[data-status]")).to_have_text("Rows 1\u201325 of 60")
    await page.reload()
    await expect(page.locator("[data-status]")).to_have_text("Rows 1\u201325 of 60")
    assert await page.evaluate("JSON.stringify(localStorage) + document.cookie") == "{}"
    assert reading not in page.url
    # A key for reading alone: the server refuses, and the page says why.
    await visit(page, "#/t/notes/row/note-01")
    await page.get_by_role("button", name="Delete row").click()
    await dialog.get_by_role("button", name="Delete").click()
    await expect(page.get_by_role("alert")).to_contain_text(re.compile("read", re.IGNORECASE))
    await context.close()


MODIFIED = datetime(2026, 11, 29, 22, 51, 17, 276224, tzinfo=UTC)


async def test_a_passage_shows_its_place_and_its_neighbours(
    browser: Browser, serve: Serve, tmp_path: Path
) -> None:
    pytest.importorskip("semantic_text_splitter")
    place = tmp_path / "store.db"
    text = "# Keys\n\nAbout keys.\n\n## Rotate\n\nEvery <b>year</b>.\n\n## Revoke\n\nAt once.\n"
    async with connect(place, embedder="demo") as store:
        await store.create_table("documents", documents.SCHEMA)
        passages = documents.passages(text, source="it's.md", modified=MODIFIED)
        await store.upsert("documents", passages)
    await asyncio.to_thread((tmp_path / "aiovec.toml").touch)
    served = await asyncio.to_thread(serve, place)
    context = await browser.new_context(base_url=served.url)
    page = await context.new_page()
    await visit(page, "#/t/documents/search?by=words&q=how+about+every+year")
    hit = page.locator(".hits > li").filter(has_text="Rotate")
    await expect(hit.locator("mark")).to_have_text(["Every", "year"])
    await expect(hit.locator("time")).to_have_text("2026-11-29 22:51 UTC")
    await expect(hit.locator(".hit-id")).to_have_text("it's.md:5")
    await expect(hit).to_contain_text("Keys > Rotate")
    await hit.get_by_role("button", name="Passages around it").click()
    await expect(hit.locator(".text")).to_have_text(
        [re.compile("About keys"), re.compile("Every <b>year</b>"), re.compile("At once")]
    )
    # Whoever uses the keyboard goes on where the new text is.
    await expect(page.locator(":focus")).to_contain_text("About keys")
    await context.close()
