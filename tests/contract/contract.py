"""The whole contract suite, for one backend."""

from __future__ import annotations

from pathlib import Path

from tests.contract.base import ABILITIES, LOOP_TIME, ContractBase
from tests.contract.cancellation import CancellationContract
from tests.contract.changes import ChangesContract
from tests.contract.changing import ChangingContract, NullableVectorsContract
from tests.contract.choosing import ChoosingContract
from tests.contract.concurrency import ConcurrencyContract
from tests.contract.embedding import EmbeddingContract
from tests.contract.exporting import ExportingContract
from tests.contract.filtering import FilteringContract
from tests.contract.hybrid import HybridContract
from tests.contract.large_calls import LargeCallsContract
from tests.contract.life import LifeContract
from tests.contract.loops import LoopsContract
from tests.contract.machine import run_machine
from tests.contract.models import ModelsContract
from tests.contract.moving import MovingContract
from tests.contract.names import NamesContract
from tests.contract.once import OnceContract
from tests.contract.reading import ReadingContract
from tests.contract.row_forms import RowFormsContract
from tests.contract.searching import SearchingContract
from tests.contract.tables import TablesContract
from tests.contract.text import TextContract
from tests.contract.writing import WritingContract


class BackendContract(
    LifeContract,
    LoopsContract,
    TablesContract,
    NamesContract,
    WritingContract,
    RowFormsContract,
    ModelsContract,
    ReadingContract,
    SearchingContract,
    TextContract,
    HybridContract,
    ChoosingContract,
    FilteringContract,
    EmbeddingContract,
    ExportingContract,
    ConcurrencyContract,
    LargeCallsContract,
    CancellationContract,
    ChangesContract,
    ChangingContract,
    NullableVectorsContract,
    MovingContract,
    OnceContract,
    ContractBase,
):
    """Every test that a backend owes. Give ``make_backend`` and run it with pytest::

        class TestMyBackend(BackendContract):
            deviations = {"power-loss": "nothing is flushed to the disk"}

            def make_backend(self, path: Path) -> Backend:
                return MyBackend(path / "store")

    It needs pytest-asyncio and hypothesis. A test that ``deviations`` names is skipped with the
    reason given there. Nothing else is skipped but what an absent ability makes meaningless.
    """

    def test_deviations_name_what_there_is(self) -> None:
        known = {*ABILITIES, LOOP_TIME, *(name for name in dir(self) if name.startswith("test_"))}
        assert not set(self.deviations) - known
        assert all(reason.strip() for reason in self.deviations.values())

    def test_state_machine(self, tmp_path: Path) -> None:
        """Random calls, compared with the oracle after each. ``AIOVEC_LONG=1`` tries far more."""
        run_machine(self.make_backend, tmp_path, persistent=self.persistent)
