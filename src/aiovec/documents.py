"""Passages of documents as rows: Markdown, reStructuredText, plain text and PDF.

A passage is a piece of a document that is cut where its text has a boundary: at headings, and
within a long section between paragraphs or sentences. ``aiovec import`` stores the same rows. It
needs the extra ``documents``.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from hashlib import blake2b
from importlib import import_module
from pathlib import Path, PurePosixPath
from typing import Any

from ._documents.child import LONGEST_TITLE
from ._documents.reading import Stop, Text, text_of
from ._model.schema import Embed, Field, Schema
from .backend.threads import in_thread, slots
from .errors import ConfigError, DocumentError, InvalidArgumentError

__all__ = ["SCHEMA", "passages"]

SCHEMA = Schema(
    fields={
        "body": Field(str, text=True),
        "title": Field(str, text=True),
        "source": Field(str, index="btree"),
        "start": Field(int),
        "part": Field(int),
        "parts": Field(int),
        "modified": Field(datetime, index="btree"),
        "hash": Field(str),
        "base": Field(str),
        "expires": Field(datetime, expires=True),
    },
    embed=Embed("body"),
)
"""The schema of a table of passages."""

_KINDS = {
    ".md": "markdown", ".markdown": "markdown", ".mdown": "markdown", ".rst": "rst",
    ".txt": "text", ".text": "text", ".pdf": "pdf",
}  # fmt: skip

SUFFIXES = frozenset(_KINDS)
"""The suffixes of documents."""

# Kinds whose text would be cut with all its marks, by their suffixes or their first bytes.
_UNREAD = frozenset(
    ".html .htm .xhtml .ipynb .docx .doc .pptx .ppt .xlsx .xls .epub .odt .rtf .zip".split()
)
_FIRST = {b"%pdf-": ".pdf", b"<!doctype html": ".html", b"<html": ".html", b"pk\3\4": ".zip"}

CHARACTERS, TOKENS = 1200, 256
"""Length of a passage at most, in characters, or in tokens where a tokenizer counts them."""

LARGEST = 64 * 2**20
"""Bytes of a document at most: it is held in memory with all its passages."""

# Changes when the same document is cut otherwise, so that the next import cuts all anew.
_VERSION = 2
_FENCE = re.compile(r" {0,3}(`{3,}|~{3,})")
_ATX = re.compile(r" {0,3}(#{1,6})[ \t]+([^ \t].*)?\Z")
_SETEXT = re.compile(r" {0,3}(=+|-+)[ \t]*\Z")
_UNDERLINE = re.compile(r"([!-/:-@\[-`{-~])\1+[ \t]*\Z")
# What Markdown puts around words of a heading: the address of a link, code, emphasis. An address
# ends before the next "]", so that a line of "](" takes no time that grows with its square.
_MARKUP = re.compile(r"\]\([^])]*\)|[\[`*]")
# The splitter's time grows with the square of its text, so it gets windows of so many characters.
_WINDOW = 2**15


_Cuts = Callable[[str], Iterable[tuple[int, str]]]
_Headings = Iterator[tuple[int, int, int, str]]
"""The start, the end, the level and the words of each heading."""


@dataclass(frozen=True, slots=True)
class Cutter:
    """Cuts documents into passages of a ``size``, in tokens if it has a ``tokenizer``."""

    size: int | None = None
    overlap: int = 0
    tokenizer: Any = None
    stop: Stop = field(default_factory=Stop, compare=False)

    def __post_init__(self) -> None:
        if self.size is not None and self.size < 1:
            raise InvalidArgumentError("size", self.size, "at least 1")
        if not 0 <= self.overlap < self.limit:
            raise InvalidArgumentError("overlap", self.overlap, f"from 0 to {self.limit - 1}")

    @property
    def limit(self) -> int:
        """The length of a passage at most."""
        return self.size or (CHARACTERS if self.tokenizer is None else TOKENS)

    def hash(self, data: bytes) -> str:
        """Return what changes with the content of a document, and with how it is cut."""
        how = f"{_VERSION} {self.limit} {self.overlap} {self.tokenizer is not None}\n"
        digest = blake2b(how.encode(), digest_size=16)
        digest.update(data)
        return digest.hexdigest()

    def read(self, data: bytes, source: str) -> Text | None:
        """Return the text of a document that is read in a child; None of one that is text."""
        kind = kind_of(data, source)
        return text_of(kind, data, source, self.stop) if kind == "pdf" else None

    def rows(
        self, data: bytes, source: str, modified: datetime | None, text: Text | None = None
    ) -> list[dict[str, Any]]:
        """Return the passages of a document as rows, or raise DocumentError. Takes a while.

        ``text`` is what ``read`` returned. AiovecError after a call of ``stop`` in another thread.
        """
        kind = kind_of(data, source)
        text = text or self.read(data, source) or Text(None, [_decoded(data, source)])
        name = "MarkdownSplitter" if kind == "markdown" else "TextSplitter"
        splitter = getattr(_package("semantic_text_splitter"), name)
        if self.tokenizer is None:
            cuts = splitter(self.limit, self.overlap).chunk_indices
        else:
            tokens = splitter.from_huggingface_tokenizer
            cuts = tokens(self.tokenizer, self.limit, self.overlap).chunk_indices
        digest = self.hash(data)
        rows: list[dict[str, Any]] = []
        for page, content in enumerate(text.pages, start=1):
            for line, title, body in self._cut(content, kind, text.title, cuts):
                row: dict[str, Any] = {"body": body, "title": title, "source": source}
                start = page if kind == "pdf" else line
                row |= {"start": start, "modified": modified, "hash": digest}
                rows.append({"id": passage_id(source, len(rows) + 1), **row})
        if not rows:
            scanned = "; a scanned one needs text recognition first" if kind == "pdf" else ""
            raise DocumentError(source, f"it has no text{scanned}")
        return [{**row, "part": n, "parts": len(rows)} for n, row in enumerate(rows, start=1)]

    def _cut(
        self, text: str, kind: str, title: str | None, cuts: _Cuts
    ) -> Iterator[tuple[int, str | None, str]]:
        """Yield the line, the title and the text of each passage."""
        line, counted = 1, 0
        for begin, content, end, path in _sections(text, kind, title):
            start = None
            for offset, body in self._chunks(cuts, text, begin, end):
                start, stop = offset if start is None else start, offset + len(body)
                if stop <= content:
                    continue  # a heading alone goes with the text below it
                body = text[start:stop]
                line += text.count("\n", counted, start)
                counted, start = start, None
                if re.search(r"\w", body):
                    yield line, path, body

    def _chunks(self, cuts: _Cuts, text: str, start: int, end: int) -> Iterator[tuple[int, str]]:
        """Yield the chunks of a section and where they begin.

        A window ends anywhere, so the next one begins with its last chunk.
        """
        window = max(_WINDOW, 16 * self.limit)
        while start < end:
            self.stop.check()
            stop = min(start + window, end)
            chunks = [(start + offset, chunk) for offset, chunk in cuts(text[start:stop])]
            start = stop
            if stop < end and len(chunks) > 1:
                start, _ = chunks.pop()
            yield from chunks


async def passages(
    document: Path | bytes | str,
    *,
    source: str | None = None,
    size: int | None = None,
    overlap: int = 0,
    tokenizer: Any = None,
    modified: datetime | None = None,
) -> AsyncGenerator[dict[str, Any], None]:
    """Yield the passages of a document as rows of ``SCHEMA``, cut in a thread.

    ``document`` is the path of a file, the bytes of one, or a text. ``source`` is its name, which
    the rows keep and whose suffix says its kind; bytes and texts need it. A passage has at most
    ``size`` characters, by default 1,200, or with a ``tokenizer`` of the package ``tokenizers`` so
    many of its tokens, by default 256, without a heading before it; passages of one section share
    up to ``overlap`` of them.
    Raises DocumentError if the document cannot be read, or has no text.
    """
    cutter = Cutter(size, overlap, tokenizer)
    if source is None and not isinstance(document, Path):
        raise InvalidArgumentError("source", source, "the name of the document")

    def load() -> tuple[bytes, str, datetime | None]:
        name = text_of_name(source or "")
        if isinstance(document, Path):
            name = name or text_of_name(document.name)
            content, changed = read_document(document, name)
            return content, name, modified or changed
        data = document.encode(errors="replace") if isinstance(document, str) else bytes(document)
        return data, name, modified

    cores = slots("documents", os.cpu_count() or 1)
    data, name, changed = await in_thread(load, limit=cores)
    text = None
    if kind_of(data, name) == "pdf":  # not where all others are cut, since it may take a minute
        text = await in_thread(cutter.read, data, name, limit=slots("reader", 1), stop=cutter.stop)
    work = partial(cutter.rows, data, name, changed, text)
    for row in await in_thread(work, limit=cores, stop=cutter.stop):
        yield row


def kind_of(data: bytes, source: str) -> str:
    """Return the kind of a document, by its first bytes or its suffix; DocumentError if none.

    DocumentError too if it is too large.
    """
    _check_size(len(data), source)
    start = data[:64].removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    known = (suffix for first, suffix in _FIRST.items() if start.startswith(first))
    suffix = next(known, PurePosixPath(source).suffix.lower())
    if suffix in _UNREAD:
        raise DocumentError(source, f"{suffix} is not read; convert it to Markdown first")
    return _KINDS.get(suffix, "text")


def read_document(path: Path, source: str) -> tuple[bytes, datetime]:
    """Return the content and the time of change of a file, or raise DocumentError."""
    try:
        status = path.stat()
        if not (stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode)):
            raise DocumentError(source, "it is no regular file")  # to open a pipe is to wait
        _check_size(status.st_size, source)
        with path.open("rb") as file:
            # Read as a whole, so that the hash is that of the passages if the file changes now.
            data = file.read(LARGEST + 1)
        changed = path.stat().st_mtime
    except OSError as exc:
        raise DocumentError(source, exc.strerror or str(exc)) from exc
    try:
        return data, datetime.fromtimestamp(changed, UTC)
    except (OSError, OverflowError, ValueError) as exc:
        raise DocumentError(source, f"its time of change is out of range: {exc}") from exc


def place_of(row: Mapping[str, Any]) -> str | None:
    """Return where a passage stands: ``guide.md:9``, ``book.pdf, page 3``; None for another row."""
    source, start = row.get("source"), row.get("start")
    if not (isinstance(source, str) and isinstance(start, int) and "parts" in row):
        return None
    is_pdf = source.lower().endswith(".pdf")
    return f"{source}, page {start}" if is_pdf else f"{source}:{start}"


def _check_size(size: int, source: str) -> None:
    if size > LARGEST:
        raise DocumentError(source, f"it has {size:,} bytes; at most {LARGEST:,} are read")


def passage_id(source: str, part: int) -> str:
    """Return the id of a passage, which stays when its text changes."""
    id = f"{source}#{part}"
    if len(id.encode()) <= 512:
        return id
    return f"{blake2b(source.encode(), digest_size=16).hexdigest()}#{part}"


def text_of_name(name: str) -> str:
    """Return a file's name as text: a byte of it that is no UTF-8 is written ``\\xff``."""
    try:
        data = name.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:  # half of a pair of UTF-16
        data = name.encode("utf-8", "backslashreplace")
    return data.decode("utf-8", "backslashreplace")


def _package(name: str) -> Any:
    try:
        return import_module(name)
    except ModuleNotFoundError as exc:
        raise ConfigError(
            f"documents need the package {exc.name}; install it with: "
            'pip install "aiovec[documents]"'
        ) from exc


def _decoded(data: bytes, source: str) -> str:
    """Return the text of a file: UTF-8, UTF-16 with its mark, or else Windows-1252."""
    marked = data.startswith((b"\xff\xfe", b"\xfe\xff"))
    for encoding in ["utf-16"] if marked else ["utf-8-sig", "cp1252"]:
        try:
            text = data.decode(encoding)
        except UnicodeDecodeError:
            continue
        if "\0" not in text:
            return text.replace("\r\n", "\n").replace("\r", "\n")
    raise DocumentError(source, "it is no text")


def _sections(
    text: str, kind: str, title: str | None
) -> Iterator[tuple[int, int, int, str | None]]:
    """Yield where each section begins, its text begins and it ends, and the headings above it.

    A heading with nothing below it belongs to the section after it.
    """
    path: list[tuple[int, str]] = []
    begin = content = 0
    headings = _HEADINGS.get(kind, _none)
    for start, end, level, heading in (*headings(text), (len(text), 0, 0, "")):
        if len(heading) > LONGEST_TITLE:  # each passage below it would repeat it
            continue
        if text[content:start].strip() or (not level and text[begin:start].strip()):
            # Without text below them, the last headings are a section of their own.
            content = content if text[content:start].strip() else begin
            yield begin, content, start, " > ".join(name for _, name in path) or title
            begin = start
        path = [(high, name) for high, name in path if high < level] + [(level, heading)]
        content = end


def _none(text: str) -> _Headings:
    return iter(())


def _markdown(text: str) -> _Headings:
    place = before = 0
    last, fence = "", ""
    for number, line in enumerate(text.split("\n")):
        end = place + len(line)
        mark = _FENCE.match(line)
        if fence:
            if line.rstrip() == "---" if fence == "---" else mark and mark[1].startswith(fence):
                fence = ""
            line = ""
        elif number == 0 and line.rstrip() == "---":  # metadata, up to the next such line
            fence, line = "---", ""
        elif mark:
            fence, line = mark[1], ""
        elif atx := _ATX.match(line):
            words = (atx[2] or "").rstrip(" \t")
            opened = words.rstrip("#")  # without the marks that may close a heading
            words = opened.rstrip(" \t") if opened.endswith((" ", "\t")) else words
            yield place, end, len(atx[1]), _MARKUP.sub("", words)
            line = ""
        elif last.strip() and (rule := _SETEXT.match(line)):
            yield before, end, 1 if rule[1][0] == "=" else 2, _MARKUP.sub("", last.strip())
            line = ""
        before, last, place = place, line, end + 1


def _underlined(text: str) -> _Headings:
    """Yield the headings of reStructuredText, whose levels are those of their first uses."""
    levels: list[tuple[str, bool]] = []
    lines = text.split("\n")
    places = [0]
    for line in lines:
        places.append(places[-1] + len(line) + 1)
    for n in range(1, len(lines)):
        name, rule = lines[n - 1].strip(), _UNDERLINE.match(lines[n])
        if rule is None or not name or _UNDERLINE.match(name) or len(lines[n].rstrip()) < len(name):
            continue
        above = n > 1 and lines[n - 2].rstrip() == lines[n].rstrip()
        if not above and (lines[n - 1][:1].isspace() or (n > 1 and lines[n - 2].strip())):
            continue  # the last row of a table, or of a paragraph
        style = (rule[1], above)
        if style not in levels:
            levels.append(style)
        yield places[n - 1 - above], places[n + 1] - 1, min(levels.index(style), 6), name


_HEADINGS = {"markdown": _markdown, "rst": _underlined}
