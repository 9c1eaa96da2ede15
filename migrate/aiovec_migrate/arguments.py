"""What the commands of ``aiovec migrate`` take, and what it comes to."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .model import MAX_BATCH, Options

if TYPE_CHECKING:
    from .reembedding import Reembedding

From = Annotated[
    str | None,
    typer.Option(
        "--from",
        metavar="STORE",
        help="Where the rows are. Without it: the TOML's present backend.",
        show_default=False,
    ),
]
To = Annotated[
    str | None,
    typer.Option("--to", metavar="STORE", help="Where they go.", show_default=False),
]
Marked = Annotated[
    str | None,
    typer.Option(
        "--from",
        metavar="STORE",
        help="The store that carries the mark of the migration, where the journal is lost.",
        show_default=False,
    ),
]
Journal = Annotated[
    str | None,
    typer.Option(
        "--journal",
        metavar="FILE",
        help="Where the run is written down. Without it: .aiovec/migration.db beside the TOML.",
        show_default=False,
    ),
]
Tables = Annotated[
    list[str] | None,
    typer.Option(
        "--table", metavar="TABLE", help="Only this table; may be given again.", show_default=False
    ),
]
BatchSize = Annotated[
    int, typer.Option("--batch-size", min=1, max=MAX_BATCH, help="Rows that are read at once.")
]
Switch = Annotated[
    bool,
    typer.Option(
        "--switch",
        help="After verification, set `backend` in the TOML file so that running apps use the "
        "target.",
    ),
]
OneWay = Annotated[
    bool,
    typer.Option(
        "--one-way", help="Allow a switch that cannot be rolled back, as one with --reembed."
    ),
]
PauseLimit = Annotated[
    float,
    typer.Option(
        "--pause-limit",
        min=0.01,
        max=3600,
        metavar="SECONDS",
        help="How long writers may wait at the switch.",
    ),
]
NoVerify = Annotated[
    bool, typer.Option("--no-verify", help="Leave out the comparison of every row.")
]
NoIndex = Annotated[bool, typer.Option("--no-index", help="Build no vector index in the target.")]
Report = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="Keep the report of the verification: JSON if the name ends so, else text.",
        show_default=False,
    ),
]
Events = Annotated[
    bool, typer.Option("--json", help="Print events as JSON, one a line; the result is the last.")
]
Reembed = Annotated[
    str | None,
    typer.Option(
        "--reembed",
        metavar="MODULE:CALLABLE",
        help="Compute the vectors anew by this callable: list of texts in, list of vectors out.",
        show_default=False,
    ),
]
FromField = Annotated[
    str | None,
    typer.Option("--from-field", metavar="FIELD", help="The text it is given.", show_default=False),
]
Model = Annotated[
    str | None,
    typer.Option("--model", metavar="NAME", help="Its name in the target.", show_default=False),
]
Dim = Annotated[
    int | None,
    typer.Option(
        "--dim", min=1, help="The length of its vectors; the present one.", show_default=False
    ),
]
EmbedBatch = Annotated[int, typer.Option("--embed-batch", min=1, help="Texts in one call of it.")]
EmbedCalls = Annotated[int, typer.Option("--embed-calls", min=1, help="Calls of it at once.")]

BATCH_SIZE, PAUSE_LIMIT, EMBED_BATCH, EMBED_CALLS = 1000, 5.0, 64, 4


def names(tables: list[str] | None) -> tuple[str, ...] | None:
    return tuple(dict.fromkeys(tables)) if tables else None


def options_of(
    tables: list[str] | None,
    batch_size: int,
    switch: bool,
    pause_limit: float,
    no_verify: bool,
    no_index: bool,
    transform: Reembedding | None,
    *,
    one_way: bool = False,
) -> Options:
    if switch and tables:
        raise typer.BadParameter(
            "--switch moves all tables, for a store finds all of them in one backend; leave out "
            "--table or --switch"
        )
    return Options(
        tables=names(tables),
        batch_size=batch_size,
        switch=switch,
        pause_limit=pause_limit,
        verify=not no_verify,
        index=not no_index,
        reembed="" if transform is None else transform.name,
        one_way=one_way,
    )


def transform_of(
    path: str | None,
    field: str | None,
    model: str | None,
    dim: int | None,
    batch_size: int,
    concurrency: int,
) -> Reembedding | None:
    if path is None:
        if field is not None or model is not None or dim is not None:
            raise typer.BadParameter("--from-field, --model and --dim go with --reembed")
        return None
    if field is None or not model:
        raise typer.BadParameter("--reembed needs --from-field and --model")
    module, colon, name = path.partition(":")
    if not (module and colon and name):
        raise typer.BadParameter("--reembed takes package.module:callable")
    from . import reembedding

    return reembedding.Reembedding(
        reembedding.load(path),
        field=field,
        model=model,
        dim=dim,
        name=path,
        batch_size=batch_size,
        concurrency=concurrency,
    )
