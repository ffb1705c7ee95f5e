"""`penstock queues`: shows the queues of the priorities, and pauses and resumes them, through the HTTP API."""

from enum import StrEnum
from typing import Annotated, Any

import typer

from penstock.cli.exit_codes import NOT_DONE
from penstock.cli.server import DEFAULT_URL, AsJson, Url, call
from penstock.cli.terminal import local_time_of, print_json, print_table
from penstock.priority import Priority
from penstock.process import command_line

_IF_UNKNOWN = (
    "It is not known whether the queue was changed. `penstock queues` shows it, and the command may be run again."
)
_HEADINGS = ["priority", "waiting", "paused since"]


class Action(StrEnum):
    PAUSE = "pause"
    RESUME = "resume"


def main() -> None:
    command_line.run("queues", queues, exit_code=NOT_DONE)


def queues(
    action: Annotated[Action | None, typer.Argument(help="What to do. Without it, all queues are shown.")] = None,
    priority: Annotated[Priority | None, typer.Argument(help="The queue to pause or to resume.")] = None,
    as_json: AsJson = False,
    url: Url = DEFAULT_URL,
) -> None:
    """Show, pause or resume queues. The variable PENSTOCK_API_KEY has a key with the scope operate."""
    if action is not None and priority is None:
        raise typer.BadParameter(f"Name the queue, such as: penstock queues {action} low")
    answer = (
        call(url, "GET", "queues")
        if action is None
        else call(url, "POST", f"queues/{priority}/{action}", {}, is_idempotent=True, if_unknown=_IF_UNKNOWN)
    )
    if as_json:
        print_json(answer)
    else:
        print_table(_HEADINGS, [_cells(queue) for queue in answer.get("queues", [answer])], right=(1,))


def _cells(queue: Any) -> list[str]:
    return [queue["priority"], f"{queue['waiting']:,}", local_time_of(queue["pausedAt"])]


if __name__ == "__main__":
    main()
