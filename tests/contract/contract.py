"""The whole contract suite, for one kind of store."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.contract.altering import AlteringContract
from tests.contract.base import ABILITIES, ContractBase
from tests.contract.cancellation import CancellationContract
from tests.contract.changes import ChangesContract
from tests.contract.changing import ChangingContract
from tests.contract.concurrency import ConcurrencyContract
from tests.contract.expiring import ExpiringContract
from tests.contract.exporting import ExportingContract
from tests.contract.filtering import FilteringContract
from tests.contract.life import LifeContract
from tests.contract.machine import run_machine
from tests.contract.moving import MovingContract
from tests.contract.names import NamesContract
from tests.contract.once import OnceContract
from tests.contract.processes import ProcessesContract
from tests.contract.reading import ReadingContract
from tests.contract.rows import RowsContract
from tests.contract.searching import SearchingContract
from tests.contract.tables import TablesContract
from tests.contract.text import TextContract
from tests.contract.updating import UpdatingContract
from tests.contract.writing import WritingContract


class BackendContract(
    LifeContract,
    TablesContract,
    AlteringContract,
    NamesContract,
    WritingContract,
    ChangingContract,
    UpdatingContract,
    ReadingContract,
    RowsContract,
    SearchingContract,
    TextContract,
    FilteringContract,
    ExportingContract,
    ExpiringContract,
    ConcurrencyContract,
    ProcessesContract,
    CancellationContract,
    ChangesContract,
    MovingContract,
    OnceContract,
    ContractBase,
):
    """All tests that a backend must pass. Define ``target``, and run the class with pytest::

        class TestMyBackend(BackendContract):
            backend = "mine"
            deviations = {"power-loss": "nothing is flushed to the disk"}

            def target(self, path: Path) -> str:
                return f"mine://{path}/store"

    A test that ``deviations`` names is skipped with the reason given there. Otherwise, only tests
    of missing abilities are skipped.
    """

    def test_deviations_name_existing_tests_and_abilities(self) -> None:
        known = {*ABILITIES, *(name for name in dir(self) if name.startswith("test_"))}
        assert not set(self.deviations) - known
        assert all(reason.strip() for reason in self.deviations.values())

    @pytest.mark.arrow
    def test_state_machine(self, tmp_path: Path) -> None:
        """Compare the results of random calls with the oracle."""
        run_machine(self.connect, tmp_path, persistent=self.persistent)
