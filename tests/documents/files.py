"""PDFs that tests write, also hostile ones."""

from __future__ import annotations

import zlib
from collections.abc import Sequence

_FONT = "<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>"


def pdf(pages: Sequence[str], *, title: str = "()", encrypted: bool = False) -> bytes:
    """Return a PDF whose pages have one line each. The title is as it stands in the file."""
    objects: list[str | bytes] = ["<< /Type /Catalog /Pages 2 0 R >>", "", _FONT]
    objects.append(f"<< /Title {title} >>")
    kids = []
    for text in pages:
        objects.append(_stream(f"BT /F1 12 Tf 50 700 Td ({text}) Tj ET".encode()))
        objects.append(_page(len(objects)))
        kids.append(len(objects))
    objects[1] = _tree(kids)
    trailer = "/Info 4 0 R"
    if encrypted:  # with a password that nobody knows
        digits = "AB" * 32
        objects.append(f"<< /Filter /Standard /V 1 /R 2 /O <{digits}> /U <{digits}> /P -4 >>")
        trailer += f" /Encrypt {len(objects)} 0 R /ID [<{digits}> <{digits}>]"
    return _file(objects, trailer)


def nested_forms(depth: int = 9) -> bytes:
    """Return a PDF of 2 kB whose forms draw each other ten times, which fills the memory."""
    objects: list[str | bytes] = ["<< /Type /Catalog /Pages 2 0 R >>", _tree([4]), _FONT]
    objects += [_page(5, "/XObject << /X 6 0 R >>"), _stream(b"/X Do " * 10)]
    for number in range(6, 6 + depth):
        objects.append(_form(b"/X Do " * 10, f"/XObject << /X {number + 1} 0 R >>"))
    objects.append(_form(b"BT /F1 1 Tf (word) Tj ET", "/Font << /F1 3 0 R >>"))
    return _file(objects)


def repeated_page(times: int = 2000, *, visible: bool = False) -> bytes:
    """Return a PDF of some kB whose pages are the same one, which takes minutes to read.

    Its texts stand upon each other and are read as one, unless they are ``visible``.
    """
    objects: list[str | bytes] = ["<< /Type /Catalog /Pages 2 0 R >>", _tree([4] * times), _FONT]
    below = b"(%s) Tj 0 -1 Td " % (b"word " * 200) * 700
    lines = below if visible else b"(some words) Tj 0 -0.001 Td " * 100_000
    return _file([*objects, _page(5), _deflated(b"BT /F1 1 Tf 50 750 Td " + lines + b"ET")])


def blown_up(size: int = 12 * 10**8) -> bytes:
    """Return a PDF whose compressed page is many times as long."""
    objects: list[str | bytes] = ["<< /Type /Catalog /Pages 2 0 R >>", _tree([4]), _FONT]
    return _file([*objects, _page(5), _deflated(b" " * 10**6, size // 10**6)])


def _page(contents: int, resources: str = "/Font << /F1 3 0 R >>") -> str:
    return (
        f"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 600 800] /Contents {contents} 0 R "
        f"/Resources << {resources} >> >>"
    )


def _form(data: bytes, resources: str) -> bytes:
    box = "/Type /XObject /Subtype /Form /BBox [0 0 600 800]"
    return _stream(data, f"{box} /Resources << {resources} >>")


def _tree(kids: Sequence[int]) -> str:
    numbers = " ".join(f"{kid} 0 R" for kid in kids)
    return f"<< /Type /Pages /Kids [{numbers}] /Count {len(kids)} >>"


def _stream(data: bytes, entries: str = "") -> bytes:
    return b"<< /Length %d %s >>\nstream\n%s\nendstream" % (len(data), entries.encode(), data)


def _deflated(data: bytes, times: int = 1) -> bytes:
    packer = zlib.compressobj(9)
    first, again = (packer.compress(data) + packer.flush(zlib.Z_FULL_FLUSH) for _ in range(2))
    return _stream(first + again * (times - 1) + packer.flush(), "/Filter /FlateDecode")


def _file(objects: Sequence[str | bytes], trailer: str = "") -> bytes:
    out, places = bytearray(b"%PDF-1.4\n"), []
    for number, content in enumerate(objects, start=1):
        places.append(len(out))
        data = content.encode("latin-1") if isinstance(content, str) else content
        out += b"%d 0 obj\n%s\nendobj\n" % (number, data)
    begin = len(out)
    out += b"xref\n0 %d\n0000000000 65535 f \n" % (len(objects) + 1)
    out += b"".join(b"%010d 00000 n \n" % place for place in places)
    size = len(objects) + 1
    end = f"trailer\n<< /Size {size} /Root 1 0 R {trailer} >>\nstartxref\n{begin}\n%%EOF\n"
    return bytes(out) + end.encode()
