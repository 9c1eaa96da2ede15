"""Convert errors to HTTP problems, as RFC 9457 defines them, and back.

``problem_of`` makes the response to an error, and ``error_of`` restores the error in a client. Each
class of ``aiovec.errors`` defines its response in the attribute ``http``.

An error's facts are sent, except those that its class lists in ``http.private``, such as the
target; its traceback and its cause are not sent. Paths are removed from messages that were written
on this machine, such as a driver's. A message made only of the caller's values keeps its paths.
"""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Iterable, Mapping
from copy import copy
from dataclasses import dataclass, field, fields
from functools import partial
from http import HTTPStatus
from typing import Any

from .. import errors
from .._tools.messages import shortened, shown
from .._tools.redaction import without_secrets
from ..backend.threads import in_thread
from ..errors import AiovecError, StoreBusyError

Json = None | bool | int | float | str | list["Json"] | dict[str, "Json"]

MEDIA_TYPE = "application/problem+json"

LONGEST_TEXT = 2000
"""Maximum number of characters in a message or a fact; the rest is cut off."""


@dataclass(frozen=True, slots=True)
class Problem:
    """A server's error response, as RFC 9457 defines it.

    ``error`` is the name of a class of ``aiovec.errors`` and ``facts`` are its attributes; both are
    empty for a problem of HTTP itself, such as a body that is too large.
    """

    status: int
    title: str
    detail: str
    error: str = ""
    facts: Mapping[str, Json] = field(default_factory=dict)
    retry_after: int | None = None
    """Seconds after which the same request may succeed."""
    begun: bool = False
    """True if the call was interrupted, so a write may have taken effect."""

    @classmethod
    def plain(cls, status: int, detail: str, *, retry_after: int | None = None) -> Problem:
        """Return a problem of HTTP itself, with the status's standard phrase as its title."""
        return cls(status, HTTPStatus(status).phrase, detail, retry_after=retry_after)

    def to_dict(self) -> dict[str, Json]:
        """Return the members of the JSON document."""
        document: dict[str, Json] = {
            "type": f"urn:aiovec:error:{self.error}" if self.error else "about:blank",
            "title": self.title,
            "status": self.status,
            "detail": self.detail,
        }
        if self.error:
            document |= {"error": self.error, "facts": dict(self.facts)}
        if self.begun:
            document["begun"] = True
        return document

    def body(self) -> bytes:
        """Return the JSON document."""
        return json.dumps(self.to_dict(), allow_nan=False).encode()

    def headers(self) -> dict[str, str]:
        """Return the HTTP headers of the response, except ``Content-Length``."""
        headers = {"content-type": MEDIA_TYPE}
        if self.retry_after is not None:
            headers["retry-after"] = str(self.retry_after)
        return headers


def _json(value: object) -> Json:
    """Return any value as JSON, shortened, and converted to text if JSON lacks its type."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return _short(value)
    if isinstance(value, (int, float)) and -(2**63) <= value < 2**63:  # NaN is not JSON
        return value
    if isinstance(value, (list, tuple)):
        items = value[:100]  # such as the ids of a DuplicateIdError
        return [_short(item if isinstance(item, str) else shown(item)) for item in items]
    return _short(shown(value))


def _facts_of(cls: type[AiovecError]) -> dict[str, Any]:
    """Return the facts of an error class that a server sends, with their defaults for clients."""
    facts = {fact.name: _EMPTY.get(str(fact.type)) for fact in fields(cls)}
    return {name: value for name, value in facts.items() if name not in cls.http.private}


_BY_NAME: dict[str, type[AiovecError]] = {name: getattr(errors, name) for name in errors.__all__}
# Replacements for the attributes that are not sent.
_PLACES = {"target": "the store", "moved_to": "another place", "config": "", "file": "the settings"}
# Defaults by the annotation of a fact; None for other types.
_EMPTY = {"str": "", "int": 0, "float": 0.0, "bool": False, "Sequence[str]": []}


async def log_error(log: logging.Logger, error: Exception, status: int, request: str = "") -> None:
    """Log, in a thread, an error whose response hides its cause. Writing a log may block.

    A busy store is not a fault: during an overload, each request logs one line, without a
    traceback.
    """
    busy = isinstance(error, StoreBusyError)
    level, cause = (logging.WARNING, None) if busy else (logging.ERROR, error)
    words = f"{request}{type(error).__name__}: status {status}"
    await in_thread(partial(log.log, level, "%s", words, exc_info=cause))


def problem_of(error: BaseException, places: Iterable[str] = ()) -> Problem:
    """Return a server's response to an error.

    Paths, addresses, secrets, the error's target and the strings in ``places``, such as the store's
    target, are removed from texts that were written on this machine. An error that is not an
    AiovecError is sent without any details.
    """
    if not isinstance(error, AiovecError):
        return Problem.plain(500, "the server failed; its log has the reason")
    # A subclass from another package is treated like its base class.
    cls = next(base for base in type(error).__mro__ if _BY_NAME.get(base.__name__) is base)
    answer = error.http
    hidden: list[tuple[object, str]] = [(place, "the store") for place in places]
    hidden += [(getattr(error, name, None), _PLACES[name]) for name in answer.private]
    facts: dict[str, Json] = {}
    for name in _facts_of(cls):
        value = getattr(error, name, None)
        if answer.machine and isinstance(value, str) and name != "id":  # ids are the caller's
            value = _without_places(value, hidden)
        facts[name] = _json(value)
    detail = str(error)
    detail = _short(_without_places(detail, hidden) if answer.machine else detail)
    status, retry_after = answer.status, answer.retry_after
    if isinstance(error, errors.EmbeddingError) and error.retryable:
        status, retry_after = 503, 5
    return Problem(status, answer.title, detail, cls.__name__, facts, retry_after)


def error_of(document: object, *, target: str = "the server's store") -> AiovecError:
    """Return the error that a server's problem describes, with its class, message and facts.

    An unknown class becomes ``AiovecError``, and a missing fact gets its default. ``target`` is the
    target that the error names, since the server does not send its own target.
    """
    members = document if isinstance(document, Mapping) else {}
    name, detail, sent = (members.get(key) for key in ("error", "detail", "facts"))
    cls = _BY_NAME.get(name, AiovecError) if isinstance(name, str) else AiovecError
    facts = sent if isinstance(sent, Mapping) else {}
    error = cls.__new__(cls)
    text = detail if isinstance(detail, str) and detail else members.get("title")
    message = text if isinstance(text, str) and text else "the server gave no reason"
    error.args = (_short(message),)
    for name, default in _facts_of(cls).items():
        value = facts.get(name)
        setattr(error, name, copy(default) if value is None else value)
    for name in cls.http.private:
        setattr(error, name, target if name == "target" else _PLACES[name])
    return error


def _short(text: str) -> str:
    """Return the text, shortened, without surrogates, which some JSON parsers refuse."""
    return shortened(text, LONGEST_TEXT).encode("utf-8", "backslashreplace").decode("utf-8")


# A path or an address in a message that was written on this machine. A quoted path may have spaces.
_PLACE = re.compile(
    r"""(?P<quote>['"`])(?:file:|~|[A-Za-z]:|\\)?[/\\](?:(?!(?P=quote)).){0,2000}(?P=quote)"""
    r"""|(?<![\w.+-])[A-Za-z][\w.+-]{0,30}:/[^\s'"<>`,;)]*"""
    r"""|(?<![\w/\\])(?:\.{1,2}|~\w*|[A-Za-z]:|\\)?[/\\][^\s'"<>`,;:)]+""",
    re.DOTALL,
)


def _without_places(text: str, hidden: Iterable[tuple[object, str]]) -> str:
    """Remove paths, addresses and secrets from a message that was written on this machine."""
    # Shortened first, so that the later steps are fast.
    text = text[: 10 * LONGEST_TEXT]
    known: dict[str, str] = {}
    for place, words in hidden:
        if isinstance(place, str) and len(place) > 2:
            known[place] = words or "…"
            folder = os.path.dirname(place) if os.path.isabs(place) else ""
            if len(folder) > 2:
                known.setdefault(folder, "…")
    for place in sorted(known, key=len, reverse=True):
        words = known[place]
        text = text.replace(f"{words} {place}", words).replace(place, words)
    return _PLACE.sub("…", without_secrets(text))
