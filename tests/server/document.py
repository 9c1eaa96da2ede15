"""The OpenAPI document as a file: ``python -m tests.server.document`` writes it.

A change of it is a change of HTTP, and belongs into the changelog.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from starlette.testclient import TestClient

from aiovec_server import create_app

FILE = Path(__file__).with_name("openapi.json")


def document() -> dict[str, Any]:
    """Return the document without the version, which every release changes."""
    with TestClient(create_app(":memory:"), base_url="http://localhost:4002") as client:
        made: dict[str, Any] = client.get("/openapi.json").json()
    del made["info"]["version"]
    return made


if __name__ == "__main__":
    FILE.write_text(json.dumps(document(), indent=1, sort_keys=True) + "\n", encoding="utf-8")
