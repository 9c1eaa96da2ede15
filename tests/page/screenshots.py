"""The pictures of docs/how-to/deploy.md: ``python -m tests.page.screenshots`` makes them anew.

They show the passages of docs/, so they need no network, only Chromium.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from playwright.async_api import async_playwright
from tests.page.conftest import OPTIONS, chromium_of
from tests.server.process import serving

if TYPE_CHECKING:
    from playwright.async_api import Page

ASSETS = Path(__file__).resolve().parents[2] / "docs" / "assets"
LARGEST = 160_000  # bytes of a picture
WIDE = {"width": 1160, "height": 720}
TALL = {"width": 1160, "height": 840}


async def choose_a_point(page: Page) -> None:
    await page.locator("canvas.map").focus()
    for _ in range(3):
        await page.keyboard.press("ArrowRight")
    await page.locator(".panel:not([aria-busy]) .nearest").wait_for()
    await page.evaluate("document.activeElement.blur(); scrollTo(0, 0)")


async def settle(page: Page) -> None:
    await page.locator("main:not([aria-busy]) h1").wait_for()


PICTURES: list[tuple[str, str, str, dict[str, int], Any]] = [
    ("server-page", "#/t/documents/search?by=both&q=keep+tenants+apart", "light", WIDE, settle),
    ("server-page-map", "#/t/documents/map?color=source&rows=1000", "dark", TALL, choose_a_point),
]


async def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "docs.db"
        imported = [
            sys.executable, "-m", "aiovec", "import", str(ASSETS.parent),
            "--embedder", "local", "-s", str(place),
        ]  # fmt: skip
        await asyncio.to_thread(subprocess.run, imported, check=True, stdout=subprocess.DEVNULL)
        with serving("-s", place) as served:
            await take(served.url)


async def take(url: str) -> None:
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(
            executable_path=chromium_of(playwright), args=OPTIONS
        )
        for name, where, scheme, size, prepare in PICTURES:
            options: Any = {"color_scheme": scheme, "viewport": size, "base_url": url}
            context = await browser.new_context(**options)
            page = await context.new_page()
            for _ in range(4):  # at first, the server reads its model
                await page.goto("about:blank")
                await page.goto(where)
                await settle(page)
            await prepare(page)
            picture = await page.screenshot()
            if len(picture) > LARGEST:
                raise SystemExit(f"{name} has {len(picture)} bytes, more than {LARGEST}")
            await asyncio.to_thread((ASSETS / f"{name}.png").write_bytes, picture)
            await context.close()
        await browser.close()


if __name__ == "__main__":
    asyncio.run(main())
