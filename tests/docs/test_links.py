"""What the pages point at exists: other pages, their headings, and modules."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from .blocks import ROOT

PAGES = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "examples").rglob("*.md")]
_LINK = re.compile(r"\]\(([^)\s]+)\)")
_CODE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
PARTS = ("src", "src/aiovec", "adapters", "migrate", ".")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_somewhere(page: Path) -> None:
    for link in _LINK.findall(_CODE.sub("", page.read_text(encoding="utf-8"))):
        if re.match(r"[a-z]+:", link):
            continue
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        assert target.exists(), link
        if anchor:
            assert anchor in _anchors(target), link


def test_the_index_of_decisions_lists_each_page_by_its_title() -> None:
    folder = ROOT / "docs/adr"
    index = (folder / "README.md").read_text(encoding="utf-8")
    listed = re.findall(r"^\| \[(\d{4})\]\(([\w.-]+)\) \| (.+) \|$", index, re.MULTILINE)
    assert [name for _, name, _ in listed] == sorted(p.name for p in folder.glob("0*.md"))
    for number, name, title in listed:
        text = (folder / name).read_text(encoding="utf-8")
        assert text.startswith(f"# {number}: {title}\n")
        headings = re.findall(r"^## (.+)$", text, re.MULTILINE)
        assert headings == ["Context", "Decision", "Consequences", "Measured"]


def test_the_architecture_names_modules_that_exist() -> None:
    text = (ROOT / "docs/ARCHITECTURE.md").read_text(encoding="utf-8")
    named = re.findall(r"`([\w/.]+\.(?:py|md|toml|json)|[\w/]+/)`", _CODE.sub("", text))
    assert named
    missing = [name for name in named if not any((ROOT / part / name).exists() for part in PARTS)]
    assert missing == []


def _anchors(page: Path) -> set[str]:
    """The headings of a page as GitHub links them."""
    headings = re.findall(r"^#+ (.+)$", _CODE.sub("", page.read_text(encoding="utf-8")), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
