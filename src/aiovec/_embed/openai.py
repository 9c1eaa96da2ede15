"""Services that speak OpenAI's protocol for embeddings, such as Ollama, vLLM and LM Studio.

The key is read from the environment for each request and never stored.
"""

from __future__ import annotations

import importlib
import json
import os
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from .._model.schema import MAX_DIM
from .._tools.redaction import redacted, secrets_in
from ..backend.cost import cost_of
from ..backend.embedders import OWN_URL
from ..backend.threads import hop, in_thread
from .failures import Failure, as_reason, of_status
from .protocol import Purpose

if TYPE_CHECKING:
    import aiohttp

    from ..backend.embedders import EmbedderSettings

OWN_KEY = "OPENAI_API_KEY"


def key_name_of(settings: EmbedderSettings) -> str:
    """Return the name of the environment variable with the key of a service; empty if the service
    needs no key."""
    is_openai = urlsplit(settings.base_url).hostname == urlsplit(OWN_URL).hostname
    return settings.api_key_env or (OWN_KEY if is_openai else "")


class OpenAIEmbedder:
    """Embeds texts through a service over HTTP. The store calls ``close``."""

    def __init__(self, settings: EmbedderSettings) -> None:
        self.model = settings.model
        self.dim = settings.dim
        self._url = settings.base_url.rstrip("/") + "/embeddings"
        self._key_name = key_name_of(settings)
        self._connections = settings.concurrency
        self._options: dict[str, object] = {"model": settings.model, "encoding_format": "float"}
        if settings.request_dim:
            self._options["dimensions"] = settings.dim
        self._session: aiohttp.ClientSession | None = None

    def __repr__(self) -> str:
        return f"<OpenAIEmbedder {self.model} at {redacted(self._url)}>"

    async def __call__(self, texts: list[str], *, kind: Purpose = "document") -> list[Any]:
        """Return the vectors of texts, or raise Failure."""
        if self._key_name and not os.environ.get(self._key_name):
            raise Failure(f"the environment variable {self._key_name} holds no key")
        request = await hop(cost_of(texts), json.dumps, {**self._options, "input": texts})
        status, headers, body = await self._post(request.encode(), len(texts))
        if status != 200:
            message = as_reason(_message_of(body), self._secrets())
            reason = f"POST {redacted(self._url)} answered {status}: {message}"
            if status in (404, 405) and not self._url.endswith("/v1/embeddings"):
                reason += "; base_url usually ends in /v1"
            raise of_status(status, reason, headers)
        try:
            return await hop(len(body) // 256, _vectors_of, body, len(texts))
        except Failure as failure:
            failure.reason = as_reason(failure.reason, self._secrets())
            raise

    async def close(self) -> None:
        """Close the connections."""
        if self._session is not None:
            await self._session.close()

    async def _post(self, data: bytes, count: int) -> tuple[int, Any, bytes]:
        """Return the status, headers and body of one request, or raise Failure."""
        if self._session is None:
            await in_thread(importlib.import_module, "aiohttp")
        import aiohttp

        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=self._connections),
                timeout=aiohttp.ClientTimeout(total=None),  # the batcher has time limits
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=False,
                trust_env=True,
            )
        try:
            async with self._session.post(
                self._url, data=data, headers=self._headers(), allow_redirects=False
            ) as answer:
                # 64 bytes for each number of the vectors, and 1 MiB for everything else.
                body, most = bytearray(), 2**20 + 64 * count * (self.dim or MAX_DIM)
                async for part in answer.content.iter_any():
                    body += part
                    if len(body) > most:
                        reason = f"its answer has more than {most:,} bytes for {count} texts"
                        raise Failure(reason, status=answer.status)
                return answer.status, answer.headers, bytes(body)
        except (aiohttp.ClientError, OSError, ValueError) as exc:
            # aiohttp raises ValueError for an address or a header that cannot be sent.
            lasting = isinstance(exc, (aiohttp.ClientSSLError, ValueError))
            # No cause is kept: the exception's traceback has frames that hold the key.
            reason = f"{type(exc).__name__}: {str(exc) or 'no reason given'}"
            failure = Failure(as_reason(reason, self._secrets()), retryable=not lasting)
        raise failure

    def _headers(self) -> dict[str, str]:
        headers = {"Content-Type": "application/json", "Accept-Encoding": "identity"}
        if self._key_name:
            headers["Authorization"] = f"Bearer {os.environ.get(self._key_name, '').strip()}"
        return headers

    def _secrets(self) -> set[str]:
        secrets = set(secrets_in(self._url))
        key = os.environ.get(self._key_name) if self._key_name else None
        if key:
            # Services repeat parts of a key, as in "sk-abcd***wxyz".
            secrets |= {key, *key.split(), key.strip()[:8], key.strip()[-8:]}
        return secrets


def _message_of(body: bytes) -> str:
    """Return the error message in a service's response."""
    text = body.decode("utf-8", "replace")
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        return text or "it gave no reason"
    error = document.get("error", document) if isinstance(document, dict) else document
    return str(error.get("message", error) if isinstance(error, dict) else error)


def _vectors_of(body: bytes, count: int) -> list[Any]:
    """Return the vectors of a response in the order of the texts, or raise Failure."""
    try:
        data = json.loads(body)["data"]
        by_index = {item.get("index", index): item["embedding"] for index, item in enumerate(data)}
        if len(data) == count:
            return [by_index[index] for index in range(count)]
    except (ValueError, RecursionError, LookupError, TypeError, AttributeError):
        pass
    raise Failure(
        f"its answer is not JSON with 'data', a list of one 'embedding' and 'index' for each of "
        f"{count} texts; it begins with {body[:60]!r}"
    )
