"""The command line. It imports no program: each command replaces this process by its program.

Each program defines its own options. What follows the name of the command is passed to the program unread.
"""

import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperCommand

from penstock.distribution import install_command, installed_version
from penstock.process import programs
from penstock.process.command_line import call_command

EXTRA_MISSING = 2


@dataclass(frozen=True, slots=True)
class Extra:
    """An extra of the distribution, and modules that are installed with it."""

    name: str
    modules: tuple[str, ...]

    @property
    def is_installed(self) -> bool:
        return all(find_spec(module) for module in self.modules)


@dataclass(frozen=True, slots=True)
class Command:
    """A command, and the program that it starts."""

    module: str
    help: str
    extra: Extra | None = None
    words: tuple[str, ...] = ()  # that its program gets before the options

    @property
    def missing_extra(self) -> str | None:
        return self.extra.name if self.extra is not None and not self.extra.is_installed else None


SERVER = Extra("server", ("aiobotocore", "boto3", "botocore"))
LOCAL = Extra("local", (*SERVER.modules, "moto", "flask", "flask_cors", "yaml"))
PROFILE = Extra("profile", ("pyinstrument",))

COMMANDS = {
    "up": Command("penstock.infra.up", "Run everything on this machine, with an embedded AWS.", LOCAL),
    "serve": Command("penstock.service", "Run the front end.", SERVER),
    "consume": Command("penstock.consumer", "Run one consumer or several.", SERVER),
    "provision": Command(
        "penstock.infra.provision", "Create the queues and the table on servers other than AWS.", SERVER
    ),
    "submit": Command("penstock.cli.submit", "Submit a file of operations and wait for the results."),
    **{
        name: Command("penstock.cli.batches", text, words=(name,))
        for name, text in {
            "list": "List batches, the newest first.",
            "status": "Show how far a batch is.",
            "watch": "Show the progress of a batch until it has finished.",
            "results": "Show the outcomes of a batch, or write them to a file.",
            "export": "Download all outcomes of a batch as files.",
            "failures": "Show what failed in a batch, and why.",
            "rejected": "Write the rows that failed to a file, to be corrected.",
            "cancel": "Cancel a batch.",
            "pause": "Pause a batch.",
            "resume": "Go on with a paused batch.",
            "retry": "Run failed operations of a batch again.",
            "dead-letters": "Show what failed after its last attempt.",
            "redrive": "Run what is in the dead letter queue again.",
        }.items()
    },
    "keys": Command("penstock.cli.keys", "Make, list, rotate and revoke API keys."),
    "limits": Command("penstock.cli.limits", "Show the limits that all consumers share."),
    "queues": Command("penstock.cli.queues", "Show the queues of the priorities, and pause and resume them."),
    "profile": Command(
        "penstock.cli.profiling", "Run a file of operations here and print where the time goes.", PROFILE
    ),
}


class _PassedThrough(TyperCommand):
    """A command that does not read its options: its program does."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        ctx.args = list(args)
        return args

    def shell_complete(self, ctx: Any, incomplete: str) -> list[Any]:  # noqa: ARG002
        """Let the program complete its options: it inherits the environment, which holds what the shell asks."""
        command = COMMANDS[str(self.name)]
        if command.missing_extra is None:
            _become(replace(command, words=()), ())
        return []


app = typer.Typer(
    name="penstock",
    help="A bulk API for any set of Python functions: one request, many operations, exact counts.",
    epilog="Commands that call a server read its URL from PENSTOCK_URL, and a key from PENSTOCK_API_KEY.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


def _print_version(is_asked: bool) -> None:
    if is_asked:
        typer.echo(f"penstock {installed_version()}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None: ...


def _start(context: typer.Context) -> None:
    command = COMMANDS[str(context.info_name)]
    if extra := command.missing_extra:
        needed = f"Install what this command needs: {install_command(extra)}."
        typer.echo(f"penstock {context.info_name}: {needed}", err=True)
        raise typer.Exit(EXTRA_MISSING)
    _become(command, context.args)


for _name, _command in COMMANDS.items():
    app.command(_name, cls=_PassedThrough, help=_command.help)(_start)


def _become(command: Command, arguments: Sequence[str]) -> NoReturn:
    """Replace this process by the command's program."""
    words = programs.command(command.module, *command.words, *arguments)
    sys.stdout.flush()
    if os.name == "nt":  # exec would return to the shell while the program still runs
        sys.exit(subprocess.call(words))  # noqa: S603 - our own program, no shell
    os.execv(words[0], words)  # noqa: S606 - our own program, no shell


def main() -> None:
    call_command(typer.main.get_command(app), "penstock")


if __name__ == "__main__":
    main()
