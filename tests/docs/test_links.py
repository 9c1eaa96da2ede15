"""What the pages point at exists: other pages, their headings, modules, and tests."""

from __future__ import annotations

import re
from pathlib import Path

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


def test_the_site_shows_every_page() -> None:
    named = re.findall(
        r"(docs/[\w/-]+\.md)$", (ROOT / "mkdocs.yml").read_text("utf-8"), re.MULTILINE
    )
    shown = [page.relative_to(ROOT).as_posix() for page in (ROOT / "docs").rglob("*.md")]
    decisions = [page for page in shown if re.search(r"/adr/\d", page)]  # their own list has them
    assert sorted(named) == sorted(set(shown) - set(decisions))


def test_the_architecture_names_modules_that_exist() -> None:
    text = prose(ROOT / "docs/internals/architecture.md")
    named = re.findall(r"`([\w/.]+\.(?:py|md|toml|json)|[\w/]+/)`", text)
    parts = [ROOT / part for part in ("src", "src/aiovec", "adapters", "migrate", ".")]
    assert named
    assert [name for name in named if not any((part / name).exists() for part in parts)] == []


def test_every_guarantee_names_tests_that_exist() -> None:
    page = (ROOT / "docs/internals/guarantees.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`(test_\w+)`", page))
    defined = {
        name
        for source in (ROOT / "tests").rglob("*.py")
        for name in re.findall(r"def (test_\w+)", source.read_text(encoding="utf-8"))
    }
    assert named
    assert sorted(named - defined) == []


def test_the_readme_names_targets_of_the_makefile() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    targets = set(re.findall(r"(?:`|\$ )make ([a-z]+)", readme))
    assert targets >= {"demo", "test"}
    assert targets <= set(" ".join(re.findall(r"^([a-z ]+):", makefile, re.MULTILINE)).split())
