"""The findings of ``aiovec doctor`` about the remote backend's package and about one server."""

from __future__ import annotations

import json
import ssl
import urllib.request
from pathlib import Path

from aiovec._http.autostart import SharedFolder
from aiovec.backend.doctor import version_of
from aiovec.backend.plugin import Finding

from .settings import SCHEME

# Seconds within which the server has to answer.
_PATIENCE = 5.0


def findings(address: str | None) -> list[Finding]:
    """Return the facts about the package and, if an address is given, about the server there."""
    package = version_of("aiohttp")
    if address is None:
        return [package] if package.ok else []
    if not package.ok:
        fix = 'pip install "aiovec[remote]"'
        return [Finding(package.subject, package.value, ok=False, fix=fix)]
    if address.startswith(f"{SCHEME}://"):  # a check must not start a server
        folder = SharedFolder(Path(address.removeprefix(f"{SCHEME}://")))
        runs = folder.address() is not None
        words = f"it runs in {folder.path}, log {folder.log}" if runs else "connect starts one"
        return [package, Finding("server", words, checked=False)]
    try:
        # Do not use a proxy from the environment, because the client does not use one either.
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(f"{address}/health", timeout=_PATIENCE) as answer:
            health = json.loads(answer.read(10_000))
        words = f"{address}: status {health['status']}, backend {health['backend']}, "
        words += health["version"]
        return [package, Finding("server", words[:300], ok=health["status"] == "ok")]
    except (OSError, ValueError, LookupError, TypeError) as exc:
        reason = exc if isinstance(exc, OSError) else "it answers, but is not an aiovec server"
        fix = "start it with: aiovec serve; or correct the address"
        if isinstance(getattr(exc, "reason", None), ssl.SSLCertVerificationError):
            fix = "for a certificate of a private CA, set SSL_CERT_FILE to the CA's file"
        return [package, Finding("server", f"{address}: {reason}"[:300], ok=False, fix=fix)]
