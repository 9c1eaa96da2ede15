"""aiovec as an agent's tools, over the Model Context Protocol: ``aiovec mcp``.

``create_server(store)`` returns the server, for apps that run it themselves.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .server import create_server

__all__ = ["create_server"]


def __getattr__(name: str) -> Any:
    # Import the server on demand: listing all commands imports this package, even without an SDK.
    if name == "create_server":
        from .server import create_server

        return create_server
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
