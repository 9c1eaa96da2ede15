"""Passages of documents as rows: text, Markdown, HTML, PDF, notebooks, office files and books.

A document is cut into passages at boundaries of its text: at headings and, within a long section,
between paragraphs or sentences. ``aiovec import`` stores the same rows. This module needs the extra
``documents``.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial, reduce
from hashlib import blake2b
from operator import or_
from pathlib import Path, PurePosixPath
from typing import Any, cast

from ._documents.child import LONGEST_TITLE
from ._documents.kinds import KINDS, WINDOW, Headings, Kind, kind_by_suffix, package
from ._documents.reading import Stop, Text, text_of
from ._filters import F
from ._input.arguments import is_iterable
from ._model.records import Record
from ._model.schema import Embed, Field, Schema
from ._store.store import Table
from .backend.threads import in_thread, slots
from .errors import DocumentError, InvalidArgumentError

__all__ = ["SCHEMA", "around", "passages", "place_of"]

SCHEMA = Schema(
    fields={
        "body": Field(str, text=True),
        "title": Field(str, text=True),
        "source": Field(str, index="btree"),
        "anchor": Field(str),
        "start": Field(int),
        "part": Field(int),
        "parts": Field(int),
        "modified": Field(datetime, index="btree"),
        "hash": Field(str),
        "base": Field(str),
        "expires": Field(datetime, expires=True),
    },
    embed=Embed("body"),
    analyzer="english",
)
"""The schema of a table of passages. For texts in another language, replace its ``analyzer``.

``hash`` changes with the content of the document and with the way it is cut. ``base`` is the
``--base`` of the import that stored the passage; null if an app stored it. An import sets
``expires`` in passages that are no longer in their document."""

SUFFIXES = frozenset(suffix for kind in KINDS.values() for suffix in kind.suffixes)
"""The file suffixes of documents."""

# Suffixes of formats that no reader supports.
_UNREAD = frozenset(".doc .ppt .xls .xlsx .odp .ods .rtf".split())

CHARACTERS, TOKENS = 1200, 256
"""Default maximum size of a passage: in characters, or in tokens if there is a tokenizer."""

LARGEST = 64 * 2**20
"""Maximum size of a document in bytes, since it and all its passages are held in memory."""

FARTHEST = 10
"""Maximum number of passages that ``around`` returns before a hit, and after it."""

# Raise this number when the cutter changes: the next import then cuts every document again.
_VERSION = 5
_DIRECTIVE = re.compile(r"(?m)^\.\. (?:[\w-]+::|_[^\s:]+:)")
_ANCHORED = re.compile(r"(?m)^(#{1,6} .{0,2000}?) \{#[^\s{}]+\}$")
_FRONT = re.compile(r"---[ \t]*\n(?=[\w-]+[ \t]*:)(.{,9999}?\n)(?:---|\.\.\.)[ \t]*(?:\n|\Z)", re.S)


_Cuts = Callable[[str], Iterable[tuple[int, str]]]


@dataclass(frozen=True, slots=True)
class Cutter:
    """Cuts documents into passages of at most ``size`` characters, or tokens of a ``tokenizer``."""

    size: int | None = None
    overlap: int = 0
    tokenizer: Any = None
    stop: Stop = field(default_factory=Stop, compare=False)
    kind: str | None = None

    def __post_init__(self) -> None:
        if self.kind not in (None, *KINDS):
            raise InvalidArgumentError("kind", self.kind, f"one of {', '.join(sorted(KINDS))}")
        if self.size is not None and self.size < 1:
            raise InvalidArgumentError("size", self.size, "at least 1")
        if not 0 <= self.overlap < self.limit:
            raise InvalidArgumentError("overlap", self.overlap, f"from 0 to {self.limit - 1}")

    @property
    def limit(self) -> int:
        """The maximum number of characters or tokens of a passage."""
        return self.size or (CHARACTERS if self.tokenizer is None else TOKENS)

    @property
    def _short(self) -> int:
        """The number of characters below which a chunk is joined to a neighbouring one."""
        return min(self.limit // 15, 80)

    def hash(self, data: bytes) -> str:
        """Return a hash of a document's content and of the way it is cut.

        It begins with the size and the overlap, which ``lengths_in`` reads.
        """
        how = f"{_VERSION} {self.tokenizer is not None} {self.kind}\n"
        digest = blake2b(how.encode(), digest_size=16)
        digest.update(data)
        return f"{self.limit}-{self.overlap}-{digest.hexdigest()}"

    def kind_of(self, data: bytes, source: str) -> Kind:
        """Return ``kind`` if it is set, else the kind that the first bytes or the suffix show.

        Raises DocumentError if the kind is not supported, or the document is too large.
        """
        _check_size(len(data), source)
        if self.kind is not None:
            return KINDS[self.kind]
        start = data[:64].removeprefix(b"\xef\xbb\xbf").lstrip().lower()
        by_suffix = kind_by_suffix(source) or KINDS["text"]
        known = (kind for kind in KINDS.values() if start.startswith(kind.first))
        kind = next(known, by_suffix)
        is_unread = PurePosixPath(source).suffix.lower() in _UNREAD
        if is_unread or (not kind.is_parsed and start.startswith(b"pk\3\4")):
            raise DocumentError(source, "its format is not supported; convert it to Markdown first")
        return kind

    def read(self, data: bytes, source: str) -> Text:
        """Return the text of a document. Slow for kinds that are read in another process."""
        kind = self.kind_of(data, source)
        if kind.is_parsed:
            return text_of(kind.name, data, source, self.stop)
        return Text(None, [_decoded(data, source)])

    def rows(
        self, data: bytes, source: str, modified: datetime | None, text: Text | None = None
    ) -> list[dict[str, Any]]:
        """Return the passages of a document as rows, or raise DocumentError. Slow.

        ``text`` is the result of ``read``. Raises AiovecError once another thread calls ``stop``.
        """
        text = text or self.read(data, source)
        kind = self.kind_of(data, source)
        passage = {"source": source, "modified": modified, "hash": self.hash(data)}
        rows: list[dict[str, Any]] = []
        for page, content in enumerate(text.pages, start=1):
            for row in self._cut(content, kind, text.title):
                paged = {"start": page} if kind.unit not in ("", "line") else {}
                id = passage_id(source, len(rows) + 1)
                rows.append({"id": id, **row, **passage, **paged})
        if not rows:
            raise DocumentError(source, f"it has no text{kind.hint}")
        return [{**row, "part": n, "parts": len(rows)} for n, row in enumerate(rows, start=1)]

    def _cut(self, text: str, kind: Kind, title: str | None) -> Iterator[dict[str, Any]]:
        """Yield, for each passage, the fields that depend on its text."""
        facts: dict[str, Any] = {}
        if kind.name == "markdown":
            text, facts = _front_matter(text)
        elif kind.name == "text" and _DIRECTIVE.search(text, 0, 2**16):
            kind = KINDS["rst"]  # Sphinx also names such sources .txt
        title = facts.pop("title", None) or title
        cuts = self._splitter(kind.splitter)
        line, counted = 1, 0
        for begin, content, end, path, anchor in _sections(text, kind.headings(text), title):
            start = None
            for offset, stop in _joined(self._chunks(cuts, text, begin, end), self._short):
                start = offset if start is None else start
                if stop <= content:
                    continue  # a heading without text joins the text below it
                body = text[start:stop]
                body = _ANCHORED.sub(r"\1", body) if kind.is_parsed and kind.name != "pdf" else body
                line += text.count("\n", counted, start)
                counted, start = start, None
                if re.search(r"\w", kind.silent.sub("", body) if kind.silent else body):
                    yield {"body": body, "title": path, "start": line, "anchor": anchor, **facts}

    def _splitter(self, name: str) -> _Cuts:
        splitter = getattr(package("semantic_text_splitter"), name)
        size = self.limit - self._short  # leaves room to join a short chunk
        overlap = min(self.overlap, size - 1)
        if self.tokenizer is None:
            return cast(_Cuts, splitter(size, overlap).chunk_indices)
        tokens = splitter.from_huggingface_tokenizer(self.tokenizer, size, overlap)
        return cast(_Cuts, tokens.chunk_indices)

    def _chunks(self, cuts: _Cuts, text: str, start: int, end: int) -> Iterator[tuple[int, int]]:
        """Yield the start and the end of each chunk of a section.

        The section is cut into windows. A window may end in the middle of a chunk, so the next
        window begins with that chunk.
        """
        window = max(WINDOW, 16 * self.limit)
        while start < end:
            self.stop.check()
            stop = min(start + window, end)
            chunks = [(start + at, start + at + len(part)) for at, part in cuts(text[start:stop])]
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
    kind: str | None = None,
) -> AsyncGenerator[dict[str, Any], None]:
    """Yield the passages of a document as rows of ``SCHEMA``, cut in a thread.

    ``document`` is the path or the bytes of a file, or its text. The bytes of a text file are
    decoded as UTF-8, UTF-16 with a byte order mark, or else Windows-1252. ``source`` is the name of
    the document in the rows; it is required for bytes and text. Its suffix determines the kind,
    unless the first bytes show a PDF or HTML, or ``kind`` names it: pass "markdown" for text that
    was converted from a file of another kind. An unknown suffix means plain text. ``modified`` is
    the modification time in the rows, by default the file's.

    A passage has at most ``size`` characters, by default 1,200. With a ``tokenizer`` of the package
    ``tokenizers``, ``size`` counts tokens, by default 256. A heading before the passage does not
    count. Passages of one section share up to ``overlap`` characters or tokens, by default none.

    Raises DocumentError if the document cannot be read, has no text, or has more than 64 MiB.
    """
    cutter = Cutter(size, overlap, tokenizer, kind=kind)
    if not isinstance(document, (Path, str, bytes, bytearray, memoryview)):
        raise InvalidArgumentError("document", document, "a Path, the bytes of a file, or a text")
    if source is None and not isinstance(document, Path):
        expected = "the name of the document; to read a file, pass Path(...) instead of a text"
        raise InvalidArgumentError("source", source, expected)

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
    if cutter.kind_of(data, name).is_parsed:  # one document at a time, because it may take a minute
        text = await in_thread(cutter.read, data, name, limit=slots("reader", 1), stop=cutter.stop)
    work = partial(cutter.rows, data, name, changed, text)
    for row in await in_thread(work, limit=cores, stop=cutter.stop):
        yield row


async def around(
    table: Table, hits: Iterable[Mapping[str, Any]], reach: int = 1
) -> list[list[Record]]:
    """Return, for each hit, its passage with the neighbouring ones, in the document's order.

    The neighbours are up to ``reach`` passages before the hit and as many after it; ``reach`` is at
    most 10. A single read fetches the passages for all hits. Raises InvalidArgumentError if a hit
    is not a passage with ``source`` and ``part``.
    """
    if isinstance(reach, bool) or not isinstance(reach, int) or not 0 <= reach <= FARTHEST:
        raise InvalidArgumentError("reach", reach, f"from 0 to {FARTHEST}")
    if isinstance(hits, Mapping) or not is_iterable(hits):
        raise InvalidArgumentError("hits", hits, "a list of hits, also of a single one: [hit]")
    places = []
    for hit in hits:
        if not isinstance(hit, Mapping):
            raise InvalidArgumentError("hits", hit, "passages of documents")
        source, part = hit.get("source"), hit.get("part")
        if not (isinstance(source, str) and isinstance(part, int)):
            expected = "passages of documents, with their source and part"
            raise InvalidArgumentError("hits", {"source": source, "part": part}, expected)
        places.append((source, part))
    near = [(F.source == s) & F.part.between(n - reach, n + reach) for s, n in places]
    rows = await table.find(reduce(or_, near), limit=None) if near else []
    found = {(row["source"], row["part"]): row for row in rows}
    spans = ([(s, n + step) for step in range(-reach, reach + 1)] for s, n in places)
    return [[found[place] for place in span if place in found] for span in spans]


def place_of(row: Mapping[str, Any]) -> str | None:
    """Return a citation of a passage; None for a row that is not a passage.

    Examples are ``guide.md:9`` with the line, ``book.pdf, page 3`` and ``guide.html#anchor``. For
    kinds without lines, such as Word, the citation is only the source.
    """
    source, start = row.get("source"), row.get("start")
    if not (isinstance(source, str) and isinstance(start, int) and "parts" in row):
        return None
    kind, anchor = kind_by_suffix(source), row.get("anchor")
    unit = "line" if kind is None else kind.unit
    if unit not in ("", "line"):
        return f"{source}, {unit} {start}"
    if anchor and ("://" in source or (kind is not None and kind.name == "html")):
        return f"{source}#{anchor}"  # a link that opens at this place
    return f"{source}:{start}" if unit else source


def read_document(path: Path, source: str) -> tuple[bytes, datetime]:
    """Return the content and the modification time of a file, or raise DocumentError."""
    try:
        status = path.stat()
        if not (stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode)):
            raise DocumentError(source, "it is not a regular file")  # opening a pipe would block
        _check_size(status.st_size, source)
        with path.open("rb") as file:
            # One read, so that the hash matches the passages even if the file changes meanwhile.
            data = file.read(LARGEST + 1)
        changed = path.stat().st_mtime
    except OSError as exc:
        raise DocumentError(source, exc.strerror or str(exc)) from exc
    try:
        return data, datetime.fromtimestamp(changed, UTC)
    except (OSError, OverflowError, ValueError) as exc:
        raise DocumentError(source, f"its modification time is out of range: {exc}") from exc


def lengths_in(digest: str) -> tuple[int, int] | None:
    """Return the size and the overlap with which a passage was cut, if its hash has them."""
    lengths = re.match(r"(\d+)-(\d+)-", digest)
    return None if lengths is None else (int(lengths[1]), int(lengths[2]))


def content_in(digest: str) -> str:
    """Return the part of a passage's hash that does not change with the size and the overlap."""
    return digest.rpartition("-")[2]


def _check_size(size: int, source: str) -> None:
    if size > LARGEST:
        raise DocumentError(source, f"it has {size:,} bytes; at most {LARGEST:,} are supported")


def passage_id(source: str, part: int) -> str:
    """Return the id of a passage, which stays the same when its text changes."""
    id = f"{source}#{part}"
    if len(id.encode()) <= 512:
        return id
    return f"{blake2b(source.encode(), digest_size=16).hexdigest()}#{part}"


def text_of_name(name: str) -> str:
    """Return a file's name as text, with bytes that are not UTF-8 written as ``\\xff``."""
    try:
        data = name.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:  # half of a UTF-16 surrogate pair
        data = name.encode("utf-8", "backslashreplace")
    return data.decode("utf-8", "backslashreplace")


def _decoded(data: bytes, source: str) -> str:
    """Return the text of a file: UTF-8, UTF-16 with a byte order mark, or Windows-1252."""
    marked = data.startswith((b"\xff\xfe", b"\xfe\xff"))
    for encoding in ["utf-16"] if marked else ["utf-8-sig", "cp1252"]:
        try:
            text = data.decode(encoding)
        except UnicodeDecodeError:
            continue
        if "\0" not in text:
            return text.replace("\r\n", "\n").replace("\r", "\n")
    raise DocumentError(source, "it is not text")


def _joined(chunks: Iterable[tuple[int, int]], short: int) -> Iterator[tuple[int, int]]:
    """Yield chunks, joining a short one to the next or, at the end, to the previous one."""
    last: tuple[int, int] | None = None
    is_joined = False
    for start, stop in chunks:
        if last and not is_joined and (last[1] - last[0] < short or stop - start < short):
            last, is_joined = (last[0], stop), stop - last[0] >= short
            continue
        if last:
            yield last
        last, is_joined = (start, stop), False
    if last:
        yield last


def _front_matter(text: str) -> tuple[str, dict[str, Any]]:
    """Return Markdown with its metadata blanked out, and its title, date and tags."""
    front = _FRONT.match(text)
    if front is None:
        return text, {}
    facts: dict[str, Any] = {}
    for name in ("title", "date", "tags"):
        if found := re.search(rf"(?m)^{name}:[ \t]*(.*(?:\n[ \t]*- .*)*)", front[1]):
            values = re.split(r"\n[ \t]*- |,", found[1]) if name == "tags" else [found[1]]
            values = [value.strip(" \t[]\"'")[:LONGEST_TITLE] for value in values]
            facts[name] = [value for value in values if value][:50]
    facts |= {name: facts[name][0] for name in ("title", "date") if facts.get(name)}
    return "\n" * text.count("\n", 0, front.end()) + text[front.end() :], facts


def _sections(
    text: str, headings: Headings, title: str | None
) -> Iterator[tuple[int, int, int, str | None, str | None]]:
    """Yield each section: its start, the start of its text, its end, its headings and its anchor.

    A heading without text belongs to the next section.
    """
    path: list[tuple[int, str, str | None]] = []
    begin = content = 0
    for start, end, level, words, anchor in (*headings, (len(text), 0, 0, "", None)):
        if len(words) > LONGEST_TITLE:  # too long for a title, which each passage repeats
            continue
        if text[content:start].strip() or (not level and text[begin:start].strip()):
            # The last headings are a section if no text follows them.
            content = content if text[content:start].strip() else begin
            titles = " > ".join(name for _, name, _ in path)
            anchors = [name for *_, name in path if name]
            yield begin, content, start, titles or title, anchors[-1] if anchors else None
            begin = start
        path = [each for each in path if each[0] < level] + [(level, words, anchor)]
        content = end
