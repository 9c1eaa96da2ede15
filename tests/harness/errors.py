"""An example of each error class, for tests of all errors."""

from __future__ import annotations

from aiovec import errors as E  # noqa: N812 - short, for a table

PLACE = "/srv/my data/hidden.db"

# The HTTP status, the error, and the facts that the server does not send.
EVERY: list[tuple[int, E.AiovecError, set[str]]] = [
    (500, E.AiovecError("the driver failed"), set()),
    (500, E.ConfigError("bad", file=PLACE, key="dim"), {"file"}),
    (500, E.BackendNotInstalledError("lancedb", "aiovec[lancedb]"), set()),
    (500, E.ExtensionUnavailableError("no extensions", "install sqlcipher3"), set()),
    (422, E.InvalidArgumentError("limit", 0, "at least 1"), set()),
    (422, E.InvalidNameError("No/../no", "table", "lower case"), set()),
    (404, E.TableNotFoundError("notes", ["a", "b"]), set()),
    (409, E.TableExistsError("notes"), set()),
    (409, E.SchemaMismatchError("notes", ["dim is 3, not 4"]), set()),
    (409, E.ModelMismatchError("notes", "one", None), set()),
    (422, E.DimensionMismatchError(3, 4, row=7, id="/x"), set()),
    (422, E.InvalidVectorError("is zero", row=7), set()),
    (422, E.InvalidRowError("must be text", row=7, id="/etc/x", field="name"), set()),
    (422, E.DocumentError("report.pdf", "it is encrypted"), set()),
    (503, E.EmbeddingError("default", "HTTP 429", model="m", status=429, retryable=True), set()),
    (502, E.EmbeddingError("default", "no such model", row=7, id="x"), set()),
    (409, E.DuplicateIdError("notes", ["x", "/y"], within_call=True), set()),
    (422, E.FilterError("bad", text="a = /b", position=4, expected="a value"), set()),
    (422, E.UnsupportedError("text", "toy"), set()),
    (503, E.StoreClosedError(PLACE), {"target"}),
    (503, E.StoreBusyError("another process writes", 1.5, in_part=True), set()),
    (507, E.StoreFullError(PLACE, "the disk is full"), {"target"}),
    (500, E.OutcomeUnknownError(PLACE, "disk I/O error"), {"target"}),
    (503, E.StoreMovedError(PLACE, "lancedb:///srv/hidden", backend="lancedb", generation=3),
     {"target", "moved_to", "config"}),
    (503, E.StoreReplacedError(PLACE, "the file was removed"), {"target"}),
    (503, E.StoreUnreachableError(PLACE, "timed out"), {"target"}),
    (500, E.StorePermissionError(PLACE, "write-protected"), {"target"}),
    (410, E.ChangesPrunedError(7), set()),
    (500, E.CorruptStoreError(PLACE, "is no database"), {"target"}),
    (409, E.MigrationError("it cannot go on"), set()),
]  # fmt: skip
