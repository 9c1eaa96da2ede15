"""An S3 server in a separate process, and the options that a store needs to reach it."""

from __future__ import annotations

import atexit
import itertools
import os
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import obstore
from obstore.store import S3Store
from tests.harness.processes import ROOT

BUCKET = "notes-bucket"
SECRET = "S3cr3t/Access+Key"
KEY_ID = "AKIDEXAMPLE00000001"


class Bucket:
    """A server with a bucket: URLs for new stores, and the options to reach them."""

    def __init__(self, endpoint: str) -> None:
        self.endpoint = endpoint
        self._numbers = itertools.count()

    def new_url(self) -> str:
        """Return a URL at which no store exists yet."""
        return f"s3://{BUCKET}/store{next(self._numbers)}"

    def put(self, url: str, path: str, content: bytes) -> None:
        """Write an object of a store without its client."""
        store = S3Store.from_url(
            url, access_key_id=KEY_ID, secret_access_key=SECRET, region="eu-central-1",
            endpoint=self.endpoint, client_options={"allow_http": True},
        )  # fmt: skip
        obstore.put(store, path, content)

    @property
    def options(self) -> dict[str, str]:
        return {
            "aws_access_key_id": KEY_ID,
            "aws_secret_access_key": SECRET,
            "aws_region": "eu-central-1",
            "aws_endpoint": self.endpoint,
            "allow_http": "true",
            "timeout": "30s",  # a busy machine may take long to answer
            # Report failures soon.
            "client_max_retries": "1",
        }

    @property
    def environment(self) -> dict[str, str]:
        """The same options as environment variables of LanceDB."""
        return {
            "AWS_ACCESS_KEY_ID": KEY_ID,
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_REGION": "eu-central-1",
            "AWS_ENDPOINT": self.endpoint,
            "AWS_ALLOW_HTTP": "true",
        }


# One server for all tests of a process, started by the first test that uses it.
_servers = ExitStack()
atexit.register(_servers.close)
_shared: Bucket | None = None
_lent = False


@contextmanager
def s3_server(*, open_to_all: bool = True) -> Iterator[Bucket]:
    """Yield a server with one empty bucket. Unless ``open_to_all``, it accepts no credentials.

    It is the same server each time, because a start takes a second, unless that one is in use.
    """
    global _shared, _lent
    if _lent or not open_to_all:
        with _new_s3_server(open_to_all=open_to_all) as bucket:
            yield bucket
        return
    if _shared is None:
        _shared = _servers.enter_context(_new_s3_server())
    else:
        _ask(f"{_shared.endpoint}/moto-api/reset", "POST")
        _ask(f"{_shared.endpoint}/{BUCKET}", "PUT")
    _lent = True
    try:
        yield _shared
    finally:
        _lent = False


@contextmanager
def _new_s3_server(*, open_to_all: bool = True) -> Iterator[Bucket]:
    """Start a server that ends after the block."""
    environment = {} if open_to_all else {"INITIAL_NO_AUTH_ACTION_COUNT": "1"}
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.lancedb.s3_server"],
        cwd=ROOT,
        env={**os.environ, **environment},
        text=True,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    try:
        assert process.stdout is not None
        endpoint = process.stdout.readline().strip()
        assert endpoint, "the S3 server did not start"
        _ask(f"{endpoint}/{BUCKET}", "PUT")
        yield Bucket(endpoint)
    finally:
        process.communicate(timeout=60)


def _ask(url: str, method: str) -> None:
    request = urllib.request.Request(url, method=method)
    urllib.request.urlopen(request, timeout=30).close()
