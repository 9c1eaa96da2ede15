"""Compare aiovec on LanceDB with lancedb itself: searches of the same folder, the same writes."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from functools import partial
from itertools import count
from typing import Any

from tests.lancedb import buckets

import aiovec
from aiovec import Tuning, VectorStore

from .data import ROWS, TABLE, Data, load, row_id
from .measure import Options, Result, in_turn, interleaved, medians, rate, ratios, shared, timed
from .search import recall_of
from .stores import by_aiovec, by_lance, drained, fill, fill_lance, lance, upsert_lance

CLIENTS = 64
# Enough effort for a recall above 0.95 on a table of this size; both sides use the same.
_EFFORT = {"hnsw_sq": {"ef": 100}, "ivf_rq": {"nprobes": 20, "refine": 5}}
_LANCE_NAMES = {"ef": "ef", "nprobes": "nprobes", "refine": "refine_factor"}
_CROWD_SECONDS = 10.0
_WRITE_ROWS, _WRITES, _ALONE, _IN_BUCKET, _IDS = 40_000, 1_000, 50, 128, 40
# So few that there is no vector index: on the local S3 server, measuring one takes minutes.
_BUCKET_ROWS = 8_000

Call = Callable[[int], Awaitable[object]]


async def run(options: Options) -> list[Result]:
    data = load(options.rows(ROWS), options.data)
    folder = options.folder / "ours"
    results = []
    async with AsyncExitStack() as stack:
        store = await stack.enter_async_context(aiovec.connect(f"lancedb://{folder}"))
        await fill(store, data)
        connection = await stack.enter_async_context(lance(folder))
        for kind, effort in _EFFORT.items():
            built = await timed(partial(store.create_index, TABLE, kind))() / 1000
            table = await connection.open_table(TABLE)
            results.append(await _searches(store, table, data, options, kind, effort, built))
        results.append(await _reads(store, table, data, options))
    small = load(min(len(data), options.rows(_WRITE_ROWS)), options.data)
    results.append(await _writes(small, options))
    few = load(min(len(data), options.rows(_BUCKET_ROWS)), options.data)
    results.append(await _bucket(few, options))
    return results


async def _searches(
    store: VectorStore, table: Any, data: Data, options: Options, kind: str,
    effort: dict[str, int], built: float,
) -> Result:  # fmt: skip
    # First with true distances on both sides, then with the distances of the index's codes.
    direct = {_LANCE_NAMES[name]: value for name, value in effort.items()}
    by_codes = {name: value for name, value in effort.items() if name != "refine"}
    direct_codes = {_LANCE_NAMES[name]: value for name, value in by_codes.items()}
    ours, theirs, tuned, exact = "aiovec", "lancedb", "aiovec, as tuned", "aiovec, exact"
    pairs = [(ours, theirs), (f"{ours}, by codes", f"{theirs}, by codes")]
    asking = {
        ours: by_aiovec(store, data, tuning=Tuning(**effort)),
        theirs: by_lance(table, data, **{"refine_factor": 1, **direct}),
        pairs[1][0]: by_aiovec(store, data, tuning=Tuning(**by_codes, measure=False)),
        pairs[1][1]: by_lance(table, data, **direct_codes),
        tuned: by_aiovec(store, data),
        exact: by_aiovec(store, data, exact=True),
    }
    times = await in_turn(asking, len(data.queries), options)
    found_share = {name: await recall_of(ask, data, options) for name, ask in asking.items()}
    measured, crowd = medians(times), options.seconds(_CROWD_SECONDS)
    rates = {name: await rate(ask, CLIENTS, crowd) for name, ask in asking.items() if name != exact}
    measured |= {f"{name}, {CLIENTS} clients (searches/s)": value for name, value in rates.items()}
    return Result(
        f"lancedb, search with {kind}",
        f"the 10 nearest of {data} with their fields, the same folder, {effort}",
        "ms", measured,
        {name: value for pair in pairs for name, value in ratios(times, *pair).items()}
        | {f"{CLIENTS} clients, {a} / {b}": rates[a] / rates[b] for a, b in pairs},
        ["recall: " + "; ".join(f"{name} {value:.4f}" for name, value in found_share.items()),
         f"built and tuned in {built:.1f} s"],
    )  # fmt: skip


async def _reads(store: VectorStore, table: Any, data: Data, options: Options) -> Result:
    turns = count(step=7919)

    def some_id() -> str:
        return row_id(next(turns) % len(data))

    async def get() -> None:
        assert len(await store.get(TABLE, [some_id()])) == 1

    async def bare_get() -> None:
        rows = await table.query().where(f"id = '{some_id()}'").to_arrow()
        assert rows.num_rows == 1

    async def export() -> None:
        await drained(store.export(TABLE), data)

    async def bare_export() -> None:
        await drained(await table.query().to_batches(), data)

    ways = {
        "get of one, aiovec": timed(get), "get of one, lancedb": timed(bare_get),
        "export, aiovec": timed(export), "export, lancedb": timed(bare_export),
    }  # fmt: skip
    times = await interleaved(ways, options.rounds(_IDS))
    return Result(
        "lancedb, get and export", f"{data}, the same folder (median)", "ms", medians(times),
        ratios(times, "get of one, aiovec", "get of one, lancedb")
        | ratios(times, "export, aiovec", "export, lancedb"),
    )  # fmt: skip


def _single(data: Data) -> list[Any]:
    return [data.batch([number]) for number in range(min(len(data), 2_000))]


def _id(turn: int, data: Data) -> str:
    return row_id(turn * 37 % len(data))


def _changes(store: VectorStore, data: Data, batches: list[Any]) -> list[Call]:
    """Return calls that upsert, update and delete one row each."""
    return [
        lambda turn: store.upsert(TABLE, batches[turn % len(batches)]),
        lambda turn: store.update(TABLE, {"pick": turn % 1000}, ids=_id(turn, data)),
        lambda turn: store.delete(TABLE, _id(turn, data)),
    ]


def _bare_changes(table: Any, data: Data, batches: list[Any]) -> list[Call]:
    """Return the same calls to lancedb, under a lock, because concurrent calls would conflict."""
    lock = asyncio.Lock()

    def alone(call: Call) -> Call:
        async def change(turn: int) -> None:
            async with lock:
                await call(turn)

        return change

    return [
        alone(lambda turn: upsert_lance(table, batches[turn % len(batches)])),
        alone(lambda turn: table.update({"pick": turn % 1000}, where=f"id = '{_id(turn, data)}'")),
        alone(lambda turn: table.delete(f"id = '{_id(turn, data)}'")),
    ]


def _in_turn(calls: list[Call]) -> Call:
    return lambda turn: calls[turn % len(calls)](turn)


async def _bucket(data: Data, options: Options) -> Result:
    """Measure the same writes on a local S3 server, which handles one request at a time."""
    with buckets.s3_server() as bucket:
        config = options.folder / "bucket.toml"
        listed = ", ".join(f'{name} = "{value}"' for name, value in bucket.options.items())
        # Each of the 64 tasks waits for all others, perhaps longer than the default timeout.
        config.write_text(
            f"[retrieval.lancedb]\nbusy_timeout = 600\nstorage_options = {{ {listed} }}\n"
        )
        async with aiovec.connect(bucket.new_url(), config=config) as store:
            await fill(store, data)
            calls = _changes(store, data, _single(data))
            few = range(options.rounds(_IN_BUCKET))
            alone = await shared(calls[0], few[: len(few) // 8 or 1], 1)
            many = await shared(_in_turn(calls), few, CLIENTS)
    return Result(
        "lancedb, a bucket",
        f"upserts, updates and deletes of one row of {data}, S3 on loopback",
        "calls/s", {"upserts by one task": alone, f"mixed writes by {CLIENTS} tasks": many}, {},
    )  # fmt: skip


async def _writes(data: Data, options: Options) -> Result:
    """Measure single-row writes to a filled table, alone and mixed with searches."""
    writes, seconds = options.rounds(_WRITES), options.seconds(_CROWD_SECONDS)
    measured: dict[str, float] = {}
    async with (
        aiovec.connect(f"lancedb://{options.folder / 'written'}") as store,
        lance(options.folder / "bare") as connection,
    ):
        await fill(store, data)
        table = await fill_lance(connection, data)
        batches = _single(data)
        ways = {
            "aiovec": (_changes(store, data, batches), by_aiovec(store, data)),
            "lancedb": (_bare_changes(table, data, batches), by_lance(table, data)),
        }
        for name, (calls, ask) in ways.items():
            alone = range(options.rounds(_ALONE))
            measured[f"{name}, upserts by one task"] = await shared(calls[0], alone, 1)
            few = range(writes if name == "aiovec" else max(1, writes // 5))
            measured[f"{name}, mixed writes by {CLIENTS} tasks"] = await shared(
                _in_turn(calls), few, CLIENTS
            )
            mixed = _in_turn([calls[0], ask, ask, ask, ask])
            measured[f"{name}, 80 % searches, {CLIENTS} tasks"] = await rate(
                mixed, CLIENTS, seconds
            )
    names = [name.removeprefix("aiovec, ") for name in measured if name.startswith("aiovec")]
    return Result(
        "lancedb, single-row writes",
        f"upserts, updates and deletes of one row of {data}; 80 % searches and 20 % upserts",
        "calls/s", measured,
        {f"{name}, aiovec / lancedb": measured[f"aiovec, {name}"] / measured[f"lancedb, {name}"]
         for name in names},
    )  # fmt: skip
