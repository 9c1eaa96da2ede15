"""The contract suite on the example backend, installed like any other package."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.contract.contract import BackendContract
from tests.harness.command import run_process
from tests.harness.packages import install

from aiovec import VectorStore

EXAMPLE = Path(__file__).parents[2] / "examples" / "backend" / "aiovec_folder.py"
ENTRY = "[aiovec.backends]\nfolder = aiovec_folder:FolderPlugin"


@pytest.mark.skipif(os.name == "nt", reason="Windows replaces no file that is being read")
class TestFolder(BackendContract):
    backend = "folder"
    tiers = (None, "slow")
    impatient = {"busy_timeout": 0}  # noqa: RUF012

    @pytest.fixture(scope="class", autouse=True)
    @classmethod
    def _installed(cls, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
        site = tmp_path_factory.mktemp("site")
        install(site, "aiovec-folder", ENTRY, aiovec_folder=EXAMPLE.read_text(encoding="utf-8"))
        with pytest.MonkeyPatch.context() as patch:
            patch.syspath_prepend(str(site))
            patch.setenv("PYTHONPATH", str(site), prepend=os.pathsep)  # of child processes
            yield

    def target(self, path: Path) -> str:
        return f"folder://{path}/store"

    async def test_doctor_names_the_package(self, notes: VectorStore, tmp_path: Path) -> None:
        finished = await asyncio.to_thread(
            run_process, "doctor", "-s", self.target(tmp_path), "--json"
        )
        findings = {each["subject"]: each for each in finished.json["findings"]}
        assert findings["folder"]["value"] == "installed by aiovec-folder"
        assert not findings["folder"]["checked"]
