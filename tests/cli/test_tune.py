"""aiovec tune: questions with known answers, and the ways that answer them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.transfer.support import error_of

from aiovec import Embed, Field, Schema, sync

from .conftest import Run

# A question's vector is nearest to the row that answers it, and near to a row that repeats its
# words. So vectors find the answer, and any share of the words puts the repetition first.
EMBEDDER = """
import re

import numpy as np

def embed(texts, *, kind="document"):
    vectors = np.zeros((len(texts), 24), np.float32)
    for vector, text in zip(vectors, texts):
        number = int(re.findall("[0-9]+", text)[-1])
        strange = "strange" in text and not text.startswith("query: ")
        vector[(number + 5) % 24 if strange and kind == "query" else number] = 1
        if "topic" in text and kind == "document":
            vector[number + 1] = 0.5
    return vectors

embed.model, embed.dim = "made", 24
"""
FIELDS = {"body": Field(str, text=True), "source": Field(str)}
COUNT = 12


@pytest.fixture
def answers(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a store with an answer to each question, and a row with the question's words."""
    (folder / "made_by_test.py").write_text(EMBEDDER, "utf-8")
    monkeypatch.syspath_prepend(folder)
    path = folder / "answers.db"
    with sync.connect(path, embedder={"kind": "made_by_test:embed"}) as store:
        store.create_table("answers", Schema(fields=FIELDS, embed=Embed("body")))
        for number in range(COUNT):
            store.insert("answers", [
                {"id": f"r{number}", "body": f"reply{number}", "source": f"{number}.md"},
                {"id": f"d{number}", "body": f"what{number} topic{number}", "source": "other.md"},
            ])  # fmt: skip
    return path


def questions(folder: Path, text: str = "what{0} topic{0}", name: str = "q.jsonl") -> Path:
    path = folder / name
    rows = [{"question": text.format(n), "id": f"r{n}"} for n in range(COUNT)]
    path.write_text("\n".join(map(json.dumps, rows)), "utf-8")
    return path


def tune(run: Run, file: Path, store: Path, *more: str) -> dict[str, object]:
    finished = run("tune", file, "-s", store, "--embedder", "made_by_test:embed", *more, "--json")
    result: dict[str, object] = finished.json
    return result


def test_a_way_that_is_plainly_better_is_named(run: Run, folder: Path, answers: Path) -> None:
    result = tune(run, questions(folder), answers)
    assert (result["questions"], result["take"]) == (COUNT, "search(table, question)")
    ways = {way["way"]: way for way in result["ways"]}  # type: ignore[attr-defined]
    default = ways["search_hybrid(table, question)"]
    assert default["ndcg"] == pytest.approx(0.6309, abs=1e-4)  # second: 1 / log2(3)
    assert (default["first"], default["in_three"]) == (0, 1)
    best = ways["search(table, question)"]
    assert (best["ndcg"], best["first"], best["in_three"]) == (1, 1, 1)
    assert [best[name] for name in ("low", "high", "difference")] == pytest.approx(
        [0.3691] * 3, abs=1e-4
    )
    assert ways["search_text(table, question)"]["ndcg"] == 0
    shown = run("tune", questions(folder), "-s", answers, "--embedder", "made_by_test:embed")
    assert shown.lines[1][-1] == "search(table, question)"  # the best way first
    assert "take search(table, question): +0.369 to +0.369" in shown.out
    assert result["within"] == pytest.approx(0, abs=1e-6)
    assert "95% of the answers that were found are within a distance of 0.00" in shown.out


def test_a_difference_that_chance_explains_is_none(run: Run, folder: Path, answers: Path) -> None:
    """Every way finds these answers, so none is better than the default."""
    result = tune(run, questions(folder, "reply{0}"), answers)
    assert result["take"] is None
    shown = run("tune", folder / "q.jsonl", "-s", answers, "--embedder", "made_by_test:embed")
    assert "no difference beyond chance (+0.000 to +0.000): keep the default" in shown.out


def test_a_gain_of_one_question_in_twelve_is_chance(run: Run, folder: Path, answers: Path) -> None:
    rows = [{"question": f"reply{n}", "id": f"r{n}"} for n in range(1, COUNT)]
    rows.append({"question": "what0 topic0", "id": "r0"})
    (folder / "q.jsonl").write_text("\n".join(map(json.dumps, rows)), "utf-8")
    result = tune(run, folder / "q.jsonl", answers)
    ways = {way["way"]: way for way in result["ways"]}  # type: ignore[attr-defined]
    assert ways["search(table, question)"]["difference"] > 0.03
    assert result["take"] is None


def test_a_prefix_of_the_embedded_question(run: Run, folder: Path, answers: Path) -> None:
    file = questions(folder, "strange topic{0}")
    result = tune(run, file, answers, "--query-prefix", "query: ")
    assert result["take"] == "search(table, 'query: ' + question)"


def test_answers_may_be_sources(run: Run, folder: Path, answers: Path) -> None:
    lines = ["question,source", *(f'"what{n}, topic{n}",{n}.md' for n in range(COUNT))]
    (folder / "q.csv").write_text("\n".join(lines), "utf-8")
    result = tune(run, folder / "q.csv", answers)
    assert result["take"] == "search(table, question)"


def test_only_some_rows_are_searched(run: Run, folder: Path, answers: Path) -> None:
    result = tune(run, questions(folder), answers, "--where", "source <> 'other.md'")
    assert result["take"] is None


def test_a_file_without_questions_is_an_error(run: Run, folder: Path, answers: Path) -> None:
    def error(text: str, name: str = "bad.jsonl") -> str:
        (folder / name).write_text(text, "utf-8")
        return error_of("tune", folder / name, "-s", answers)

    good = questions(folder).read_text("utf-8")
    assert "line 2 is neither CSV nor JSON Lines" in error(good.replace("\n", "\n[1]\n", 1))
    assert "must have the texts question and id" in error(good + '\n{"question": "why", "id": 3}')
    assert "9 questions, with id" in error("\n".join(good.split("\n")[:9]))
    both = good + '\n{"question": "why", "source": "1.md"}'
    assert "13 questions, with id, source; it must have at least 10" in error(both)
    assert "0 questions, with no answers" in error("question,id", "empty.csv")
    assert "has the id 'zz'; correct the answers" in error(good.replace('"r3"', '"zz"'))
    unknown = good.replace('"id"', '"source"')
    assert "has the source 'r0', 'r1', 'r10', 'r11', 'r2', 7 more" in error(unknown)
    assert "none.csv is neither CSV nor JSON Lines: [Errno 2]" in error_of(
        "tune", folder / "none.csv", "-s", answers
    )
    assert "row 13 is" in error(good + '\n{"question": "", "id": "r1"}')
    assert "is neither CSV nor JSON Lines: field larger" in error(
        "question,id\n" + "x" * 200_000, "long.csv"
    )


def test_a_table_must_have_words_or_an_embedder(run: Run, folder: Path, store: Path) -> None:
    rows = [{"question": f"why {number}", "id": "a"} for number in range(COUNT)]
    (folder / "q.jsonl").write_text("\n".join(map(json.dumps, rows)), "utf-8")
    asked = ("tune", folder / "q.jsonl", "-s", store)
    assert "cannot be searched for questions" in error_of(*asked)
    finished = run(*asked, "--query-prefix", "query: ")
    assert finished.code == 2
    assert "embeds no texts" in finished.err


def test_words_alone(run: Run, folder: Path) -> None:
    path = folder / "words.db"
    with sync.connect(path) as vectors:
        vectors.create_table(
            "words", Schema(2, vector_nullable=True, fields={"body": Field(str, text=True)})
        )
        rows = [{"id": f"r{number}", "body": f"reply{number}"} for number in range(COUNT)]
        vectors.insert("words", rows)
    result = run("tune", questions(folder, "reply{0}"), "-s", path, "--json").json
    assert [way["ndcg"] for way in result["ways"]] == [1, 1]
