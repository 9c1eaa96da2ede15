"""Loads into a bucket that refuses files, and loads whose driver is killed."""

from __future__ import annotations

import asyncio
import re
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from tests.harness.proxy import Proxy, Request
from tests.lancedb.buckets import Bucket
from tests.lancedb.support import ids_in, opened

from .cluster import Cluster
from .test_load import ALL, bucket, parts

__all__ = ["bucket", "parts"]
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

_COMMIT = re.compile(r"PUT \S+/docs\.lance/_versions/")
_DATA = re.compile(r"(PUT|POST) \S+/docs\.lance/data/")
_REFUSED = b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\n\r\n"


class Faults:
    """Refuses writes of data files, up to a number of them."""

    def __init__(self, proxy: Proxy, most: int) -> None:
        self._proxy = proxy
        self._most = most
        self._seen = self.refused = 0
        proxy.arm(self.meddle)

    async def meddle(
        self, request: Request, ask: Callable[[], Awaitable[bytes]], client: asyncio.StreamWriter
    ) -> bool:
        self._proxy.arm(self.meddle)  # for the next request
        if _DATA.match(request.line):
            self._seen += 1
            if self.refused < self._most and self._seen > 4:
                self.refused += 1
                client.write(_REFUSED)
                return True
        client.write(await ask())
        return True


def write_config(config: Path, url: str, bucket: Bucket, proxy: Proxy) -> None:
    options = {**bucket.options, "aws_endpoint": proxy.url, "client_max_retries": "3"}
    listed = ", ".join(f'{name} = "{value}"' for name, value in options.items())
    config.write_text(
        f'[retrieval]\nbackend = "lancedb"\nlancedb_url = "{url}"\n'
        f"[retrieval.lancedb]\nstorage_options = {{ {listed} }}\n"
    )


@pytest.mark.parametrize("most", [3, 100])
async def test_a_load_into_a_failing_bucket_adds_all_rows_or_none(
    cluster: Cluster, parts: Path, bucket: Bucket, tmp_path: Path, most: int
) -> None:
    url = bucket.new_url()
    config = tmp_path / "aiovec.toml"
    load = ("import", "--table", "docs", parts / "*.parquet", "--config", config)
    async with Proxy(bucket.endpoint) as proxy:
        faults = Faults(proxy, most)
        write_config(config, url, bucket, proxy)
        code, said = await asyncio.to_thread(cluster.run, *load)
        assert faults.refused > 0
        if most > 50:
            assert code == 1, said
            assert "imported" not in said
        async with opened(url, storage_options=bucket.options) as store:
            ids = await ids_in(store, "docs")
            assert len(ids) == len(set(ids)) == (0 if code else ALL)
            if code:  # the load was abandoned, so other writers may write
                await store.insert("docs", [{"id": "x", "embedding": [1.0] * 384}])
                await store.delete("docs", ["x"])
        proxy.disarm()
        faults._most = 0
        code, said = await asyncio.to_thread(cluster.run, *load)
        assert code == 0, said
    async with opened(url, storage_options=bucket.options) as store:
        ids = await ids_in(store, "docs")
        assert len(ids) == len(set(ids)) == ALL


@pytest.mark.parametrize("done", [False, True], ids=["before the commit", "after it"])
async def test_a_driver_killed_during_the_commit_adds_all_rows_or_none(
    cluster: Cluster, parts: Path, bucket: Bucket, tmp_path: Path, done: bool
) -> None:
    """The driver never gets the bucket's answer, whether or not the new version was written."""
    url = bucket.new_url()
    config = tmp_path / "aiovec.toml"
    load = ("import", "--table", "docs", parts / "*.parquet", "--config", config)
    async with Proxy(bucket.endpoint) as proxy:
        write_config(config, url, bucket, proxy)

        async def kill(
            request: Request, ask: Callable[[], Awaitable[bytes]], client: asyncio.StreamWriter
        ) -> bool:
            written = any(_DATA.match(sent.line) for sent in proxy.requests)
            if not (written and _COMMIT.match(request.line)):
                proxy.arm(kill)
                client.write(await ask())
                return True
            if done:
                await ask()
            driver.kill()
            return False

        proxy.arm(kill)
        driver = cluster.start_command(*load)
        out, err = await asyncio.to_thread(driver.communicate, timeout=250)
        assert driver.returncode == -signal.SIGKILL, out + err
        async with opened(url, storage_options=bucket.options) as store:
            assert await store.count("docs") == (ALL if done else 0)
        for _ in range(2):
            code, said = await asyncio.to_thread(cluster.run, *load)
            assert code == 0, said
    async with opened(url, storage_options=bucket.options) as store:
        ids = await ids_in(store, "docs")
        assert len(ids) == len(set(ids)) == ALL
        await store.insert("docs", [{"id": "x", "embedding": [1.0] * 384}])
