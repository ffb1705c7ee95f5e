"""`penstock limits`: shows the limits that all consumers share, through the HTTP API."""

from typing import Any

from penstock.cli.exit_codes import NOT_DONE
from penstock.cli.server import DEFAULT_URL, AsJson, Url, call
from penstock.cli.terminal import local_time_of, print_json, print_table
from penstock.process import command_line

_HEADINGS = ["name", "state", "rate", "declared", "running", "not before", "last cut", "consumers", "as of"]


def main() -> None:
    command_line.run("limits", limits, exit_code=NOT_DONE)


def limits(as_json: AsJson = False, url: Url = DEFAULT_URL) -> None:
    """Show the limits that all consumers share. The variable PENSTOCK_API_KEY has a key with the scope operate."""
    answer = call(url, "GET", "limits")
    if as_json:
        print_json(answer)
    else:
        print_table(_HEADINGS, [_cells(limit) for limit in answer["limits"]])


def _cells(limit: Any) -> list[str]:
    return [
        limit["name"],
        _state(limit),
        _per_second(limit["rate"]),
        _per_second(limit["declaredRate"]),
        _running(limit),
        *(local_time_of(limit[name]) for name in ("notBefore", "cutAt")),
        str(limit["consumers"]),
        local_time_of(limit["asOf"]),
    ]


def _per_second(rate: float | None) -> str:
    return "-" if rate is None else f"{rate:g}/s"


def _running(limit: Any) -> str:
    """Return how many permits consumers have, of how many, and how many they could use."""
    permits = limit.get("permits")  # a front end of an earlier version does not have it
    if permits is None:
        return "-"
    return f"{permits['held']} of {limit['declaredConcurrency']}, {permits['wanted']} wanted"


def _state(limit: Any) -> str:
    if limit["awaySince"] is not None:
        return f"away since {local_time_of(limit['awaySince'])}"
    if limit["notBefore"] is not None:
        return "paused"
    return "unlimited" if limit["rate"] is None and limit.get("permits") is None else "limited"


if __name__ == "__main__":
    main()
