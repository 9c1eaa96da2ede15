"""``aiovec tune``: try ways to search on questions with known answers."""

from __future__ import annotations

import csv
import io
import json as jsonlib
import math
from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping, Sequence
from functools import partial
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from .._search.query import text_fields
from .._tools.messages import listed, shown
from ..errors import AiovecError
from .output import Listing, counted, progress
from .stores import AnyTable, At, Embedder, Shown, Where, expanded, give_embedder, on_store

if TYPE_CHECKING:
    from .._model.records import Hit
    from .._search.fusion import Fusion
    from .._store.store import Table

LIMIT = 10
"""Number of hits of a question that are judged."""

# Random draws of the questions for an interval.
_DRAWS = 2_000
# With fewer questions, an interval is wider than any difference worth having.
_FEWEST = 10
# A limit of the distance should keep this part of the answers.
_NEARLY_ALL = 0.95
# Tenths of the vectors' weight.
_WEIGHTS = (3, 4, 5, 6, 7, 8)
_SOURCE = "source"

Questions = Mapping[str, Collection[str]]
"""The names of the right answers, ids or sources, by question."""
_Way = tuple[str, Callable[..., Awaitable[Sequence["Hit"]]]]


class Judged(NamedTuple):
    """How well the hits answer one question: 1 is perfect, 0 is without an answer."""

    ndcg: float
    first: float
    """1 if the first hit is an answer."""
    three: float
    """1 if one of the first three hits is an answer."""


def judged(hits: Sequence[str], answers: Collection[str]) -> Judged:
    """Judge distinct hits, best first, by the answers."""
    right = [hit in answers for hit in hits[:LIMIT]]
    gain = sum(1 / math.log2(place + 2) for place, is_answer in enumerate(right) if is_answer)
    most = sum(1 / math.log2(place + 2) for place in range(min(LIMIT, len(answers))))
    return Judged(gain / most, float(any(right[:1])), float(any(right[:3])))


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Return the 95 % bootstrap interval of a mean. Equal values give equal intervals."""
    import numpy as np  # slow, and the help does not need it

    chance = np.random.default_rng(1)
    drawn = np.array(values)[chance.integers(len(values), size=(_DRAWS, len(values)))]
    low, high = np.percentile(drawn.mean(axis=1), [2.5, 97.5])
    return float(low), float(high)


@on_store(shows_progress=True)
async def tune(
    at: At,
    questions: Annotated[
        Path,
        typer.Argument(
            metavar="QUESTIONS",
            help="A CSV or JSON Lines file with a question and its answer in each row: question, "
            "and id, or source for a table of documents. A question with several answers has "
            "several rows.",
        ),
    ],
    table: AnyTable = None,
    where: Where = None,
    prefix: Annotated[
        list[str] | None,
        typer.Option(
            "--query-prefix",
            metavar="TEXT",
            help="Also try this text before each embedded question, such as 'query: ', for a model "
            "that expects an instruction. Can be repeated.",
        ),
    ] = None,
    embedder: Embedder = None,
) -> Shown:
    """Try ways to search a table on your own questions, and show which answers them best.

    Each way is scored by its first ten hits: ndcg (1 if all answers come first), and the parts of
    the questions with an answer first and among the first three. A difference from the default
    counts only if it holds for the questions that the way was not chosen by. Changes nothing.
    """
    from ..backend.threads import in_thread  # slow

    asked, by_source = await in_thread(_read, expanded(str(questions)))
    opened = await at.table(table, reading=True)
    schema = await opened.schema()
    if embedder is not None:
        give_embedder(opened.store, schema, embedder)
    await _check_answers(opened, asked, by_source)
    options: dict[str, Any] = {"limit": LIMIT, "where": where}
    options |= {"group_by": _SOURCE, "select": [_SOURCE]} if by_source else {}
    ways = dict(_ways(opened, prefix or [], bool(text_fields(schema)), schema.embed is not None))
    scores: dict[str, list[Judged]] = {code: [] for code in ways}
    distances = list[float]()  # of the nearest answer to each question, by default
    with progress("questions") as bar:
        task = bar.add_task("asking", total=len(asked))
        for question in asked:
            for code, ask in ways.items():
                hits = await ask(question, **options)
                names = [hit[_SOURCE] if by_source else hit.id for hit in hits]
                scores[code].append(judged(names, asked[question]))
                if code == next(iter(ways)):
                    right = [
                        hit.distance
                        for hit, name in zip(hits, names, strict=True)
                        if name in asked[question] and hit.distance is not None
                    ]
                    distances += [min(right)] if right else []
            bar.advance(task)
    return _result(scores, distances, schema.analyzer)


def _read(path: Path) -> tuple[Questions, bool]:
    """Return the questions of a file, and whether their answers are sources."""
    asked: dict[str, set[str]] = {}
    kinds = set[str]()
    for number, row in enumerate(_rows(path), 1):
        kind = "id" if row.get("id") else _SOURCE
        question, answer = row.get("question"), row.get(kind)
        if not (question and answer and isinstance(question, str) and isinstance(answer, str)):
            raise AiovecError(
                f"{path}: row {number} is {shown(row)}; it must have the texts question and id, or "
                "question and source"
            )
        asked.setdefault(question, set()).add(answer)
        kinds.add(kind)
    if len(asked) < _FEWEST or len(kinds) > 1:
        has = f"{len(asked)} questions, with {listed(sorted(kinds)) or 'no answers'}"
        raise AiovecError(
            f"{path} has {has}; it must have at least {_FEWEST} different questions, all with id "
            "or all with source"
        )
    return asked, kinds == {_SOURCE}


def _rows(path: Path) -> list[Mapping[str, Any]]:
    rows = list[Mapping[str, Any]]()
    place = str(path)
    try:
        text = path.read_text("utf-8-sig")
        if path.suffix.lower() == ".csv":
            return [*csv.DictReader(io.StringIO(text))]
        for number, line in enumerate(text.split("\n"), 1):
            place = f"{path}, line {number}"
            if line.strip():
                rows.append(dict(jsonlib.loads(line)))
    except (OSError, ValueError, TypeError, RecursionError, csv.Error) as exc:
        raise AiovecError(f"{place} is neither CSV nor JSON Lines: {exc}") from exc
    return rows


async def _check_answers(table: Table, asked: Questions, by_source: bool) -> None:
    from .._filters import F

    answers = sorted(set().union(*asked.values()))
    if by_source:
        existing = {each for each in answers if await table.count(F[_SOURCE] == each)}
    else:
        existing = await table.exists(answers)
    if missing := [each for each in answers if each not in existing]:
        kind, names = _SOURCE if by_source else "id", listed(missing, most=5, show=repr)
        raise AiovecError(f"no row of {table.name!r} has the {kind} {names}; correct the answers")


def _ways(table: Table, prefixes: Sequence[str], words: bool, embeds: bool) -> Iterator[_Way]:
    """Yield the ways to search a table, each with its code; the first is the default."""
    from .._search.fusion import RRF, Weighted  # slow

    if not embeds and prefixes:
        raise typer.BadParameter("--query-prefix: the table embeds no texts")
    if not embeds and not words:
        raise AiovecError(
            f"the table {table.name!r} cannot be searched for questions; give it a keyword index "
            "with aiovec text-index, or embed a field"
        )
    if words and embeds:
        yield "search_hybrid(table, question)", table.search_hybrid
    for prefix in ("", *prefixes) if embeds else ():
        embedded = f"{prefix!r} + question" if prefix else "question"
        yield f"search(table, {embedded})", partial(_by_vector, table, prefix)
        vector = f", {embedded}" if prefix else ""
        fusions: dict[str, Fusion] = {"RRF()": RRF()} | {
            f"Weighted(0.{tenths}, 0.{10 - tenths})": Weighted(tenths / 10, 1 - tenths / 10)
            for tenths in _WEIGHTS
        }
        for (name, fusion), match in product(fusions.items(), ("best", "any")) if words else ():
            code = f"search_hybrid(table, question{vector}, fusion={name}, match={match!r})"
            yield code, partial(_by_both, table, prefix, fusion=fusion, match=match)
    if words:
        yield "search_text(table, question)", table.search_text
        yield "search_text(table, question, match='best')", partial(table.search_text, match="best")


async def _by_vector(table: Table, prefix: str, question: str, **options: Any) -> Sequence[Hit]:
    return await table.search(prefix + question, **options)


async def _by_both(table: Table, prefix: str, question: str, **options: Any) -> Sequence[Hit]:
    return await table.search_hybrid(question, prefix + question, **options)


def _chosen(scores: Mapping[str, Sequence[Judged]]) -> tuple[str, tuple[float, float]]:
    """Return the best way, and the interval of the gain over the first way, the default.

    The best of many ways looks better than it is. So each half of the questions measures the gain
    of the way that is best for the other half.
    """
    import numpy as np  # slow, and the help does not need it

    values = np.array([[each.ndcg for each in judgements] for judgements in scores.values()])
    gains = np.zeros(values.shape[1])
    for half in (0, 1):
        winner = values[:, 1 - half :: 2].mean(axis=1).argmax()
        gains[half::2] = values[winner, half::2] - values[0, half::2]
    return [*scores][int(values.mean(axis=1).argmax())], interval(gains.tolist())


def _result(
    scores: Mapping[str, Sequence[Judged]], distances: Sequence[float], analyzer: str
) -> Shown:
    default, usual = next(iter(scores.items()))
    best, (low, high) = _chosen(scores)
    ways, lines = [], []
    for code, judgements in scores.items():
        ndcg, first, three = (
            sum(column) / len(judgements) for column in zip(*judgements, strict=True)
        )
        more = [each.ndcg - other.ndcg for each, other in zip(judgements, usual, strict=True)]
        mean, (least, most) = sum(more) / len(more), interval(more)
        ways.append({
            "way": code, "ndcg": ndcg, "first": first, "in_three": three, "difference": mean,
            "low": least, "high": most,
        })  # fmt: skip
        difference = "" if code == default else f"{mean:+.3f} ({least:+.3f} to {most:+.3f})"
        lines.append([f"{ndcg:.3f}", f"{first:.2f}", f"{three:.2f}", difference, code])
    order = sorted(range(len(ways)), key=lambda place: -ways[place]["ndcg"])
    take = best if best != default and low > 0 else None
    verdict = (
        f"take {take}: {low:+.3f} to {high:+.3f} for questions that it was not chosen by"
        if take
        else f"no difference beyond chance ({low:+.3f} to {high:+.3f}): keep the default"
    )
    facts = {"questions": len(usual), "analyzer": analyzer, "ways": ways, "take": take}
    refusal = list[str]()
    if distances:
        within = facts["within"] = sorted(distances)[math.ceil(_NEARLY_ALL * len(distances)) - 1]
        part = f"{_NEARLY_ALL:.0%} of the answers that were found"
        refusal = [f"{part} are within a distance of {within:.2f}"]
    columns = ["ndcg", "first", "in three", "difference (95 %)", "way"]
    note = f"the table's analyzer is {analyzer!r}; to try another, import into a second table"
    table = Listing(columns, [lines[place] for place in order], right=columns[:3])
    return Shown(
        facts, [table, f"{counted(len(usual), 'question')}: {verdict}", *refusal], notes=[note]
    )
