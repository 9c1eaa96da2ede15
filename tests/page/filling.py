"""The tables of the browser's tests."""

from __future__ import annotations

from pathlib import Path

import aiovec

EMBEDDERS = {"default": {"kind": "demo"}}
DIM = 256  # of the demo's embedder

SCRIPT = "<img src=x onerror=\"window.ran='img'\">"
CLOSING = "</script><script>window.ran='script'</script>"
TURNED = "safe\u202egnp.exe\u2066x\u2069"
LONG = "<b onmouseover=window.ran='b'>" + "long " * 20_000
HOSTILE_IDS = [
    SCRIPT, CLOSING, TURNED, "..", ".", "a/b?c=d&e#f%2Fg%", "javascript:window.ran='url'",
    "__proto__", "ü" * 256, "line\nbreak\u0007",
]  # fmt: skip
HOSTILE_KEYS = ["__proto__", "<svg onload=window.ran='svg'>", CLOSING, "innerHTML", "", "k" * 300]
TOPICS = {
    "sea": "a ship in harbour waits for wind and tide while gulls call over the water",
    "baking": "flour and water rest until the dough has risen and the oven is hot",
    "music": "the quartet tunes its strings before the slow movement of the evening",
    "trains": "a night train leaves the station and the signal turns green behind it",
}


async def fill(place: Path) -> None:
    """Create a store with the tables."""
    async with aiovec.connect(place, embedders=EMBEDDERS) as store:
        await _fill(store)


async def _fill(store: aiovec.VectorStore) -> None:
    notes = aiovec.Schema(
        DIM,
        fields={
            "topic": aiovec.Field(str, index="bitmap"),
            "body": aiovec.Field(str, text=True),
            "year": int,
            "tags": list[str],
        },
        embed=aiovec.Embed("body"),
    )
    await store.create_table("notes", notes)
    rows: list[dict[str, object]] = []
    for n in range(60):
        topic, words = list(TOPICS.items())[n % len(TOPICS)]
        row = {"id": f"note-{n:02d}", "topic": topic, "year": 1990 + n, "tags": [topic]}
        rows.append({**row, "body": " ".join(words.split()[n % 3 : n % 3 + 9])})
    rows[7]["big"] = 9007199254740993
    await store.insert("notes", rows)
    await store.create_table("empty", aiovec.Schema(4))
    await store.create_table("plain", aiovec.Schema(3, metric="l2"))
    await store.insert(
        "plain", [{"id": f"p{n}", "embedding": [n, n * n, 1.0], "n": n} for n in range(5)]
    )
    hostile = aiovec.Schema(
        2, fields={"body": aiovec.Field(str, text=True), "tags": list[str], "constructor": str}
    )
    await store.create_table("hostile", hostile)
    await store.insert(
        "hostile",
        [
            {
                "id": id,
                "embedding": [1.0, n / 10],
                "body": f"needle {LONG if n == 1 else SCRIPT} {TURNED} {CLOSING}",
                "tags": [SCRIPT, CLOSING, TURNED],
                "constructor": SCRIPT,
                **{key: [SCRIPT, {"<i>": CLOSING}] for key in HOSTILE_KEYS},
            }
            for n, id in enumerate(HOSTILE_IDS)
        ],
    )
