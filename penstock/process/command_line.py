"""What the command lines of Penstock's programs have in common. Each program defines the rest of its options itself."""

import errno
import os
import sys
from collections.abc import Callable
from typing import Annotated

import typer
from typer.completion import completion_init  # type: ignore[attr-defined]
from typer.main import get_command

from penstock.errors import PenstockError
from penstock.process.ending import ending_process
from penstock.process.signals import end_by_pipe, end_with_parent

LAST_PORT = 65_535
SPARE_PORTS = 20  # tried for operators if nobody chose a port and the one after --port is taken
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})  # a disk, a quota or a file that takes no more
COMPLETION_VARIABLE = "_PENSTOCK_COMPLETE"  # set by the shell when it asks for completions

App = Annotated[str | None, typer.Option(help="The application, as MODULE:ATTRIBUTE. Overrides PENSTOCK_APP.")]
Host = Annotated[str, typer.Option(help="The address to listen on.")]
Port = Annotated[int, typer.Option(min=1, max=LAST_PORT, help="The port to listen on.")]
OperatorHost = Annotated[
    str, typer.Option(help="The address to listen on for operators: dead letters, keys and metrics.")
]
OperatorPort = Annotated[
    int | None,
    typer.Option(min=1, max=LAST_PORT, help="The port to listen on for operators. Default: the port after --port."),
]
ExitWithParent = Annotated[
    int | None, typer.Option(metavar="PID", hidden=True, help="Exit as soon as PID is no longer the parent process.")
]


def run(name: str, program: Callable[..., None], *, exit_code: int = 1) -> None:
    """Read the command line as the parameters of `program` describe it, call `program`, and exit.

    An expected error is printed as one sentence, and the process exits with this code. An invalid option exits with 2.
    """
    application = typer.Typer(add_completion=False)
    application.command()(program)
    run_commands(name, application, exit_code=exit_code)


def run_commands(name: str, application: typer.Typer, *, exit_code: int = 1) -> None:
    """Read the command line as the commands of `application` describe it, call one of them, and exit.

    `name` is the command of `penstock` that they belong to, or "" if they are commands of `penstock` themselves.
    """
    command = f"penstock {name}".rstrip()
    completion_init()  # options are completed here, and the completion is installed by `penstock --install-completion`
    with ending_process():
        try:
            call_command(get_command(application), command)
        except PenstockError as error:
            typer.echo(f"{_called(command, name)}: {error}", err=True)
            sys.exit(exit_code)
        except OSError as error:
            if error.errno not in _FULL:
                raise
            typer.echo(f"{_called(command, name)}: The output could not be written: {error.strerror}.", err=True)
            _drop_output()
            sys.exit(exit_code)


def _drop_output() -> None:
    """Let the rest of the standard output be lost, so that Python does not try to write it again when it exits."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _called(command: str, name: str) -> str:
    """Return the command as it was called: with the name of the subcommand if it is one of `penstock` itself."""
    return command if name else " ".join([command, *sys.argv[1:2]])


def call_command(command: Callable[..., object], name: str) -> None:
    """Read the command line with a command, call it, and exit.

    If nobody reads the standard output any more, as with `| head`, end as other programs do then: by SIGPIPE.
    """
    try:
        try:
            command(prog_name=name, complete_var=COMPLETION_VARIABLE)
        finally:
            sys.stdout.flush()  # an error of this could not be told when Python exits
    except BrokenPipeError:
        end_by_pipe()
    except SystemExit as ending:
        if isinstance(ending.__context__, BrokenPipeError):  # click exits with 1, as if something had failed
            end_by_pipe()
        raise


def operator_ports(operator_port: int | None, port: int) -> range:
    """Return the ports to try for operators: only the one that is given, or those after `port`."""
    if operator_port is not None:
        return range(operator_port, operator_port + 1)
    if port == LAST_PORT:
        raise typer.BadParameter(f"There is no port after {port}. Set --operator-port.")
    return range(port + 1, min(port + 1 + SPARE_PORTS, LAST_PORT) + 1)


def apply_common_options(app: str | None = None, exit_with_parent: int | None = None) -> None:
    """Apply the options that every program has. The application's name is passed on to child processes, too."""
    if exit_with_parent is not None:
        end_with_parent(exit_with_parent)
    if app is not None:
        os.environ["PENSTOCK_APP"] = app
