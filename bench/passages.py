"""Measure how many questions have their answering passage among the first hits, by passage size.

The documents are the users' pages in ``docs``, and the questions are those that ``quality`` asks
about their sections. This benchmark needs ``aiovec[documents,local]``.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import aiovec
from aiovec import Hit, documents

from .measure import Options, Result
from .questions import on_pages

_DOCS = Path(__file__).parents[1]
_SIZES = (200, 400, 800, 1200, 2000, 4000, 100_000)
_FIRST = 3
_PLAIN, _TITLED = "as plain text", "at headings, with those above before the text"
_CUTS = (
    *(("at headings", size, 0) for size in _SIZES),
    *(("at headings", 1200, overlap) for overlap in (100, 300)),
    *((_PLAIN, size, 0) for size in (400, 1200, 100_000)),
    (_TITLED, 1200, 0),
)


async def run(options: Options) -> list[Result]:
    return [
        Result("passages", f"{model!r}, {kind}, at most {size:,} characters, overlap {overlap}", "",
               await _measured(model, kind, size, overlap))
        for model in ("local", "demo")
        for kind, size, overlap in _CUTS
    ]  # fmt: skip


async def _measured(model: str, kind: str, size: int, overlap: int) -> dict[str, float]:
    rows: list[dict[str, Any]] = []
    sections: dict[str, Mapping[str, int]] = {}
    how = "text" if kind == _PLAIN else None
    shown = "{title}\n{body}" if kind == _TITLED else "{body}"
    for path in sorted((_DOCS / "docs").glob("[!i]*/*.md")):
        page = path.relative_to(_DOCS).as_posix()
        text = path.read_text("utf-8")
        sections[page] = {
            line.lstrip("# "): n for n, line in enumerate(text.splitlines(), 1) if line[:2] == "##"
        }
        cut = documents.passages(text, source=page, size=size, overlap=overlap, kind=how)
        rows += [{**row, "body": shown.format(**row)} async for row in cut]
    questions = {**on_pages("pages").questions, **on_pages("sentences").questions}
    counts = {"page": 0, "section": 0}
    async with aiovec.connect(":memory:", embedder=model) as store:
        await store.create_table("t", documents.SCHEMA)
        await store.insert("t", rows)
        for question, answers in questions.items():
            hits = await store.search_hybrid("t", question, limit=_FIRST)
            pages = {answer.partition("#")[0] for answer in answers}
            each = await store.search_hybrid("t", question, limit=_FIRST, group_by="source")
            counts["page"] += any(hit["source"] in pages for hit in each)
            counts["section"] += any(
                _touches(hit, answer, sections) for hit in hits for answer in answers
            )
    return {
        "passages": len(rows),
        "characters": sum(len(row["body"]) for row in rows) / len(rows),
        **{f"{name}@{_FIRST}": count / len(questions) for name, count in counts.items()},
    }


def _touches(hit: Hit, answer: str, sections: Mapping[str, Mapping[str, int]]) -> bool:
    """Return whether a passage has text from the section that answers a question."""
    page, _, heading = answer.partition("#")
    if hit["source"] != page:
        return False
    starts = sorted(sections[page].values())
    begin = sections[page][heading] if heading else 1
    end = next((start for start in starts if start > begin), 1 << 30)
    last = hit["start"] + hit["body"].count("\n")
    return bool(hit["start"] < end and last > begin)
