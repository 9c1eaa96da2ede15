"""What a failed request to object storage, or to a managed service, says, in a user's words.

lancedb tells it as the debug text of nested Rust errors, which may hold an address with a
signature in it.
"""

from __future__ import annotations

import re

_STATUS = re.compile(r"status(?: code)?[:=]? ?\D{0,12}(\d{3})\b", re.IGNORECASE)
_REQUEST = re.compile(
    r"RetryError|Generic (S3|GCS|MicrosoftAzure|HTTP) error|HttpError|reqwest|Error performing "
    r"|Http error|Error making (a )?request|request_id|non-2xx status"
)
# The requests of an opening: for a list of what is there.
_NO_PLACE = re.compile(r"ListRequest|^Http error: \(request_id=\S+\) 404")
_NO_SENSE = re.compile(r"error decoding response body|Failed to parse")
_CODE = re.compile(r"<Code>(\w{1,60})</Code>")
_MESSAGE = re.compile(r"<Message>([^<]{1,200})</Message>")
_NO_BUCKET = re.compile(r"NoSuchBucket|ContainerNotFound|specified bucket does not exist")
_NO_HTTP = re.compile(r"BadScheme")
_TIMED_OUT = re.compile(
    r"read_failures=([1-9]\d*)/\1\b|TimedOut|timed out|deadline has elapsed|Elapsed\(",
    re.IGNORECASE,
)
_NO_CONNECTION = re.compile(
    r"connection refused|ConnectionRefused|dns error|failed to lookup|no such host|ConnectError"
    r"|connection reset|ConnectionReset|connection closed|IncompleteMessage|broken pipe"
    r"|error sending request|error trying to connect|kind: Connect\b"
    r"|connect_failures=([1-9]\d*)/\1\b",
    re.IGNORECASE,
)
_NO_CREDENTIALS = re.compile(
    r"169\.254\.169\.254|CredentialsNotLoaded|no credentials|failed to (load|obtain) credentials"
    r"|error getting credentials",
    re.IGNORECASE,
)


def failure(error: BaseException) -> str | None:
    """Why a request failed; None if the error tells of none, or of an object that is not there."""
    text = str(error)
    status: int | None = getattr(error, "status_code", None)
    if status is None and not _REQUEST.search(text):
        return None
    if status is None:
        found = _STATUS.search(text)
        status = None if found is None else int(found[1])
    says = _server_says(status, text)
    if _NO_BUCKET.search(text):
        return "there is no such bucket"
    if _NO_HTTP.search(text):
        return 'its address is http://, which needs the storage option allow_http = "true"'
    if _NO_CREDENTIALS.search(text):
        return f"no credentials were found in storage_options or in the environment{says}"
    if status in (401, 403):
        return f"the server refuses these credentials, or what they may do{says}"
    if status == 404 and _NO_PLACE.search(text):
        return f"the server knows no such place{says}"
    if status == 501:
        return f"the server cannot do what is needed{says}"
    if status == 429 or (status is not None and status >= 500):
        return f"the server fails{says}"
    if status in (301, 307, 308, 400) and _NO_PLACE.search(text):
        return f"the server refuses the request; is the region right?{says}"
    if _TIMED_OUT.search(text):
        return "the server does not answer in time"
    if _NO_CONNECTION.search(text):
        return "the server cannot be reached"
    if _NO_SENSE.search(text):
        return "what answers there is no server for this"
    return None


def _server_says(status: int | None, text: str) -> str:
    parts = [] if status is None else [f"HTTP {status}"]
    parts += [m[1].strip() for m in (_CODE.search(text), _MESSAGE.search(text)) if m]
    return f" ({', '.join(parts)})" if parts else ""
