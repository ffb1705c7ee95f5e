"""The option `--metadata NAME=VALUE`."""

from collections.abc import Sequence

import typer

METAVAR = "NAME=VALUE"


def read_pairs(texts: Sequence[str] | None) -> dict[str, str]:
    """Return the pairs of the option, which may be repeated. Raises BadParameter."""
    pairs = [text.partition("=") for text in texts or ()]
    if not all(name and separator for name, separator, _ in pairs):
        raise typer.BadParameter("Write a name and a value, such as team=growth.", param_hint="--metadata")
    return {name: value for name, _, value in pairs}
