"""The section ``[retrieval.remote]``."""

from __future__ import annotations

from aiovec.backend.settings import BackendSettings, key

SCHEME = "autostart"
"""The scheme of an address that names a TOML file; the client starts a server for it on demand."""


class RemoteSettings(BackendSettings):
    """The settings of the remote backend, the client of an aiovec server."""

    api_key: str = ""
    """The server's API key. Prefer the environment variable AIOVEC_RETRIEVAL__REMOTE__API_KEY.

    It is sent with every request, so use https:// beyond this machine."""

    connections: int = key(32, at_least=1, at_most=1024)
    """Maximum number of concurrent calls. Further reads wait, and further writes wait for up to
    busy_timeout. An export uses an additional connection."""

    connect_timeout: float = key(5.0, at_least=0.1, at_most=600)
    """Seconds within which a connection to the server has to be established."""

    idle_timeout: float = key(120.0, at_least=1, at_most=86_400)
    """Seconds without a byte from the server after which a call fails.

    The same limit applies to a request until its response begins, and again to the response; each
    gets one more second per 16 KiB. Inherently long calls, such as index builds, have no limit
    until their response begins."""

    reconnect_timeout: float = key(10.0, at_least=0, at_most=86_400)
    """Seconds for which a call retries while the server cannot be reached, for example during its
    restart.

    0 means a single attempt. Opening a store is always a single attempt."""

    busy_timeout: float = key(30.0, at_least=0, at_most=86_400)
    """Seconds that a call waits for a busy server before it fails with StoreBusyError.

    Within this time, the call retries requests that the server refused because of its limits."""
