"""docs/api.md and the OpenAPI description name the same calls, and the same options of a batch."""

import re
from collections.abc import Iterator

from penstock import Operations
from penstock.service.openapi.document import describe, describe_for_operators
from penstock.settings import Settings
from tests.unit.docs.pages import REPOSITORY

PAGES = ("docs/api.md", "docs/webhooks.md")
CALL = re.compile(r"`(GET|POST|PUT|PATCH|DELETE) (/[^`?]*)`")
ROW = re.compile(r"^\| (`.*?) \| ", re.MULTILINE)
OPTION = re.compile(r"^`(\w+)`$")
PAGE = ("GET", "/docs")  # for people, so the description does not have it


def described() -> Iterator[tuple[str, str]]:
    settings = Settings.model_construct()
    for document in (describe(settings, Operations(), {}), describe_for_operators(settings, {})):
        for path, methods in document["paths"].items():
            for method in methods:
                yield method.upper(), path


def first_cells(page: str) -> list[str]:
    return ROW.findall((REPOSITORY / page).read_text())


def without_names(calls: Iterator[tuple[str, str]]) -> set[tuple[str, str]]:
    """Return the calls without the names of their path parameters, which are shorter in the page."""
    return {(method, re.sub(r"{\w+}", "{}", path)) for method, path in calls}


def test_each_call_is_in_the_tables_and_each_row_is_described() -> None:
    named = ((method, path) for page in PAGES for cell in first_cells(page) for method, path in CALL.findall(cell))
    assert without_names(named) - {PAGE} == without_names(described())


def test_each_option_of_a_batch_is_in_the_table_and_described() -> None:
    section = (REPOSITORY / PAGES[0]).read_text().partition("## Options of a batch\n")[2].partition("\n## ")[0]
    table = section.partition("| option |")[2].partition("\n\n")[0]
    named = {match[1] for cell in ROW.findall(table) if (match := OPTION.match(cell))}
    members = describe(Settings.model_construct(), Operations(), {})["components"]["schemas"]["BatchRequest"]
    assert named == set(members["properties"]) - {"operations"}
