"""The page in a browser: each view, by pointer, by keyboard alone, in both colour schemes."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Literal

import pytest
from tests.page.conftest import Watch

import aiovec

playwright = pytest.importorskip("playwright.async_api")

if TYPE_CHECKING:
    from playwright.async_api import Browser, Page, Route
    from tests.page.conftest import Served

expect = playwright.expect
pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(120)]

VIEWS = {
    "tables": "#/",
    "rows": "#/t/notes?where=year+%3E%3D+2000&sort=year&down=1",
    "wrong filter": "#/t/notes?where=year+%3E%3D",
    "empty": "#/t/empty",
    "row": "#/t/notes/row/note-07",
    "no row": "#/t/notes/row/nothing",
    "words": "#/t/notes/search?by=words&q=night+train",
    "both": "#/t/notes/search?by=both&q=ship+in+the+harbour",
    "like": "#/t/notes/search?by=like&id=note-03",
    "map": "#/t/notes/map?color=topic",
    "details": "#/t/notes/details",
    "activity": "#/activity",
    "migration": "#/migration",
    "no table": "#/t/nothing",
    "hostile rows": "#/t/hostile",
}


SCHEMES: tuple[Literal["light", "dark"], ...] = ("light", "dark")
AXE = "async (options) => (await axe.run(document, options)).violations"

# In CSS pixels, where the canvas has paint.
A_DRAWN_PLACE = """() => {
    const canvas = document.querySelector("canvas.map");
    const { width, height } = canvas;
    const { data } = canvas.getContext("2d").getImageData(0, 0, width, height);
    const at = data.findIndex((value, n) => n % 4 === 3 && value > 100) >> 2;
    if (at < 0) return null;
    const ratio = width / canvas.clientWidth;
    return [(at % width) / ratio, Math.floor(at / width) / ratio + 2];
}"""


async def visit(page: Page, where: str) -> None:
    await page.goto(where)
    await settled(page)


async def settled(page: Page) -> None:
    await page.locator("main:not([aria-busy]) h1, main:not([aria-busy]) .empty").first.wait_for()


class TestViews:
    async def test_tables(self, page: Page) -> None:
        await visit(page, "#/")
        await expect(page).to_have_title("Tables · aiovec")
        await expect(page.get_by_role("heading", level=1)).to_have_text("Tables")
        row = page.get_by_role("row").filter(has_text="notes")
        for text in ("60", "kB", "cosine", "every search is exact", "sqlite"):
            await expect(row).to_contain_text(text)
        await expect(page.locator("main")).to_contain_text("4 tables")
        await page.get_by_role("link", name="notes", exact=True).click()
        await expect(page).to_have_url(re.compile("#/t/notes$"))
        await expect(page.get_by_role("heading", level=1)).to_have_text("notes")
        await expect(page.get_by_role("heading", level=1)).to_be_focused()

    async def test_no_tables_yet(self, page: Page) -> None:
        async def none(route: Route) -> None:
            await route.fulfill(
                json={"backend": "sqlite", "writes": True, "tables": [], "total": 0}
            )

        await page.route("**/page/overview*", none)
        await visit(page, "#/")
        await expect(page.locator("main")).to_contain_text("no tables yet")
        await expect(page.locator("main")).to_contain_text("curl -X POST")

    async def test_rows_by_page(self, page: Page) -> None:
        await visit(page, "#/t/notes")
        rows = page.locator("tbody tr")
        await expect(rows).to_have_count(25)
        await expect(rows.first).to_contain_text("note-00")
        await expect(page.locator("[data-status]")).to_have_text("Rows 1\u201325 of 60")
        await page.get_by_role("link", name="Last").click()
        await expect(page.locator("[data-status]")).to_have_text("Rows 51\u201360 of 60")
        await expect(rows).to_have_count(10)
        await expect(page.get_by_role("link", name="Next")).to_have_count(0)
        await page.get_by_role("link", name="Previous").click()
        await expect(page.locator("[data-status]")).to_have_text("Rows 26\u201350 of 60")
        await page.go_back()
        await expect(page.locator("[data-status]")).to_have_text("Rows 51\u201360 of 60")

    async def test_the_filter_of_the_hint_is_one(self, page: Page, served: Served) -> None:
        """Also where a field has the name of one of the filter's words."""
        await visit(page, "#/")
        fields = {"in": "int", "Null": {"type": "text", "text": True}}
        hint = await page.evaluate(
            "async ([of, fields]) => (await import(of)).filterHint({schema: {fields}})",
            [f"{served.url}assets/view-rows.js", fields],
        )
        schema = aiovec.Schema(2, fields={"in": int, "Null": str})
        async with aiovec.connect(":memory:") as store:
            await store.create_table("notes", schema)
            assert await store.count("notes", hint.removeprefix("Such as ")) == 0

    async def test_scores_close_to_nothing_are_told(self, page: Page, served: Served) -> None:
        await visit(page, "#/")
        shown = await page.evaluate(
            "async (of) => { const { score } = await import(of);"
            " return [0, 1, -0.25, 0.001, 0.000123, -4e-7, null].map(score); }",
            f"{served.url}assets/format.js",
        )
        assert shown == ["0.0000", "1.0000", "-0.2500", "0.0010", "0.00012", "-4.0e-7", "\u2013"]

    async def test_rows_by_filter_and_order(self, page: Page) -> None:
        await visit(page, "#/t/notes")
        await page.get_by_label("Filter", exact=True).fill("topic = 'sea' AND year < 2010")
        await page.get_by_label("Sort by").select_option("year")
        await page.get_by_label("Direction").select_option("Descending")
        await page.get_by_role("button", name="Show").click()
        await expect(page.locator("[data-status]")).to_have_text("Rows 1\u20135 of 5")
        years = await page.locator("td[data-label=year]").all_inner_texts()
        assert years == ["2006", "2002", "1998", "1994", "1990"]
        await expect(page.get_by_label("Filter", exact=True)).to_have_value(
            "topic = 'sea' AND year < 2010"
        )

    async def test_a_wrong_filter_is_told_in_the_words_of_the_server(self, page: Page) -> None:
        await visit(page, "#/t/notes?where=yeer+%3D+1")
        await expect(page.get_by_role("alert")).to_contain_text("yeer")
        await expect(page.get_by_role("alert")).to_contain_text("year")  # those there are
        await expect(page.get_by_label("Filter", exact=True)).to_have_attribute(
            "aria-invalid", "true"
        )
        await page.get_by_label("Filter", exact=True).fill("year = 1")
        await page.keyboard.press("Enter")
        await expect(page.locator("main")).to_contain_text("No row matches the filter")

    async def test_a_row(self, page: Page) -> None:
        await visit(page, "#/t/notes/row/note-07")
        fields = page.locator("dl.fields")
        await expect(fields).to_contain_text("trains")
        await expect(fields).to_contain_text("9007199254740993")  # beyond a double's integers
        await expect(page.locator("main")).to_contain_text("256 dimensions")
        await page.get_by_role("link", name="More like this").click()
        await expect(page.locator("[data-status]")).to_contain_text("10 hits in")
        await expect(page.locator(".hits > li").first).not_to_contain_text("note-07")

    @pytest.mark.parametrize(
        ("by", "label", "first"),
        [("Keywords", "Words", "ship"), ("Meaning", "Text", "ship"), ("Both", "Text", "ship")],
    )
    async def test_search_by_text(self, page: Page, by: str, label: str, first: str) -> None:
        await visit(page, "#/t/notes/search")
        await page.get_by_text(by, exact=True).click()
        await page.get_by_label(label, exact=True).fill("ship harbour")
        await page.get_by_role("button", name="Search", exact=True).click()
        await expect(page.locator("[data-status]")).to_contain_text(re.compile(r"\d+\shits? in \d"))
        hit = page.locator(".hits > li").first
        await expect(hit).to_contain_text(first)
        await expect(hit).to_contain_text("topic sea")
        await expect(hit.locator(".score")).to_contain_text(re.compile(r"\d\.\d{4}"))
        if by == "Keywords":
            await expect(hit.locator("mark").first).to_have_text("ship")
        await page.get_by_text("The same search as a request").click()
        await expect(page.locator("details pre")).to_contain_text("curl -X POST")
        await page.reload()
        await expect(page.locator(".hits > li").first).to_contain_text(first)

    async def test_search_by_a_vector(self, page: Page) -> None:
        await visit(page, "#/t/plain/search")
        labels = await page.locator(".segments label").all_inner_texts()
        assert labels == ["Like a row", "Vector"]  # it has neither keywords nor an embedder
        await page.get_by_text("Vector", exact=True).click()
        numbers = page.get_by_label("Numbers")
        await numbers.fill("[1, 2]")
        await page.get_by_role("button", name="Search", exact=True).click()
        await expect(page.get_by_role("alert")).to_contain_text(
            "has 2 numbers; this table's vectors have 3"
        )
        await numbers.fill("1, x, 2")
        await page.keyboard.press("Tab")
        await page.get_by_role("button", name="Search", exact=True).click()
        await expect(page.get_by_role("alert")).to_contain_text("\u201cx\u201d")
        await numbers.fill("2 4\n1e0")
        await page.get_by_role("button", name="Search", exact=True).click()
        await expect(page.locator(".hits > li").first).to_contain_text("p2")
        await expect(page.locator(".hits > li").first).to_contain_text("distance 0.0000")

    async def test_nothing_found(self, page: Page) -> None:
        await visit(page, "#/t/notes/search?by=words&q=xylophone")
        await expect(page.locator("main")).to_contain_text("Nothing was found")
        await visit(page, "#/t/notes/search?by=like&id=absent")
        await expect(page.get_by_role("alert")).to_contain_text("absent")

    async def test_the_map_by_pointer(self, page: Page) -> None:
        await visit(page, "#/t/notes/map?color=topic")
        await expect(page.locator("[data-status]")).to_have_text("60 rows")
        await expect(page.locator(".groups li")).to_have_count(4)
        canvas = page.locator("canvas.map")
        x, y = await (await page.wait_for_function(A_DRAWN_PLACE)).json_value()
        await canvas.hover(position={"x": x, "y": y})
        await expect(page.locator(".tip")).to_contain_text("note-")
        await canvas.click(position={"x": x, "y": y})
        await expect(page.locator(".panel h2")).to_contain_text("note-")
        await expect(page.locator(".nearest li")).to_have_count(10)

    async def test_the_map_changes_its_colours(self, page: Page) -> None:
        await visit(page, "#/t/notes/map")
        await expect(page.locator(".groups")).to_be_hidden()
        await page.get_by_label("Colour by").select_option("year")
        await expect(page.locator(".groups li")).to_have_count(8)
        await expect(page).to_have_url(re.compile("color=year"))

    async def test_details(self, page: Page) -> None:
        await visit(page, "#/t/notes/details")
        for text in ("every search is exact", "keyword search", "index: bitmap", "256 dimensions"):
            await expect(page.locator("main")).to_contain_text(text)

    async def test_activity(self, page: Page) -> None:
        await visit(page, "#/t/notes/search?by=meaning&q=train")
        await visit(page, "#/activity")
        await expect(page.locator(".chart svg")).to_have_count(2)
        value = page.locator(".tile").filter(has_text="Last five minutes").locator("dd")
        await expect(value).to_contain_text(re.compile("[1-9]"))  # of the next poll, at the latest
        await page.get_by_text("Writes", exact=True).click()
        await expect(page).to_have_url(re.compile("of=write"))

    async def test_no_polling_while_the_tab_is_hidden(
        self, browser: Browser, served: Served
    ) -> None:
        context = await browser.new_context(base_url=served.url)
        await context.clock.install()  # for all pages of a context
        page = await context.new_page()
        watch = Watch(served.url)
        await watch.attach(page)
        asked: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        await visit(page, "#/activity")
        await page.evaluate(
            "Object.defineProperty(document, 'hidden', {value: true, configurable: true})"
        )
        await page.clock.run_for(10_000)
        before = len(asked)
        await page.clock.run_for(30_000)
        assert len(asked) == before
        await page.evaluate(
            "Object.defineProperty(document, 'hidden', {value: false});"
            "document.dispatchEvent(new Event('visibilitychange'))"
        )
        await page.clock.run_for(3_000)
        await page.wait_for_timeout(0)
        assert any("figures" in url for url in asked[before:])
        await context.close()
        assert not watch.errors

    async def test_no_migration(self, page: Page) -> None:
        await visit(page, "#/migration")
        await expect(page.locator("main")).to_contain_text("No migration is open")

    async def test_deleting_asks_first(self, page: Page) -> None:
        await visit(page, "#/t/plain/row/p4")
        await page.get_by_role("button", name="Delete row").click()
        await expect(page.get_by_role("dialog")).to_contain_text("p4")
        await page.keyboard.press("Escape")
        await expect(page.get_by_role("dialog")).to_have_count(0)
        await page.get_by_role("button", name="Delete row").click()
        await page.get_by_role("dialog").get_by_role("button", name="Cancel").click()
        await expect(page.get_by_role("dialog")).to_have_count(0)
        await page.get_by_role("button", name="Delete row").click()
        await page.get_by_role("dialog").get_by_role("button", name="Delete").click()
        await expect(page).to_have_url(re.compile("#/t/plain$"))
        await expect(page.locator("[data-status]")).to_have_text("Rows 1\u20134 of 4")
        row = {"id": "p4", "embedding": [4, 16, 1], "n": 4}
        assert (await page.request.post("/tables/plain/records", data=[row])).ok

    async def test_optimizing(self, page: Page) -> None:
        await visit(page, "#/t/plain/details")
        await page.get_by_role("button", name="Optimize table").click()
        await page.get_by_role("dialog").get_by_role("button", name="Optimize").click()
        await expect(page.locator("#live")).to_contain_text("Optimized in")
        await expect(page.locator("dl.fields")).to_contain_text("just now")

    async def test_by_default_the_page_offers_no_writes(self, page: Page) -> None:
        async def about(route: Route) -> None:
            await route.fulfill(json={"version": "1", "backend": "sqlite", "writes": False})

        await page.route("**/page/about", about)
        await visit(page, "#/t/notes/row/note-01")
        await expect(page.locator("header")).to_contain_text("Read-only")
        await expect(page.get_by_role("button", name="Delete row")).to_have_count(0)
        await visit(page, "#/t/notes/details")
        await expect(page.get_by_role("button", name="Optimize table")).to_have_count(0)

    async def test_what_is_not_there(self, page: Page) -> None:
        await visit(page, "#/t/nothing")
        await expect(page.get_by_role("alert")).to_contain_text("nothing")
        await visit(page, "#/t/notes/row/nothing")
        await expect(page.locator("main")).to_contain_text("There is no such row")
        await visit(page, "#/some/where")
        await expect(page.locator("main")).to_contain_text("There is no such page")


class TestKeyboard:
    async def test_skip_link_and_navigation(self, page: Page) -> None:
        await visit(page, "#/")
        await page.keyboard.press("Tab")
        await expect(page.locator(".skip")).to_be_focused()
        await expect(page.locator(".skip")).to_be_in_viewport()
        await page.keyboard.press("Enter")
        await expect(page.get_by_role("heading", level=1)).to_be_focused()
        await page.keyboard.press("Tab")
        await expect(page.get_by_role("link", name="empty")).to_be_focused()
        await page.keyboard.press("Enter")
        await expect(page.get_by_role("heading", level=1)).to_have_text("empty")
        await expect(page.get_by_role("heading", level=1)).to_be_focused()

    async def test_what_has_the_focus_shows_it(self, page: Page) -> None:
        await visit(page, "#/t/notes")
        seen = 0
        for _ in range(40):
            await page.keyboard.press("Tab")
            outline = await page.evaluate(
                "(() => { const one = document.activeElement;"
                " if (one === document.body) return null;"
                " const style = getComputedStyle(one);"
                " return [one.tagName, style.outlineStyle, parseFloat(style.outlineWidth)]; })()"
            )
            if outline is None:
                break
            assert outline[1] == "solid", outline
            assert outline[2] >= 2, outline
            seen += 1
        assert seen > 20

    async def test_a_search(self, page: Page) -> None:
        await visit(page, "#/t/notes/search")
        await page.locator("input[name=by]:checked").focus()
        await page.keyboard.press("ArrowLeft")  # from both to meaning
        await page.keyboard.press("ArrowLeft")  # to keywords
        await page.keyboard.press("Tab")
        await page.keyboard.type("gulls")
        await page.keyboard.press("Enter")
        await expect(page.locator(".hits > li").first).to_contain_text("gulls")
        await expect(page.locator("#live")).to_contain_text("hits in")

    async def test_the_map(self, page: Page) -> None:
        await visit(page, "#/t/notes/map")
        await page.locator("canvas.map").focus()
        await page.keyboard.press("ArrowRight")
        first = await page.locator(".panel:not([aria-busy]) h2").inner_text()
        await expect(page.locator("#live")).to_contain_text(first)
        for key in ("ArrowRight", "ArrowDown", "ArrowLeft", "ArrowUp"):
            await page.keyboard.press(key)
        await page.keyboard.press("+")
        await page.keyboard.press("0")
        await expect(page.locator(".panel:not([aria-busy])")).to_be_visible()
        await expect(page.locator(".nearest li")).to_have_count(10)
        chosen = await page.locator(".panel h2").inner_text()
        await page.keyboard.press("Enter")
        await expect(page).to_have_url(re.compile(f"/row/{chosen}$"))

    async def test_dialogs_keep_the_focus_and_give_it_back(self, page: Page) -> None:
        await visit(page, "#/t/notes/row/note-02")
        button = page.get_by_role("button", name="Delete row")
        await button.focus()
        await page.keyboard.press("Enter")
        dialog = page.get_by_role("dialog")
        for _ in range(4):
            await page.keyboard.press("Tab")
            assert await page.evaluate(
                "document.activeElement === document.body"
                " || document.activeElement.closest('dialog') !== null"
            )
        await page.keyboard.press("Escape")
        await expect(dialog).to_have_count(0)
        await expect(button).to_be_focused()


class TestAppearance:
    async def test_no_finding_of_axe(self, page: Page) -> None:
        axe = pytest.importorskip("axe_playwright_python.async_playwright").Axe()
        found = []
        await visit(page, "#/")
        await page.evaluate(axe.axe_script)
        for name, where in VIEWS.items():
            await visit(page, where)
            for scheme in SCHEMES:
                await page.emulate_media(color_scheme=scheme)
                # Which elements there are is the same in both: colours alone are looked at again.
                rules = {"runOnly": ["color-contrast"]} if scheme == "dark" else {}
                found += [
                    (name, scheme, one["id"], one["impact"], one["nodes"][0]["html"][:200])
                    for one in await page.evaluate(AXE, {**rules, "resultTypes": ["violations"]})
                ]
        assert not found, json.dumps(found, indent=1)

    async def test_a_phone(self, page: Page) -> None:
        await page.set_viewport_size({"width": 375, "height": 700})
        for name, where in VIEWS.items():
            await visit(page, where)
            width = await page.evaluate("document.documentElement.scrollWidth")
            assert width <= 375, name
            small = await page.evaluate(
                "[...document.querySelectorAll('main button, main select, main input, nav a')]"
                ".filter((one) => one.offsetParent && one.type !== 'radio')"
                ".filter((one) => one.offsetHeight < 24)"
                ".map((one) => one.outerHTML)"
            )
            assert not small, name

    async def test_letters_twice_as_large(self, page: Page) -> None:
        await page.set_viewport_size({"width": 640, "height": 800})
        for name, where in VIEWS.items():
            await visit(page, where)
            await page.evaluate("document.documentElement.style.setProperty('font-size', '200%')")
            width = await page.evaluate("document.documentElement.scrollWidth")
            assert width <= 640, name
            await page.evaluate("document.documentElement.style.removeProperty('font-size')")


class TestServer:
    async def test_a_server_that_dies_and_comes_back(
        self, browser: Browser, serve: Callable[..., Served]
    ) -> None:
        served = serve()
        context = await browser.new_context(base_url=served.url)
        page = await context.new_page()
        await visit(page, "#/t/notes")
        served.end()
        await page.get_by_role("link", name="Next").click()
        await expect(page.locator("#offline")).to_have_text(re.compile("does not answer"))
        await expect(page.locator("tbody tr")).to_have_count(25)  # what was there stays
        await asyncio.to_thread(served.start)
        await expect(page.locator("#offline")).to_be_hidden()
        await expect(page.locator("[data-status]")).to_have_text("Rows 26\u201350 of 60")
        await context.close()

    async def test_a_server_with_keys(self, browser: Browser, serve: Callable[..., Served]) -> None:
        reading, writing = "read-0123456789abcdef", "write-0123456789abcdef"
        env = {"AIOVEC_API_KEYS": f"read:{reading} {writing}"}
        served = await asyncio.to_thread(serve, "allow-writes", env=env)
        context = await browser.new_context(base_url=served.url)
        page = await context.new_page()
        await page.goto("#/t/notes")
        dialog = page.get_by_role("dialog")
        field = dialog.get_by_label("API key", exact=True)
        await expect(dialog).to_contain_text("wants an API key")
        await expect(field).to_be_focused()
        await page.keyboard.press("Escape")  # there is nothing to see without a key
        await expect(field).to_be_focused()
        await field.fill("no header can hold this: é")
        await page.keyboard.press("Enter")
        await expect(dialog).to_be_visible()
        await field.fill("a-wrong-key-0123456789")
        await page.keyboard.press("Enter")
        await expect(dialog.get_by_role("alert")).to_contain_text("did not accept")
        await field.fill(reading)
        await page.keyboard.press("Enter")
        await expect(page.locator("[data-status]")).to_have_text("Rows 1\u201325 of 60")
        await page.reload()
        await expect(page.locator("[data-status]")).to_have_text("Rows 1\u201325 of 60")
        for where in ("search?by=both&q=ship", "search?by=like&id=note-01", "map", "details"):
            await visit(page, f"#/t/notes/{where}")
            await expect(page.locator(".failure, .error:visible")).to_have_count(0)
        assert await page.evaluate("JSON.stringify(localStorage)") == "{}"
        assert await page.evaluate("document.cookie") == ""
        assert reading not in page.url
        # A key for reading alone: the server refuses, and the page says why.
        await visit(page, "#/t/notes/row/note-01")
        await page.get_by_role("button", name="Delete row").click()
        await dialog.get_by_role("button", name="Delete").click()
        await expect(page.get_by_role("alert")).to_contain_text(re.compile("read", re.IGNORECASE))
        await visit(page, "#/t/notes/row/note-01")
        await expect(page.locator("dl.fields")).to_be_visible()
        await context.close()
