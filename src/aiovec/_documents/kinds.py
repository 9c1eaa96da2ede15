"""The kinds of documents, and the headings in their texts."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from itertools import accumulate, pairwise
from pathlib import PurePosixPath
from typing import Any

from .child import LONGEST_TITLE, READERS
from .reading import missing_package

Headings = Iterator[tuple[int, int, int, str, str | None]]
"""The start, end, level, text and anchor of each heading."""

_UNDERLINE = re.compile(r"([!-/:-@\[-`{-~])\1*[ \t]*\Z")
# The attributes that MkDocs, Pandoc and Hugo read after a heading's text: { #anchor .class }.
_ATTRIBUTES = re.compile(r"[ \t]*\{[ :]*(?:#([^\s{}]+)|\.[\w-]+)[^{}]*\}[ \t]*\Z")
# Code, and headings with their anchors, in the Markdown that a reader made from a document.
_CONVERTED = re.compile(r"(?ms)^(`{3,}+).*?^\1$|^(#{1,6}) ([^\n]*?)(?: \{#([^\s{}]+)\})?$")
# The splitter's time grows with the square of a text's length, so it gets windows of this size.
WINDOW = 2**15


def package(name: str) -> Any:
    """Import a package of the extra ``documents``."""
    try:
        return import_module(name)
    except ModuleNotFoundError as exc:
        raise missing_package(exc.name) from exc


def _no_headings(text: str) -> Headings:
    return iter(())


def _markdown(text: str) -> Headings:
    """Yield the headings of a Markdown document.

    The text is parsed in windows. A window may end within a block, so the last block of a window is
    parsed again at the beginning of the next window.
    """
    start, size = 0, WINDOW
    while start < len(text):
        stop = text.find("\n", start + size) + 1 or len(text)
        tokens = _blocks().parse(text[start:stop])
        places = _starts(text[start:stop].split("\n"), start)
        last = max((token.map[0] for token in tokens if token.map and not token.level), default=0)
        if stop < len(text) and not last and size < 8 * WINDOW:
            size *= 2
            continue
        stop = places[last] if last and stop < len(text) else stop
        for token, words in pairwise(tokens):
            if token.type == "heading_open" and not token.level and places[token.map[0]] < stop:
                begin, end = (places[line] for line in token.map)
                yield begin, end - 1, int(token.tag[1]), *_plain(words.content)
        start, size = stop, WINDOW


@cache
def _blocks() -> Any:
    """Return a block parser that skips references, which take quadratic time."""
    parser = package("markdown_it").MarkdownIt("commonmark").enable("table").disable("reference")
    parser.core.ruler.enableOnly(["normalize", "block"])
    parser.parse("x")  # compiles its rules before other threads use it
    return parser


@cache
def _inlines() -> Any:
    """Return a parser for single lines. Creating it takes as long as parsing a hundred lines."""
    parser = package("markdown_it").MarkdownIt("commonmark")
    parser.parseInline("x")  # compiles its rules too
    return parser


def _starts(lines: Sequence[str], first: int = 0) -> list[int]:
    """Return the position at which each line starts, and the position of the end."""
    return [*accumulate((len(line) + 1 for line in lines), initial=first)]


def _plain(words: str) -> tuple[str, str | None]:
    """Return a Markdown heading's text without links, emphasis and comments, and its anchor."""
    if len(words) > LONGEST_TITLE:
        return words, None
    attributes = _ATTRIBUTES.search(words)
    (inline,) = _inlines().parseInline(_ATTRIBUTES.sub("", words))
    types = ("text", "code_inline", "softbreak")
    plain = "".join(each.content or " " for each in inline.children if each.type in types)
    return plain.strip(), attributes and attributes[1]


def _converted(text: str) -> Headings:
    """Yield the headings of a converted document. Their texts are plain, not Markdown."""
    for each in _CONVERTED.finditer(text):
        if each[2]:
            yield each.start(), each.end(), len(each[2]), each[3].replace("`", ""), each[4]


def _underlined(text: str) -> Headings:
    """Yield the headings of reStructuredText. The first style in a text has the highest level, the
    next new style the second highest, and so on."""
    levels: list[tuple[str, bool]] = []
    lines = text.split("\n")
    places = _starts(lines)
    for n in range(1, len(lines)):
        name, rule = lines[n - 1].strip(), _UNDERLINE.match(lines[n])
        if rule is None or not name or _UNDERLINE.match(name):
            continue
        if len(lines[n].rstrip()) < min(len(name), 4):
            continue
        above = n > 1 and lines[n - 2].rstrip() == lines[n].rstrip()
        if not above and (
            lines[n - 1][:1].isspace()
            or (n > 1 and lines[n - 2].strip(" ") and lines[n - 2][:3] != ".. ")
        ):
            continue  # the last row of a table or paragraph
        style = (rule[1], above)
        if style not in levels:
            levels.append(style)
        yield places[n - 1 - above], places[n + 1] - 1, min(levels.index(style), 6), name, None


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of document, recognised by a suffix or by its ``first`` bytes.

    ``unit`` is the unit of a passage's ``start``, such as "page" or "line"; it is empty if readers
    see no such numbers. ``hint`` is added to the error for a document without text. Readers
    do not see lines that match ``silent``, so a passage with only such lines is left out.
    """

    name: str
    suffixes: tuple[str, ...]
    first: tuple[bytes, ...] = ()
    unit: str = ""
    headings: Callable[[str], Headings] = _converted
    splitter: str = "MarkdownSplitter"
    silent: re.Pattern[str] | None = None
    hint: str = ""

    @property
    def is_parsed(self) -> bool:
        """True if a reader in another process converts documents of this kind to text."""
        return self.name in READERS


_SILENT = re.compile(
    r"(?m)^(?:\.\. (?:_[^:\n]+:|(?:(?:current)?module|highlight|contents)::.*)|:orphan:)[ \t]*$"
)

KINDS = {
    kind.name: kind
    for kind in (
        Kind("markdown", (".md", ".markdown", ".mdown"), (), "line", _markdown),
        Kind("text", (".txt", ".text"), (), "line", _no_headings, "TextSplitter"),
        Kind("rst", (".rst",), (), "line", _underlined, "TextSplitter", _SILENT),
        Kind(
            "pdf", (".pdf",), (b"%pdf-",), "page", _no_headings, "TextSplitter",
            hint="; a scanned PDF needs text recognition first",
        ),
        Kind("html", (".html", ".htm", ".xhtml"), (b"<!doctype html", b"<html")),
        Kind("notebook", (".ipynb",), headings=_markdown),
        Kind("docx", (".docx",)),
        Kind("odt", (".odt",)),
        Kind("pptx", (".pptx",), unit="slide"),
        Kind("epub", (".epub",), unit="chapter"),
    )
}  # fmt: skip
"""The kinds of documents by their names."""


def kind_by_suffix(source: str) -> Kind | None:
    """Return the kind of document that the suffix of ``source`` names, or None."""
    suffix = PurePosixPath(source).suffix.lower()
    return next((kind for kind in KINDS.values() if suffix in kind.suffixes), None)
