"""A Ray cluster on this machine, with its own token."""

from __future__ import annotations

import os
import secrets
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import psutil

NEEDED = ("ray", "lance", "lance_ray")
_PATIENCE = 120.0


def missing() -> list[str]:
    """Return the packages that are not installed."""
    return [name for name in NEEDED if find_spec(name) is None]


class Cluster:
    """Nodes with one CPU each, usable only with the token.

    The folder's path must be short, because the folder contains sockets.
    """

    def __init__(self, folder: Path, nodes: int) -> None:
        self._folder = folder
        self._count = nodes
        self._nodes: list[subprocess.Popen[bytes]] = []
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.address = f"127.0.0.1:{free.getsockname()[1]}"
        self.environment = {
            **os.environ,
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": secrets.token_hex(32),
            "PYTHONWARNINGS": "ignore",
            "OPENBLAS_NUM_THREADS": "1",
        }

    def start(self) -> None:
        port = self.address.rpartition(":")[2]
        self._start(
            "--head",
            "--include-dashboard=false",
            f"--port={port}",
            f"--temp-dir={self._folder / 'ray'}",
        )
        for _ in range(self._count - 1):
            self._start(f"--address={self.address}")

    def _start(self, *options: str) -> None:
        log = self._folder / f"node{len(self._nodes)}.log"
        command = [
            Path(sys.executable).with_name("ray"), "start", *options, "--block", "--num-cpus=1",
            "--node-ip-address=127.0.0.1", f"--object-store-memory={100 * 2**20}",
            "--disable-usage-stats",
        ]  # fmt: skip
        with log.open("wb") as out:
            node = subprocess.Popen(command, stdout=out, stderr=out, env=self.environment)
        self._nodes.append(node)
        until = time.monotonic() + _PATIENCE
        while "Ray runtime started" not in log.read_text("utf-8", "replace"):
            assert node.poll() is None, log.read_text()
            assert time.monotonic() < until, log.read_text()
            time.sleep(0.1)

    def workers(self) -> list[psutil.Process]:
        """Return the processes that write a source."""
        processes = []
        for node in self._nodes:
            for process in psutil.Process(node.pid).children(recursive=True):
                with suppressed_end():
                    if process.cmdline()[:1] == ["ray::write_source"]:
                        processes.append(process)
        return processes

    def close(self) -> None:
        """End the nodes and their children by their ids."""
        nodes = [psutil.Process(node.pid) for node in self._nodes if node.poll() is None]
        below = [process for parent in nodes for process in parent.children(recursive=True)]
        for node in reversed(self._nodes):
            node.terminate()
        _, left = psutil.wait_procs([*nodes, *below], timeout=30)
        for process in left:
            process.kill()
        for node in self._nodes:
            node.wait()

    # Commands

    def start_command(self, *arguments: Any, **others: Any) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "aiovec", *map(str, arguments)]
        return subprocess.Popen(
            [*command, "--engine", "ray", "--address", self.address],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            env={**self.environment, **others},
        )  # fmt: skip

    def run(self, *arguments: Any, patience: float = 250, **others: Any) -> tuple[int, str]:
        """Run a command with the engine; return its exit code and its output."""
        process = self.start_command(*arguments, **others)
        out, err = process.communicate(timeout=patience)
        return process.returncode, out + err


@contextmanager
def suppressed_end() -> Iterator[None]:
    """Ignore errors if a process ends while it is inspected."""
    try:
        yield
    except (psutil.NoSuchProcess, psutil.ZombieProcess, IndexError):
        return
