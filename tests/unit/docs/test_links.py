"""Every link, file, module and make target that a text names exists. No network: links to other hosts are not tried."""

import importlib.util
import re
from pathlib import Path

import pytest

from tests.unit.docs.pages import FILES, REPOSITORY, name_of, prose

LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
NAMED_FILE = re.compile(r"`((?:[\w.-]+/)+[\w.-]+\.(?:py|md|yaml|xml|lock|toml))`")
NAMED_MODULE = re.compile(r"python -m ((?:penstock|examples|tests|bench|service|consumer|infra)[\w.]*)")
NAMED_TARGET = re.compile(r"(?:`|\$ )make ([a-z-]+)")
MADE_LATER = re.compile(r"^\.run/")

each_file = pytest.mark.parametrize("file", FILES, ids=name_of)


def anchors(file: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub and MyST name them."""
    headings = HEADING.findall(prose(file))
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@each_file
def test_links_lead_to_a_file_and_a_heading(file: Path) -> None:
    """A page of the site that only includes a file is no target: outside the site it shows nothing."""
    for link in LINK.findall(prose(file)):
        path, _, anchor = link.partition("#")
        target = (file.parent / path).resolve() if path else file
        assert ":" in path or target.exists(), link
        assert not (target.suffix == ".md" and target.read_text().startswith("```{include}")), link
        assert not anchor or anchor in anchors(target), link


@each_file
def test_files_that_are_named_exist(file: Path) -> None:
    for name in NAMED_FILE.findall(prose(file)):
        places = [REPOSITORY / name, file.parent / name]
        assert MADE_LATER.match(name) or any(place.exists() for place in places), name


@each_file
def test_modules_that_are_named_exist(file: Path) -> None:
    for module in NAMED_MODULE.findall(file.read_text()):
        assert importlib.util.find_spec(module.rstrip(".")), module
        assert module.partition(".")[0] not in {"service", "consumer", "infra"}, f"write penstock.{module}"


@each_file
def test_make_targets_that_are_named_exist(file: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (REPOSITORY / "Makefile").read_text(), re.MULTILINE))
    assert set(NAMED_TARGET.findall(file.read_text())) <= targets
