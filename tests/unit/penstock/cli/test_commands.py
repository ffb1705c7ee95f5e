"""The command line starts each program with its options unread, and says what to install."""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.main import get_command
from typer.testing import CliRunner

from penstock.cli import batches, commands, keys, limits, profiling, queues, submit
from penstock.distribution import installed_version
from tests.support.full import full

Started = list[Sequence[str]]


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> Started:
    """The command lines that would have replaced this process."""
    seen: Started = []

    def remember(file: str, words: Sequence[str]) -> None:
        assert file == sys.executable
        seen.append(words)
        raise SystemExit(0)

    monkeypatch.setattr("os.execv", remember)
    return seen


@pytest.mark.parametrize("name", commands.COMMANDS)
def test_command_becomes_its_program_and_passes_its_options_on(started: Started, name: str) -> None:
    options = ["--help", "--port=1", "-x", "--", "--file", "-"]
    assert CliRunner().invoke(commands.app, [name, *options]).exit_code == 0
    command = commands.COMMANDS[name]
    assert started == [[sys.executable, "-P", "-m", command.module, *command.words, *options]]


@pytest.mark.parametrize(
    ("name", "extra"),
    [("up", "local"), ("serve", "server"), ("consume", "server"), ("provision", "server"), ("profile", "profile")],
)
def test_command_without_its_extra_says_what_to_install(
    started: Started, monkeypatch: pytest.MonkeyPatch, name: str, extra: str
) -> None:
    monkeypatch.setattr(commands, "find_spec", lambda _: None)
    ended = CliRunner().invoke(commands.app, [name])
    assert ended.exit_code == 2
    assert ended.stderr == (
        f"penstock {name}: Install what this command needs: pip install 'penstock-bulk[{extra}]'.\n"
    )
    assert started == []


def test_commands_that_only_call_a_server_need_no_extra(started: Started, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commands, "find_spec", lambda _: None)
    CliRunner().invoke(commands.app, ["submit", "users.csv"])
    CliRunner().invoke(commands.app, ["keys", "list"])
    assert len(started) == 2


def test_version_is_the_distributions() -> None:
    assert CliRunner().invoke(commands.app, ["--version"]).stdout == f"penstock {installed_version()}\n"


ONE_OF_EACH_PROGRAM = [name for name, command in commands.COMMANDS.items() if command.words in {(), ("list",)}]


@pytest.mark.parametrize("command", ["consume", *full(name for name in ONE_OF_EACH_PROGRAM if name != "consume")])
def test_options_are_shown_and_completed_by_the_program(command: str) -> None:
    script = str(Path(sys.executable).with_name("penstock"))
    environment = {
        "_PENSTOCK_COMPLETE": "complete_bash",
        "COMP_WORDS": f"penstock {command} --he",
        "COMP_CWORD": "2",
    }
    told = subprocess.run([script], env=environment, capture_output=True, text=True, check=True).stdout.split()
    assert "--help" in told
    assert set(told) <= {"--help", "--health-host", "--health-port"}


@pytest.mark.parametrize("program", [batches, keys, limits, profiling, queues, submit])
def test_no_help_has_brackets_because_they_would_be_taken_for_a_style(program: Any) -> None:
    app = getattr(program, "app", None)
    if app is None:
        app = typer.Typer()
        app.command()(getattr(program, program.__name__.rpartition(".")[2].replace("profiling", "profile")))
    command = get_command(app)
    commands = list(getattr(command, "commands", {"": command}).values())
    helps = [parameter.help or "" for one in commands for parameter in one.params if hasattr(parameter, "help")]
    assert len(helps) > 1
    assert [text for text in helps if "[" in text] == []


HEAVY = ("aiohttp", "aiobotocore", "botocore", "boto3", "moto", "pydantic", "uvloop")
MODULES = ("penstock", "penstock.service", "penstock.consumer")
SHOW_HELP = f"""
import sys
from runpy import run_module
for module in {MODULES}:
    sys.argv = [module, "--help"]
    try:
        run_module(module, run_name="__main__")
    except SystemExit:
        pass
    print("end of", module, *set({HEAVY}) & set(sys.modules))
"""


def test_help_is_shown_without_loading_a_server_or_aws() -> None:
    ended = subprocess.run([sys.executable, "-c", SHOW_HELP], capture_output=True, text=True, check=False)
    left = ended.stdout
    for module in MODULES:
        shown, end, left = left.partition(f"end of {module}\n")
        assert end, ended.stdout
        assert "--help" in shown
    assert ended.stderr.strip() == ""
