"""The real set, or generated rows of its shape."""

from __future__ import annotations

from ..measure import Result
from ..options import Options
from ..searching.corpus import Corpus
from . import at_once, exporting, ids, searching, singles, tidying, topical, writing

_ROWS, _DIM = 117_659, 384


async def run(options: Options) -> list[Result]:
    corpus = Corpus.load(options.rows(_ROWS), _DIM, options.data)
    results = await writing.run(corpus, options)
    results += await exporting.run(corpus, options)
    results += await singles.run(corpus, options)
    results += await tidying.run(options)
    results += await ids.run(options)
    results += await topical.run(options)
    folder = options.folder / "searched"
    await searching.fill(folder, corpus)
    results += await searching.run(folder, corpus, options)
    return results + await at_once.run(folder, corpus, options)
