"""Made-up responses, which no aiovec server gave to the request."""

from __future__ import annotations

import json


def http(
    body: bytes = b"{}", *, status: int = 200, kind: str = "application/json", headers: str = ""
) -> bytes:
    head = f"HTTP/1.1 {status} x\r\ncontent-type: {kind}\r\ncontent-length: {len(body)}\r\n"
    return f"{head}{headers}\r\n".encode() + body


def problem(status: int, detail: str, *, error: str = "", headers: str = "") -> bytes:
    document = {"status": status, "title": "x", "detail": detail, "facts": {}}
    body = json.dumps(document | ({"error": error} if error else {})).encode()
    return http(body, status=status, kind="application/problem+json", headers=headers)
