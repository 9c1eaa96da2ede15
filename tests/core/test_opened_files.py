"""A1: which modules of the product open files, and why none of them opens a database in use.

Closing any descriptor of a database drops the locks that this process holds on it, so SQLite alone
opens databases (``aiovec_sqlite/layout.py``). A module that begins to open files fails here until
it is listed with its reason.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("src/aiovec", "adapters", "migrate")

# As whole calls, and as methods of whatever is a path.
CALLS = {
    "open", "io.open", "os.open", "np.load", "np.memmap", "np.fromfile", "pa.OSFile",
    "pa.memory_map", "tempfile.TemporaryFile", "tempfile.NamedTemporaryFile", "tempfile.mkstemp",
    "tokenize.open", "mmap.mmap", "shutil.copy", "shutil.copy2", "shutil.copyfile",
    "shutil.copytree", "shutil.move",
}  # fmt: skip
METHODS = {"read_bytes", "read_text", "write_bytes", "write_text", "touch"}
PATHS = ("path", "file", "part", "partial", "records", "folder")

_ROWS = "open_input first asks aiovec._transfer.sources whether a file is a database"
_LOCKS = "files of LanceDB's own folder, of which none is a database"
_SHARED = "lock, state and log of a shared server, in a folder of their own"
_KERNEL = "the kernel's library, which comes with the package"
ALLOWED = {
    "src/aiovec/_cli/__init__.py": "the null device",
    "src/aiovec/_cli/search.py": "a vector that the user named as @file",
    "src/aiovec/_demo/passages.py": "the standard library's sources",
    "src/aiovec/_core/files.py": "a folder",
    "src/aiovec/_core/memory.py": "the control group's limits",
    "src/aiovec/_http/sidecar.py": _SHARED,
    "src/aiovec/_settings/generate.py": "pages and samples of this repository",
    "src/aiovec/_settings/load.py": "the TOML file",
    "src/aiovec/_transfer/arrow_files.py": _ROWS,
    "src/aiovec/_transfer/formats.py": _ROWS,
    "src/aiovec/_transfer/jsonlines.py": _ROWS,
    "src/aiovec/_transfer/numpy_files.py": _ROWS,
    "src/aiovec/_transfer/parquet_limits.py": _ROWS,
    "src/aiovec/_transfer/parts.py": "a part file, under a name of its own until it is complete",
    "src/aiovec/_transfer/reading.py": "a named pipe, of which none is a database",
    "src/aiovec/_transfer/rejects.py": "a part file, as above",
    "src/aiovec/_transfer/text_files.py": "a part file, as above",
    "adapters/aiovec_lancedb/locks/local.py": _LOCKS,
    "adapters/aiovec_lancedb/locks/moves.py": _LOCKS,
    "adapters/aiovec_lancedb/upkeep/schedule.py": _LOCKS,
    "adapters/aiovec_lancedb/written.py": "files of LanceDB's tables, of which none is a database",
    "adapters/aiovec_remote/sidecar.py": _SHARED,
    "adapters/aiovec_server/command.py": "the null device",
    "adapters/aiovec_server/keys.py": "the file of API keys, which the settings name",
    "adapters/aiovec_server/page/static.py": "the page's files, which come with the package",
    "adapters/aiovec_sqlite/copies/kernel/build.py": _KERNEL,
    "adapters/aiovec_sqlite/copies/kernel/library.py": _KERNEL,
    "adapters/aiovec_sqlite/errors.py": "a new file that tries whether there is room",
    "adapters/aiovec_lancedb/backup.py": _LOCKS,
    "adapters/aiovec_sqlite/backup.py": "a copy, under a name of its own until it is complete",
    "migrate/aiovec_migrate/show.py": "a report",
    "migrate/aiovec_migrate/toml.py": "the TOML file",
}


def opens(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        name = ast.unparse(node.func)
        owner, _, method = name.rpartition(".")
        of_path = owner.rpartition(".")[2] in PATHS or "/" in owner or owner.endswith(")")
        if name in CALLS or method in METHODS or (method == "open" and of_path):
            yield name


def modules_that_open() -> dict[str, list[str]]:
    found = {}
    for folder in FOLDERS:
        for path in sorted((ROOT / folder).rglob("*.py")):
            file = path.relative_to(ROOT).as_posix()
            if not file.startswith("src/aiovec/testing/"):
                names = list(opens(ast.parse(path.read_text("utf-8"))))
                if names:
                    found[file] = names
    return found


def test_whoever_opens_a_file_has_a_reason() -> None:
    """A1: see above."""
    found = modules_that_open()
    assert {file: names for file, names in found.items() if file not in ALLOWED} == {}
    assert ALLOWED.keys() - found.keys() == set(), "no longer needed"
