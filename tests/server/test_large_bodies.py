"""Bodies of a few MiB with far more values than a call may have are refused cheaply."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.error import HTTPError

import pytest
from tests.harness.cases import case
from tests.server.process import Served, serving

pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")]

MIB = 2**20
LOOP_SECONDS = 0.25
"""CPU of the thread of the event loop, most of it for the receiving of 8 MiB."""
MEMORY = 100 * MIB
"""Bytes by which a request may make the process grow."""


def many(item: str, count: int) -> str:
    return f"[{','.join([item] * count)}]"


def members(count: int, value: str) -> str:
    return ",".join(f'"k{n:06}":{value}' for n in range(count))


TABLES = "/tables"
NUMBERS, NAMES = many("1", 999_000), many('"n"', 999_000)
KEYS = members(119_000, "1")  # more are refused before they are parsed
BODIES = {
    "texts": ("search_many", f'{{"texts": {NUMBERS}}}'),
    "filters": ("search_many", f'{{"vectors": [[1, 0]], "eachWhere": {NUMBERS}}}'),
    "a huge number": ("search_many", f'{{"texts": ["1e400", {NUMBERS[1:]}}}'),
    "order keys": ("find", f'{{"orderBy": {NUMBERS}}}'),
    "names of order keys": ("find", f'{{"orderBy": {NAMES}}}'),
    "names of columns": ("search", f'{{"vector": [1, 0], "select": {NAMES}}}'),
    "marks": ("search_text", f'{{"query": "a", "highlight": {NUMBERS}}}'),
    "keys to remove": ("update", f'{{"where": "TRUE", "remove": {NUMBERS}}}'),
    "names of keys to remove": ("update", f'{{"where": "TRUE", "remove": {NAMES}}}'),
    "boosts": ("search", f'{{"vector": [1, 0], "rerank": {many("{}", 199_000)}}}'),
    "keys of a boost": ("search", f'{{"vector": [1, 0], "rerank": {{{KEYS}}}}}'),
    "unknown keys": ("search", f"{{{KEYS}}}"),
    "more unknown keys": ("search", f"{{{members(500_000, '1')}}}"),
    "keys of a schema": (TABLES, f'{{"name": "t", "schema": {{"dim": 2, {KEYS}}}}}'),
    "options of a field": ("fields", f'{{"name": "f", "field": {{"type": "int", {KEYS}}}}}'),
    **{
        f"{count:,} fields": (
            TABLES,
            f'{{"name": "t", "schema": {{"dim": 2, "fields": {{{members(count, value)}}}}}}}',
        )
        for count, value in ((119_000, '"int"'), (480_000, '"int"'), (640_000, "1"))
    },
}  # fmt: skip


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving("--store", tmp_path_factory.mktemp("bodies") / "store.db") as served:
        schema = {"dim": 2, "fields": {"n": "int"}}
        served.call("POST", "/tables", {"name": "notes", "schema": schema})
        served.call("POST", "/tables/notes/records", [{"id": "a", "embedding": [1, 0]}])
        yield served


def loop_seconds(served: Served) -> float:
    """Return the CPU time of the server's main thread, which runs its event loop."""
    pid = served.process.pid
    return int(Path(f"/proc/{pid}/task/{pid}/schedstat").read_text().split()[0]) / 1e9


def memory(served: Served, name: str) -> int:
    """Return a line of the process's status, in bytes."""
    text = Path(f"/proc/{served.process.pid}/status").read_text()
    (line,) = (line for line in text.splitlines() if line.startswith(name))
    return int(line.split()[1]) * 1024


def test_a_body_with_far_too_many_values_is_refused_cheaply(server: Served) -> None:
    for name, (end, body) in BODIES.items():
        path = end if end == TABLES else f"{TABLES}/notes/{end}"
        Path(f"/proc/{server.process.pid}/clear_refs").write_text("5")  # forgets the peak
        before, held = loop_seconds(server), memory(server, "VmRSS")
        with case(name):
            with pytest.raises(HTTPError) as refused:
                server.call("POST", path, body.encode())
            refused.value.close()
            assert refused.value.code in (413, 422)
            assert loop_seconds(server) - before < LOOP_SECONDS
            assert memory(server, "VmHWM") - held < MEMORY
