"""HTML, notebooks, office files and books: their content as passages, with its place."""

from __future__ import annotations

import re
from typing import Any

import pytest
from tests.documents import office
from tests.harness.cases import case

from aiovec import DocumentError, documents

for package in ("semantic_text_splitter", "selectolax", "mammoth"):
    pytest.importorskip(package)


async def _cut(data: bytes | str, source: str, **options: Any) -> list[dict[str, Any]]:
    return [row async for row in documents.passages(data, source=source, **options)]


async def _places(data: bytes | str, source: str) -> list[tuple[str | None, str | None, str]]:
    rows = await _cut(data, source)
    return [(documents.place_of(row), row["title"], row["body"]) for row in rows]


PAGE = """\
<!DOCTYPE html>
<html><head><title>Keys - Docs</title><meta charset="utf-8"><style>p {}</style></head>
<body>
<header><h1>Site</h1></header><nav><h2>Menu</h2><a href="/">Home</a></nav>
<div class="cookie-banner">We use cookies.</div>
<main>
<section id="keys"><header><h1>Keys<a class="headerlink" href="#keys">#</a></h1></header>
<p>Each <b>service</b> has its <a href="own.html">own key</a> for snake_case_names.</p>
<pre><code class="language-python">def rotate():
    return "# no heading"
</code></pre>
<table><tr><th>Kind</th><th>Days</th></tr><tr><td>read</td><td>90</td></tr></table>
<div><a id="rotation"></a><div><h2>Rotation</h2></div><p>Make a new one.</p></div>
<h2 id="end">End &amp; more</h2><ul><li>one</li><li>two</li></ul>
</section><script>track()</script></main>
<footer>All rights reserved</footer></body></html>
"""


async def test_a_page_of_html_is_its_content_with_its_anchors() -> None:
    places = await _places(PAGE, "docs/keys.html")
    assert [(place, title) for place, title, _ in places] == [
        ("docs/keys.html#keys", "Keys"),
        ("docs/keys.html#rotation", "Keys > Rotation"),
        ("docs/keys.html#end", "Keys > End & more"),
    ]
    assert places[0][2] == (
        "# Keys\n\nEach service has its own key for snake_case_names.\n\n"
        '```python\ndef rotate():\n    return "# no heading"\n```\n\n'
        "| Kind | Days |\n| --- | --- |\n| read | 90 |"
    )
    everything = "".join(body for *_, body in places)
    for word in ("Menu", "Home", "cookies", "track", "rights", "Site", "{#"):
        assert word not in everything
    assert "- one\n- two" in everything


async def test_html_is_known_by_its_first_bytes_and_its_encoding_by_its_head() -> None:
    for data, source in (
        (PAGE, "upload"),
        (f"\ufeff\n{PAGE}", "a.txt"),
        (b"<html><meta charset='shift_jis'><p>" + "日本語".encode("shift_jis"), "a.htm"),
        ("<p>Größe</p>".encode("latin-1"), "a.html"),
        ('<?xml version="1.0"?><html><body><p>Größe</p></body></html>', "a.xhtml"),
    ):
        with case(source):
            rows = await _cut(data, source)
            assert {"Keys", None, ""} >= {(row["title"] or "").partition(" >")[0] for row in rows}
            assert re.search("own key|日本語|Größe", rows[0]["body"])


async def test_a_page_without_a_main_element_loses_what_is_around() -> None:
    html = "<title>Note</title><header>Site</header><aside>More</aside><p>Text.</p>"
    assert await _places(f"{html}<footer>End</footer>", "a.html") == [("a.html", "Note", "Text.")]


async def test_each_of_several_articles_is_content_with_its_header() -> None:
    article = "<article><header><h2>{0}</h2></header><p>About {0}.</p></article>"
    one, two = (article.format(name) for name in ("Tea", "Coffee"))
    bodies = ["## Tea\n\nAbout Tea.", "## Coffee\n\nAbout Coffee."]
    for html in (f"{one}{two}", f"<div>{one}</div><div>{two}</div>"):
        with case(html):
            rows = await _cut(f"<header>Site</header>{html}", "a.html")
            assert [row["body"] for row in rows] == bodies
    comment = "<article><p>A comment.</p></article>"
    (row,) = await _cut(f"<p>Site</p><article><p>A post.</p>{comment}</article>", "a.html")
    assert row["body"] == "A post.\n\nA comment."


async def test_words_of_neighbouring_elements_stay_apart() -> None:
    for html, body in (
        ("<table><caption>Sums</caption><tr><td><p>one</p><p>two</p></td></tr></table>",
         "Sums\n\n| one two |\n| --- |"),
        ("<table><tr><td>one</td><td>two</td></tr><tr><td><ul><li>three</ul></td></tr></table>",
         "one\n\ntwo\n\n- three"),
        ("<details><summary>one</summary>two</details>", "one\n\ntwo"),
        ("<b><div>one</div><div>two</div></b>", "one two"),
        ("<pre><code><span>one<br></span><span>two<br></span></code></pre>",
         "```\none\ntwo\n```"),
        ("<pre><div>one</div><div>two\n</div>three</pre>", "```\none\ntwo\nthree\n```"),
    ):  # fmt: skip
        with case(html):
            assert [row["body"] for row in await _cut(html, "a.html")] == [body]


async def test_a_page_says_its_encoding_as_browsers_read_it() -> None:
    for named, text, encoding in (
        ("<!DOCTYPE html>", "Größe “日本”", "utf-16"),
        ("<meta charset=gb2312>", "朱镕基", "gbk"),  # the second is not in GB 2312
        ("<meta charset=iso-8859-1>", "“Größe”", "cp1252"),
        ("<meta charset=iso-2022-jp>", "日本語", "iso-2022-jp"),
        ("<?xml version='1.0' encoding='windows-1251'?>", "Привет", "cp1251"),
    ):
        with case(named):
            (row,) = await _cut(f"{named}<main><p>{text}</p></main>".encode(encoding), "a.html")
            assert row["body"] == text


async def test_a_heading_has_the_anchor_of_a_section_that_it_opens() -> None:
    page = (
        '<main><div id="rule"><div></div><a id="index-1"></a><div><h2>Rule</h2><p>Text.</p></div>'
        "<div><h2>Synopsis</h2><p>More.</p></div></div> <a name=end></a> <h2>End</h2> <p>Last.</p>"
    )
    places = await _places(page, "a.html")
    assert [place for place, *_ in places] == ["a.html#rule", "a.html", "a.html#end"]


async def test_a_title_of_another_format_is_no_markdown() -> None:
    for heading, title in (
        ("__init__", "__init__"),
        ("Foo&lt;T&gt;", "Foo<T>"),
        ("<code>*args</code> of [x](y) {.z}", "*args of [x](y) {.z}"),
    ):
        with case(heading):
            text = "<p>```</p><p># no heading</p><p>&lt;pre&gt;</p><pre># none</pre>"
            page = f"{text}<h2 id=a>{heading}</h2><p>Text.</p>{text}<h3>Next</h3><p>Words.</p>"
            places = await _places(page, "a.html")
            assert [(place, name) for place, name, _ in places] == [
                ("a.html", None), ("a.html#a", title), ("a.html#a", f"{title} > Next"),
            ]  # fmt: skip


async def test_a_form_around_a_page_and_panels_of_tabs_are_content() -> None:
    panel = "<div role=tabpanel hidden><p>{}</p></div>"
    tabs = panel.format("On Linux.") + panel.format("On a Mac.") + "<div hidden>Menu</div>"
    search = "<form><label>Find</label><select><option>All</select></form>"
    html = f"<p>Install it.</p><select><option>All</select>{tabs}"
    for page in (f"{search}{html}", f"<form>{html}</form>", f"<main>{search}{html}</main>"):
        with case(page):
            (row,) = await _cut(page, "a.html")
            assert row["body"] == "Install it.\n\nOn Linux.\n\nOn a Mac."


async def test_a_notebook_is_its_text_its_code_and_what_it_printed() -> None:
    body = (
        "# Trial\n\nHow it went.\n\n```python\nprint('hello')\n# no heading\n```\n\n```\nhello\n```"
    )
    assert await _places(office.notebook(), "a.ipynb") == [("a.ipynb", "Trial", body)]
    bare = office.notebook(metadata=None).replace(b'"outputs": [', b'"outputs": null, "no": [')
    body = body.replace("python", "").removesuffix("\n\n```\nhello\n```")
    assert await _places(bare, "a.ipynb") == [("a.ipynb", "Trial", body)]


TABLE = "| Year | Sum |\n| --- | --- |\n| 2026 | 42 43 |"


async def test_a_text_of_an_office_has_its_headings_lists_and_tables() -> None:
    for name, data in ("a.docx", office.docx()), ("a.odt", office.odt()):
        with case(name):
            assert await _places(data, name) == [
                (name, "Report", "# Report\n\nWords first."),
                (name, "Costs", f"# Costs\n\n- They rose.\n\n{TABLE}"),
                (name, "Costs > Next year", "## Next year\n\nLess."),
            ]  # fmt: skip


async def test_slides_have_their_numbers_and_notes() -> None:
    assert await _places(office.pptx(), "a.pptx") == [
        ("a.pptx, slide 1", "Plan", "# Plan\n\nOne\n\nTwo\n\nSay hello."),
        ("a.pptx, slide 2", "Numbers", f"# Numbers\n\n{TABLE}"),
    ]


async def test_a_book_has_its_chapters_in_their_order() -> None:
    assert await _places(office.epub(), "a.epub") == [
        ("a.epub, chapter 1", "First", "# First\n\nText of the first."),
        ("a.epub, chapter 2", "A book", "Text of the last."),
    ]


async def test_a_chapter_of_a_book_is_what_its_contents_list() -> None:
    for contents in ("nav", "ncx"):
        places = await _places(office.whole_epub(contents), "a.epub")
        assert [(place, body) for place, _, body in places] == [
            ("a.epub, chapter 1", "Text of title.\n\nText of one.\n\nText of more."),
            ("a.epub, chapter 2", "Text of two.\n\nText of notes."),
        ]
    # Without them, each file with a text.
    bodies = [(place, body) for place, _, body in await _places(office.whole_epub(""), "a.epub")]
    assert bodies == [
        (f"a.epub, chapter {n}", f"Text of {name}.")
        for n, name in enumerate(("title", "one", "more", "two", "notes"), 1)
    ]


async def test_xhtml_has_elements_without_content() -> None:
    head = '<title/><script src="a.js"/><style type="text/css"/>'
    page = f'<html xmlns="http://www.w3.org/1999/xhtml"><head>{head}</head><body>%s</body></html>'
    page %= "<div/>" * 2000 + "<p>one<br/>two</p>"
    assert [row["body"] for row in await _cut(page, "a.xhtml")] == ["one two"]
    places = await _places(office.epub(**{"in/b.xhtml": page}), "a.epub")
    assert [body for *_, body in places] == ["one two", "Text of the last."]


async def test_a_book_whose_chapters_are_encrypted_is_refused() -> None:
    reference = '<CipherData><CipherReference URI="{}"/></CipherData>'
    for name, is_refused in (("in/one%20a.xhtml", True), ("in/font.otf", False)):
        entry = f"<encryption><EncryptedData>{reference.format(name)}</EncryptedData></encryption>"
        book = office.epub(**{"META-INF/encryption.xml": entry})
        if is_refused:
            with pytest.raises(DocumentError, match="encrypted"):
                await _cut(book, "a.epub")
        else:
            assert len(await _cut(book, "a.epub")) == 2


LAUGHS = (
    '<!DOCTYPE a [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;">]><container><rootfiles>'
    '<rootfile full-path="&b;"/></rootfiles></container>'
)
OUTSIDE = (
    '<!DOCTYPE a [<!ENTITY a SYSTEM "file:///etc/passwd">]><package><title>&a;</title></package>'
)


async def test_a_hostile_file_of_another_program_is_refused() -> None:
    good = office.docx()
    for data, source, reason in (
        (office.epub(**{"META-INF/container.xml": LAUGHS}), "a.epub", "document type"),
        (office.epub(**{"in/book.opf": OUTSIDE}), "a.epub", "document type"),
        (office.zipped({"word/document.xml": LAUGHS}), "a.docx", "document type"),
        (office.zipped({"word/document.xml": LAUGHS.encode("utf-16")}), "a.docx", "document type"),
        (office.epub(**{"in/b.xhtml": " " * 2**25}), "a.epub", "more than 16,777,216 bytes"),
        (good[: len(good) // 2], "a.docx", "cannot be read as docx"),
        (b"\x89PNG", "a.pptx", "cannot be read as pptx"),
        (b"[" * 10**6, "a.ipynb", "cannot be read as notebook"),
        (b'{"cells": 1}', "a.ipynb", "cannot be read as notebook: it lacks parts"),
        (b"<b>" * 10**5, "a.html", "cannot be read as html"),
        (office.zipped({"a": "b"}), "report", "convert it to Markdown"),
        (b"x", "a.doc", "convert it to Markdown"),
    ):
        with case((source, reason)), pytest.raises(DocumentError, match=rf"{source}: .*{reason}"):
            await _cut(data, source)
    assert len(await _cut("<p>Text.</p>", "a.html")) == 1
