"""Common options of import, watch and update.

``OF_SOURCES`` are the arguments of ``aiovec.watch``, which ``aiovec import`` also takes.
"""

from __future__ import annotations

from typing import Annotated, Any

import typer

VectorColumn = Annotated[
    str | None, typer.Option(metavar="COLUMN", help="Column or key of the vectors.")
]
OF_SOURCES: dict[str, Any] = {
    "table": Annotated[
        str | None,
        typer.Option(
            metavar="TABLE",
            help="Table of the store. Default: named like the source; for documents, documents.",
        ),
    ],
    "embed": Annotated[
        str | None,
        typer.Option(
            metavar="FIELD",
            help="Rows: text field or column that --embedder makes the vectors from.",
        ),
    ],
    "text": Annotated[
        list[str] | None,
        typer.Option(metavar="FIELD", help="Field for keyword search. Can be repeated."),
    ],
    "index": Annotated[
        list[str] | None,
        typer.Option(metavar="FIELD", help="Field with an index for filters. Can be repeated."),
    ],
    "analyzer": Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Analyzer of a new table's words: a language, such as german, or cjk, ngram or "
            "plain. Default: by the language of the first texts.",
        ),
    ],
    "id_column": Annotated[
        str | None,
        typer.Option(
            metavar="COLUMN",
            help="Column or key of the ids; none makes new ids. Default: the primary key, else id.",
        ),
    ],
    "query": Annotated[
        str | None,
        typer.Option(
            metavar="SQL",
            help="Rows with --embed: SELECT statement for SQLite or PostgreSQL that returns them.",
        ),
    ],
    "passages": Annotated[
        bool | None,
        typer.Option(
            "--passages",
            help="Rows with --embed: cut each text into passages, as documents are. The field "
            "source has the id of the row.",
        ),
    ],
    "chunk_size": Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=1,
            help="Length of a passage at most, in characters, or in tokens if the model cuts off "
            "long texts (fastembed, onnx, sentence-transformers). Default: as the source was cut "
            "before, else 1200 or 256.",
        ),
    ],
    "overlap": Annotated[
        int | None,
        typer.Option(
            metavar="N", min=0, help="Length that two passages of a section share. Default: 0."
        ),
    ],
    "base": Annotated[
        str | None,
        typer.Option(
            metavar="BASE",
            help="Name of the source in its rows. Sources with different names can share a table. "
            "For documents, a URL before their paths, such as https://docs.example.com/. "
            "Default: none; for rows, the source as written.",
        ),
    ],
    "include": Annotated[
        list[str] | None,
        typer.Option(
            metavar="GLOB",
            help="Documents: only files of a folder that match, such as 'guide/**' or '*.md'. Can "
            "be repeated.",
        ),
    ],
    "exclude": Annotated[
        list[str] | None,
        typer.Option(
            metavar="GLOB",
            help="Documents: leave out files of a folder that match, such as drafts/. Files that "
            "a .gitignore names are left out anyway. Can be repeated.",
        ),
    ],
}
