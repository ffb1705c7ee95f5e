"""`penstock queues`: shows the queues of the priorities, and pauses and resumes them, through the HTTP API."""

import json
from enum import StrEnum
from typing import Annotated, Any

import typer

from penstock.cli.operating import AsJson, call, print_table
from penstock.cli.server import Url
from penstock.priority import Priority
from penstock.process import command_line

_HEADINGS = ["priority", "waiting", "paused since"]


class Action(StrEnum):
    PAUSE = "pause"
    RESUME = "resume"


def main() -> None:
    command_line.run("queues", queues)


def queues(
    action: Annotated[Action | None, typer.Argument(help="What to do. Without it, all queues are shown.")] = None,
    priority: Annotated[Priority | None, typer.Argument(help="The queue to pause or to resume.")] = None,
    as_json: AsJson = False,
    url: Url = "http://127.0.0.1:8080",
) -> None:
    """Show, pause or resume queues. The variable PENSTOCK_API_KEY has a key with the scope operate."""
    if action is not None and priority is None:
        raise typer.BadParameter(f"Name the queue, such as: penstock queues {action} low")
    answer = call(url, "GET", "queues") if action is None else call(url, "POST", f"queues/{priority}/{action}", {})
    if as_json:
        typer.echo(json.dumps(answer, indent=2))
    else:
        print_table([_HEADINGS, *map(_cells, answer.get("queues", [answer]))])


def _cells(queue: Any) -> list[str]:
    return [queue["priority"], f"{queue['waiting']:,}", (queue["pausedAt"] or "-")[:19]]


if __name__ == "__main__":
    main()
