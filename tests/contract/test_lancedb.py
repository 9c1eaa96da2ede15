"""The contract suite on LanceDB: in a folder, in memory, and in an S3 bucket."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.contract.concurrency import ConcurrencyContract
from tests.contract.contract import BackendContract
from tests.contract.life import LifeContract
from tests.contract.processes import ProcessesContract
from tests.contract.writing import WritingContract
from tests.lancedb.buckets import BUCKET, s3_server

DEVIATIONS = {
    "test_a_payload_keeps_the_order_of_its_keys": "Lance keeps JSON in a binary form that sorts "
    "the keys; filters on payload keys need that form"
}


class TestLancedbFolder(BackendContract):
    backend = "lancedb"
    forgetful = {"keep_versions": "0 seconds", "max_versions": 1}  # noqa: RUF012
    impatient = {"busy_timeout": 0}  # noqa: RUF012
    one_writer = {"write_queue": 1, "busy_timeout": 20}  # noqa: RUF012
    tiers = (None, "slow")
    deviations = DEVIATIONS

    def target(self, path: Path) -> str:
        return f"lancedb://{path}/store"


class TestLancedbMemory(BackendContract):
    backend = "lancedb"
    tiers = ("soak", "soak")
    deviations = DEVIATIONS
    persistent = False
    renames_tables = False

    def target(self, path: Path) -> str:
        return "memory://"


class TestLancedbS3(LifeContract, WritingContract, ConcurrencyContract, ProcessesContract):
    """The parts for which object storage makes a difference."""

    backend = "lancedb"
    tiers = ("slow", "soak")
    deviations = DEVIATIONS
    renames_tables = False

    @pytest.fixture(scope="class", autouse=True)
    @classmethod
    def _server(cls) -> Iterator[None]:
        with s3_server() as server:
            cls.keys = {"storage_options": server.options}
            yield

    def target(self, path: Path) -> str:
        return f"s3://{BUCKET}{path.as_posix()}/store"
