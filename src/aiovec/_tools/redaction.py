"""Remove secrets from everything that is shown: targets, messages, errors, causes, settings.

Secrets can be in the user part or the query of a URL, in options such as ``storage_options``, and
in environment variables. No secret may reach a message, a log, a report or a traceback.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import unquote

MASK = "***"

# At least two letters, since C:// is a Windows drive.
URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)://(.*)", re.DOTALL)
# The other patterns are compiled at their first use, since most processes show no error.
# The pattern begins after the scheme, so that a long word is tried once, not from each letter.
_URL_IN_TEXT = r"(?<=[A-Za-z0-9+.-]{2})://[^\s'\"<>`]+"

_NAME = (
    r"(?i)secret|token|passw|passphrase|api[-_]?key|access[-_]?key|account[-_]?key|private[-_]?key"
    r"|\bkey\b|_key\b|credential|signature|\bsig\b|\bsas\b|sas_|auth"
)
# Names of credentials in an address or in an echoed header: a whole word, then its value.
_NAME_OF_PAIR = r"(?<![\w-])([\w-]++)[\"']?\s*+[=:]"
_AUTHORISES = (
    r"(?i)(?:sig|X-Amz-Signature|X-Amz-Credential|X-Amz-Security-Token|token|api[-_]?key"
    r"|access[-_]key(?:[-_]id)?|account[-_]key|secret(?:[-_][\w-]*)?|password|authorization)\Z"
)
_VALUE_OF_PAIR = r"(?i)(\s*[\"']?)(?:(?:bearer|basic)\s+)?[^&\s\"'),}]+"
# The parts of a request that a server repeats in its response if it cannot verify the signature.
_ECHO = r"<(AWSAccessKeyId|StringToSign\w*|CanonicalRequest\w*|SignatureProvided)>[^<]*"

# Options without secrets. A message may need their values.
_HARMLESS = (
    r"region|endpoint|host|timeout|allow_|http|pool|proxy|user_agent|retr|bucket|account_name"
    r"|virtual|skip_|unsigned|copy_|conditional|concurrency|size|interval"
)


def redacted(text: str) -> str:
    """Return a target, with the user part, query and fragment masked if it is a URL."""
    url = URL.match(text)
    if url is None:
        return text
    rest = url[2]
    authority = rest.partition("/")[0]
    # A password may contain an unencoded slash, question mark or @. So after a colon that may begin
    # a password, everything up to the last @ is hidden, even if that hides a part of the path too.
    searched = rest if ":" in authority else authority
    if "@" in searched:
        rest = MASK + rest[searched.rindex("@") :]
    for separator in "?#":
        head, at_sign, _ = rest.partition(separator)
        rest = f"{head}{separator}{MASK}" if at_sign else rest
    return f"{url[1]}://{rest}"


def names_secret(name: str) -> bool:
    """Return whether an option or a variable of this name may hold a secret."""
    return re.search(_NAME, name) is not None


def secrets_in(target: str, options: Mapping[str, str] | None = None) -> frozenset[str]:
    """Return the secrets of a URL and its options, in the forms that a message may repeat."""
    secrets = _secrets_of_url(target)
    for name, value in (options or {}).items():
        secrets |= _secrets_of_url(value)
        if names_secret(name) or not re.search(_HARMLESS, name.lower()):
            secrets.add(value)
    return frozenset(secrets)


def _secrets_of_url(text: str) -> set[str]:
    url = URL.match(text)
    if url is None:
        return set()
    secrets: set[str] = set()
    user, at, _ = url[2].rpartition("@")
    if at and redacted(text) != text:
        secrets |= {user, *user.split(":", 1)[1:]}
    for separator in "?#":
        query = url[2].partition(separator)[2]
        secrets |= {query, *(pair.partition("=")[2] for pair in re.split("[&#?]", query))}
    return {secret for secret in secrets | {unquote(s) for s in secrets} if secret}


def without_secrets(text: str, known: Iterable[str] = ()) -> str:
    """Return a message without secrets: those in ``known``, in environment variables, and in URLs
    and headers."""
    values = {*known, *(value for name, value in os.environ.items() if names_secret(name))}
    # Replacing shorter values would hide ordinary words.
    for secret in sorted((v for v in values if len(v) >= 6), key=len, reverse=True):
        text = text.replace(secret, MASK)
    scheme = "any"
    text = re.sub(_URL_IN_TEXT, lambda url: redacted(scheme + url[0])[len(scheme) :], text)
    return re.sub(_ECHO, rf"<\1>{MASK}", _without_pairs(text))


def _without_pairs(text: str) -> str:
    parts: list[str] = []
    copied = at = 0
    names, values = re.compile(_NAME_OF_PAIR), re.compile(_VALUE_OF_PAIR)
    while (name := names.search(text, at)) is not None:
        at = name.end()
        if re.search(_AUTHORISES, name[1]) and (value := values.match(text, at)):
            parts += [text[copied : value.end(1)], MASK]
            copied = at = value.end()
    return "".join([*parts, text[copied:]])


def cleaned(error: BaseException, known: Iterable[str] = ()) -> None:
    """Remove the secrets from an error, its causes and its notes, in place."""
    secrets = tuple(known)
    seen: set[int] = set()
    waiting: list[BaseException | None] = [error]
    while waiting:
        exception = waiting.pop()
        if exception is None or id(exception) in seen:
            continue
        seen.add(id(exception))
        waiting += [exception.__cause__, exception.__context__]
        exception.args = tuple(_cleaned_value(arg, secrets) for arg in exception.args)
        for name in ("strerror", "filename", "filename2"):
            if isinstance(exception, OSError) and isinstance(getattr(exception, name), str):
                setattr(exception, name, without_secrets(getattr(exception, name), secrets))
        notes = getattr(exception, "__notes__", None)
        if notes:
            exception.__notes__ = [without_secrets(str(note), secrets) for note in notes]


def _cleaned_value(value: Any, known: Iterable[str]) -> Any:
    if isinstance(value, bytes):
        value = value.decode("utf-8", "replace")
    return without_secrets(value, known) if isinstance(value, str) else value
