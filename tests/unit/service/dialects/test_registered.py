"""The dialects that a front end speaks, and how it answers errors on their paths."""

import json

import pytest
from aiohttp import web

from penstock import Operations
from penstock.api_key import Scope
from penstock.errors import MalformedRequest, Misconfigured, Overloaded
from penstock.service.dialects import registered
from penstock.service.dialects.dialect import Dialect, Problem
from penstock.service.route import Route
from tests.support.builders import build_settings
from tests.support.service import Serve


async def endpoint(request: web.Request) -> web.Response:
    match request.match_info["what"]:
        case "full":
            raise Overloaded("There is no room.")
        case "bad":
            raise MalformedRequest("This is wrong.")
    return web.Response(text="fine")


def write_problem(_request: web.Request, problem: Problem) -> web.Response:
    return web.json_response({"oops": problem.detail, "kind": problem.type}, status=problem.status)


TOY = Dialect(
    "toy",
    (Route("GET", "/toy/{what}", endpoint, Scope.READ),),
    lambda path: path.startswith("/toy"),
    write_problem,
)
OTHER = Dialect("other", (), lambda path: path.startswith("/other"), write_problem)


@pytest.fixture(autouse=True)
def _toys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registered, "DIALECTS", (TOY, OTHER))


@pytest.mark.parametrize(
    ("named", "names"),
    [
        (None, ["toy", "other"]),
        ("toy", ["toy"]),
        ("other, toy,", ["other", "toy"]),
        ("toy,toy", ["toy"]),
        ("none", []),
    ],
)
def test_settings_choose_dialects(named: str | None, names: list[str]) -> None:
    assert [one.name for one in registered.spoken(build_settings(dialects=named))] == names


@pytest.mark.parametrize("named", ["klingon", "toy,none", "Toy"])
def test_unknown_dialect_is_rejected_with_the_names_of_those_that_exist(named: str) -> None:
    with pytest.raises(Misconfigured, match=r"PENSTOCK_DIALECTS has the unknown name .* Use names of toy, other"):
        registered.spoken(build_settings(dialects=named))


async def test_errors_on_the_paths_of_a_dialect_are_its_own(serve: Serve) -> None:
    service = await serve(Operations())
    bad, full = await service.get("/toy/bad"), await service.get("/toy/full")
    unknown, wrong = await service.get("/toys/too"), await service.ask("DELETE", "/toy/bad")
    assert json.loads(bad.content) == {"oops": "This is wrong.", "kind": "malformed-request"}
    assert (bad.status, bad.headers["Content-Type"]) == (400, "application/json; charset=utf-8")
    assert (full.status, full.headers["Retry-After"]) == (503, "2")
    assert (unknown.status, json.loads(unknown.content)["kind"]) == (404, "about:blank")
    assert (wrong.status, wrong.headers["Allow"]) == (405, "GET,HEAD")


async def test_other_paths_and_answers_are_as_without_dialects(serve: Serve) -> None:
    service = await serve(Operations())
    assert (await service.get("/toy/x")).content == b"fine"
    assert (await service.get("/elsewhere")).headers["Content-Type"] == "application/problem+json"


async def test_endpoint_of_a_dialect_needs_its_scope(serve: Serve) -> None:
    service = await serve(Operations(), auth="keys")
    answer = await service.get("/toy/x")
    assert (answer.status, json.loads(answer.content)["kind"]) == (401, "not-authenticated")
    assert answer.headers["WWW-Authenticate"] == "Bearer"


async def test_dialect_that_is_not_spoken_does_not_exist(serve: Serve) -> None:
    service = await serve(Operations(), dialects="other")
    answer = await service.get("/toy/x")
    assert (answer.status, answer.headers["Content-Type"]) == (404, "application/problem+json")
