"""``aiovec import`` of documents: their rows, repeated imports, and rejected files."""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from threading import Event
from types import SimpleNamespace
from typing import Any

import pytest
from tests.documents.files import pdf
from tests.embed.models import stand_in
from tests.harness.cases import case
from tests.harness.command import Finished, run
from tests.transfer.support import error_of

from aiovec import (
    Embed,
    F,
    Field,
    InvalidArgumentError,
    Schema,
    VectorStore,
    connect,
    documents,
    sync,
)

pytest.importorskip("semantic_text_splitter")

NOTES = {
    "guide.md": "# Guide\n\nHow to bake bread.\n\n## Oven\n\nHeat it first.\n",
    "sub/keys.rst": "Keys\n====\n\nRotate them every year.\n",
    "sub/plain.txt": "A plain note about the sea.",
}


def written(folder: Path, files: Mapping[str, str | bytes] = NOTES) -> Path:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    return folder


def imported(store: Path | str, *arguments: object, code: int = 0, embedder: str = "demo") -> Any:
    done = run("import", *arguments, "-s", store, "--embedder", embedder, "--json")
    assert done.code == code, done.err
    return done.json


def refused(store: Path, *arguments: object) -> Finished:
    done = run("import", *arguments, "-s", store, "--embedder", "demo")
    assert done.code in (1, 2), done.out
    return done


def sources(store: Path | str, table: str = "documents") -> dict[str, int]:
    """Return the number of passages of each document."""
    with sync.connect(store) as opened:
        return {str(name): count for name, count in opened.distinct(table, "source").items()}


def passages(store: Path | str) -> dict[str, dict[str, Any]]:
    with sync.connect(store) as opened:
        return {row.id: row.to_dict() for row in opened.rows("documents", include_vector=True)}


def counts(facts: Any) -> dict[str, int]:
    names = ("new", "changed", "unchanged", "empty", "deleted", "failed", "passages")
    return {name: facts[name] for name in names if facts[name]}


def test_files_and_folders_become_passages_that_are_searched(folder: Path, store: Path) -> None:
    notes = written(folder / "notes")
    handbook = written(folder, {"handbook.pdf": pdf(["First.", "Second page."])}) / "handbook.pdf"
    facts = imported(store, notes, handbook)
    assert counts(facts) == {"new": 4, "passages": 6}
    assert sources(store) == {
        "guide.md": 2, "handbook.pdf": 2, "sub/keys.rst": 1, "sub/plain.txt": 1,
    }  # fmt: skip
    done = run("search", "rotate keys", "-s", store, "--json", "--limit", "1")
    (hit,) = done.json["hits"]
    assert (hit["source"], hit["title"], hit["start"]) == ("sub/keys.rst", "Keys", 1)
    shown = run("search", "rotate keys", "-s", store, "--limit", "1").out
    assert re.fullmatch(
        r"sub/keys\.rst:1  distance 0\.\d+\nKeys\n  Keys\n  ====\n  Rotate them every year\.\n+",
        shown,
    )
    shown = run("search", "second", "-s", store, "--by", "text").out
    assert shown.startswith("handbook.pdf, page 2  score ")
    assert run("search", "second", "-s", store, "--select", "start").lines[0][-1] == "start"


def test_another_embedder_is_refused_also_if_nothing_is_new(folder: Path, store: Path) -> None:
    notes = written(folder / "notes", {"a.md": "# Bread\n\nFlour and water."})
    imported(store, notes)
    keys = {"kind": "openai", "base_url": "http://127.0.0.1:9/v1", "model": "m", "dim": 8}
    other = json.dumps(keys)
    done = run("import", notes, "-s", store, "--embedder", other)
    assert (done.code, "vectors of two models cannot be compared" in done.err) == (1, True)
    assert counts(imported(store, notes)) == {"unchanged": 1}


def test_a_search_shows_the_passages_around_a_hit(folder: Path, store: Path) -> None:
    text = "".join(f"# Step {n}\n\nText {n}, {'bread' if n == 3 else 'soup'}.\n" for n in range(6))
    imported(store, written(folder / "notes", {"a.md": text, "b.md": "Soup."}))
    options = ["search", "bread", "--by", "text", "--around", 2, "--limit", 1, "-s", store]
    (hit,) = run(*options, "--json").json["hits"]
    assert [row["id"] for row in hit["before"]] == ["a.md#2", "a.md#3"]
    assert [row["id"] for row in hit["after"]] == ["a.md#5", "a.md#6"]
    assert re.findall(r"Text \d", run(*options).out) == [f"Text {n}" for n in range(1, 6)]

    async def near() -> None:
        async with connect(store) as opened:
            table = opened.table("documents")
            hits = await table.get(["b.md#1", "a.md#1"])
            passages = await documents.around(table, hits)
            assert [[row.id for row in each] for each in passages] == [
                ["b.md#1"], ["a.md#1", "a.md#2"],
            ]  # fmt: skip
            assert await documents.around(table, []) == []
            for rows, reach in ((hits, 11), (await table.get("a.md#1", select="body"), 1)):
                with pytest.raises(InvalidArgumentError):
                    await documents.around(table, rows, reach)
            wrong: Any
            for wrong in (hits[0], "a.md#1", None, ["a.md#1"]):
                with pytest.raises(InvalidArgumentError, match="hits must be"):
                    await documents.around(table, wrong)

    asyncio.run(near())


def test_the_questions_of_the_makefile_are_answered_by_their_pages(store: Path) -> None:
    pytest.importorskip("wordllama")
    root = Path(__file__).parents[2]
    questions = re.findall(r'"(how [^"\\]+)"', (root / "Makefile").read_text("utf-8"))
    examples, left_out = (
        root / "examples",
        ("--exclude", "internals/", "--exclude", "docs/README.md"),
    )
    imported(
        store,
        root / "docs",
        examples / "notebooks",
        examples / "pages",
        *left_out,
        embedder="local",
    )
    memory = {"agent-memory.md", "several-assistants.md", "crewai.md", "mem0.md", "adk.md"}
    pages = [memory, {"grow-to-lancedb.md", "move-to-lancedb.md"}]
    for question, names in zip(questions, pages, strict=True):
        shown = run("search", question, "--group-by", "source", "--limit", "2", "-s", store).out
        shown_pages = re.findall(r"(?m)^[a-z-]+/(\S+\.md):\d+  distance ", shown)
        assert len(set(shown_pages)) == 2
        assert names >= {*shown_pages}
    for words, place in (
        ("what does recall mean", r"terms\.html#recall  distance .*\nTerms of search > Measures"),
        ("functions and classes of asyncio as a frame", r"look_at_a_table\.ipynb  distance "),
    ):
        assert re.match(place, run("search", words, "-s", store, "--limit", "1").out)


@pytest.mark.parametrize("target", ["store.db", "lancedb://store.lance"])
def test_a_second_import_touches_only_what_changed(folder: Path, target: str) -> None:
    if target.startswith("lancedb"):
        pytest.importorskip("lancedb")
    notes, store = written(folder / "notes"), target
    imported(store, notes)
    before = passages(store)
    os.utime(notes / "guide.md", (1, 1))  # the content counts
    assert counts(imported(store, notes)) == {"unchanged": 3}
    assert passages(store) == before
    written(notes, {"guide.md": "# Guide\n\nNow about soup.\n", "new.md": "# New\n\nText.\n"})
    (notes / "sub/plain.txt").unlink()
    planned = imported(store, notes, "--delete", "--dry-run")
    assert passages(store) == before
    expected = {"new": 1, "changed": 1, "unchanged": 1, "deleted": 1, "passages": 2}
    assert counts(planned) == counts(imported(store, notes, "--delete")) == expected
    assert sources(store) == {"guide.md": 1, "new.md": 1, "sub/keys.rst": 1}
    assert passages(store)["sub/keys.rst#1"] == before["sub/keys.rst#1"]
    sized = imported(store, notes, "--chunk-size", 20)
    assert sized["changed"] == 3
    assert imported(store, notes)["unchanged"] == 3  # they stay cut as they are
    assert imported(store, notes, "--chunk-size", 1200)["changed"] == 3
    (other := folder / "other.txt").write_text("Another size for one file. " * 9)
    imported(store, other, "--chunk-size", 20)
    assert [imported(store, each)["unchanged"] for each in (notes, other)] == [3, 1]


def test_readers_never_see_two_versions_of_a_document(folder: Path, store: Path) -> None:
    notes = folder / "notes"
    imported(store, written(notes, {"a.md": "# A\n\nBegin.\n"}))
    ended = Event()

    def read_all_the_time() -> None:
        while not ended.is_set():
            rows = passages(store).values()
            assert len({row["hash"] for row in rows}) == 1
            assert sorted(row["part"] for row in rows) == [*range(1, len(rows) + 1)]
            assert {row["parts"] for row in rows} == {len(rows)}

    with ThreadPoolExecutor(1) as pool:
        reading = pool.submit(read_all_the_time)
        for number in range(8):
            sections = (f"## {n}\n\nVersion {number}.\n\n" for n in range(40 - 5 * number))
            imported(store, written(notes, {"a.md": "".join(sections)}))
        ended.set()
        reading.result()
    with sync.connect(store) as opened:  # nothing of the earlier versions is left
        assert opened.stats("documents").rows == 5


def test_delete_removes_only_documents_that_imports_with_its_base_stored(
    folder: Path, store: Path
) -> None:
    first, two, three = (written(folder / name) for name in ("one", "two", "three"))
    imported(store, first, "--base", "https://one.example/")
    imported(store, three, "--base", "https://one.example/three/")
    imported(store, two)
    (two / "guide.md").unlink()
    assert counts(imported(store, two, "--delete"))["deleted"] == 1
    assert len(sources(store)) == 8
    for folder_of_all in (first, three):
        (folder_of_all / "guide.md").unlink()
    facts = imported(store, first, "--base", "https://one.example/", "--delete")
    assert counts(facts) == {"unchanged": 2, "deleted": 1}
    assert set(sources(store)) == {
        "https://one.example/sub/keys.rst", "https://one.example/sub/plain.txt",
        *(f"https://one.example/three/{name}" for name in NOTES), "sub/keys.rst", "sub/plain.txt",
    }  # fmt: skip


def test_delete_spares_what_an_app_stored_beside(folder: Path, store: Path) -> None:
    notes, uploads = written(folder / "notes"), written(folder / "uploads", {"up.md": "# Up\n\nX."})
    imported(store, notes)

    async def upload() -> None:
        async with connect(store) as opened:
            await opened.upsert("documents", documents.passages(uploads / "up.md"))

    asyncio.run(upload())
    assert counts(imported(store, notes, "--delete")) == {"unchanged": 3}
    assert set(sources(store)) == {*NOTES, "up.md"}


def test_most_documents_are_deleted_only_on_request(folder: Path, store: Path) -> None:
    notes, other = written(folder / "notes"), written(folder / "other", {"o.md": "# O\n\nOther."})
    imported(store, notes)
    before = passages(store)
    error = refused(store, other, "--delete").err
    assert "--delete would delete 3 of 3 documents in 'documents'" in error
    assert "--delete-all" in error
    assert passages(store) == before
    planned = run("import", other, "--delete", "--dry-run", "-s", store, "--embedder", "demo")
    assert (planned.code, "would be deleted: guide.md, sub/keys.rst" in planned.err) == (0, True)
    assert counts(imported(store, other, "--delete-all"))["deleted"] == 3
    assert sources(store) == {"o.md": 1}


@pytest.mark.parametrize("target", ["store.db", "lancedb://store.lance"])
def test_rows_that_are_no_passages_are_neither_replaced_nor_deleted(
    folder: Path, target: str
) -> None:
    if target.startswith("lancedb"):
        pytest.importorskip("lancedb")
    with sync.connect(target, embedder="demo") as opened:
        opened.create_table("mine", Schema(fields={"text": str, "path": str}, embed=Embed("text")))
        opened.insert("mine", [
            {"id": "1", "text": "my own", "path": "guide.md"},
            {"id": "2", "text": "x", "path": "y"},
            {"id": "3", "text": "hashed", "path": "z", "hash": "0"},
        ])  # fmt: skip
    notes = written(folder / "notes")
    mapped = [notes, "--table", "mine", "--fields", "body=text,source=path", "--delete"]
    assert counts(imported(target, *mapped)) == {"new": 3, "passages": 4}
    written(notes, {"guide.md": "# Guide\n\nShort.\n"})
    (notes / "sub/plain.txt").unlink()
    facts = imported(target, *mapped)
    assert counts(facts) == {"changed": 1, "unchanged": 1, "deleted": 1, "passages": 1}
    with sync.connect(target, embedder="demo") as opened:
        assert {row.id for row in opened.rows("mine")} == {
            "1", "2", "3", "guide.md#1", "sub/keys.rst#1",
        }  # fmt: skip
        opened.insert("mine", [{"id": "late.md#1", "text": "mine too"}])
    written(notes, {"late.md": "# Late\n\nText.\n"})
    done = run("import", *mapped, "-s", target)
    assert (done.code, "'late.md#1'" in done.err) == (1, True), done.err


def test_files_of_other_kinds_are_counted(folder: Path, store: Path) -> None:
    notes = written(folder / "notes", {
        **NOTES, "a.css": "p", "sub/b.CSS": "p", "c.ods": b"PK", "Makefile": "all:",
        ".hidden.css": "p", ".git/config": "x",
    })  # fmt: skip
    expected = {".css": 2, ".ods": 1, "": 1}
    for options in (["--dry-run"], []):
        assert imported(store, notes, *options)["left_out"] == expected
        done = run("import", notes, *options, "-s", store, "--embedder", "demo")
        said = "left out 4 files: 2 .css, 1 without a suffix, 1 .ods"
        assert (done.code, said in done.err) == (0, True), done.err


IGNORED = {
    ".gitignore": "/guide.md\n*.rst\n!good.rst\nbuild/\n/docs/out/**\n\\#a.md\n# no.md\n[xy]?.md ",
    "docs/.gitignore": "!api.rst\na/**/late.txt\n*/*.html\n",
    "docs/sub/.gitignore": "!/kept.html",
}
KEPT = (
    "no.md", "good.rst", "docs/api.rst", "docs/guide.md", "docs/late.txt", "docs/sub/kept.html",
    "xyz.md", "[xy]?.md", "docs/build.md",
)  # fmt: skip
LEFT = (
    "guide.md", "keys.rst", "docs/keys.rst", "build/a.md", "docs/build/b.md", "docs/out/c/d.md",
    "#a.md", "x1.md", "docs/a/late.txt", "docs/a/b/late.txt", "docs/sub/other.html",
)  # fmt: skip


def test_files_that_gitignore_names_are_left_out(folder: Path, store: Path) -> None:
    text = dict.fromkeys((*KEPT, *LEFT), "Words.")
    notes = written(folder / "notes", {**text, **IGNORED, ".git/HEAD": ""})
    facts = imported(store, notes)
    assert sources(store).keys() == {*KEPT}
    assert facts["left_out"] == {"by .gitignore": len(LEFT)}
    for part, names in (
        ("docs", [name[5:] for name in KEPT if name[:5] == "docs/"]),
        ("docs/sub", ["kept.html"]),
        ("build", ["a.md"]),  # a folder that is named itself
        ("docs/out/c", ["d.md"]),
        ("guide.md", ["guide.md"]),
    ):
        with case(part):
            facts = imported(store, notes / part, "--table", part.replace("/", "_")[:4])
            assert facts["new"] == len(names)
            assert sources(store, part.replace("/", "_")[:4]).keys() >= {*names}


def test_documents_are_chosen_by_globs(folder: Path, store: Path) -> None:
    notes = written(folder / "notes", {**NOTES, "drafts/d.md": "Draft.", ".gitignore": "plain.txt"})
    for options, names, left_out in (
        (["--include", "*.md"], ["guide.md", "drafts/d.md"], {"by --include": 1}),
        (["--include", "sub/"], ["sub/keys.rst"], {"by --include": 2}),
        (["--include", "**/*.rst", "--include", "/guide.*"], ["guide.md", "sub/keys.rst"],
         {"by --include": 1}),
        (["--exclude", "drafts/"], ["guide.md", "sub/keys.rst"], {"by --exclude": 1}),
        (["--include", "*.md", "--include", "!guide.md", "--exclude", "/sub"], ["drafts/d.md"],
         {"by --include": 1, "by --exclude": 1}),
    ):  # fmt: skip
        with case(options):
            facts = imported(store, notes, *options, "--delete-all")
            assert sources(store).keys() == {*names}
            ignored = {} if "/sub" in options else {"by .gitignore": 1}
            assert facts["left_out"] == left_out | ignored
    done = refused(folder / "none.db", notes, "--include", "*.pdf")
    assert "it has 4 files: 3 by --include, 1 by .gitignore" in " ".join(done.err.split())


def test_what_is_no_document_is_named_as_such(folder: Path, store: Path) -> None:
    other = written(folder / "other", {"h.ods": "p", "n.css": "p", "m.css": "p"})
    (folder / "bare").mkdir()
    for arguments, words in (
        ([other], "has no documents (.docx, .epub, .htm, .html"),
        ([other], "it has 3 files: 2 .css, 1 .ods"),
        ([other, "--delete"], "it has 3 files: 2 .css, 1 .ods"),
        ([other / "h.ods"], "h.ods is not a document (.docx, .epub"),
        ([other / "h.ods"], "a file of rows (.parquet"),
        ([folder / "bare"], "bare has no documents"),
        ([folder / "bare", "--chunk-size", 80], "bare has no documents"),
        ([folder / "gone", "--delete", "--base", "https://x.example/"], "there is no file"),
        ([folder / "gone"], "there is no file"),
    ):
        done = refused(store, *arguments)
        assert (done.code, words in done.err) == (1, True), done.err
    assert not store.exists()


def test_an_empty_file_is_no_error_and_has_no_passages(folder: Path, store: Path) -> None:
    notes = written(folder / "notes", {**NOTES, "e.md": "", "blank.txt": "\ufeff \n", "p.pdf": b""})
    assert counts(imported(store, notes)) == {"new": 3, "empty": 3, "passages": 4}
    assert counts(imported(store, notes)) == {"unchanged": 3, "empty": 3}
    written(notes, {"guide.md": "\n"})
    assert counts(imported(store, notes)) == {"deleted": 1, "unchanged": 2, "empty": 3}
    assert set(sources(store)) == {"sub/keys.rst", "sub/plain.txt"}


def test_the_list_of_rejects_has_a_place_of_its_own_or_goes_to_standard_error(
    folder: Path, store: Path
) -> None:
    notes = written(folder / "notes", {**NOTES, "bad.md": b"\0"})
    facts = imported(store, notes, "--rejects", folder / "list.jsonl", code=1)
    assert facts["rejects"] == str(folder / "list.jsonl")
    assert '"document": "bad.md"' in (folder / "list.jsonl").read_text()
    (folder / "documents.rejects.jsonl").mkdir()  # where the list would be
    facts = imported(folder / "new.db", notes, code=1)
    assert (facts["new"], facts["rejects"]) == (3, "standard error")
    done = run("import", notes, "-s", store)
    assert "documents.rejects.jsonl cannot be written: Is a directory" in done.err
    assert '"document": "bad.md"' in done.err
    (notes / "bad.md").unlink()
    assert imported(store, notes)["unchanged"] == 3


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such pipes")
def test_a_list_of_rejects_that_is_no_file_is_not_removed(folder: Path, store: Path) -> None:
    """Such as the null device, which root could remove."""
    os.mkfifo(folder / "pipe")
    notes = written(folder / "notes", NOTES)
    assert imported(store, notes, "--rejects", folder / "pipe")["new"] == 3
    assert (folder / "pipe").is_fifo()


# Hostile names, and two of the faults; tests/documents has all faults.
HOSTILE: dict[str, tuple[str | bytes, str]] = {
    "日本語/Ünï 'x' \"y\" #1.md": ("# 見出し\n\n本文。\n", ""),
    "-s.md": ("# Option\n\nText.\n", ""),
    "עברית مرحبا.txt": ("שלום", ""),
    f"{'long/' * 100}long.md": ("# Long\n\nPath.\n", ""),
    "picture.md": (b"\x89PNG\0\0", "it is not text"),
    "scan.pdf": (pdf(["", ""]), "it has no text; a scanned PDF needs text recognition first"),
}


def test_a_hostile_file_is_imported_or_named_with_the_reason(folder: Path, store: Path) -> None:
    notes = written(folder / "notes", {name: content for name, (content, _) in HOSTILE.items()})
    with (notes / "large.txt").open("wb") as large:
        large.truncate(100 * 10**6)
    name = os.fsdecode(b"\xff.md")
    if sys.platform == "linux":  # others have no such names
        written(notes, {name: "# Name\n\nOf bytes.\n"})
    facts = imported(store, notes, code=1)
    reasons = {name: reason for name, (_, reason) in HOSTILE.items() if reason}
    assert facts["failures"].pop("large.txt").startswith("it has 100,000,000 bytes")
    assert facts["failures"].keys() == reasons.keys()
    assert all(facts["failures"][name].startswith(text) for name, text in reasons.items())
    came = {name for name, (_, reason) in HOSTILE.items() if not reason}
    assert set(sources(store)) == came | ({"\\xff.md"} if sys.platform == "linux" else set())
    listed = (folder / "documents.rejects.jsonl").read_text("utf-8").splitlines()
    assert len(listed) == facts["failed"]
    assert imported(store, notes, "--allow-rejects")["unchanged"] == facts["new"]


@pytest.mark.skipif(sys.platform == "win32", reason="it has no pipes in folders")
def test_a_pipe_and_a_file_of_a_wild_time_are_named_with_the_reason(
    folder: Path, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    notes = written(folder / "notes", {**NOTES, "late.md": "# Late\n\nText.\n"})
    os.mkfifo(notes / "pipe.md")
    stat = Path.stat

    def wild(path: Path, **options: Any) -> os.stat_result:  # some file systems keep such a time
        status = stat(path, **options)
        late = path.name == "late.md"
        return os.stat_result([*status[:8], 999_999_999_999, status[9]]) if late else status

    monkeypatch.setattr(Path, "stat", wild)
    facts = imported(store, notes, code=1)
    assert facts["failures"].pop("late.md").startswith("its modification time is out of range")
    assert facts["failures"] == {"pipe.md": "it is not a regular file"}
    assert facts["new"] == 3


def test_a_dry_run_shows_all_reasons_and_names_no_list(folder: Path, store: Path) -> None:
    notes = written(folder / "notes", {**NOTES, **{f"{n}.md": "#" for n in range(12)}})
    for options in ([], ["--strict"]):
        done = run("import", notes, "--dry-run", *options, "-s", store, "--embedder", "demo")
        assert (done.code, done.err.count("it has no text")) == (1, 12), done.err
        assert "rejects.jsonl" not in done.err


def test_strict_imports_nothing_if_a_document_is_bad(folder: Path, store: Path) -> None:
    notes = written(folder / "notes", {**NOTES, "bad.md": "#"})
    done = refused(store, notes, "--strict")
    assert "1 document cannot be imported, so none was" in done.err
    assert not store.exists()
    (notes / "bad.md").unlink()
    assert imported(store, notes, "--strict")["new"] == 3


def test_a_document_that_turns_unreadable_keeps_its_passages(folder: Path, store: Path) -> None:
    notes = written(folder / "notes")
    imported(store, notes)
    written(notes, {"guide.md": b"\0"})
    assert counts(imported(store, notes, "--delete", code=1)) == {"unchanged": 2, "failed": 1}
    assert sources(store)["guide.md"] == 2


@pytest.mark.skipif(sys.platform == "win32", reason="links need a privilege")
def test_links_are_followed_once_even_in_loops(folder: Path, store: Path) -> None:
    notes = written(folder / "notes")
    elsewhere = written(folder / "elsewhere", {"far.md": "# Far\n\nAway.\n"})
    (notes / "sub/loop").symlink_to(notes)
    (notes / "self").symlink_to("self")
    (notes / "gone.md").symlink_to("nosuch.md")
    (notes / "far").symlink_to(elsewhere)
    (notes / ".hidden").mkdir()
    written(notes / ".hidden", {"h.md": "hidden"})
    facts = imported(store, notes, code=1)
    assert facts["failures"].pop("self/").startswith("Too many levels of symbolic links")
    assert facts["failures"] == {"gone.md": "No such file or directory"}
    assert set(sources(store)) == {*NOTES, "far/far.md"}


def before_the_rows(
    monkeypatch: pytest.MonkeyPatch, change: Callable[[VectorStore], Awaitable[None]]
) -> None:
    """Let something happen once, as soon as an import begins to read the rows of its table."""
    read_rows = VectorStore.rows

    async def rows(store: VectorStore, *args: Any, **options: Any) -> Any:
        monkeypatch.undo()
        await change(store)
        async for row in read_rows(store, *args, **options):
            yield row

    monkeypatch.setattr(VectorStore, "rows", rows)


def test_delete_spares_a_document_that_another_import_just_added(
    folder: Path, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    notes = written(folder / "notes")
    imported(store, notes)
    (notes / "guide.md").unlink()

    async def another_import(store: VectorStore) -> None:
        await asyncio.to_thread(written, notes, {"new.md": "# New\n\nText.\n"})
        await store.upsert("documents", documents.passages(notes / "new.md"))

    before_the_rows(monkeypatch, another_import)
    assert counts(imported(store, notes, "--delete")) == {"unchanged": 2, "deleted": 1}
    assert sources(store) == {"new.md": 1, "sub/keys.rst": 1, "sub/plain.txt": 1}


def test_delete_spares_the_documents_of_a_folder_that_goes_away(
    folder: Path, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    notes = written(folder / "notes")
    imported(store, notes)
    (notes / "guide.md").unlink()

    async def unmounted(_: VectorStore) -> None:
        await asyncio.to_thread(notes.rename, folder / "unmounted")

    before_the_rows(monkeypatch, unmounted)
    rejects = ("--rejects", folder / "list.jsonl")
    assert counts(imported(store, notes, "--delete", *rejects, code=1)) == {"failed": 2}
    assert sources(store).keys() == {*NOTES}


@pytest.mark.skipif(sys.platform == "win32", reason="links need a privilege")
def test_a_folder_that_cannot_be_read_keeps_its_documents(
    folder: Path, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    notes = written(folder / "notes", {**NOTES, "private/p.md": "# P\n\nMine.\n"})
    share = written(folder / "share", {"deep/s.md": "# S\n\nShared.\n"})
    (notes / "share").symlink_to(share)
    imported(store, notes)
    before = sources(store)
    share.rename(folder / "unmounted")
    scandir = os.scandir

    def denied(path: Any) -> Any:
        if str(path).endswith("private"):
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", denied)  # root may read every folder
    (notes / "sub/plain.txt").unlink()
    facts = imported(store, notes, "--delete", code=1)
    assert facts["failures"].keys() == {"private/", "share/"}
    assert before.keys() - sources(store).keys() == {"sub/plain.txt"}


def test_a_file_that_changes_is_imported_as_one_version(folder: Path, store: Path) -> None:
    notes = folder / "notes"
    versions = [f"# V{n}\n\n" + f"Version {n} of it. " * 2000 for n in range(2)]
    written(notes, {"a.md": versions[0]})
    with subprocess.Popen(_command(notes, store), stdout=subprocess.DEVNULL) as process:
        while process.poll() is None:
            for version in versions:
                (notes / "new").write_text(version)
                (notes / "new").replace(notes / "a.md")
                time.sleep(0.002)
    assert process.returncode == 0
    assert len({row["hash"] for row in passages(store).values()}) == 1
    imported(store, notes)
    (first, *_) = passages(store).values()
    assert first["title"] == "V1"


def _command(notes: Path, store: Path) -> list[str]:
    command = [sys.executable, "-m", "aiovec", "import", str(notes), "-s", str(store)]
    return [*command, "--embedder", "demo"]


def _many(folder: Path) -> Path:
    text = "## Section {0} of {1}\n\nSome words about {0}.\n\n"
    return written(
        folder / "many",
        {f"{n}.md": "".join(text.format(m, n) for m in range(40)) for n in range(200)},
    )


def _waited_for(store: Path) -> None:
    """Wait until the first passages are stored."""
    until = time.monotonic() + 60
    while time.monotonic() < until:
        if store.exists() and "documents" in run("tables", "-s", store).out:
            with sync.connect(store) as opened:
                if opened.count("documents"):
                    return
        time.sleep(0.01)
    raise AssertionError("nothing was stored")


@pytest.mark.slow
def test_a_killed_import_of_documents_continues(folder: Path, store: Path) -> None:
    notes = _many(folder)
    with subprocess.Popen(_command(notes, store), stdout=subprocess.DEVNULL) as process:
        _waited_for(store)
        process.kill()
    killed = sources(store)
    assert set(killed.values()) == {40}  # each document is whole
    facts = imported(store, notes)
    assert facts["unchanged"] == len(killed)
    assert sources(store) == {f"{n}.md": 40 for n in range(200)}


@pytest.mark.slow
def test_two_processes_import_the_same_folder_once(folder: Path, store: Path) -> None:
    notes = _many(folder)
    runs = [subprocess.Popen(_command(notes, store), stdout=subprocess.DEVNULL) for _ in range(2)]
    assert [process.wait() for process in runs] == [0, 0]
    assert sources(store) == {f"{n}.md": 40 for n in range(200)}
    assert counts(imported(store, notes)) == {"unchanged": 200}


def test_missing_and_leftover_passages_are_repaired(folder: Path, store: Path) -> None:
    notes = written(folder / "notes")
    imported(store, notes)
    with sync.connect(store) as opened:
        opened.delete("documents", "guide.md#2")
        opened.upsert("documents", [{**passages(store)["sub/keys.rst#1"], "id": "sub/keys.rst#7"}])
    assert counts(imported(store, notes)) == {"changed": 2, "unchanged": 1, "passages": 3}
    assert sources(store) == {"guide.md": 2, "sub/keys.rst": 1, "sub/plain.txt": 1}


def test_passages_are_mapped_to_the_fields_of_an_existing_table(folder: Path, store: Path) -> None:
    notes = written(folder / "notes")
    schema = Schema(fields={"text": str, "path": str, "modified": str}, embed=Embed("text"))
    with sync.connect(store, embedder="demo") as opened:
        opened.create_table("mine", schema)
        opened.insert("mine", [{"id": "1", "text": "not a document"}])
    mapped = [notes, "--table", "mine", "--fields", "body=text,source=path"]
    assert imported(store, *mapped)["new"] == 3
    written(notes, {"guide.md": "# Guide\n\nShort.\n"})
    assert counts(imported(store, *mapped)) == {"changed": 1, "unchanged": 2, "passages": 1}
    with sync.connect(store) as opened:
        (row,) = opened.find("mine", F.path == "guide.md")
        assert (row["text"], row["title"], row["parts"]) == ("# Guide\n\nShort.", "Guide", 1)
        assert opened.count("mine") == 4
    assert "--fields body=FIELD" in refused(store, notes, "--table", "mine").err


def test_metadata_that_do_not_suit_a_field_fail_their_document_alone(
    folder: Path, store: Path
) -> None:
    fields = {"body": str, "source": str, "date": datetime, "tags": str}
    with sync.connect(store, embedder="demo") as opened:
        opened.create_table("documents", Schema(fields=fields, embed=Embed("body")))
    notes = written(folder / "notes", {
        **NOTES, "day.md": "---\ndate: 2026-01-02\n---\nA.",
        "later.md": "---\ndate: later\n---\nB.", "tagged.md": "---\ntags: [a]\n---\nC.",
    })  # fmt: skip
    for strict in (["--strict"], []):
        done = run("import", notes, *strict, "-s", store, "--embedder", "demo")
        assert (done.code, "later.md: not imported: field 'date': must be" in done.err) == (
            1, not strict,
        ), done.err  # fmt: skip
        assert sources(store).keys() == (set() if strict else {*NOTES, "day.md"})
    assert passages(store)["day.md#1"]["date"] == datetime(2026, 1, 2, tzinfo=UTC)


def test_a_document_shrinks_in_a_table_whose_fields_need_values(folder: Path, store: Path) -> None:
    fields = {"body": Field(str, nullable=False), "until": Field(datetime, expires=True)}
    with sync.connect(store, embedder="demo") as opened:
        opened.create_table("documents", Schema(fields=fields, embed=Embed("body")))
    notes = written(folder / "notes")
    imported(store, notes)
    written(notes, {"guide.md": "# Guide\n\nShort.\n"})
    assert counts(imported(store, notes)) == {"changed": 1, "unchanged": 2, "passages": 1}
    assert passages(store).keys() == {"guide.md#1", "sub/keys.rst#1", "sub/plain.txt#1"}


def fake_fastembed(log: list[Any], monkeypatch: pytest.MonkeyPatch) -> Any:
    tokenizers = pytest.importorskip("tokenizers")
    words = tokenizers.Tokenizer(tokenizers.models.WordLevel({"[UNK]": 0}, unk_token="[UNK]"))
    words.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    words.enable_truncation(3)  # as fastembed does
    fastembed: Any = stand_in(log, 384)
    fastembed.TextEmbedding.model = SimpleNamespace(tokenizer=words)
    monkeypatch.setitem(sys.modules, "fastembed", fastembed)
    return fastembed.TextEmbedding


def test_fastembed_has_a_default_model_and_counts_its_tokens(
    folder: Path, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log: list[Any] = []
    fake_fastembed(log, monkeypatch)
    notes = written(folder / "notes", {"a.txt": "word " * 600})
    assert counts(imported(store, notes, embedder="fastembed")) == {"new": 1, "passages": 3}
    assert counts(imported(store, notes, embedder="fastembed")) == {"unchanged": 1}
    assert {entry[1] for entry in log if entry[0] == "load"} == {"BAAI/bge-small-en-v1.5"}
    lengths = [len(row["body"].split()) for row in passages(store).values()]
    assert lengths == [239, 239, 122]
    with sync.connect(store) as opened:
        assert opened.schema("documents").model == "BAAI/bge-small-en-v1.5"


def test_an_import_with_a_slow_model_goes_on_where_it_was_interrupted(
    folder: Path, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log: list[Any] = []
    model = fake_fastembed(log, monkeypatch)
    embed = model.passage_embed

    def interrupted(self: Any, texts: list[str], **options: Any) -> Any:
        if sum(len(entry[1]) for entry in log if entry[0] == "document") >= 320:
            raise ValueError("interrupted")
        return embed(self, texts, **options)

    monkeypatch.setattr(model, "passage_embed", interrupted)
    notes = written(folder / "notes", {f"{number}.txt": f"note {number}" for number in range(400)})
    done = run("import", notes, "-s", store, "--embedder", "fastembed")
    assert (done.code, "interrupted" in done.err) == (1, True)
    kept = len(passages(store))
    assert 0 < kept < 320
    monkeypatch.setattr(model, "passage_embed", embed)
    rest = 400 - kept
    expected = {"new": rest, "unchanged": kept, "passages": rest}
    assert counts(imported(store, notes, embedder="fastembed")) == expected


def test_a_model_that_cannot_be_loaded_is_named_with_the_reason(
    folder: Path, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "fastembed", stand_in([], 384))
    keys = '{"kind": "fastembed", "model": "missing", "dim": 384}'
    done = run("import", written(folder / "notes"), "-s", store, "--embedder", keys)
    assert (done.code, store.exists()) == (1, False)
    assert "the embedder 'default' (missing) gave no vector" in done.err
    assert "the model missing is not supported" in done.err


def test_a_document_stored_by_an_app_counts_as_unchanged(folder: Path, store: Path) -> None:
    notes = written(folder / "notes")

    async def upload() -> None:
        async with connect(store, embedder="demo") as opened:
            await opened.create_table("documents", documents.SCHEMA)
            await opened.upsert("documents", documents.passages(notes / "guide.md"))

    asyncio.run(upload())
    assert counts(imported(store, notes)) == {"new": 2, "unchanged": 1, "passages": 2}


def test_options_that_do_not_go_together_are_refused(folder: Path, store: Path) -> None:
    notes = written(folder / "notes")
    rows = written(folder, {"rows.csv": 'id,embedding\n1,"[1,2]"\n'}) / "rows.csv"
    none = written(folder, {"none.csv": "id,body\n"}) / "none.csv"
    for arguments, words in (
        (["", "--delete"], "a SOURCE is empty; write . for the current folder"),
        ([notes, "--vector-column", "v"], "--vector-column is for rows"),
        ([notes, "--engine", "ray"], "--engine is for files of rows"),
        ([notes, "--backup", "copy"], "--backup is for SQLite databases"),
        ([rows, "--include", "*.md"], "--include is for documents"),
        ([notes / "guide.md", "--delete"], "--delete needs a folder"),
        ([rows, "--chunk-size", 3], "--chunk-size is for documents"),
        ([rows, "--delete"], "and for rows with the --embed FIELD of a text"),
        ([none, "--embed", "body"], "none.csv has no rows to make a table from"),
        (
            [notes, "--base", os.fsdecode(b"https://a.example/\xff/")],
            "the base of documents is a URL",
        ),
        ([notes, rows], "rows.csv is not a document"),
        ([notes, written(folder / "other")], "would both be the source 'guide.md'"),
        ([folder / "nosuch.md"], "No such file"),
        ([notes, "--base", "wiki/"], "the base of documents is a URL that ends in /, such as"),
        ([notes, "--base", "https://a.example/one"], "not 'https://a.example/one'"),
        ([notes, "--overlap", 1200], "overlap must be from 0 to 1199"),
        ([notes, "--fields", "text=body"], "--fields is NAME=FIELD"),
        ([notes, "--fields", "body=text"], "computes its vectors from 'body', not from 'text'"),
    ):
        done = refused(store, *arguments)
        assert words in " ".join(done.err.replace("│", " ").split()), done.err
        assert "Traceback" not in done.err
    assert "--embedder" in error_of("import", notes, "-s", store)
    assert not store.exists()


def test_documents_that_cannot_be_read_make_no_store(folder: Path, store: Path) -> None:
    notes = written(folder / "notes", {"a.md": b"\0", "b.md": b"\0"})
    assert counts(imported(store, notes, code=1)) == {"failed": 2}
    assert counts(imported(store, written(folder / "empty", {"a.md": ""}))) == {"empty": 1}
    assert counts(imported(store, written(folder / "good"), "--dry-run"))["passages"] == 4
    assert not store.exists()
