"""The commands, put together."""

from __future__ import annotations

from typing import Annotated

import typer

from . import advise, demo, doctor, exporting, facts, importing, index, rows, search, upkeep
from .extensions import Commands
from .output import settle_streams

app = typer.Typer(
    name="aiovec",
    cls=Commands,
    help="A vector store in one file that async apps can await.",
    epilog=(
        "STORE is a target (notes.db, a folder, a URL) or, with "
        "--config, the name of a backend that the TOML file configures. Default: the backend in "
        "use of the TOML file, which is --config, else $AIOVEC_CONFIG, else ./aiovec.toml."
    ),
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,  # what is no AiovecError is a bug; show it as Python does
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        from .. import __version__

        typer.echo(f"aiovec {__version__}")
        raise typer.Exit


@app.callback()
def _start(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Show the version and exit."
        ),
    ] = False,
) -> None:
    settle_streams()


app.command("demo")(demo.demo)
app.command("doctor")(doctor.doctor)
app.command("info")(facts.info)
app.command("tables")(facts.tables)
app.command("search", cls=search.SearchCommand)(search.search)
app.command("rows")(rows.rows)
app.command("distinct")(rows.distinct)
app.command("import")(importing.import_)
app.command("export")(exporting.export)
app.command("index")(index.index)
app.command("optimize")(upkeep.optimize)
app.command("backup")(upkeep.backup)
app.command("restore")(upkeep.restore)
app.command("advise")(advise.advise)
