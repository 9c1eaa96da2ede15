"""Compare aiovec with nine other stores, each in an environment that this command creates.

The command fills each store with the same rows, searches it as the store's documentation does, and
prints a table. It calls blocking clients in threads.
"""

from __future__ import annotations

import json
import time
from pathlib import Path

import numpy as np

from .data import PICKS, load
from .measure import Options, Result, by_figure, medians, output
from .peers import LIMIT, OURS, PEERS, last_line

_ROWS, _CLIENTS = 20_000, 64
_ROUNDS, _SECONDS, _ASKED = 3, 4.0, 200
_PATIENCE = 900.0  # time limit in seconds to fill and search a store


async def run(options: Options) -> list[Result]:
    data = load(options.rows(_ROWS), options.data)
    saved, start = options.folder / "rows.npz", options.folder / "few.npz"
    queries = data.queries[: options.rounds(_ASKED)]
    most = max(PICKS // 100, 2 * LIMIT * PICKS // len(data))  # 1 % of the rows, but at least 20
    for path, rows in (saved, slice(None)), (start, slice(LIMIT)):
        np.savez(
            path, vectors=data.vectors[rows], queries=queries, picks=data.picks[rows],
            texts=np.array(data.texts[rows]),
        )  # fmt: skip
    allowed = {"recall": data.picks < PICKS, "recall under a filter": data.picks < most}
    rounds: dict[str, list[dict[str, float]]] = {}
    notes = [f"{data}, {_CLIENTS} clients together, {_ROUNDS} rounds in turn (medians)"]
    environments = {}
    for name, peer in PEERS.items():
        if name == OURS or not options.alone:
            try:
                environments[name] = await peer.environment(options)
            except RuntimeError as error:
                notes.append(f"skipped: {name}: {last_line(error)}")
    for turn in range(options.rounds(_ROUNDS)):
        for name, python in list(environments.items()):
            command = (str(python), "-m", "bench.peers", name)
            inputs = {
                "data": str(start), "folder": str(options.folder / f"{turn}-few-{name}"),
                "most": most, "clients": 0, "seconds": options.seconds(_SECONDS),
            }  # fmt: skip
            try:
                began = time.perf_counter()
                await output(*command, json.dumps(inputs), most=_PATIENCE)
                figures = {"10 rows by a new process (ms)": 1000 * (time.perf_counter() - began)}
                inputs |= {"data": str(saved), "folder": str(options.folder / f"{turn}-{name}"),
                           "clients": _CLIENTS}  # fmt: skip
                printed = await output(*command, json.dumps(inputs), most=_PATIENCE)
                figures |= json.loads(printed.splitlines()[-1])
                for key, rows in allowed.items():
                    figures[key] = data.recall(enumerate(figures[key]), np.flatnonzero(rows))
                rounds.setdefault(name, []).append(figures | {"installed (MB)": _size(python)})
            except RuntimeError as error:
                if name == OURS:
                    raise
                notes.append(f"failed: {name}: {last_line(error)}")
                del environments[name]
    measured = {
        name: medians({key: [figures[key] for figures in turns] for key in turns[0]})
        for name, turns in rounds.items()
    }
    return by_figure("against", measured, notes)


def _size(python: Path) -> float:
    files = (
        file for file in python.parents[1].rglob("*") if file.is_file() and file.suffix != ".pyc"
    )
    return sum(file.stat().st_size for file in files if "pip" not in file.parts) / 1e6
