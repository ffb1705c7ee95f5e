"""What pyproject.toml, the locks and the texts say about the distribution agrees with the code."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

from penstock.cli.commands import COMMANDS
from penstock.distribution import NAME
from penstock.infra.embedded.patches import SUPPORTED_MOTO
from tests.acceptance.generated.tools import HERE as GENERATORS

ROOT = Path(__file__).parents[2]
TEXTS = [path for pattern in ("*.md", "docs/**/*.md", "infra/*.md", "bench/*.md") for path in ROOT.glob(pattern)]
NOT_IN_THE_BASE = (
    "aiobotocore",
    "botocore",
    "boto3",
    "uvloop",
    "moto",
    "flask",
    "yaml",
    "pyinstrument",
    "opentelemetry",
)
NEED_ONLY_THE_BASE = (
    "penstock.cli.submit",
    "penstock.cli.commands",
    "penstock.testing",
    "penstock.application",
    "penstock.running.cpu_worker",
    "penstock.cli.profiling",
)


@pytest.fixture(scope="module")
def project() -> dict[str, Any]:
    project: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return project


def test_name_is_the_one_that_the_code_tells_people_to_install(project: dict[str, Any]) -> None:
    assert project["name"] == NAME


def test_moto_is_the_version_that_our_patches_accept(project: dict[str, Any]) -> None:
    assert f"moto[dynamodb,s3]=={SUPPORTED_MOTO}" in project["optional-dependencies"]["local"]


def test_every_extra_that_a_command_asks_for_exists(project: dict[str, Any]) -> None:
    asked = {command.extra.name for command in COMMANDS.values() if command.extra}
    assert asked <= set(project["optional-dependencies"])


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_texts_name_the_distribution_and_extras_that_exist(path: Path, project: dict[str, Any]) -> None:
    for name, extras in re.findall(r"\b(penstock(?:-bulk)?)\[([a-z,]+)\]", path.read_text()):
        assert name == NAME
        assert set(extras.split(",")) <= set(project["optional-dependencies"])


@pytest.mark.parametrize("path", [*ROOT.glob("*.lock"), GENERATORS / "requirements.lock"], ids=lambda path: path.name)
def test_locks_name_no_index(path: Path) -> None:
    assert not re.search(r"https?://|index-url|find-links", path.read_text())


def test_base_install_is_enough_for_handlers_and_for_submitting() -> None:
    hidden = "".join(f"sys.modules[{name!r}] = None\n" for name in NOT_IN_THE_BASE)
    imports = f"import {', '.join(NEED_ONLY_THE_BASE)}"
    code = f"import sys\n{hidden}from penstock import Context, Limit, Operations, Reject, Retry, Throttled\n{imports}"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
