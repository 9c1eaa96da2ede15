"""The section ``[retrieval.server]`` of the TOML file."""

from __future__ import annotations

from collections.abc import Sequence

from .settings import Section, key, not_empty


class ServerSettings(Section):
    """The server that `aiovec serve` runs, and that the remote backend starts with autostart."""

    backend: str = ""
    """The backend whose store is served.

    Empty means `backend` of [retrieval], or "sqlite" if that is "remote"."""

    host: str = key("127.0.0.1", pattern=r"^\S+$", accepted="an address without spaces")
    """Address on which the server listens.

    An address other machines can reach, such as 0.0.0.0, needs an API key."""

    port: int = key(4002, at_least=0, at_most=65_535)
    """Port on which the server listens. 0 chooses a free port."""

    api_keys_env: str = key(
        "AIOVEC_API_KEYS", pattern=r"^[A-Za-z_][A-Za-z0-9_]*$", accepted="the name of a variable"
    )
    """Environment variable that holds the API keys, separated by spaces or commas.

    A key may read and write; with "read:" before it, only read. Keys have at least 16
    characters."""

    api_keys_file: str = ""
    """File that holds API keys, one per line, written as in the variable.

    Only its owner should be able to read it. Empty means none."""

    allowed_hosts: Sequence[str] = key([], of=not_empty(""))
    """Host names at which clients reach the server, such as "vectors.example.com".

    A request whose Host header names another host is refused, which protects against DNS rebinding.
    Names of this machine's loopback interface and `host` are always accepted."""

    cors_origins: Sequence[str] = key([], of=not_empty(""))
    """Web origins whose pages may call the server from a browser, such as
    "https://app.example.com". Empty means none.

    ["*"] allows pages from any site, and needs an API key."""

    page_writes: bool = False
    """Let the page at / delete rows and optimize tables. This does not affect the API."""

    read_only: bool = False
    """Refuse every call that writes, and open the store read-only."""

    max_body_mb: int = key(256, at_least=1, at_most=65_536)
    """Maximum size of a request's body in MiB; a larger body gets status 413."""

    max_rows: int = key(100_000, at_least=1, at_most=1_000_000_000)
    """Maximum number of rows, ids or queries in a request, and of rows or hits in a response. A
    call that exceeds it gets status 422."""

    timeout: float = key(120.0, above=0, at_most=86_400)
    """Seconds that a call may take; then it is cancelled with status 504.

    No limit applies to calls whose time grows with the table, such as an index build, `optimize`
    or a drop, nor to a streamed export while its client reads."""

    max_calls: int = key(256, at_least=1, at_most=1_000_000)
    """Maximum number of concurrent calls; further calls wait up to 2 s, then get status 429 with
    Retry-After."""

    max_connections: int = key(2048, at_least=1, at_most=1_000_000)
    """Maximum number of open connections; requests on further connections get status 503.

    Each connection is an open file: see `ulimit -n`, or LimitNOFILE of systemd."""

    receive_timeout: float = key(30.0, above=0, at_most=86_400)
    """Seconds that a client may take to send the head of a request.

    A request's body may take this long, plus 1 second for each 16 KiB received."""

    send_timeout: float = key(300.0, above=0, at_most=86_400)
    """Seconds that a client may take to read one part (100 KiB to a few MiB) of a response."""

    keep_alive: float = key(75.0, above=0, at_most=86_400)
    """Seconds that a connection without a request stays open."""

    shutdown_timeout: float = key(30.0, at_least=0, at_most=86_400)
    """Seconds that calls in progress may take after SIGTERM; then they are cancelled."""

    access_log: bool = True
    """Log each request to standard error, as a line of JSON.

    If nothing reads standard error, up to 10,000 lines are buffered; newer lines are dropped."""

    metrics: bool = True
    """Serve metrics for Prometheus at /metrics."""

    autostart: bool = False
    """Let the remote backend start a server on this machine if none is running.

    All of a user's processes that use this configuration file share the server, through a socket
    that other users cannot open."""

    start_timeout: float = key(30.0, above=0, at_most=3600)
    """Seconds that an autostarted server may take to start."""

    idle_timeout: float = key(60.0, above=0, at_most=31_536_000)
    """Seconds without a request after which an autostarted server stops; the next call starts a new
    server. A server that you start stops only if you pass --idle-timeout."""
