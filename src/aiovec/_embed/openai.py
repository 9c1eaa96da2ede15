"""Services that speak OpenAI's protocol for embeddings: OpenAI, Ollama, vLLM, LM Studio.

The key is read from the environment for each request and kept nowhere. What aiohttp raises is
returned, not raised, so that no traceback holds a frame with the request's headers.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import contextlib
import json
import os
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import numpy as np

from .._model.arrays import Float32Array
from .._model.redaction import redacted, secrets_in
from ..backend.pool import in_thread, off_loop
from ..backend.threads import Background, PerLoop
from .failures import Failure, of_status, retry_after_of, shortened
from .protocol import Purpose

if TYPE_CHECKING:
    import aiohttp

    from ..backend.embedders import EmbedderSettings

OWN_HOST = "api.openai.com"
OWN_KEY = "OPENAI_API_KEY"

# Bytes of an answer: numbers of JSON at their longest, what stands around each vector, and a rest.
_A_NUMBER, _A_VECTOR, _AN_ANSWER = 32, 4096, 65_536
_AN_ERROR = 16_384
_BYTES_A_VALUE = 256
_CHARACTERS_A_VALUE = 64


def key_name_of(settings: EmbedderSettings) -> str:
    """Return the environment variable with the key of a service; empty where it needs none."""
    own = urlsplit(settings.base_url).hostname == OWN_HOST
    return settings.api_key_env or (OWN_KEY if own else "")


class OpenAIEmbedder:
    """Asks a service by HTTP. One session for each event loop, closed with the store."""

    def __init__(self, settings: EmbedderSettings) -> None:
        self.model = settings.model
        self.dim = settings.dim
        self._url = settings.base_url.rstrip("/") + "/embeddings"
        self._key_name = key_name_of(settings)
        self._connections = settings.concurrency
        self._options: dict[str, object] = {"model": settings.model}
        if settings.request_dim:
            self._options["dimensions"] = settings.dim
        self._options["encoding_format"] = "base64" if settings.base64 else "float"
        self._leaving = Background()
        self._session: PerLoop[_Session] = PerLoop(_Session, self._leave)

    def __repr__(self) -> str:
        return f"<OpenAIEmbedder {self.model} at {redacted(self._url)}>"

    async def __call__(self, texts: list[str], *, kind: Purpose = "document") -> Float32Array:
        """Return the vectors of texts, or raise Failure."""
        session = await self._session().opened(self._connections)
        if isinstance(session, Failure):
            raise session
        outcome = await self._ask(session, texts)
        if isinstance(outcome, Failure):
            raise outcome
        status, headers, body = outcome
        if status != 200:
            said = shortened(_message_of(body), self._secrets())
            raise of_status(status, f"HTTP {status}: {said}", retry_after_of(headers))
        effort = len(body) // _BYTES_A_VALUE
        found = await off_loop(effort, parsed, body, len(texts), self.dim)
        if isinstance(found, Failure):
            found.reason = shortened(found.reason, self._secrets())
            raise found
        return found

    async def close(self) -> None:
        """Close the session of the running loop."""
        with contextlib.suppress(Exception):
            await self._session().close()
        await self._leaving.wait()

    async def _ask(
        self, session: aiohttp.ClientSession, texts: list[str]
    ) -> tuple[int, Any, bytes] | Failure:
        """Return the status, headers and body of one request, or why there are none."""
        import aiohttp

        if self._key_name and not os.environ.get(self._key_name):
            return Failure(f"the environment variable {self._key_name} holds no key")
        most = _AN_ANSWER + len(texts) * (_A_VECTOR + _A_NUMBER * self.dim)
        failure: Failure
        try:
            data = await off_loop(
                len(texts) + sum(map(len, texts)) // _CHARACTERS_A_VALUE,
                lambda: json.dumps({**self._options, "input": texts}).encode(),
            )
            async with session.post(
                self._url, data=data, headers=self._headers(), allow_redirects=False
            ) as answer:
                body = await _read(answer, most if answer.status == 200 else _AN_ERROR)
                if len(body) > most and answer.status == 200:
                    return Failure(f"its answer is longer than {most} bytes")
                return answer.status, answer.headers, body
        except (aiohttp.InvalidURL, aiohttp.ClientSSLError) as exc:
            failure = Failure(self._said(exc))
        except (aiohttp.ClientError, OSError) as exc:
            failure = Failure(self._said(exc), retryable=True)
        except ValueError as exc:  # a header or an address that cannot be sent
            failure = Failure(self._said(exc))
        return failure

    def _said(self, exc: BaseException) -> str:
        said = str(exc) or "no reason given"
        return shortened(f"{type(exc).__name__}: {said}", self._secrets())

    def _headers(self) -> dict[str, str]:
        headers = {"Content-Type": "application/json", "Accept-Encoding": "identity"}
        if self._key_name:
            headers["Authorization"] = f"Bearer {os.environ.get(self._key_name, '').strip()}"
        return headers

    def _secrets(self) -> set[str]:
        found = set(secrets_in(self._url))
        key = os.environ.get(self._key_name) if self._key_name else None
        if key:
            # Services repeat a key in part, as in "sk-abcd***wxyz".
            found |= {key, *key.split(), key.strip()[:8], key.strip()[-8:]}
        return found

    def _leave(self, session: _Session) -> None:
        """Close the session of a loop that has ended, on the loop that follows."""
        self._leaving.start(session.left())


class _Session:
    """The connections of one event loop, made at the first request."""

    def __init__(self) -> None:
        self._session: aiohttp.ClientSession | None = None
        self._opening = asyncio.Lock()

    async def opened(self, connections: int) -> aiohttp.ClientSession | Failure:
        async with self._opening:
            if self._session is None:
                try:
                    aiohttp = await in_thread(_import)
                except ModuleNotFoundError:
                    return missing("openai", "aiohttp")
                self._session = aiohttp.ClientSession(
                    connector=aiohttp.TCPConnector(limit=connections),
                    timeout=aiohttp.ClientTimeout(total=None),  # the batcher has the time limits
                    cookie_jar=aiohttp.DummyCookieJar(),
                    auto_decompress=False,
                    trust_env=True,
                )
            return self._session

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()

    async def left(self) -> None:
        with contextlib.suppress(Exception):
            await self.close()


def _import() -> Any:
    import aiohttp

    return aiohttp


def missing(extra: str, module: str) -> Failure:
    """Return the failure of an embedder whose package is not installed."""
    return Failure(f'it needs {module}; install it with: pip install "aiovec[{extra}]"')


async def _read(answer: aiohttp.ClientResponse, most: int) -> bytes:
    """Return the body, or the begin of one that is longer than ``most`` bytes."""
    parts: list[bytes] = []
    length = 0
    async for part in answer.content.iter_any():
        parts.append(part)
        length += len(part)
        if length > most:
            answer.close()
            break
    return b"".join(parts)


def _message_of(body: bytes) -> str:
    """Return what a service says about an error."""
    text = body.decode("utf-8", "replace")
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        return text or "it gave no reason"
    error = document.get("error", document) if isinstance(document, dict) else document
    said = error.get("message", error) if isinstance(error, dict) else error
    return str(said)


def parsed(body: bytes, count: int, dim: int) -> Float32Array | Failure:
    """Return the vectors of an answer in the order of the texts, or what is wrong with it."""
    try:
        document = json.loads(body)
    except (ValueError, RecursionError) as exc:
        return Failure(f"its answer is not valid JSON ({exc}); it begins with {body[:60]!r}")
    data = document.get("data") if isinstance(document, dict) else None
    if not isinstance(data, list):
        return Failure(f"its answer has no list 'data'; it begins with {body[:60]!r}")
    if len(data) != count:
        return Failure(f"it gave {len(data)} vectors for {count} texts")
    found = np.empty((count, dim), dtype=np.float32)
    seen = [False] * count
    for place, item in enumerate(data):
        if not isinstance(item, dict) or "embedding" not in item:
            return Failure(f"item {place} of its answer has no 'embedding'")
        index = item.get("index", place)
        if isinstance(index, bool) or not isinstance(index, int) or not 0 <= index < count:
            return Failure(f"item {place} of its answer has the index {index!r:.60}")
        if seen[index]:
            return Failure(f"the index {index} stands twice in its answer")
        seen[index] = True
        vector = _vector(item["embedding"])
        if vector is None:
            return Failure(f"the embedding with the index {index} is no list of numbers")
        if len(vector) != dim:
            return Failure(f"it gave a vector of {len(vector)} dimensions, not {dim}")
        with np.errstate(over="ignore"):
            found[index] = vector
    return found


def _vector(given: object) -> Any:
    """Return the numbers of a vector, in JSON or base64; None if it is neither."""
    if isinstance(given, str):
        try:
            raw = base64.b64decode(given, validate=True)
        except (ValueError, binascii.Error):
            return None
        return np.frombuffer(raw, dtype="<f4") if len(raw) % 4 == 0 else None
    if not isinstance(given, list) or not set(map(type, given)) <= {int, float}:
        return None
    try:
        return np.asarray(given, dtype=np.float64)
    except (OverflowError, ValueError):
        return None
