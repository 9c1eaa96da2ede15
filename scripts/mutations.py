"""Put known faults into the product, one at a time, and list those that no default test notices.

    python scripts/mutations.py [-j JOBS] [NAME...]

Each fault is a small change of one file, in a copy of the source, that breaks a promise to users.
The tests that should notice it run there, in the default tier only, until the first one fails. If
a file no longer has the code that a fault changes, that is an error: update the fault. A run takes
about 15 minutes.
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
PACKAGES = ("src", "adapters", "migrate")
DIED = "the tests died"
SECONDS = 900
"""Time limit of the tests of a fault. If they reach it, the fault counts as noticed."""


class Fault(NamedTuple):
    name: str
    path: str
    before: str
    after: str
    tests: str


SQLITE, LANCEDB = "adapters/aiovec_sqlite/", "adapters/aiovec_lancedb/"
IMPORT, SERVER = "adapters/aiovec_import/", "adapters/aiovec_server/"
STORE, MIGRATE = "src/aiovec/_store/", "migrate/aiovec_migrate/"
CONTRACT = "tests/contract/test_sqlite.py"

FAULTS = [
    Fault(
        "texts of two languages get the stems of one", IMPORT + "language.py",
        "> 2 * count(", ">= 0 * count(", "tests/transfer/test_analyzers.py",
    ),
    Fault(
        "the lists of a hybrid search grow with its limit", "src/aiovec/_search/fusion.py",
        "for start in range(0, max(len(near), len(words)), length):",
        "length = max(1, len(near), len(words))\n    for start in range(0, length, length):",
        CONTRACT,
    ),
    Fault(
        "each page of a boosted search has its own order", STORE + "search.py",
        "self.pool = FETCH_K if self.fetch_k is None else self.fetch_k",
        "self.pool = self.last * 4 if self.fetch_k is None else self.fetch_k", CONTRACT,
    ),
    Fault(
        "a group's second row depends on the limit", STORE + "search.py",
        "(full and len(sizes) >= options.fetched)", "(len(sizes) >= options.fetched)", CONTRACT,
    ),
    Fault(
        "a commit is not flushed to the disk", SQLITE + "opening.py",
        '_set_durability(db, settings.durability if kept else "none")',
        '_set_durability(db, "normal")', "tests/faults/test_io_errors.py",
    ),
    Fault(
        "a write whose commit failed is acknowledged", SQLITE + "writer.py",
        "self._fail(group, db, exc, committing=committing)",
        "[call.succeed(1) for call in group]",
        "tests/faults/test_full_disk.py",
    ),
    Fault(
        "a failed write of a group keeps its first rows", SQLITE + "writer.py",
        'tx.db.execute("ROLLBACK TO calls")', "pass",
        "tests/core/test_group_commit.py " + CONTRACT + " -k 'group_commit or bad_calls'",
    ),
    Fault(
        "a cancelled write returns before it is settled", "src/aiovec/backend/commit.py",
        "            if not call.begin():\n                await wait_out(call.settled)\n",
        "            call.begin()\n",
        "tests/faults/test_cancellation.py tests/core/test_group_commit.py",
    ),
    Fault(
        "a search does not see the newest writes", SQLITE + "copies/resident.py",
        "state = None if copy is None else copy.advance(db, ticket)",
        "state = None if copy is None else copy.state or copy.advance(db, ticket)",
        "tests/sqlite/test_sharing.py",
    ),
    Fault(
        "a store closes without waiting for queued writes", SQLITE + "writer.py",
        "        await self._commits.finish()\n", "", "tests/sqlite/test_sharing.py",
    ),
    Fault(
        "a process fails while another one writes", SQLITE + "writer.py",
        "            if not is_busy(exc):\n                raise", "            raise",
        "tests/faults/test_many_processes.py tests/sqlite/test_sharing.py",
    ),
    Fault(
        "a repeated key writes twice", SQLITE + "writer.py",
        "    if kept is not None:\n        if len(calls)", "    if False:\n        if len(calls)",
        CONTRACT + " -k 'once or key'",
    ),
    Fault(
        "stores are opened by another SQLite library than that of the app", SQLITE + "driver.py",
        "    if reason is None:\n", "    if False:\n", "tests/sqlite/test_driver.py",
    ),
    Fault(
        "the scan takes a rounded product for the true one", SQLITE + "copies/kernel/scan.c",
        "double miss = query->length * segment->error[row] +",
        "double miss = 0 * query->length * segment->error[row] +",
        "tests/unit/sqlite/test_bound.py tests/unit/sqlite/test_native_scan.py",
    ),
    Fault(
        "the scan forgets what the rounded question left out", SQLITE + "copies/kernel/scan.c",
        "query->slack = sqrt(sum_of(terms, dim)) + share * length;",
        "query->slack = share * length;", "tests/unit/sqlite/test_bound.py",
    ),
    Fault(
        "the scan skips blocks by too small a bound", SQLITE + "copies/kernel/scan.c",
        "return query->length * segment->most_error +",
        "return 0 * query->length * segment->most_error +", "tests/unit/sqlite/test_bound.py",
    ),
    Fault(
        "a vector of a damaged scan file is searched", SQLITE + "copies/scan.py",
        "if state.is_mapped and np.isnan(far[: ends[-1]]).any():", "if False:",
        "tests/sqlite/test_scan_file.py tests/sqlite/test_words.py",
    ),
    Fault(
        "rows without a value come first", SQLITE + "sql/filters.py",
        'nulls = "" if order.ref.name == "id" else " NULLS LAST"', 'nulls = ""',
        CONTRACT + " -k 'find or order'",
    ),
    Fault(
        "a filter under NOT selects rows of unknown value", SQLITE + "sql/filters.py",
        """sql = f"({item.sql}) IS {'NOT ' if negate else ''}1\"""",
        """sql = f"({item.sql}) = {'0' if negate else '1'}\"""",
        "tests/filters/test_agreement.py",
    ),
    Fault(
        "an index finds too few rows of a filter", LANCEDB + "vector_search.py",
        "        if len(candidates) < selected:",
        "        if False:", "tests/lancedb/test_indexes.py tests/lancedb/test_search.py",
    ),
    Fault(
        "a keyword search leaves out what its index lacks", SQLITE + "text_index.py",
        "ready = [index for index in indexes if index.ready]", "ready = indexes",
        "tests/sqlite/test_text.py " + CONTRACT + " -k 'killed or stopped'",
    ),
    Fault(
        "a list of words stays when its index is another", SQLITE + "copies/words.py",
        "if self.lost or serving(db, self._table) != self.index:", "if self.lost:",
        "tests/sqlite/test_words.py tests/sqlite/test_text.py",
    ),
    Fault(
        "a changed ONNX model is taken for the table's", "src/aiovec/_embed/onnx.py",
        "json.dumps([facts, *digests], sort_keys=True)", "json.dumps(str(self._folder))",
        "tests/embed/test_onnx.py",
    ),
    Fault(
        "a phrase counts once in each row", SQLITE + "copies/words.py",
        "return numbers.astype(np.uint32), narrowed(counts)",
        "return numbers.astype(np.uint32), narrowed(counts.clip(1, 1))",
        "tests/sqlite/test_words.py",
    ),
    Fault(
        "a letter in half width is another letter", "src/aiovec/_search/letters.py",
        'text = unicodedata.normalize("NFKC", text.translate(_SYMBOLS))',
        'text = unicodedata.normalize("NFC", text.translate(_SYMBOLS))',
        CONTRACT + " -k however_they_are_written",
    ),
    Fault(
        "a failed embedding names the first row", "src/aiovec/_embed/batcher.py",
        "raise self.error_of(outcome, index)", "raise self.error_of(outcome, 0)",
        "tests/store/test_embedding.py",
    ),
    Fault(
        "a changed text keeps its old vector", STORE + "write.py",
        "return schema.embed is not None and schema.embed.field in part.fields", "return False",
        CONTRACT + " -k makes_its_vector",
    ),
    Fault(
        "many rows are checked on the event loop", STORE + "write.py",
        "return hop(cost_of(rows, t.schema), self._check, t.handle)",
        "return hop(0, self._check, t.handle)",
        "tests/store/test_rows.py",
    ),
    Fault(
        "an expired row is read", STORE + "expiry.py",
        "return [i for i, at in times if at is None or at >= self._moment]",
        "return [i for i, _ in times]",
        "tests/store/test_expiring.py " + CONTRACT + " -k expire",
    ),
    Fault(
        "a follower keeps a row that expired", STORE + "expiry.py",
        "return replace(page, upserted=rows, deleted=[*page.deleted, *ids])",
        "return replace(page, upserted=rows)",
        "tests/store/test_expiring.py " + CONTRACT + " -k expire",
    ),
    Fault(
        "a datetime loses its microseconds", SQLITE + "sql/values.py",
        '"datetime": lambda micros: EPOCH + timedelta(microseconds=micros),',
        '"datetime": lambda micros: EPOCH + timedelta(milliseconds=micros // 1000),',
        CONTRACT + " -k 'value or insert'",
    ),
    Fault(
        "a text ends its literal", LANCEDB + "sql/values.py",
        """value.replace("'", "''")""", "value", "tests/contract/test_lancedb.py -k every_method",
    ),
    Fault(
        "damaged Arrow is taken", "src/aiovec/_model/arrow.py", "array.validate(full=True)",
        "pass", "tests/hostile/test_arrow.py",
    ),
    Fault(
        "an export sees later writes", SQLITE + "connection.py",
        '            await connection.read(_begin_aside, snapshot=False)\n', "",
        "tests/sqlite/test_export.py " + CONTRACT + " -k 'export or rows_are_read'",
    ),
    Fault(
        "the change feed forgets without a word", SQLITE + "reads.py",
        "    if since and not _has_change(db, table, floor, since):", "    if False:",
        "tests/files/test_restore.py " + CONTRACT + " -k 'change or restore'",
    ),
    Fault(
        "a database of another application is opened", SQLITE + "layout.py",
        "    if header.application_id != APPLICATION_ID:\n        raise",
        "    if False:\n        raise",
        "tests/files/test_refused_files.py",
    ),
    Fault(
        "a store goes on in a file that another one replaced", SQLITE + "opening.py",
        "        if inode != self.inode:\n", "        if False:\n",
        "tests/files/test_replaced_files.py",
    ),
    Fault(
        "a restore replaces a store that is open", SQLITE + "backup.py",
        'db.execute("PRAGMA locking_mode = EXCLUSIVE")\n        db.execute("BEGIN EXCLUSIVE")',
        'db.execute("BEGIN")', "tests/files/test_restore.py",
    ),
    Fault(
        "a store that may only be read is made", SQLITE + "opening.py",
        "    if not check_header(path, to_read=True):\n        raise ConfigError(",
        "    if not check_header(path, to_read=True):\n        connect(str(path)).close()\n"
        "        raise ConfigError(",
        "tests/files/test_read_only.py " + CONTRACT + " -k read_only",
    ),
    Fault(
        "an import with rejected rows ends with 0", IMPORT + "running.py",
        "typer.Exit(1) if job.failed or not (allow_rejects or job.whole) else None", "None",
        "tests/transfer/test_importing.py",
    ),
    Fault(
        "an import deletes the rows of another base", IMPORT + "syncing.py",
        """where = self._imported(F[self._ref("base")] == self.base)""",
        """where = self._imported(F[self._ref("base")].is_not_null())""",
        "tests/transfer/test_documents.py tests/transfer/test_texts.py",
    ),
    Fault(
        "an import keeps the vector of a text that changed", IMPORT + "syncing.py",
        "same = old is not None and old.get(column) == row.get(column)", "same = old is not None",
        "tests/transfer/test_texts.py",
    ),
    Fault(
        "an import replaces rows of others", IMPORT + "syncing.py",
        "return self.wanted.upsert or all(base == self.base for base, *_ in stored.values())",
        "return True", "tests/transfer/test_texts.py",
    ),
    Fault(
        "chunks are bounded by rows, not by bytes", IMPORT + "sources.py",
        "if len(part) >= size or nbytes >= BYTES_AT_ONCE:", "if len(part) >= size:",
        "tests/unit/test_readers.py",
    ),
    Fault(
        "a watch puts its mark before it applies the changes", IMPORT + "table_feed.py",
        "self._mark = replace(before, seen=mark.seen)", "self._mark = mark",
        "tests/watch/test_tables.py tests/watch/test_commits.py",
    ),
    Fault(
        "a watch knows an entry of the queue by its key alone", IMPORT + "stores/queue.py",
        "r DEFAULT (random())", "r DEFAULT (0)", "tests/watch/test_restored.py",
    ),
    Fault(
        "a watch shares its process with another SQLite library", IMPORT + "stores/queue.py",
        "if name in sys.modules:", "if False:", "tests/watch/test_tables.py",
    ),
    Fault(
        "a watch leaves the WAL of a stopped app behind", IMPORT + "stores/queue.py",
        'if os.path.exists(f"{os.path.realpath(path)}-wal"):', "if False:",
        "tests/watch/test_restored.py",
    ),
    Fault(
        "a watch reads a database that has not changed", IMPORT + "table_feed.py",
        "        if not self._is_touched():\n            return False\n", "",
        "tests/watch/test_commits.py",
    ),
    Fault(
        "a followed folder that is gone counts as up to date", IMPORT + "folder_feed.py",
        "            if self._states:\n", "            if not self:\n",
        "tests/watch/test_folders.py",
    ),
    Fault(
        "a table of LangChain's SQLiteVec gets another metric", IMPORT + "stores/sqlite.py",
        'self._vec0.get(f"{table}_vec", ((), ()))', "((), ())", "tests/transfer/test_databases.py",
    ),
    Fault(
        "a watch shows the password of its source", IMPORT + "rows.py",
        'return redacted(self.source) if is_hidden else f"{redacted(place)}{number_sign}{table}"',
        "return self.source", "tests/watch/test_sources.py",
    ),
    Fault(
        "two processes follow one source at once", IMPORT + "locks.py",
        'db.execute("BEGIN" if shared else "BEGIN EXCLUSIVE")', 'db.execute("BEGIN")',
        "tests/watch/test_folders.py tests/watch/test_tables.py",
    ),
    Fault(
        "a forked child opens its parent's file", SQLITE + "connection.py",
        "if _INHERITED and os.path.realpath(file) in _INHERITED:", "if False:",
        "tests/faults/test_fork.py",
    ),
    Fault(
        "a document may have any number of pages", "src/aiovec/_documents/child.py",
        '"pages": 10_000', '"pages": 10**9', "tests/documents/test_reader.py",
    ),
    Fault(
        "a cut-over leaves out the last changes", MIGRATE + "cut_over.py",
        "                await self._last_changes()\n", "",
        "tests/migrate/test_cutover.py tests/migrate/test_online.py",
    ),
    Fault(
        "a killed run leaves notes that are newer than the rows", MIGRATE + "moving.py",
        "        await self.set_notes({})\n",
        "        await self.set_notes(await source.do(source.backend.notes))\n",
        "tests/migrate/test_followed.py",
    ),
    Fault(
        "a store that was left takes writes", SQLITE + "writer.py",
        "return mark if mark.left or mark.filling or mark.state == PAUSED else None",
        "return mark if mark.filling or mark.state == PAUSED else None",
        CONTRACT + " -k 'mov or left or mark'",
    ),
    Fault(
        "a comparison takes null for another value", MIGRATE + "hashes.py",
        '        values[_nulls(column)] = _key(seed, "null")\n', "        pass\n",
        "tests/unit/migrate tests/migrate/test_verifying.py",
    ),
    Fault(
        "an index is searched with too little effort", LANCEDB + "index/recall.py",
        "            if recall - error >= target:", "            if True:",
        "tests/lancedb/test_indexes.py tests/unit/lancedb",
    ),
    Fault(
        "the recall is that of the easiest questions", LANCEDB + "index/recall.py",
        "of_groups.mean(axis=0).argmin()", "of_groups.mean(axis=0).argmax()",
        "tests/unit/lancedb/test_settled.py",
    ),
    Fault(
        "every index reports a recall of 1.0", LANCEDB + "index/recall.py",
        "round(recall, 4)", "1.0", "tests/unit/lancedb/test_settled.py",
    ),
    Fault(
        "upkeep removes a version that an export reads", LANCEDB + "retention.py",
        "pinned is not None and version.number >= pinned", "False",
        "tests/lancedb/test_upkeep.py tests/unit/lancedb/test_retention.py",
    ),
    Fault(
        "the copies of tables take any memory", SQLITE + "copies/resident.py",
        "        return left >= 0\n", "        return True\n", "tests/sqlite/test_sharing.py",
    ),
    Fault(
        "a key for reading may write", SERVER + "security.py", "if granted >= needed:",
        "if granted is not Access.NONE:", "tests/server/test_security.py",
    ),
    Fault(
        "a body may come as slowly as it likes", SERVER + "limits.py",
        "self._set_deadline(self._began + self._limits.stall + self.held / _PACE)",
        "self._set_deadline(self._began + 1e6)", "tests/server/test_limits.py",
    ),
    Fault(
        "an answer may have any number of bytes", SERVER + "limits.py",
        "        if nbytes > self.nbytes:\n", "        if False:\n",
        "tests/server/test_large_answers.py",
    ),
    Fault(
        "the last of repeated keys in a body wins", SERVER + "call.py",
        "        if len(dict(pairs)) < len(pairs):", "        if False:",
        "tests/server/test_bodies.py",
    ),
    Fault(
        "a message shows the password of a target", "src/aiovec/_tools/redaction.py",
        "rest = MASK + rest[searched.rindex(\"@\") :]", "pass",
        "tests/connect/test_secrets.py",
    ),
]  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("-j", "--jobs", type=int, default=os.cpu_count(), help="faults at a time")
    parser.add_argument("names", nargs="*", metavar="NAME", help="words of the faults to try")
    options = parser.parse_args()
    faults = [
        fault for fault in FAULTS
        if not options.names or any(name in fault.name for name in options.names)
    ]  # fmt: skip
    lost = [fault for fault in faults if (ROOT / fault.path).read_text().count(fault.before) != 1]
    for fault in lost:
        print(f"not found once in {fault.path}: {fault.name}")
    if lost:
        return 2
    with tempfile.TemporaryDirectory() as folder:
        sound = copied(Path(folder) / "sound")
        with ThreadPoolExecutor(options.jobs) as pool:
            noticed = list(pool.map(partial(is_noticed, sound), faults))
    unnoticed = [fault for fault, seen in zip(faults, noticed, strict=True) if not seen]
    print(f"{len(unnoticed)} of {len(faults)} faults are not noticed by a default test")
    print(*(f"  {fault.name}: {fault.tests}" for fault in unnoticed), sep="\n")
    return bool(unnoticed)


def copied(folder: Path) -> Path:
    """Copy everything that tests need, including the compiled scan."""
    ignored = shutil.ignore_patterns(".*", "__pycache__", "build", "dist", "site")
    return Path(shutil.copytree(ROOT, folder, ignore=ignored))


def is_noticed(sound: Path, fault: Fault) -> bool:
    with tempfile.TemporaryDirectory(dir=sound.parent) as made:
        copy = copied(Path(made) / "broken")
        path = copy / fault.path
        path.write_text(path.read_text("utf-8").replace(fault.before, fault.after), "utf-8")
        if path.suffix == ".c":
            run(copy, str(path.with_name("build.py")))
        tests = shlex.split(fault.tests)
        try:
            while failed := failures(copy, "-x", *tests):
                if failed == [DIED] or not failures(sound, *failed):  # else they fail anyway
                    break
                tests += [f"--deselect={test}" for test in failed]
        except subprocess.TimeoutExpired:
            failed = [f"no end after {SECONDS} s"]
    print(f"{fault.name}: {failed[0] if failed else 'NOT NOTICED'}", flush=True)
    return bool(failed)


def failures(copy: Path, *arguments: str) -> list[str]:
    """Return which of these default tests fail in a copy."""
    done = run(copy, "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments)
    if done.returncode < 0:  # a crash, for example because Arrow's data is damaged
        return [DIED]
    if done.returncode not in (0, 1):
        raise SystemExit(f"pytest could not run {arguments}:\n{done.stdout[-2000:]}{done.stderr}")
    return re.findall(r"^(?:FAILED|ERROR) (.+?)(?: - .*)?$", done.stdout, re.MULTILINE)


def run(copy: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    paths = os.pathsep.join(str(copy / name) for name in PACKAGES)
    return subprocess.run(
        [sys.executable, *arguments], cwd=copy, env={**os.environ, "PYTHONPATH": paths},
        capture_output=True, text=True, check=False, timeout=SECONDS,
    )  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
