"""Requests of up to 10,000 rows leave the event loop to others."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tests.contract.test_loop_time import COLUMNS, ROWS, SCHEMA, rows
from tests.harness.callbacks import measured_callbacks
from tests.harness.cases import case
from tests.server.apps import JSON, serving

import aiovec
from aiovec_server import create_app


@pytest.mark.slow
async def test_no_callback_of_the_server_blocks_the_loop(tmp_path: Path) -> None:
    vector, ids = COLUMNS["embedding"][0].tolist(), COLUMNS["id"]
    bodies: dict[str, Any] = {
        "records": [{**row, "embedding": row["embedding"].tolist()} for row in rows()],
        "get": {"ids": ids},
        "find": {"limit": ROWS},
        "search": {"vector": vector, "limit": ROWS},
        "search_many": {"vectors": COLUMNS["embedding"][:500].tolist(), "limit": 10},
        "search_text": {"query": "name", "limit": 5_000, "highlight": True},
        "search_hybrid": {"query": "name", "vector": vector, "limit": 5_000},
        "exists": {"ids": ids},
        "distinct": {"field": "name"},
        "update": {"set": {"more": 2}, "ids": ids},
        "find?": {"orderBy": [1] * 999_000},
    }
    sent = {name: json.dumps(body).encode() for name, body in bodies.items()}
    async with (
        aiovec.connect(tmp_path / "store.db") as store,
        serving(create_app(store=store)) as client,
    ):
        await store.create_table("notes", SCHEMA)
        with measured_callbacks() as callbacks:
            for name, body in sent.items():
                with case(name):
                    path = f"/tables/notes/{name}"
                    await callbacks.check(client.post(path, content=body, headers=JSON))
        assert await store.count("notes") == ROWS
