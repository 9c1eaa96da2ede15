"""aiovec beside nine other stores, each in an environment that this command makes for it.

It fills each with the same rows, searches each as its own documentation does, and writes a table.
A client that blocks is called in threads.
"""

from __future__ import annotations

import asyncio
import json
import os
import time
import venv
from pathlib import Path

import numpy as np

from .data import PICKS, TOLERANCE, Data, Float32Array, load
from .measure import RESULTS, Options, Result, medians, number, output
from .peers import LIMIT, OURS, PEERS, Peer

_ROWS, _CLIENTS = 20_000, 64
_ROUNDS, _SECONDS, _ASKED = 3, 4.0, 200


async def run(options: Options) -> list[Result]:
    data = load(options.rows(_ROWS), options.data)
    saved, start = options.folder / "rows.npz", options.folder / "few.npz"
    queries = data.queries[: options.rounds(_ASKED)]
    close = queries @ data.vectors.T
    most = max(PICKS // 100, 2 * LIMIT * PICKS // len(data))  # one row of a hundred, or 20 rows
    few = np.flatnonzero(data.picks < most)
    np.savez(
        saved, vectors=data.vectors, queries=queries, picks=data.picks, texts=np.array(data.texts),
        least=_least(close), least_of_few=_least(close[:, few]),
    )  # fmt: skip
    np.savez(
        start, vectors=data.vectors[:LIMIT], queries=queries, picks=data.picks[:LIMIT],
        texts=np.array(data.texts[:LIMIT]),
    )  # fmt: skip
    rounds: dict[str, list[dict[str, float]]] = {}
    notes = [f"{data}, {_CLIENTS} clients together, {_ROUNDS} rounds in turn (medians)"]
    environments = {}
    for name, peer in PEERS.items():
        if name == OURS or not options.alone:
            try:
                environments[name] = await _environment(peer, options)
            except RuntimeError as error:
                notes.append(f"skipped: {name}: {_last_line(error)}")
    for turn in range(options.rounds(_ROUNDS)):
        for name, folder in environments.items():
            command = (_python(folder), "-m", "bench.peers", name)
            inputs = {
                "data": str(start), "folder": str(options.folder / f"{turn}-few-{name}"),
                "most": most, "clients": _CLIENTS, "seconds": options.seconds(_SECONDS),
            }  # fmt: skip
            try:
                began = time.perf_counter()
                await output(*command, json.dumps(inputs))
                figures = {"10 rows by a new process (ms)": 1000 * (time.perf_counter() - began)}
                inputs |= {"data": str(saved), "folder": str(options.folder / f"{turn}-{name}")}
                figures |= json.loads((await output(*command, json.dumps(inputs))).splitlines()[-1])
                rounds.setdefault(name, []).append(figures | {"installed (MB)": _size(folder)})
            except RuntimeError as error:
                if name == OURS:
                    raise
                notes.append(f"failed: {name}: {_last_line(error)}")
    measured = {
        name: medians({key: [figures[key] for figures in turns] for key in turns[0]})
        for name, turns in rounds.items()
    }
    _written(measured, data)
    return [
        Result(
            "against",
            key,
            "",
            {name: values[key] for name, values in measured.items()},
            notes=[] if place else notes,
        )
        for place, key in enumerate(measured[OURS])
    ]


def _least(close: Float32Array) -> Float32Array:
    """Return what each query's last row of the nearest must reach; ties count as found."""
    least: Float32Array = np.partition(close, -LIMIT, axis=1)[:, -LIMIT] - TOLERANCE
    return least


async def _environment(peer: Peer, options: Options) -> Path:
    """Return the folder of an environment that has the peer's packages."""
    name = "-".join(peer.packages).strip(".") or OURS
    folder = (options.cache or options.folder) / "environments" / name
    if not (folder / "complete").exists() or name == OURS:
        await asyncio.to_thread(venv.create, folder, with_pip=True, clear=True)
        await output(_python(folder), "-m", "pip", "install", "--quiet", "numpy", *peer.packages)
        (folder / "complete").touch()
    return folder


def _python(folder: Path) -> str:
    return str(folder / ("Scripts/python" if os.name == "nt" else "bin/python"))


def _size(folder: Path) -> float:
    files = (file for file in folder.rglob("*") if file.is_file() and file.suffix != ".pyc")
    return sum(file.stat().st_size for file in files if "pip" not in file.parts) / 1e6


def _last_line(error: RuntimeError) -> str:
    return str(error).strip().rpartition("\n")[2]


def _written(measured: dict[str, dict[str, float]], data: Data) -> None:
    keys = list(measured[OURS])
    lines = [f"| {data} | {' | '.join(keys)} |", "| --- " * (len(keys) + 1) + "|"]
    lines += [
        f"| {name} | {' | '.join(number(values[key]) for key in keys)} |"
        for name, values in measured.items()
    ]
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "against.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
