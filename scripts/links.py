"""Check that every link within a folder of HTML pages leads to a file, and to an id in it.

``python scripts/links.py site`` checks the site that ``make docs`` builds. It does not follow links
to other hosts, except links to the project's own site, which must lead to a page of the folder.
"""

from __future__ import annotations

import sys
import tomllib
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

ROOT = Path(__file__).resolve().parents[1]


class Page(HTMLParser):
    def __init__(self, path: Path) -> None:
        super().__init__()
        self.links: set[str] = set()
        self.ids: set[str] = set()
        self.feed(path.read_text("utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.ids.update(filter(None, (values.get("id"), values.get("name"))))
        self.links.update(filter(None, (values.get("href"), values.get("src"))))


def broken(site: Path) -> list[str]:
    """Return a line for each link that leads nowhere."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["aiovec"]
    owner, name = project["repository"].rsplit("/", 2)[1:]
    home = f"https://{owner}.github.io/{name}/"
    pages = {path.resolve(): Page(path) for path in site.rglob("*.html")}
    lines = [] if pages else [f"{site} has no pages"]
    for path, page in pages.items():
        if path.name == "404.html":  # its links are relative to the host
            continue
        shown = path.relative_to(site.resolve())
        for link in sorted(page.links):
            base = path
            inner = link
            if link.startswith(home):
                base, inner = site.resolve() / "index.html", link.removeprefix(home)
            parts = urlsplit(inner)
            if parts.scheme or parts.netloc:
                continue
            target = (base.parent / unquote(parts.path)).resolve() if parts.path else base
            if target.is_dir():
                target /= "index.html"
            if not target.exists():
                lines.append(f"{shown}: {link}: there is no such file")
                continue
            fragment = unquote(parts.fragment)
            if fragment and target in pages and fragment not in pages[target].ids:
                lines.append(f"{shown}: {link}: there is no such id")
    return lines


if __name__ == "__main__":
    problems = broken(Path(sys.argv[1]))
    print("\n".join([*problems, f"links: {len(problems)} lead nowhere"]))
    sys.exit(bool(problems))
