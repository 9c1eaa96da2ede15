"""The state machine with many examples, which are new in each run."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.contract.base import ContractBase
from tests.contract.machine import machine_settings, run_machine
from tests.contract.test_lancedb import TestLancedbFolder as LancedbFolder
from tests.contract.test_lancedb import TestLancedbMemory as LancedbMemory
from tests.contract.test_sqlite import TestSqliteFile as SqliteFile
from tests.contract.test_sqlite import TestSqliteMemory as SqliteMemory

KINDS = (SqliteFile, SqliteMemory, LancedbFolder, LancedbMemory)


@pytest.mark.soak(minutes=15)
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_many_courses(kind: type[ContractBase], tmp_path: Path) -> None:
    options = machine_settings(max_examples=500, steps=60)
    run_machine(kind().connect, tmp_path, persistent=kind.persistent, options=options)
