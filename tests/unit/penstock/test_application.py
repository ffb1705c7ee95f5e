"""The application that the settings name, or the one that is made where they name an upstream."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import SecretStr

from penstock.application import find_application, load_application
from penstock.chunk import Operation
from penstock.errors import Misconfigured
from penstock.operations import METHODS
from penstock.outcome import Outcome
from penstock.running.runner import Runner
from penstock.running.source import Source
from penstock.settings import Settings
from tests.support.attempts import run_one
from tests.support.upstream import toy_upstream


async def test_upstream_alone_makes_an_application_that_forwards_everything() -> None:
    async with toy_upstream() as upstream:
        settings = Settings(
            upstream=upstream.url + "/v1",
            upstream_authorization=SecretStr("Bearer ours"),
            upstream_headers="Accept-Language",
            upstream_timeout_seconds=5,
            upstream_max_attempts=7,
        )
        operations = find_application(settings)
        async with operations.connections(1):
            source = Source("01J", "01J", headers={"accept-language": "de"})
            outcome = await run_one(Runner(operations, 1), Operation(0, "0", "GET", "/users?x=1", None), source, 1)

    assert isinstance(outcome, Outcome)
    assert outcome.result == {"asked": "/v1/users?x=1"}
    [asked] = upstream.requests
    assert (asked.headers["Authorization"], asked.headers["Accept-Language"]) == ("Bearer ours", "de")
    assert [route.name for route in operations.routes] == [f"{method} /{{path}}" for method in METHODS]
    assert {(route.policy.timeout_seconds, route.policy.max_attempts) for route in operations.routes} == {(5, 7)}


def test_upstream_that_is_not_there_is_no_reason_not_to_start() -> None:
    assert find_application(Settings(upstream="http://nowhere.invalid")).routes


def test_application_is_loaded_by_its_name() -> None:
    assert (
        find_application(Settings(app="tests.acceptance.apps:operations")).match("POST", "/sums").name == "POST /sums"
    )


def test_one_of_both_is_needed() -> None:
    with pytest.raises(
        Misconfigured, match=r"^No application is set\. .* To forward to an existing API, set PENSTOCK_UPSTREAM"
    ):
        find_application(Settings())


# --- Where the application's modules come from

ONE_HANDLER = """
from penstock import Operations

operations = Operations()

@operations.get("/one")
async def one() -> int:
    return 1
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The working directory. It is not in the module search path, and what is imported from it is forgotten."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    known = dict(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - set(known):
        del sys.modules[name]


def test_working_directory_is_searched_last(folder: Path) -> None:
    (folder / "shop.py").write_text(ONE_HANDLER)
    assert load_application("shop:operations").routes
    assert sys.path[-1] == str(folder)


def test_package_of_the_application_is_preferred_to_an_installed_one(
    folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    installed = tmp_path_factory.mktemp("installed")
    for place, content in ((installed, "raise RuntimeError"), (folder, ONE_HANDLER)):
        (place / "shop").mkdir()
        (place / "shop" / "__init__.py").write_text("")
        (place / "shop" / "bulk.py").write_text(content)
    sys.path.insert(0, str(installed))
    assert load_application("shop.bulk:operations").routes


def test_folder_of_data_is_not_taken_for_the_installed_application(
    folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    installed = tmp_path_factory.mktemp("installed")
    (installed / "shop.py").write_text(ONE_HANDLER)
    (folder / "shop").mkdir()
    sys.path.insert(0, str(installed))
    assert load_application("shop:operations").routes


def test_other_modules_are_not_taken_from_the_working_directory_first(
    folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    installed = tmp_path_factory.mktemp("installed")
    (installed / "rules.py").write_text("")
    (folder / "rules.py").write_text("raise RuntimeError")
    (folder / "shop.py").write_text(f"import rules\n{ONE_HANDLER}")
    sys.path.insert(0, str(installed))
    assert load_application("shop:operations").routes


@pytest.mark.parametrize("module", ["json", "queue", "statistics", "json.tool"])
def test_application_cannot_have_the_name_of_a_module_of_pythons(folder: Path, module: str) -> None:
    (folder / f"{module}.py").write_text(ONE_HANDLER)
    with pytest.raises(Misconfigured, match=r"^Rename the application's module '(json|queue|statistics)': "):
        load_application(f"{module}:operations")


def test_application_with_the_name_of_what_we_import_ourselves_is_told_so(folder: Path) -> None:
    (folder / "aiohttp.py").write_text(ONE_HANDLER)
    with pytest.raises(Misconfigured, match=r"Python imported 'aiohttp' from .*site-packages.*\. Rename the one in"):
        load_application("aiohttp:operations")


def test_application_that_hides_behind_what_we_import_ourselves_is_told_so(folder: Path) -> None:
    (folder / "aiohttp").mkdir()
    (folder / "aiohttp" / "bulk.py").write_text(ONE_HANDLER)
    with pytest.raises(Misconfigured, match=r"no module 'aiohttp\.bulk'.* Python imported 'aiohttp' from "):
        load_application("aiohttp.bulk:operations")
