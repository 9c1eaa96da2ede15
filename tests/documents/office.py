"""Files of other programs that tests write: Word and PowerPoint by libraries, EPUB by hand."""

from __future__ import annotations

import json
from collections.abc import Mapping
from io import BytesIO
from typing import Any
from zipfile import ZIP_DEFLATED, ZipFile

import pytest


def docx() -> bytes:
    """Return a report with a title, headings, a list and a table."""
    library = pytest.importorskip("docx")
    document = library.Document()
    document.add_heading("Report", 0)
    document.add_paragraph("Words first.")
    document.add_heading("Costs", 1)
    document.add_paragraph("They rose.", style="List Bullet")
    table = document.add_table(2, 2)
    for number, text in enumerate(("Year", "Sum", "2026", "42\n43")):
        cell = table.cell(*divmod(number, 2))
        cell.paragraphs[0].text, *more = text.split("\n")
        for line in more:
            cell.add_paragraph(line)
    document.add_heading("Next year", 2)
    document.add_paragraph("Less.")
    return _saved(document)


def odt() -> bytes:
    """Return the same report as OpenDocument."""
    cell = "<table:table-cell><text:p>{}</text:p></table:table-cell>"
    head, row = (
        f"<table:table-row>{''.join(map(cell.format, texts))}</table:table-row>"
        for texts in (("Year", "Sum"), ("2026", "42</text:p><text:p>43"))
    )
    content = (
        '<text:h text:outline-level="1">Report</text:h><text:tracked-changes><text:p>Gone.</text:p>'
        "</text:tracked-changes><text:p>Words<text:s/><text:span>first</text:span>"
        "<office:annotation><text:p>Really?</text:p></office:annotation>.</text:p>"
        '<text:h text:outline-level="1">Costs</text:h>'
        "<text:list><text:list-item><text:p>They rose.</text:p></text:list-item></text:list>"
        f"<table:table><table:table-header-rows>{head}</table:table-header-rows>{row}</table:table>"
        '<text:section><text:h text:outline-level="2">Next year</text:h><text:p>Less.</text:p>'
        "</text:section>"
    )
    spaces = " ".join(f'xmlns:{name}="urn:{name}"' for name in ("office", "text", "table"))
    style = "<office:automatic-styles><text:text>No text</text:text></office:automatic-styles>"
    body = f"{style}<office:body><office:text>{content}</office:text></office:body>"
    return zipped({"content.xml": f"<office:document {spaces}>{body}</office:document>"})


def pptx() -> bytes:
    """Return two slides, with a subtitle, notes and a table."""
    library = pytest.importorskip("pptx")
    slides = library.Presentation()
    first = slides.slides.add_slide(slides.slide_layouts[0])
    first.shapes.title.text = "Plan"
    first.placeholders[1].text = "One\nTwo"
    first.notes_slide.notes_text_frame.text = "Say hello."
    second = slides.slides.add_slide(slides.slide_layouts[5])
    second.shapes.title.text = "Numbers"
    table = second.shapes.add_table(2, 2, 0, 0, 9000, 9000).table
    for number, text in enumerate(("Year", "Sum", "2026", "42\n43")):
        table.cell(*divmod(number, 2)).text = text
    return _saved(slides)


def _saved(document: Any) -> bytes:
    file = BytesIO()
    document.save(file)
    return file.getvalue()


def zipped(files: Mapping[str, str | bytes]) -> bytes:
    file = BytesIO()
    with ZipFile(file, "w", ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return file.getvalue()


_NAV = """
<nav epub:type="toc"><ol>
<li><a href="one.xhtml">A</a></li><li><a href="two.xhtml#top">B</a></li>
</ol></nav>
<nav epub:type="page-list"><a href="title.xhtml">i</a><a href="more.xhtml">2</a></nav>"""
_NCX = """<!DOCTYPE ncx><ncx>
<navMap><navPoint><content src="text/one.xhtml"/></navPoint>
<navPoint><content src="text/two.xhtml"/></navPoint></navMap>
<pageList><pageTarget><content src="text/more.xhtml"/></pageTarget></pageList></ncx>"""


def whole_epub(contents: str) -> bytes:
    """Return a book as publishers write it, with its table of contents in "nav" or "ncx" only.

    It has a cover, a title page, a chapter in two files, another chapter and notes.
    """
    spine = ("cover", "nav", "title", "one", "more", "two", "notes")
    items = "".join(f'<item id="{name}" href="text/{name}.xhtml"/>' for name in spine)
    items = items.replace('id="nav"', 'id="nav" properties="nav"')
    items += '<item id="ncx" href="toc.ncx" media-type="application/x-dtbncx+xml"/>'
    refs = "".join(f'<itemref idref="{name}"/>' for name in spine)
    files = {
        f"in/text/{name}.xhtml": f"<html><body><p>Text of {name}.</p></body></html>"
        for name in spine
    }
    files |= {
        "in/book.opf": f"<package><metadata/><manifest>{items}</manifest><spine>{refs}</spine>"
        "</package>",
        "in/toc.ncx": _NCX if contents == "ncx" else "<ncx/>",
        "in/text/cover.xhtml": '<html><body><img src="cover.png"/></body></html>',
        "in/text/nav.xhtml": "<!DOCTYPE html><html><body><h1>Contents</h1>"
        f"{_NAV if contents == 'nav' else ''}</body></html>",
    }
    return epub(**files)


def epub(**more: str) -> bytes:
    """Return a book of two chapters, whose order is not that of the files."""
    container = '<container><rootfiles><rootfile full-path="in/book.opf"/></rootfiles></container>'
    package = (
        '<package xmlns="http://www.idpf.org/2007/opf">'
        '<metadata xmlns:dc="http://purl.org/dc/elements/1.1/">'
        "<dc:title>A book</dc:title></metadata>"
        '<manifest><item id="a" href="one%20a.xhtml"/><item id="b" href="b.xhtml"/></manifest>'
        '<spine><itemref idref="b"/><itemref idref="a"/></spine></package>'
    )
    return zipped({
        "META-INF/container.xml": container,
        "in/book.opf": package,
        "in/one a.xhtml": "<html><body><p>Text of the last.</p></body></html>",
        "in/b.xhtml": "<html><body><h1>First</h1><p>Text of the first.</p></body></html>",
        **more,
    })  # fmt: skip


def notebook(**more: None) -> bytes:
    """Return a notebook with text, code, what it printed, and a picture."""
    code = {
        "cell_type": "code", "source": ["print('hello')\n", "# no heading"],
        "outputs": [
            {"output_type": "stream", "text": ["hello\n"]},
            {"output_type": "display_data", "data": {"image/png": "aGVsbG8="}},
        ],
    }  # fmt: skip
    text = {"cell_type": "markdown", "source": ["# Trial\n", "\n", "How it went."]}
    about = {"language_info": {"name": "python"}}
    return json.dumps({"cells": [text, code], "metadata": about, "nbformat": 4, **more}).encode()
