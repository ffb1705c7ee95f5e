"""The image, as far as it can be judged without building it: hadolint, rules of our own, and what is locked into it."""

import re
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import requires
from pathlib import Path
from typing import Any

import pytest
from dockerfile_parse import DockerfileParser
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[3]
EXTRAS_IN_IMAGE = ["server", "tracing"]
PINNED = re.compile(r"^(?P<requirement>[^#\s][^\\]*?) \\\n(?P<hashes>(?:    --hash=\S+(?: \\)?\n)+)", re.MULTILINE)

Instruction = dict[str, Any]


@pytest.fixture(scope="module")
def stages() -> list[list[Instruction]]:
    """The instructions of each stage, comments left out."""
    found: list[list[Instruction]] = []
    for instruction in DockerfileParser(str(ROOT)).structure:
        if instruction["instruction"] == "FROM":
            found.append([])
        if instruction["instruction"] != "COMMENT":
            found[-1].append(instruction)
    return found


def values(stage: list[Instruction], name: str) -> list[str]:
    return [instruction["value"] for instruction in stage if instruction["instruction"] == name]


# --- The Dockerfile


@pytest.mark.parametrize("file", ["Dockerfile", "examples/users/Dockerfile"])
def test_hadolint_has_nothing_to_say(file: str) -> None:
    hadolint = Path(sys.executable).with_name("hadolint")
    result = subprocess.run(
        [hadolint, "--no-color", "--failure-threshold", "style", ROOT / file],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (result.returncode, result.stdout) == (0, ""), result.stderr


def test_every_stage_begins_with_the_same_image_by_name_and_tag(stages: list[list[Instruction]]) -> None:
    images = {values(stage, "FROM")[0].partition(" ")[0] for stage in stages}
    assert images == {"python:3.11-slim"}


def test_image_runs_as_nobody_in_particular(stages: list[list[Instruction]]) -> None:
    """By number: ECS and Kubernetes can tell that it is not root without looking into the image."""
    assert values(stages[-1], "USER") == ["10001:10001"]
    names = [instruction["instruction"] for instruction in stages[-1]]
    assert not {"RUN", "COPY", "ADD"} & set(names[names.index("USER") :])


def test_program_is_the_first_process_and_is_asked_to_stop_by_sigterm(stages: list[list[Instruction]]) -> None:
    final = stages[-1]
    assert values(final, "ENTRYPOINT") == ['["penstock"]']
    assert values(final, "STOPSIGNAL") == ["SIGTERM"]
    assert values(final, "EXPOSE") == ["8080"]
    assert values(final, "CMD") == []


def test_nothing_but_tmp_is_written_to(stages: list[list[Instruction]]) -> None:
    assert values(stages[-1], "VOLUME") == ['["/tmp"]']
    assert any("PYTHONDONTWRITEBYTECODE=1" in value for value in values(stages[-1], "ENV"))


def test_nothing_is_fetched_that_is_not_locked(stages: list[list[Instruction]]) -> None:
    installs = [
        command
        for stage in stages
        for value in values(stage, "RUN")
        for command in value.split("&&")
        if "pip install" in command
    ]
    assert len(installs) == 3
    assert all("--require-hashes" in command or "--no-deps dist/" in command for command in installs)
    assert not any(values(stage, "ADD") for stage in stages)


def test_nothing_gets_in_but_what_is_copied(stages: list[list[Instruction]]) -> None:
    """What .dockerignore lets through is what the Dockerfile copies, and all of it is there."""
    copied = {name for value in values(stages[0], "COPY") for name in value.split()[:-1]}
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    let_in = {line.removeprefix("!") for line in lines if line.startswith("!")}
    assert lines[1] == "*"
    assert copied == let_in
    assert all((ROOT / name).exists() for name in copied)


# --- What is locked into it


def pins(lock: str) -> list[tuple[Requirement, frozenset[str]]]:
    """What is required, and by which hashes."""
    text = (ROOT / lock).read_text()
    found = [
        (Requirement(match["requirement"]), frozenset(re.findall(r"--hash=(\S+)", match["hashes"])))
        for match in PINNED.finditer(text)
    ]
    assert len(found) == len(re.findall(r"^[a-z0-9]", text, re.MULTILINE))
    return found


def versions(lock: str) -> set[tuple[str, str, frozenset[str]]]:
    return {(requirement.name, str(requirement.specifier), hashes) for requirement, hashes in pins(lock)}


@pytest.mark.parametrize(
    "lock", ["requirements-image.lock", "requirements-build.lock", "examples/users/requirements.lock"]
)
def test_image_has_what_was_tested(lock: str) -> None:
    """The same versions with the same hashes as `make setup` installs."""
    assert versions(lock) - versions("requirements.lock") == set()


def test_image_has_what_the_programs_need_and_nothing_else() -> None:
    applicable = {
        canonicalize_name(requirement.name)
        for requirement, _ in pins("requirements-image.lock")
        if requirement.marker is None or requirement.marker.evaluate()
    }
    only_editable = {"editables"}  # an editable install, as here, declares it; the wheel does not
    assert applicable == set(needed("penstock-bulk", EXTRAS_IN_IMAGE)) - {"penstock-bulk"} - only_editable


def needed(package: str, extras: list[str], known: set[str] | None = None) -> Iterator[str]:
    """A package and all that it requires, and what that requires, by what is installed here."""
    known = set() if known is None else known
    if (key := f"{package}[{sorted(extras)}]") in known:
        return
    known.add(key)
    yield canonicalize_name(package)
    for line in requires(package) or []:
        requirement = Requirement(line)
        environments = [{"extra": extra} for extra in ["", *extras]]
        if requirement.marker is None or any(map(requirement.marker.evaluate, environments)):
            yield from needed(requirement.name, sorted(requirement.extras), known)
