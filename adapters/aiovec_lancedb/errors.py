"""Translate lancedb's errors by matching their messages against tables of patterns.

lancedb raises ValueError, RuntimeError and OSError, and only the messages distinguish them. A
failed request's message is the debug text of nested Rust errors, which may contain a signed
address. Tests provoke each case in these tables.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager

from aiovec.backend import cleaned, without_secrets
from aiovec.backend.files import NO_ROOM
from aiovec.errors import (
    AiovecError,
    ConfigError,
    CorruptStoreError,
    FilterError,
    OutcomeUnknownError,
    StoreBusyError,
    StoreClosedError,
    StoreFullError,
    StorePermissionError,
    StoreReplacedError,
    StoreUnreachableError,
)

FAILURES = (ValueError, RuntimeError, OSError, TypeError, OverflowError)
"""The exceptions that lancedb's calls raise."""

_READ_ONLY = frozenset({errno.EACCES, errno.EPERM, errno.EROFS})
"""The ``errno`` values that mean that this process has no permission to write."""

# The exceptions for Rust panics, in a call and in an awaited result. The first class does not
# derive from Exception, and neither can be imported.
_PANICS = ("PanicException", "RustPanic")
# A line number in Rust source code, which does not help users.
_SOURCE_PLACE = re.compile(r",? ?/(rustc|[^ ]*/registry|[^ ]*/git)/[^ ]*\.rs:\d+(:\d+)?")


# The file and the size of a failed write, which precede the reason.
_UPLOAD = re.compile(r"(single PUT|[\w ]*multipart upload[\w ]*) of .*?: (?=Generic )")


class NoSuchTableError(Exception):
    """An internal error, which callers translate because they know the table's name."""


class LanceTableExistsError(Exception):
    """Like NoSuchTableError, an internal error that callers translate."""


class ConflictError(StoreBusyError):
    """Another commit came first. Nothing was written, so the write can be retried."""


def message_of(error: BaseException) -> str:
    """Return a lancedb error's message on one line, without secrets."""
    text = without_secrets(str(error))
    text = _UPLOAD.sub("", _SOURCE_PLACE.sub("", text)).removeprefix("lance error: ")
    return " ".join(text.split())[:600]


_REFUSED = (
    r"permission denied|access ?denied|forbidden|unauthori[sz]ed|invalid ?access ?key"
    r"|signature ?does ?not ?match|status: 40[13]|os error (13|30|1)\b"
)
FIX = (
    "; 'aiovec doctor' shows which; an earlier version of the table may be whole: store.versions() "
    "lists them for store.revert()"
)
"""The end of the reason in a CorruptStoreError about a damaged file."""
_CRASHED = (
    "LanceDB crashed on {target}: {message}. A damaged file may be the cause; check with 'aiovec "
    "doctor'"
)
# Patterns for lancedb's messages (the first match counts), each with the error class and the
# error's text or reason.
_BEFORE_REQUESTS: Sequence[tuple[str, type[Exception], str]] = (
    ("^(?-i:Table '.*' was not found|Dataset at path .* was not found)", NoSuchTableError,
     "{message}"),
    ("^(?-i:Table '.*' already exists|Dataset already exists)", LanceTableExistsError, "{message}"),
    (r"(Connection|Table)( \S+)? is closed", StoreClosedError, ""),
    # The response to a commit was lost.
    (r"commit result for version \d+ is unknown|commit may or may not have been applied",
     OutcomeUnknownError, "{message}"),
    (("No space left|Disk quota exceeded|File too large|not enough space"
     r"|os error (28|122|27|112)\b"), StoreFullError, "{message}"),
    ("recursion limit", FilterError,
     "the filter is nested too deeply for LanceDB; use IN or fewer parentheses"),
    (r"regex\b.*exceeds size limit", FilterError, "the LIKE pattern is too long for LanceDB"),
)  # fmt: skip
_AFTER_REQUESTS: Sequence[tuple[str, type[Exception], str]] = (
    ("commit conflict|concurrent (commit|transaction|modification)|too many concurrent writers",
     ConflictError, "other writers changed {target} at the same time: {message}"),
    (("could not parse bucket|unable to find object store|no azure account|invalid uri"
     "|no provider found"), ConfigError, "{target}: {message}"),
    (_REFUSED, StorePermissionError, "{message}"),
    # A file of an index build, not of the table.
    (r"not found: \S*[/\\]ivf_\d+\.lance", AiovecError,
     ("{target}: Lance cannot add the new rows to the table's indexes as long as none of them has "
      "a vector; they are searched without the indexes until one has")),
    (r"\btask \d+ panicked", AiovecError, _CRASHED),
    ((r"corrupt|invalid (magic|footer|protobuf)|magic (number|bytes)|failed to decode|decode error"
     r"|unexpected end|out of range|file size is too small|failed to fill whole buffer"
     r"|does not have sufficient data|correct footer|invalid range .* for object of size"
     r"|invalid seek to a negative|requested range was invalid|version \d+ no longer exists"
     r"|not found: .*\.(lance|manifest|arrow|idx)|unknown lance storage version"
     r"|outside (of file|metadata region)|is not aligned to|buffer (offset|size)s|column metadata"
     r"|page layout|^(lance error: )?invalid input, lance v\d|item range|references parent id"
     r"|columns of differing lengths"),
     CorruptStoreError, "a file is damaged or missing ({message})" + FIX),
    ("", AiovecError, "LanceDB failed on {target}: {message}"),
)  # fmt: skip
_WITH_TARGET = (
    CorruptStoreError, OutcomeUnknownError, StoreClosedError, StoreFullError, StorePermissionError,
)  # fmt: skip


def crashed(target: str, message: str) -> AiovecError:
    """Return the error for a panic in Lance's code."""
    return AiovecError(_CRASHED.format(target=target, message=message))


def translate(error: Exception, target: str) -> Exception:
    """Translate a lancedb error into an aiovec error, or into an internal error defined above."""
    if isinstance(error, OSError) and error.errno is not None and error.strerror:
        return _of_system(error, target)
    return (
        _by_text(error, target, _BEFORE_REQUESTS)
        or failure(error, target)
        or _by_text(error, target, _AFTER_REQUESTS)
        or error
    )


def _by_text(
    error: Exception, target: str, table: Sequence[tuple[str, type[Exception], str]]
) -> Exception | None:
    for pattern, kind, text in table:
        if re.search(pattern, str(error), re.IGNORECASE | re.DOTALL):
            reason = text.format(target=target, message=message_of(error))
            if issubclass(kind, _WITH_TARGET):
                return kind(target, reason)
            return kind(reason, 0.0) if kind is ConflictError else kind(reason)
    return None


def is_read_only(error: BaseException) -> bool:
    """Return whether the error means that this process has no permission to write."""
    cause = error.__cause__
    return isinstance(cause, OSError) and (
        cause.errno in _READ_ONLY or re.search(_REFUSED, str(cause), re.IGNORECASE) is not None
    )


def _of_system(error: OSError, target: str) -> AiovecError:
    """Return the error for a failed system call made by Python."""
    path = target if error.filename is None else str(error.filename)
    if error.errno in NO_ROOM:
        return StoreFullError(target, f"{path}: {error.strerror}")
    if error.errno in _READ_ONLY:
        return StorePermissionError(path, str(error.strerror))
    return AiovecError(f"{path}: {error.strerror}")


class Translated:
    """Translates any lancedb error raised in the block, and removes secrets from it."""

    def __init__(self, target: str, secrets: Collection[str] = ()) -> None:
        self._target = target
        self._secrets = secrets

    def __enter__(self) -> None:
        pass

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        if error is None or isinstance(error, AiovecError):
            return
        if isinstance(error, FAILURES):
            cleaned(error, self._secrets)
            raise translate(error, self._target) from error
        if type(error).__name__ in _PANICS:
            cleaned(error, self._secrets)
            raise crashed(self._target, message_of(error)) from error


@contextmanager
def unknown_outcome(target: str, failure: str) -> Iterator[None]:
    """Raise OutcomeUnknownError if the block fails, because the commit may have succeeded."""
    try:
        yield
    except (OutcomeUnknownError, StoreReplacedError):
        raise
    except (OSError, AiovecError) as exc:
        raise OutcomeUnknownError(target, f"{failure}: {exc}") from exc


_REQUEST = re.compile(
    r"RetryError|Generic (S3|GCS|MicrosoftAzure|HTTP) error|HttpError|reqwest|Error performing "
    r"|Http error|Error making (a )?request|request_id|non-2xx status|Failed to get AWS credentials"
)
_STATUS = re.compile(r"status(?: code)?[:=]? ?\D{0,12}(\d{3})\b", re.IGNORECASE)
# The error code and the message in a server's XML response.
_SAYS = re.compile(r"<(?:Code|Message)>([^<]{1,200})</")
# Matches failed requests that open a store by listing its tables.
_OPENING = r"(?s)(?=.*(?:ListRequest|^Http error: \(request_id=\S+\) 404)).*"
# Failed requests (the first match counts): status, pattern of the text, error class and reason.
_REQUESTS: Sequence[tuple[str, str, type[AiovecError], str]] = (
    ("", "NoSuchBucket|ContainerNotFound|specified bucket does not exist", AiovecError,
     "the bucket does not exist"),
    ("", "BadScheme", AiovecError,
     'its address is http://, which needs the storage option allow_http = "true"'),
    ("", "Failed to resolve region", AiovecError,
     "the region of the bucket is not known; set the storage option aws_region or AWS_REGION"),
    ("", (r"169\.254\.169\.254|CredentialsNotLoaded|no credentials|failed to (load|obtain) "
     "credentials|error getting credentials|failed to get AWS credentials"), StorePermissionError,
     "there are no credentials; set storage_options, or the variables of this object storage"),
    ("40[13]", "", StorePermissionError,
     "the server rejects these credentials, or they lack a permission"),
    ("404", _OPENING, AiovecError, "the server does not know this address"),
    ("501", "", AiovecError, "the server does not support this request"),
    ("429|5..", "", StoreUnreachableError, "the server fails; try again later"),
    ("30[178]|400", _OPENING, AiovecError,
     "the server rejects the request; check the region"),
    ("", r"read_failures=([1-9]\d*)/\1\b|TimedOut|timed out|deadline has elapsed|Elapsed\(",
     StoreUnreachableError,
     "the server did not answer in time"),
    ("", ("connection refused|ConnectionRefused|dns error|failed to lookup|no such host"
     "|ConnectError|connection reset|ConnectionReset|connection closed|IncompleteMessage"
     r"|broken pipe|error sending request|error trying to connect|kind: Connect\b"
     r"|connect_failures=([1-9]\d*)/\1\b"), StoreUnreachableError,
     "the server cannot be reached"),
)  # fmt: skip


def failure(error: BaseException, target: str) -> AiovecError | None:
    """Return the error for a failed request; None for other errors and for missing objects."""
    text = str(error)
    status = str(getattr(error, "status_code", None) or "")
    if not status and not _REQUEST.search(text):
        return None
    if not status and (match := _STATUS.search(text)):
        status = match[1]
    for codes, pattern, kind, meaning in _REQUESTS:
        if re.fullmatch(codes or ".*", status) and re.search(pattern, text, re.IGNORECASE):
            says = ([f"HTTP {status}"] if status else []) + _SAYS.findall(text)
            reason = f"{meaning} ({', '.join(says)})" if says else meaning
            if issubclass(kind, (StorePermissionError, StoreUnreachableError)):
                return kind(target, reason)
            return kind(f"{target}: {reason}")
    return None
