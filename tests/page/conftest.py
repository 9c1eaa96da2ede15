"""A browser and servers, each started once for all tests of the page."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import pytest_asyncio
from tests.page.filling import fill
from tests.server.process import Served, serving

if TYPE_CHECKING:
    from playwright.async_api import Browser, BrowserContext, Page, Playwright

SECONDS_TO_WAIT = 60
# The browser of a machine without the network asks for nothing by itself.
OPTIONS = [
    "--no-sandbox",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-dev-shm-usage",
    "--disable-gpu",
    "--disable-quic",
    "--disable-sync",
    "--no-first-run",
    # One renderer serves all pages of a context: to start another took most of a test's CPU.
    "--process-per-site",
]


CONFIG = """
[retrieval.embedders.default]
kind = "demo"
[retrieval.server]
access_log = false
page_writes = {writes}
"""
Serve = Callable[..., Served]


@pytest.fixture(scope="session")
def serve(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serve]:
    """Start servers of a filled store that end with the tests of this process."""
    with contextlib.ExitStack() as stack:

        def start(place: Path | None = None, *options: str, writes: bool = False,
                  env: Mapping[str, str] | None = None) -> Served:  # fmt: skip
            if place is None:
                place = tmp_path_factory.mktemp("served") / "store.db"
                asyncio.run(fill(place))
                config = CONFIG.format(writes=str(writes).lower())
                place.with_name("aiovec.toml").write_text(config)
            config = place.with_name("aiovec.toml")
            return stack.enter_context(serving("-s", place, "--config", config, *options, env=env))

        yield start


def chromium_of(playwright: Playwright) -> str | None:
    """Return the path of the Chromium on this machine, or else of the one that Playwright
    installed; None if there is neither."""
    names = ("chromium", "chromium-browser", "google-chrome")
    paths = [*map(shutil.which, names), playwright.chromium.executable_path]
    return next((path for path in paths if path and Path(path).exists()), None)


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def browser() -> AsyncIterator[Browser]:
    """Chromium, once for all tests of this process."""
    playwright = pytest.importorskip("playwright.async_api")
    playwright.expect.set_options(timeout=SECONDS_TO_WAIT * 1000)
    async with playwright.async_playwright() as running:
        path = await asyncio.to_thread(chromium_of, running)
        if path is None:
            pytest.skip("no Chromium is installed")
        made = await running.chromium.launch(executable_path=path, args=OPTIONS)
        yield made
        await made.close()


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def served(browser: Browser, serve: Serve) -> Served:
    """The server of most tests, which lets the page write."""
    return await asyncio.to_thread(serve, writes=True)


class Watch:
    """Collects what must not happen in a page: errors, other hosts, breaches of the policy."""

    def __init__(self, origin: str) -> None:
        self.origin = origin
        self.errors: list[str] = []

    async def attach(self, page: Page) -> None:
        page.on("request", lambda request: self._request(request.url))
        page.on("pageerror", lambda error: self.errors.append(f"error: {error}"))
        page.on("dialog", lambda dialog: self.errors.append(f"dialog: {dialog.message}"))
        page.on("console", lambda said: self._console(said.text))
        await page.add_init_script(
            "addEventListener('securitypolicyviolation', (event) => "
            "console.error(`policy: ${event.violatedDirective} ${event.blockedURI}`));"
        )

    def _request(self, url: str) -> None:
        if not url.startswith((self.origin, "data:")):
            self.errors.append(f"request: {url}")

    def _console(self, text: str) -> None:
        # A browser logs each failed answer; those are checked by the tests themselves.
        if not text.startswith("Failed to load resource"):
            self.errors.append(f"console: {text}")


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def context(browser: Browser, served: Served) -> AsyncIterator[BrowserContext]:
    """The context of all pages at the server. The first page keeps its renderer."""
    made = await browser.new_context(base_url=served.url, reduced_motion="reduce")
    made.set_default_timeout(SECONDS_TO_WAIT * 1000)
    first = await made.new_page()
    await first.goto("/page/about")
    yield made
    await made.close()


@pytest_asyncio.fixture(loop_scope="session")
async def page(context: BrowserContext, served: Served) -> AsyncIterator[Page]:
    """Yield a new page; at its end fail if a script ran, an error came or something was kept."""
    made = await context.new_page()
    watch = Watch(served.url)
    await watch.attach(made)
    yield made
    ran = await made.evaluate("window.ran ?? null")
    kept = await made.evaluate("localStorage.length")
    await made.close()
    await asyncio.sleep(0)
    assert ran is None, "a script of a row ran"
    assert not watch.errors
    assert not kept, "the page left something for the next"
    assert not await context.cookies()
