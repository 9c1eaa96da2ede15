"""Other Python processes without the seconds that their imports take.

``Popen`` and ``run`` are those of ``subprocess``. A Python that is given code or a module is forked
from a process that has imported the packages and does nothing else, and is a child of this process
like any other. What another start could change goes the ordinary way: options of the interpreter,
another environment of it, and every system but Linux.

A test that is about a fresh interpreter, about what an import does, or about memory calls
``subprocess`` itself.
"""

from __future__ import annotations

import ctypes
import gc
import importlib
import io
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import threading
import types
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]

# What most of those processes would import.
_PACKAGES = (
    "aiovec._cli", "aiovec_sqlite.store", "aiovec_sqlite.doctor",
    "aiovec_lancedb.store", "aiovec_lancedb.plugin", "aiovec_remote.plugin", "aiovec_migrate.cli",
    "aiovec_migrate.host", "aiovec_remote.backend", "aiovec_server.app", "aiovec_server.running",
    "tests.migrate.support", "asyncio", "tomlkit",
)  # fmt: skip
# Variables that are looked at before any code of ours, or when a package is imported.
_EARLY = ("LD_", "LANCEDB_", "MALLOC", "OMP_", "OPENBLAS", "PYTHON", "RUST", "AIOVEC_NATIVE")
_SET_CHILD_SUBREAPER = 36  # of prctl


class Popen(subprocess.Popen[Any]):
    """``subprocess.Popen``, forked where that makes no difference but the time it takes."""

    def _execute_child(  # type: ignore[misc]  # it is not public
        self, args: Any, executable: Any, preexec_fn: Any, close_fds: bool, pass_fds: Any,
        cwd: Any, env: Mapping[str, str] | None, startupinfo: Any, creationflags: Any, shell: bool,
        p2cread: int, p2cwrite: int, c2pread: int, c2pwrite: int, errread: int, errwrite: int,
        *others: Any, **options: Any,
    ) -> None:  # fmt: skip
        environment = dict(os.environ if env is None else env)
        plain = executable or preexec_fn or pass_fds or shell or others[1:] != _USUAL
        if plain or options or not _may_be_forked(args, environment):
            super()._execute_child(  # type: ignore[misc]
                args, executable, preexec_fn, close_fds, pass_fds, cwd, env, startupinfo,
                creationflags, shell, p2cread, p2cwrite, c2pread, c2pwrite, errread, errwrite,
                *others, **options,
            )  # fmt: skip
            return
        given = [(p2cread, 0), (c2pwrite, 1), (errwrite, 2)]
        files = [inherited if file == -1 else file for file, inherited in given]
        request = {
            "args": [str(arg) for arg in args[1:]],
            "cwd": os.fspath(cwd) if cwd is not None else os.getcwd(),
            "env": environment,
        }
        assert _source is not None
        self.pid = _source.fork(request, files)
        self._child_created = True
        self._close_pipe_fds(  # type: ignore[attr-defined]
            p2cread, p2cwrite, c2pread, c2pwrite, errread, errwrite
        )


# Group, groups, user, mask, session and process group, as Popen has them by default.
_USUAL = (None, None, None, -1, False, -1)


def run(
    args: list[str], *, timeout: float | None = None, check: bool = False,
    capture_output: bool = False, **options: Any,
) -> subprocess.CompletedProcess[Any]:  # fmt: skip
    """``subprocess.run`` by this module's ``Popen``."""
    if capture_output:
        options |= {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with Popen(args, **options) as process:
        try:
            out, errors = process.communicate(timeout=timeout)
        except BaseException:
            process.kill()
            raise
    done = subprocess.CompletedProcess(args, process.returncode, out, errors)
    if check:
        done.check_returncode()
    return done


def _may_be_forked(args: Any, environment: Mapping[str, str]) -> bool:
    return (
        _source is not None
        and sys.platform == "linux"
        and isinstance(args, list)
        and len(args) > 2
        and args[0] == sys.executable
        and args[1] in ("-c", "-m")
        and _early(environment) == _source.environment
    )


def _early(environment: Mapping[str, str]) -> dict[str, str]:
    return {key: value for key, value in environment.items() if key.startswith(_EARLY)}


class _Source:
    """The process that others are forked from, made by the first. It ends when this one does."""

    def __init__(self) -> None:
        self.environment = _early(os.environ)
        self._forking = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None

    def _start(self) -> None:
        self._prctl = ctypes.CDLL(None).prctl
        self._socket, theirs = socket.socketpair()
        with theirs:
            code = f"from tests.forked import _serve\n_serve({theirs.fileno()})"
            self._process = subprocess.Popen(
                [sys.executable, "-c", code], cwd=ROOT, stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
            )  # fmt: skip

    def fork(self, request: Mapping[str, Any], files: list[int]) -> int:
        """Return the process that runs the request with these as its first three files."""
        with self._forking:
            if self._process is None:
                self._start()
            # A process whose parent has ended is given to the next one above that takes such.
            self._prctl(_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
            try:
                whole = json.dumps(request).encode()
                socket.send_fds(self._socket, [len(whole).to_bytes(8, "big")], files)
                self._socket.sendall(whole)
                told = self._socket.recv(8)
            finally:
                self._prctl(_SET_CHILD_SUBREAPER, 0, 0, 0, 0)
        assert any(told), "nothing was forked"
        return int.from_bytes(told, "big")

    def end(self) -> None:
        if self._process is not None:
            self._socket.close()
            self._process.wait()


_source: _Source | None = None


@contextmanager
def forking() -> Iterator[None]:
    """Fork in this block what can be forked, with the environment of now."""
    global _source
    _source = _Source()
    try:
        yield
    finally:
        _source.end()
        _source = None


# In the process that others are forked from


def _serve(number: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    before = dict(os.environ)
    for name in _PACKAGES:
        try:
            importlib.import_module(name)
        except ImportError:
            continue  # what needs it will say so
    made = {key: value for key, value in os.environ.items() if key not in before}
    background = sys.modules.get("lancedb.background_loop")
    if background is not None:
        background._FORK_WARNED = True  # type: ignore[attr-defined]  # nothing of it was used
    gc.collect()
    gc.freeze()
    with socket.socket(fileno=number) as asked, warnings.catch_warnings():
        # Its threads wait for work that nobody gives them.
        warnings.filterwarnings("ignore", "This process .* is multi-threaded", DeprecationWarning)
        while True:
            beginning, files, _, _ = socket.recv_fds(asked, 8, 3)
            if not beginning:
                os._exit(0)
            whole = bytearray()
            while len(whole) < int.from_bytes(beginning, "big"):
                whole += asked.recv(1 << 20)
            told, telling = os.pipe()
            waiting, let_go = os.pipe()
            middle = os.fork()
            if not middle:
                if os.fork():
                    os._exit(0)
                break
            os.waitpid(middle, 0)
            for file in (telling, waiting, let_go, *files):
                os.close(file)
            asked.sendall(os.read(told, 8) or bytes(8))
            os.close(told)
    os.close(told)
    os.close(let_go)
    os.read(waiting, 1)  # until its parent is the one that asked
    os.close(waiting)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.write(telling, os.getpid().to_bytes(8, "big"))
    os.close(telling)
    _become(json.loads(whole), files, made)


def _become(request: dict[str, Any], files: list[int], made: dict[str, str]) -> None:
    """Run what was asked for, as a process that has just been started would."""
    for number, file in enumerate(files):
        os.dup2(file, number)
    for file in files:
        os.close(file)
    os.environ.clear()
    os.environ.update({**made, **request["env"]})
    os.chdir(request["cwd"])
    for name, number, mode in (("stdin", 0, "r"), ("stdout", 1, "w"), ("stderr", 2, "w")):
        opened = _stream(getattr(sys, name), number, mode)
        setattr(sys, name, opened)
        setattr(sys, f"__{name}__", opened)
    option, what, *arguments = request["args"]
    sys.orig_argv[:] = [sys.executable, *request["args"]]
    sys.argv[:] = [option, *arguments]
    main = types.ModuleType("__main__")
    main.__dict__["__builtins__"] = __builtins__
    _kept.append(sys.modules["__main__"])
    sys.modules["__main__"] = main
    if option == "-m":
        sys.path[0] = os.getcwd()
        runpy._run_module_as_main(what)  # type: ignore[attr-defined]
    else:
        exec(compile(what, "<string>", "exec"), main.__dict__)


_kept: list[types.ModuleType] = []


def _stream(like: Any, number: int, mode: str) -> io.TextIOWrapper:
    """Open a standard stream as the interpreter does."""
    at_once = like.write_through
    raw = io.FileIO(number, mode, closefd=False)
    buffer: Any = raw
    if not at_once:
        buffer = io.BufferedReader(raw) if mode == "r" else io.BufferedWriter(raw)
    opened = io.TextIOWrapper(
        buffer, like.encoding, like.errors, "\n" if mode == "w" else None,
        line_buffering=number == 2 or raw.isatty(), write_through=at_once,
    )  # fmt: skip
    opened.mode = mode  # type: ignore[misc]
    return opened
