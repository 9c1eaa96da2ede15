"""Loads into a bucket whose storage refuses files: the row count holds."""

from __future__ import annotations

import asyncio
import re
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

_DATA = re.compile(r"(PUT|POST) \S+/docs\.lance/data/")
_REFUSED = b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\n\r\n"


class Faults:
    """Refuses every second write of a data file, until so many were refused."""

    def __init__(self, proxy: Proxy, most: int) -> None:
        self._proxy = proxy
        self._most = most
        self._seen = self.refused = 0
        proxy.arm(self.meddle)

    async def meddle(
        self, request: Request, ask: Callable[[], Awaitable[bytes]], client: asyncio.StreamWriter
    ) -> bool:
        self._proxy.arm(self.meddle)  # for the next request, whatever this one is
        if _DATA.match(request.line):
            self._seen += 1
            if self.refused < self._most and self._seen > 4:
                self.refused += 1
                client.write(_REFUSED)
                return True
        client.write(await ask())
        return True


@pytest.mark.parametrize("most", [3, 100])
async def test_the_row_count_holds(
    cluster: Cluster, parts: Path, bucket: Bucket, tmp_path: Path, most: int
) -> None:
    url = bucket.new_url()
    config = tmp_path / "aiovec.toml"
    load = ("load", "docs", parts / "*.parquet", "--config", config)
    async with Proxy(bucket.endpoint) as proxy:
        faults = Faults(proxy, most)
        options = {**bucket.options, "aws_endpoint": proxy.url, "client_max_retries": "3"}
        listed = ", ".join(f'{name} = "{value}"' for name, value in options.items())
        config.write_text(
            f'[retrieval]\nbackend = "lancedb"\nlancedb_url = "{url}"\n'
            f"[retrieval.lancedb]\nstorage_options = {{ {listed} }}\n"
        )
        code, said = await asyncio.to_thread(cluster.run, *load)
        assert faults.refused > 0
        if most > 50:
            assert code == 1, said
            assert "loaded" not in said
        async with opened(url, storage_options=bucket.options) as store:
            ids = await ids_in(store, "docs")
            assert len(ids) == len(set(ids)) == (0 if code else ALL)
            if code:  # it was abandoned, so others may write
                await store.insert("docs", [{"id": "x", "embedding": [1.0] * 384}])
                await store.delete("docs", ["x"])
        proxy.disarm()
        faults._most = 0
        code, said = await asyncio.to_thread(cluster.run, *load)
        assert code == 0, said
    async with opened(url, storage_options=bucket.options) as store:
        ids = await ids_in(store, "docs")
        assert len(ids) == len(set(ids)) == ALL
