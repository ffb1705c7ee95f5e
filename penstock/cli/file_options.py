"""The options of `penstock submit` and `penstock profile` that say how a file of operations is read."""

from pathlib import Path
from typing import Annotated

import typer

from penstock.cli.operations_file import FileFormat
from penstock.files.csv_lines import parse_delimiter


def _delimiter(text: str) -> str:
    try:
        return parse_delimiter(text)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error


File = Annotated[Path, typer.Argument(metavar="FILE", help="A .json, .ndjson or .csv file. - reads standard input.")]
Method = Annotated[
    str | None, typer.Option(help="CSV, or NDJSON with rows: the method of every operation, such as POST.")
]
OperationPath = Annotated[
    str | None,
    typer.Option(
        "--path",
        help="CSV, or NDJSON with rows: the path of every operation. {column} is replaced by the row's cell.",
    ),
]
Expect = Annotated[
    str | None,
    typer.Option(
        metavar="COLUMN",
        help="The CSV column, or JSON member, that holds the status expected for an operation: 201, or 201|409.",
    ),
]
Delimiter = Annotated[
    str | None,
    typer.Option(
        metavar="CHARACTER",
        parser=_delimiter,
        help="CSV: the character between cells, or tab. Without it, the header decides.",
    ),
]
Charset = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="CSV: the charset of the file, such as cp1252 or utf-16. Without it: utf-8."),
]
Key = Annotated[
    str | None,
    typer.Option(
        metavar="COLUMN", help="CSV, or NDJSON with rows: the column with the key that a handler gets for a row."
    ),
]
Format = Annotated[
    FileFormat | None, typer.Option("--format", help="The format of the file, if its name does not tell.")
]
