"""PDFs that tests write."""

from __future__ import annotations

from collections.abc import Sequence


def pdf(pages: Sequence[str], *, title: str = "", encrypted: bool = False) -> bytes:
    """Return a PDF whose pages have one line each."""
    objects = ["<< /Type /Catalog /Pages 2 0 R >>", ""]
    objects.append("<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>")
    objects.append(f"<< /Title ({title}) >>")
    kids = []
    for text in pages:
        stream = f"BT /F1 12 Tf 50 700 Td ({text}) Tj ET"
        objects.append(f"<< /Length {len(stream)} >>\nstream\n{stream}\nendstream")
        objects.append(
            f"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 600 800] /Contents {len(objects)} 0 R "
            "/Resources << /Font << /F1 3 0 R >> >> >>"
        )
        kids.append(f"{len(objects)} 0 R")
    objects[1] = f"<< /Type /Pages /Kids [{' '.join(kids)}] /Count {len(kids)} >>"
    trailer = f"/Size {len(objects) + 1} /Root 1 0 R /Info 4 0 R"
    if encrypted:  # with a password that nobody knows
        digits = "AB" * 32
        objects.append(f"<< /Filter /Standard /V 1 /R 2 /O <{digits}> /U <{digits}> /P -4 >>")
        trailer += f" /Encrypt {len(objects)} 0 R /ID [<{digits}> <{digits}>]"
        trailer = trailer.replace(f"/Size {len(objects)}", f"/Size {len(objects) + 1}")
    out, places = "%PDF-1.4\n", []
    for number, text in enumerate(objects, start=1):
        places.append(len(out))
        out += f"{number} 0 obj\n{text}\nendobj\n"
    begin = len(out)
    out += f"xref\n0 {len(objects) + 1}\n0000000000 65535 f \n"
    out += "".join(f"{place:010} 00000 n \n" for place in places)
    out += f"trailer\n<< {trailer} >>\nstartxref\n{begin}\n%%EOF\n"
    return out.encode("latin-1")
