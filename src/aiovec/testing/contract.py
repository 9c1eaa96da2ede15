"""The whole contract suite, for one backend."""

from __future__ import annotations

from pathlib import Path

from .base import ABILITIES, LOOP_TIME, ContractBase
from .cancellation import CancellationContract
from .changes import ChangesContract
from .changing import ChangingContract, NullableVectorsContract
from .choosing import ChoosingContract
from .concurrency import ConcurrencyContract
from .embedding import EmbeddingContract
from .exporting import ExportingContract
from .filtering import FilteringContract
from .hybrid import HybridContract
from .large_calls import LargeCallsContract
from .life import LifeContract
from .loops import LoopsContract
from .machine import run_machine
from .models import ModelsContract
from .moving import MovingContract
from .names import NamesContract
from .once import OnceContract
from .reading import ReadingContract
from .row_forms import RowFormsContract
from .searching import SearchingContract
from .tables import TablesContract
from .text import TextContract
from .writing import WritingContract


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
