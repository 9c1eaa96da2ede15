"""Rows that want to be more than text: the page shows them, and nothing else happens.

That no script of a row ran, no other host was asked and no policy was breached, the fixture of the
page looks at behind each test.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING
from urllib.parse import quote

import pytest
from tests.page.serving import CLOSING, HOSTILE_IDS, HOSTILE_KEYS, LONG, SCRIPT

playwright = pytest.importorskip("playwright.async_api")

if TYPE_CHECKING:
    from playwright.async_api import Browser, Page, Route
    from tests.page.conftest import Served

expect = playwright.expect
pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(120)]

HIDDEN = re.compile("[\u202a-\u202e\u2066-\u2069\u0007\n]")


def told(text: str) -> str:
    """A text as the page shows it: signs without a shape stand there by number."""
    return HIDDEN.sub(lambda sign: sign[0] if sign[0] == "\n" else f"U+{ord(sign[0]):04X}", text)


def words(text: str) -> str:
    return " ".join(text.split())


async def test_rows(page: Page) -> None:
    await page.goto("#/t/hostile")
    await expect(page.locator("tbody tr")).to_have_count(len(HOSTILE_IDS))
    text = words(await page.locator("table").inner_text())
    assert words(SCRIPT) in text
    assert words(CLOSING) in text
    assert "safeU+202Egnp.exe" in text
    assert "empty text" in text  # the key without a name
    assert len(text) < 40_000  # of the long text only its beginning


async def test_each_row_by_its_link(page: Page) -> None:
    for id in HOSTILE_IDS:
        await page.goto("#/t/hostile")
        await page.locator(f'tbody th a[href="#/t/hostile/row/{quote(id, safe=SAFE)}"]').click()
        await expect(page.locator("h2.row-id")).to_contain_text(told(id)[:5].strip())
        assert words(await page.locator("h2.row-id").inner_text()) == words(told(id))
        fields = page.locator("dl.fields")
        names = [words(text) for text in await fields.locator("dt").all_inner_texts()]
        expected = {words(told(key)) or "empty text" for key in HOSTILE_KEYS}
        assert {name.rstrip("…")[:100] for name in names} >= {name[:100] for name in expected}
        await expect(fields).to_contain_text(SCRIPT)
        await page.get_by_role("link", name="More like this").click()
        await expect(page.locator("[data-status]")).to_contain_text(re.compile(r"\d\shits"))
        hits = await page.locator(".hit-id").all_inner_texts()
        assert len(hits) == len(HOSTILE_IDS) - 1
        assert words(told(id)) not in [words(hit) for hit in hits]


# What encodeURIComponent leaves as it is, besides letters, digits and "_.-~".
SAFE = "!*'()"


async def test_a_long_text_in_two_steps(page: Page) -> None:
    await page.goto(f"#/t/hostile/row/{quote(HOSTILE_IDS[1], safe='')}")
    field = page.locator("dd").filter(has_text="needle").first
    await expect(field).to_contain_text("long long")
    assert len(await field.inner_text()) < 5_000
    await field.get_by_role("button", name=re.compile("Show all 1..,... characters")).click()
    await expect(field).to_contain_text(CLOSING)
    assert len(await field.inner_text()) > len(LONG)


async def test_highlights(page: Page) -> None:
    await page.goto("#/t/hostile/search?by=words&q=needle")
    await expect(page.locator(".hits > li")).to_have_count(len(HOSTILE_IDS))
    await expect(page.locator("mark").first).to_have_text("needle")
    await expect(page.locator(".hits")).to_contain_text("<img src=x")
    assert await page.locator(".hits img, .hits script, .hits b").count() == 0


async def test_the_map(page: Page) -> None:
    await page.goto("#/t/hostile/map?color=constructor")
    await expect(page.locator(".groups")).to_contain_text("<img src=x")
    await page.locator("canvas.map").focus()
    for key in ("ArrowRight", "ArrowRight", "ArrowLeft", "ArrowUp"):
        await page.keyboard.press(key)
        await expect(page.locator(".panel:not([aria-busy])")).to_contain_text("needle")
    canvas = page.locator("canvas.map")
    box = await canvas.bounding_box()
    assert box is not None
    for x in range(0, int(box["width"]), 40):
        await canvas.hover(position={"x": x, "y": box["height"] / 2})


async def test_deleting_a_row_whose_id_looks_like_a_folder(page: Page) -> None:
    table = {"name": "folders", "schema": {"dim": 2}}
    assert (await page.request.post("/tables", data=table)).ok
    rows = [{"id": id, "embedding": [1, 0]} for id in (".", "..", "...")]
    assert (await page.request.post("/tables/folders/records", data=rows)).ok
    try:
        await page.goto("#/t/folders/row/..")
        await page.get_by_role("button", name="Delete row").click()
        await page.get_by_role("dialog").get_by_role("button", name="Delete").click()
        await expect(page.locator("tbody tr")).to_have_count(2)
        await expect(page.locator("tbody a[href='#/t/folders/row/.']")).to_have_count(1)
    finally:
        await page.request.delete("/tables/folders?confirm=folders")


ADDRESSES = [
    f"#/t/{quote(SCRIPT)}",
    f"#/t/notes/{quote(SCRIPT)}",
    f"#/t/notes/row/{quote(SCRIPT, safe='')}",
    f"#/t/notes?where={quote(SCRIPT)}&sort={quote(CLOSING)}&from=-5&size=9e9",
    f"#/t/notes/search?by=words&q={quote(SCRIPT)}&k=99999",
    f"#/t/notes/search?by=__proto__&q={quote(CLOSING)}",
    f"#/t/notes/map?color={quote(SCRIPT)}&rows=9999999",
    f"#/activity?of={quote(SCRIPT)}",
    "#/?from=99999999999999999999",
    "#/t/%E0%A4%A",
    "#/t/../../etc/passwd",
    "#/t/notes%2F..%2Fempty",
    "#/constructor",
    "#/t/notes/constructor",
    "#/t/notes/__proto__",
    "#///////",
]


async def test_hostile_addresses(page: Page) -> None:
    for where in ADDRESSES:
        await page.goto("/#/migration")
        await expect(page.get_by_role("heading", level=1)).to_have_text("Migration")
        await page.goto(where)
        # Each leads to an answer in words.
        await expect(page.locator("main:not([aria-busy])")).not_to_contain_text("No migration")
        await expect(page.locator("main")).to_contain_text(re.compile("[a-z]{3}"))
        assert await page.locator("main img").count() == 0, where


PROBLEMS = [
    ("application/problem+json", json.dumps({"title": "x", "detail": SCRIPT})),
    ("application/problem+json", '{"detail": {"a": [1]}, "title": 7}'),
    ("application/problem+json", "null"),
    ("text/html", f"<html>{SCRIPT}</html>"),
    ("application/json", ""),
]


async def test_hostile_problems(page: Page) -> None:
    await page.goto("/#/migration")
    for kind, body in PROBLEMS:

        async def answer(route: Route, kind: str = kind, body: str = body) -> None:
            await route.fulfill(status=500, content_type=kind, body=body)

        await page.route("**/page/overview*", answer)
        await page.goto("#/")
        await expect(page.get_by_role("alert")).to_contain_text("That did not work")
        assert await page.locator("main img").count() == 0
        await page.unroute("**/page/overview*")
        await page.get_by_role("button", name="Try again").click()
        await expect(page.get_by_role("heading", level=1)).to_have_text("Tables")
        await page.goto("#/activity")


async def test_the_policy_holds(browser: Browser, served: Served) -> None:
    """A script that someone brought into the page all the same would not run."""
    context = await browser.new_context(base_url=served.url)
    page = await context.new_page()
    await page.goto("/")
    stopped = await page.evaluate(
        """() => new Promise((resolve) => {
            addEventListener("securitypolicyviolation",
                (event) => resolve(event.violatedDirective));
            try { document.body.innerHTML = "<img src=x onerror='window.ran=1'>"; }
            catch (error) { resolve(error.name); }
            setTimeout(() => resolve("nothing"), 2000);
        })"""
    )
    assert stopped in ("TypeError", "require-trusted-types-for")
    stopped = await page.evaluate(
        """() => new Promise((resolve) => {
            const image = new Image();
            image.onerror = () => resolve("stopped");
            image.onload = () => resolve("loaded");
            image.src = "http://127.0.0.2:1/x.png";
        })"""
    )
    assert stopped == "stopped"
    framed = await page.evaluate(
        """() => new Promise((resolve) => {
            addEventListener("securitypolicyviolation",
                (event) => resolve(event.violatedDirective));
            const frame = document.createElement("iframe");
            frame.src = "/";
            document.body.append(frame);
            setTimeout(() => resolve("nothing"), 2000);
        })"""
    )
    assert framed in ("frame-src", "frame-ancestors")
    assert await page.evaluate("window.ran ?? null") is None
    await context.close()
