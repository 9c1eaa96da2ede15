"""What the pages point at exists: other pages, their headings, modules, and tests."""

from __future__ import annotations

import ast
import importlib.util
import re
import sys
from pathlib import Path

import pytest

from .blocks import ROOT

PAGES = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "examples").rglob("*.md")]
CODE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)


def prose(page: Path) -> str:
    return CODE.sub("", page.read_text(encoding="utf-8"))


def anchors(page: Path) -> set[str]:
    """Return the headings of a page as GitHub links them."""
    headings = re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_every_link_leads_somewhere() -> None:
    for page in PAGES:
        for link in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
            if re.match(r"[a-z]+:", link):
                continue
            name, _, anchor = link.partition("#")
            target = (page.parent / name).resolve() if name else page
            assert target.exists(), (page, link)
            assert not anchor or anchor in anchors(target), (page, link)


def test_every_code_block_has_one_word_for_its_language() -> None:
    """With a second one, the site shows the block and what follows it as running text."""
    for page in PAGES:
        for words in re.findall(r"^ *```(.+)$", page.read_text(encoding="utf-8"), re.MULTILINE):
            assert re.fullmatch(r"[\w-]+", words), (page, words)


def test_the_labels_of_the_benchmark_are_sections_that_exist() -> None:
    """``python -m bench quality`` looks for sections of these pages."""
    for labels in ("pages", "sentences"):
        text = (ROOT / f"bench/sets/{labels}.txt").read_text(encoding="utf-8")
        for page, heading in re.findall(r"^(docs/\S+\.md)#(.+)$", text, re.MULTILINE):
            assert re.search(rf"^##+ {re.escape(heading)}$", (ROOT / page).read_text("utf-8"), re.M)


def test_the_site_shows_every_page() -> None:
    named = re.findall(
        r"(docs/[\w/-]+\.md)$", (ROOT / "mkdocs.yml").read_text("utf-8"), re.MULTILINE
    )
    shown = [page.relative_to(ROOT).as_posix() for page in (ROOT / "docs").rglob("*.md")]
    decisions = [page for page in shown if re.search(r"/adr/\d", page)]  # their own list has them
    assert sorted(named) == sorted(set(shown) - set(decisions))


def test_the_index_links_to_every_page_for_users() -> None:
    index = (ROOT / "docs/README.md").read_text(encoding="utf-8")
    pages = (page.relative_to(ROOT / "docs").as_posix() for page in (ROOT / "docs").glob("*/*.md"))
    assert [page for page in pages if "internals" not in page and f"({page})" not in index] == []


def test_the_architecture_names_modules_that_exist() -> None:
    text = prose(ROOT / "docs/internals/architecture.md")
    named = re.findall(r"`([\w/.]+\.(?:py|md|toml|json)|[\w/]+/)`", text)
    parts = [ROOT / part for part in ("src", "src/aiovec", "adapters", "migrate", ".")]
    assert named
    assert [name for name in named if not any((part / name).exists() for part in parts)] == []


def test_the_tours_link_to_functions_that_exist() -> None:
    """A name such as ``Plan.nearest`` is a class and its method in the linked file."""
    page = ROOT / "docs/internals/architecture.md"
    links = re.findall(r"\[`([\w.]+)`\]\((\S+\.py)\)", prose(page))
    assert len(links) > 30
    for name, file in links:
        body = ast.parse((page.parent / file).read_text(encoding="utf-8")).body
        for part in name.split("."):
            (node,) = [node for node in body if getattr(node, "name", None) == part]
            body = node.body


@pytest.mark.parametrize("script", ["house", "pictures"])
def test_the_drawings_are_those_that_their_script_makes(script: str) -> None:
    name = ROOT / "scripts" / f"{script}.py"
    spec = importlib.util.spec_from_file_location(script, name)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[script] = module  # where dataclasses look
    try:
        spec.loader.exec_module(module)
    finally:
        del sys.modules[script]
    for path, text in module.files(ROOT).items():
        assert path.read_text(encoding="utf-8") == text, f"run {name}"


def test_every_guarantee_and_promise_of_security_names_tests_that_exist() -> None:
    pages = [ROOT / "docs/internals/guarantees.md", ROOT / "SECURITY.md"]
    named: set[str] = set()
    for page in pages:
        rows = [line for line in prose(page).splitlines() if line.startswith("| ")]
        tests = [re.findall(r"`(test_\w+)`", line) for line in rows]
        assert any(tests), page
        named |= {name for row in tests for name in row}
    defined = {
        name
        for source in (ROOT / "tests").rglob("*.py")
        for name in re.findall(r"def (test_\w+)", source.read_text(encoding="utf-8"))
    }
    assert sorted(named - defined) == []


def test_the_readme_names_targets_of_the_makefile() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    targets = set(re.findall(r"(?m)^make ([a-z]+)$", readme))
    assert targets >= {"demo", "test"}
    assert targets <= set(" ".join(re.findall(r"^([a-z ]+):", makefile, re.MULTILINE)).split())
