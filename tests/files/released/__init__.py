"""The stores that released versions wrote, in ``VERSION.zip``, and what was written into them.

``python -m tests.files.released`` writes the file of the present version. Do not change the file of
a version that is released, nor the rows.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from aiovec import Embed, Field, Schema

FOLDER = Path(__file__).parent
TARGETS = ("notes.db", "lancedb://notes.lance")

NOTES = Schema(
    3,
    model="a-model",
    fields={
        "title": Field(str, text=True), "year": Field(int, index="btree"), "tags": list[str],
    },
)  # fmt: skip
TEXTS = Schema(fields={"body": Field(str, text=True)}, embed=Embed("body"))


def notes() -> list[dict[str, Any]]:
    """Return the rows of the table ``notes``; the odd ones have a key in the payload."""
    return [
        {
            "id": f"n{n:02}", "embedding": [n, 40 - n, 1], "title": f"note {n}", "year": 2000 + n,
            "tags": ["even" if n % 2 == 0 else "odd"], **({"kind": {"a": n}} if n % 2 else {}),
        }
        for n in range(40)
    ]  # fmt: skip


DELETED = ["n07", "n08"]
TEXT_ROWS = [{"id": "fox", "body": "A red fox ran."}, {"id": "cat", "body": "A cat slept."}]
