"""The program of the process that reads documents. A hostile document may crash it or use all of
its memory.

It is run by its path, so it imports nothing from aiovec. A frame is a length in four bytes, then
that number of bytes. A request is a frame with a kind and a frame with the content. The answer is a
frame with facts in JSON and a frame for each page. The first request's content is ``sys.path``.
"""

from __future__ import annotations

import json
import mmap
import os
import posixpath
import re
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from io import BytesIO
from queue import SimpleQueue
from typing import IO, Any
from urllib.parse import unquote
from xml.etree import ElementTree as ET
from zipfile import ZipFile

BOUNDS = {"memory": 2**30, "seconds": 60, "pages": 10_000, "characters": 2**24}
"""The limits for one document. PDFium reads about 1,000 typical pages per second."""

LONGEST_TITLE = 200
"""Maximum characters of a title. Each passage repeats the title, so a longer one is ignored."""

# Titles that programs write if the author gave none.
_NO_TITLE = re.compile(
    r"\(?(anonymous|unspecified|untitled)( document)?\)?|Microsoft \w+ - .*", re.IGNORECASE
)

TOO_SLOW = f"reading it takes more than {BOUNDS['seconds']} s"
TOO_LARGE = f"reading it takes more than {BOUNDS['memory'] >> 20:,} MiB of memory"


class _UnreadableError(Exception):
    """A document cannot be read. The message is the reason."""


def read(kind: str, data: bytes) -> dict[str, Any]:
    """Return the ``title`` and the ``pages`` of a document, or the ``reason`` why it is unreadable.

    If its reader needs a package that is not installed, return the package as ``missing``.
    """
    until, characters = time.monotonic() + BOUNDS["seconds"], 0
    pages: list[str] = []
    try:
        parts = READERS[kind](data)
        title = " ".join(next(parts).split())
        for page in parts:
            pages.append(page)
            characters += len(page)
            if len(pages) > BOUNDS["pages"]:
                raise _UnreadableError(f"it has more than {BOUNDS['pages']:,} pages")
            if characters > BOUNDS["characters"]:
                raise _UnreadableError(f"it has more than {BOUNDS['characters']:,} characters")
            if time.monotonic() > until:
                raise _UnreadableError(TOO_SLOW)
    except _UnreadableError as exc:
        return {"reason": str(exc)}
    except ModuleNotFoundError as exc:
        return {"missing": exc.name}
    except MemoryError:
        return {"reason": TOO_LARGE}
    except Exception as exc:  # noqa: BLE001 - a damaged file may raise anything in its reader
        is_lacking = isinstance(exc, (AttributeError, LookupError, TypeError))
        why = "it lacks parts" if is_lacking else f"{type(exc).__name__}: {exc}"
        return {"reason": f"it cannot be read as {kind}: {why}"[:500]}
    is_title = 0 < len(title) <= LONGEST_TITLE and not _NO_TITLE.fullmatch(title)
    return {"title": title if is_title else None, "pages": pages}


def _pdf(data: bytes) -> Iterator[str]:
    """Yield the title and the pages of a PDF."""
    import pypdfium2 as pdfium

    try:
        with closing(pdfium.PdfDocument(data)) as document:
            title = ""
            with suppress(UnicodeDecodeError):
                title = document.get_metadata_value("Title")
            yield title
            for page in document:
                with closing(page), closing(page.get_textpage()) as content:
                    text = content.get_text_bounded()
                # PDFium writes U+FFFE for the hyphen of a word that is split between two lines.
                text = re.sub("[\ufffe\u00ad]\r?\n?", "", text).replace("\r\n", "\n")
                yield text.replace("\0", "")
    except pdfium.PdfiumError as exc:
        is_locked = "password" in str(exc).lower()
        reason = "it is encrypted" if is_locked else f"it cannot be read as pdf: {exc}"
        raise _UnreadableError(reason) from exc


# The elements that hold a page's content, most reliable first; the rest is navigation.
_MAIN = "main", "[role=main]", "article", "#content", "#main-content", ".document"
_NO_CONTENT = (
    "script, style, noscript, template, nav, footer, button, select, iframe, svg, "
    "[hidden]:not([role=tabpanel], [hidden=until-found]), "
    ".sphinxsidebar, [role=navigation], [role=search], [role=banner], [role=contentinfo], "
    ".headerlink, .related, .navheader, .navfooter, .hash-link, "
    "[id*=cookie-banner], [class*=cookie-banner], "
    "[id*=cookie-consent], [class*=cookie-consent], [class*=breadcrumb]"
)
# Within a main element, or within one of several articles, these elements are content.
_AROUND = ", ".join(f"{each}:not(article *)" for each in ("header", "aside", ".sidebar", ".menu"))
_HEADING = "h1, h2, h3, h4, h5, h6"
_HEADINGS = frozenset(_HEADING.split(", "))
_BLOCK = (
    f"{_HEADING}, p, div, pre, ul, ol, dl, table, section, article, aside, header, figure, "
    "blockquote, details, summary, figcaption, li, dt, dd, caption, tr, td, th, main, hr, address"
)
_BLOCKS = frozenset(_BLOCK.split(", "))
_INLINE = frozenset({"-text", "b", "code", "em", "i", "strong", "br"})
_ID = re.compile(r"[^\s{}]{1,200}")
_CHARSET = re.compile(
    rb"<(?:\?xml[^>]{1,200}encoding|meta[^>]{1,200}charset)=[\"' ]*([\w-]+)", re.I
)
# Encodings that browsers read as another encoding with more characters.
_WIDER = {
    "gb2312": "gb18030", "gbk": "gb18030", "shift_jis": "cp932", "euc-kr": "cp949",
    "iso-8859-1": "cp1252", "us-ascii": "cp1252",
}  # fmt: skip
_EMPTY = re.compile(r"<(?!br\b)([a-z][\w:-]*)((?:\s[^<>]*)?)/>", re.I)


def _html(data: bytes) -> Iterator[str]:
    """Yield the title and the content of a web page, as Markdown."""
    text = _markup(data)
    if "http://www.w3.org/1999/xhtml" in text[:4096]:  # in XHTML, <title/> is a whole element
        text = _EMPTY.sub(r"<\1\2></\1>", text)
    return _page(text)


def _markup(data: bytes) -> str:
    """Return the source of a page, decoded as UTF-8, UTF-16 with a byte order mark, its declared
    encoding, or Windows-1252."""
    charset = _CHARSET.search(data[:4096])
    name = charset[1].decode().lower() if charset else "cp1252"
    name = _WIDER.get(name, name)
    is_utf16 = data.startswith((b"\xff\xfe", b"\xfe\xff"))
    tries = ("utf-16" if is_utf16 else "utf-8-sig", "strict"), (name, "strict"), (name, "replace")
    # The bytes of ISO-2022-JP are ASCII, so they would also be valid UTF-8.
    for encoding, errors in tries[name.startswith("iso-2022") :]:
        with suppress(ValueError, LookupError):
            return data.decode(encoding, errors)
    return data.decode(errors="replace")


def _page(html: str) -> Iterator[str]:
    from selectolax.lexbor import LexborHTMLParser

    tree = LexborHTMLParser(html)
    title = tree.css_first("title")
    yield title.text() if title else ""
    mains = (node for selector in _MAIN if (node := _only(tree.css(selector), selector)))
    main = next((node for node in mains if node.text(strip=True)), None)
    root = tree.body if main is None else main
    if root is None:
        return
    for node in root.css(f"{_NO_CONTENT}, {_AROUND}" if main is None else _NO_CONTENT):
        node.decompose()
    most = len(root.text()) / 2
    for form in root.css("form"):  # a form around everything is content
        if len(form.text()) < most:
            form.decompose()
    yield "\n\n".join(_blocks(root, root, set()))


def _only(nodes: list[Any], selector: str) -> Any:
    """Return the first node if it contains all the others, as an article may; otherwise None."""
    return nodes[0] if nodes and len(nodes[0].css(selector)) == len(nodes) else None


def _blocks(node: Any, root: Any, anchors: set[str]) -> list[str]:
    """Convert an element to Markdown blocks, and add the anchors that it uses to ``anchors``."""
    blocks: list[str] = []
    line: list[str] = []

    def end_line() -> None:
        blocks.append(_text("".join(line)))
        line.clear()

    for child in node.iter(include_text=True):
        if child.tag in _INLINE or (child.tag not in _BLOCKS and not child.css_first(_BLOCK)):
            line.append(_inline(child))
            continue
        end_line()
        if child.tag in _HEADINGS:
            anchor = _anchor(child, root, anchors)
            anchors |= {anchor} if anchor else set()
            words = " ".join(_inline(child).split())
            blocks += [f"{'#' * int(child.tag[1])} {words}{f' {{#{anchor}}}' if anchor else ''}"]
        elif child.tag == "pre":
            language = re.search(r"(?:language|highlight)-(\w+)", child.html[:500])
            blocks.append(_fenced(_lines(child), language[1] if language else ""))
        elif child.tag in ("ul", "ol"):
            mark = "- " if child.tag == "ul" else "1. "
            items = ("\n".join(_blocks(item, root, anchors)) for item in child.iter())
            indented = (item.replace("\n", "\n" + " " * len(mark)) for item in items if item)
            blocks.append("\n".join(mark + item for item in indented))
        elif child.tag == "table" and len(child.css(f"table, pre, ul, ol, {_HEADING}")) == 1:
            blocks += [_text(_inline(each)) for each in child.css("caption")]
            blocks.append(_table(
                [[_inline(cell) for cell in row.css("td, th")] for row in child.css("tr")]
            ))  # fmt: skip
        else:
            blocks += _blocks(child, root, anchors)
    end_line()
    return [block for block in blocks if block]


def _text(words: str) -> str:
    """Return a paragraph, escaped if it would otherwise begin a heading or code."""
    words = " ".join(words.split())
    return f"\\{words}" if re.match("#{1,6} |```", words) else words


def _inline(node: Any) -> str:
    """Return the words of an element: links without their addresses, code in backticks."""
    if node.tag == "-text":
        return str(node.text_content or "")
    if node.tag in ("code", "kbd", "samp", "tt"):
        code = _lines(node)
        return f"`{code}`" if code.strip() and "`" not in code else code
    words = "".join(map(_inline, node.iter(include_text=True)))
    return f" {words} " if node.tag == "br" or node.tag in _BLOCKS else words


def _lines(node: Any) -> str:
    """Return the lines of code in a node; an element such as ``br`` may end a line."""
    if node.tag == "-text":
        return str(node.text_content or "")
    text = "".join(map(_lines, node.iter(include_text=True)))
    is_line = node.tag == "br" or (node.tag in _BLOCKS and not text.endswith("\n"))
    return f"{text}\n" if is_line else text


def _table(rows: list[list[str]]) -> str:
    """Return a Markdown table; the first row is its header."""
    rows = [[" ".join(cell.split()).replace("|", "\\|") for cell in row] for row in rows if row]
    rows[1:1] = [["---"] * len(row) for row in rows[:1]]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _anchor(heading: Any, root: Any, taken: set[str]) -> str | None:
    """Return an anchor not yet ``taken``: the heading's, its section's, or one just above them."""
    nodes, marks, above = [heading, *heading.css("[id], [name]")[:1]], list[Any](), heading
    while above is not None and above.mem_id != root.mem_id and len(nodes + marks) < 16:
        nodes.append(above)
        before = above.prev
        while before is not None and not before.text(strip=True) and len(marks) < 8:
            marks.append(before)
            before = before.prev
        above = above.parent if before is None else None
    names = (node.id or node.attributes.get("name") for node in nodes + marks)
    return next(
        (each for each in names if each and each not in taken and _ID.fullmatch(each)), None
    )


def _notebook(data: bytes) -> Iterator[str]:
    """Yield an empty title, since a notebook has none, then its text, code and output."""
    notebook = json.loads(data)
    about = notebook.get("metadata") or {}
    language = (about.get("language_info") or about.get("kernelspec") or {}).get("name") or ""
    parts = []
    for cell in notebook["cells"]:
        text = "".join(cell["source"])
        parts.append(_fenced(text, language) if cell["cell_type"] == "code" else text)
        for output in cell.get("outputs") or ():
            printed = output.get("text") or (output.get("data") or {}).get("text/plain", "")
            parts.append(_fenced("".join(printed), ""))
    yield ""
    yield "\n\n".join(part for part in parts if part)


def _fenced(code: str, language: str) -> str:
    fence = "`" * max([3, *(len(run) + 1 for run in re.findall("`+", code))])
    return f"{fence}{language}\n{code.rstrip()}\n{fence}" if code.strip() else ""


def _docx(data: bytes) -> Iterator[str]:
    import mammoth

    archive = _Archive(data)
    for name in archive.zip.namelist():
        if name.endswith((".xml", ".rels")):
            archive.plain_xml(name)
    styles = "p[style-name='Title'] => h1:fresh\np[style-name='Subtitle'] => p:fresh"
    images = mammoth.images.img_element(lambda image: {})
    html = mammoth.convert_to_html(BytesIO(data), style_map=styles, convert_image=images)
    return _page(html.value)


class _Archive:
    """A zip file of XML, such as an office file or an EPUB."""

    def __init__(self, data: bytes) -> None:
        self.zip = ZipFile(BytesIO(data))

    def read(self, name: str) -> bytes:
        with self.zip.open(name) as file:
            data = file.read(BOUNDS["characters"] + 1)
        if len(data) > BOUNDS["characters"]:
            raise _UnreadableError(f"{name} has more than {BOUNDS['characters']:,} bytes")
        return data

    def plain_xml(self, name: str) -> bytes:
        """Return a part of the archive. Refuses a DOCTYPE, which only hostile files have."""
        data = self.read(name)
        text = data.replace(b"\0", b"")  # it may be UTF-16
        if b"<!DOCTYPE" in text or b"<!ENTITY" in text:
            raise _UnreadableError(f"{name} has a document type")
        return data

    def xml(self, name: str) -> ET.Element:
        root = ET.fromstring(self.plain_xml(name))
        for element in root.iter():  # without namespaces
            element.tag = element.tag.rpartition("}")[2]
        return root


def _pptx(data: bytes) -> Iterator[str]:
    """Yield an empty title (presentations have none), then each slide in order, with its notes."""
    archive = _Archive(data)
    yield ""
    show = "ppt/presentation.xml"
    slides = _targets(archive, show)
    for slide in archive.xml(show).iter("sldId"):
        name = next(slides[value] for name, value in slide.items() if name.endswith("}id"))
        parts = []
        for shape in archive.xml(name).iter():
            if shape.tag == "tbl":
                rows = [[_words(cell) for cell in row.iter("tc")] for row in shape.iter("tr")]
                parts.append(_table(rows))
            elif shape.tag == "sp":
                holder = shape.find(".//ph")
                is_title = holder is not None and holder.get("type") in ("title", "ctrTitle")
                texts = [_words(each) for each in shape.iter("p")]
                parts += [f"# {text}" if is_title else _text(text) for text in texts if text]
        for target in _targets(archive, name).values():
            if "notesSlide" in target:
                parts += [_text(_words(each)) for each in archive.xml(target).iter("p")]
        yield "\n\n".join(part for part in parts if part)


def _words(element: ET.Element) -> str:
    """Return the text of a slide's paragraph or cell as one line."""
    texts = (each.text or " " for each in element.iter() if each.tag in ("t", "br", "p"))
    return " ".join("".join(texts).split())


def _targets(archive: _Archive, name: str) -> dict[str, str]:
    """Return a mapping from the ids of a part's references to the names of the referenced parts."""
    folder, _, file = name.rpartition("/")
    relations = f"{folder}/_rels/{file}.rels"
    if relations not in archive.zip.NameToInfo:
        return {}
    parts = archive.xml(relations).iter("Relationship")
    return {each.attrib["Id"]: _linked(name, each.attrib["Target"]) for each in parts}


def _linked(name: str, link: str) -> str:
    """Return the name of the file that a link in the archive's file ``name`` points to."""
    path = posixpath.join("/", posixpath.dirname(name), unquote(link.partition("#")[0]))
    return posixpath.normpath(path).lstrip("/")


# OpenDocument elements with their HTML equivalents. All others become spans.
_IN_HTML = {
    "p": "p", "list": "ul", "list-item": "li", "line-break": "br", "table": "table",
    "table-header-rows": "tbody", "table-rows": "tbody", "table-row": "tr", "table-cell": "td",
    "table-columns": "colgroup", "table-column": "col", "tracked-changes": "template",
    "annotation": "template", "table-of-content": "nav",
}  # fmt: skip


def _odt(data: bytes) -> Iterator[str]:
    body = _Archive(data).xml("content.xml").find("body/text")
    if body is None:
        raise _UnreadableError("it is not an OpenDocument text")
    for each in body.iter():
        if each.tag in ("s", "tab"):
            each.text = " "
        level = next((value for name, value in each.items() if name.endswith("level")), "1")
        is_heading = each.tag == "h"
        each.tag = f"h{min(int(level), 6)}" if is_heading else _IN_HTML.get(each.tag, "span")
        each.attrib.clear()
    return _page(ET.tostring(body, "unicode", method="html"))


def _epub(data: bytes) -> Iterator[str]:
    """Yield the title and the chapters of a book: the files in its table of contents.

    A file that the table does not list belongs to the chapter before it, or else to the first
    chapter. If the table lists no files, each file of the main reading order is a chapter.
    """
    archive = _Archive(data)
    (package, *_) = (
        each.attrib["full-path"] for each in archive.xml("META-INF/container.xml").iter("rootfile")
    )
    book = archive.xml(package)
    yield book.findtext(".//title", "")
    cipher = "META-INF/encryption.xml"  # lists fonts too
    parts = archive.xml(cipher).iter("CipherReference") if cipher in archive.zip.NameToInfo else ()
    encrypted = {unquote(each.get("URI", "")) for each in parts}
    items = {each.get("id"): each for each in book.iter("item")}
    spine = [(each, items[each.get("idref")]) for each in book.iter("itemref")]
    names = [_linked(package, item.get("href", "")) for _, item in spine]
    listed = {name for item in items.values() for name in _contents(archive, package, item)}
    listed &= set(names)
    chapter: list[str] = []
    in_chapter = False
    for (place, item), name in zip(spine, names, strict=True):
        if "nav" in item.get("properties", "").split():  # the table of contents itself
            continue
        if name in encrypted:
            raise _UnreadableError("it is encrypted")
        _, *pages = _html(archive.read(name))
        if not (text := "".join(pages)):
            continue
        if name in listed if listed else place.get("linear") != "no":
            if in_chapter:
                yield "\n\n".join(chapter)
                chapter = []
            in_chapter = True
        chapter.append(text)
    yield "\n\n".join(chapter)


def _contents(archive: _Archive, package: str, item: ET.Element) -> Iterator[str]:
    """Yield the names of the files that an item lists, if the item is the table of contents."""
    from selectolax.lexbor import LexborHTMLParser

    is_nav = "nav" in item.get("properties", "").split()
    if not is_nav and item.get("media-type") != "application/x-dtbncx+xml":
        return
    name = _linked(package, item.get("href", ""))
    if name not in archive.zip.NameToInfo:
        return
    tree = LexborHTMLParser(_markup(archive.read(name)))
    for nav in tree.css("nav" if is_nav else "navmap"):  # others list printed pages or landmarks
        if not is_nav or nav.attributes.get("epub:type") == "toc":
            for link in nav.css("[href], [src]"):
                yield _linked(name, link.attributes.get("href") or link.attributes.get("src") or "")


READERS: dict[str, Callable[[bytes], Iterator[str]]] = {
    "pdf": _pdf, "html": _html, "notebook": _notebook, "docx": _docx, "odt": _odt, "pptx": _pptx,
    "epub": _epub,
}  # fmt: skip


def read_frame(file: IO[bytes], most: int) -> bytes:
    """Return the next frame; raise EOFError at the end, or if the frame is longer than ``most``."""
    head = file.read(4)
    size = int.from_bytes(head, "big")
    data = file.read(size) if len(head) == 4 and size <= most else None
    if data is None or len(data) < size:
        raise EOFError
    return data


def write_frames(file: IO[bytes], *frames: bytes) -> None:
    """Write frames, and flush."""
    for data in frames:
        file.write(len(data).to_bytes(4, "big"))
        file.write(data)
    file.flush()


def _bounds_memory() -> bool:
    """Limit the memory of this process, and return whether the system enforces the limit."""
    try:
        import resource
    except ImportError:  # Windows
        return False
    for kind, wanted in (resource.RLIMIT_CORE, 0), (resource.RLIMIT_AS, BOUNDS["memory"]):
        _, most = resource.getrlimit(kind)
        limit = wanted if most == resource.RLIM_INFINITY else min(wanted, most)
        with suppress(OSError, ValueError):
            resource.setrlimit(kind, (limit, limit))
    try:
        mmap.mmap(-1, BOUNDS["memory"]).close()  # macOS accepts a limit that it does not enforce
    except OSError:
        return True
    return False


def _listen(frames: SimpleQueue[bytes]) -> None:
    """Queue the frames from the parent, and end this process when the parent has ended."""
    with suppress(OSError, EOFError, MemoryError):
        while True:
            frames.put(read_frame(sys.stdin.buffer, 2**31))
    os._exit(0)


def _main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # on Ctrl-C, the parent decides
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # keeps the output of a library out of the answers
    frames: SimpleQueue[bytes] = SimpleQueue()
    threading.Thread(target=_listen, args=[frames], daemon=True).start()
    _, path = frames.get(), frames.get()
    sys.path[:] = json.loads(path)
    write_frames(answers, json.dumps({"bounds_memory": _bounds_memory()}).encode())
    while True:
        facts = read(frames.get().decode(), frames.get())
        pages = [page.encode(errors="replace") for page in facts.get("pages", ())]
        facts["pages"] = len(pages)
        write_frames(answers, json.dumps(facts).encode(), *pages)


if __name__ == "__main__":
    _main()
