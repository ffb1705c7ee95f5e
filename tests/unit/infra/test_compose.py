"""The Compose file, as far as it can be judged without an engine. An acceptance test runs what its services run."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator

from penstock.infra.local.servers import DYNAMODB, ELASTICMQ, POM, LocalServers
from penstock.settings import PREFIX, Settings
from tests.support.aws import real

ROOT = Path(__file__).parents[3]
FILE = ROOT / "compose.yaml"
SCHEMA = Path(__file__).parent / "compose_spec" / "compose-spec.json"
OURS = ["front-end", "consumer", "provision"]
SERVERS = {"elasticmq": "elasticmq-server_2.13", "dynamodb": "DynamoDBLocal"}
DATABASE = "postgres"
OF_PROGRAMS = {"front-end": {"PENSTOCK_OPERATOR_KEY_FILE"}, "provision": {"AWS_MAX_ATTEMPTS"}}


@pytest.fixture(scope="module")
def document() -> Any:
    return yaml.safe_load(FILE.read_text())


def test_services_are_those_of_this_test(document: Any) -> None:
    assert list(document["services"]) == [*OURS, *SERVERS, DATABASE]


def test_file_is_valid_by_the_schema_of_compose(document: Any) -> None:
    schema = Draft202012Validator(json.loads(SCHEMA.read_text()))
    assert [f"{list(error.absolute_path)}: {error.message}" for error in schema.iter_errors(document)] == []


def test_there_are_two_consumers(document: Any) -> None:
    assert document["services"]["consumer"]["deploy"] == {"replicas": 2}


@pytest.mark.parametrize("name", OURS)
def test_environment_is_that_of_the_programs_in_tests_on_the_real_servers(document: Any, name: str) -> None:
    environment = document["services"][name]["environment"]
    places = {name: environment[f"AWS_ENDPOINT_URL_{name}"] for name in ("SQS", "DYNAMODB")}
    in_tests = real(LocalServers(places["SQS"], places["DYNAMODB"])).environment
    assert {variable for variable in environment if variable.startswith("AWS_")} - OF_PROGRAMS.get(name, set()) == set(
        in_tests
    )
    for variable in ("AWS_REGION", "AWS_ENDPOINT_URL_SQS", "AWS_ENDPOINT_URL_DYNAMODB"):
        assert environment[variable] == in_tests[variable]
    others = {variable for variable in environment if not variable.startswith("AWS_")} - OF_PROGRAMS.get(name, set())
    assert others == {"PENSTOCK_AUTH", "PENSTOCK_METRICS", "USERS_DATABASE_URL"}


def test_servers_have_the_options_of_those_in_tests(document: Any) -> None:
    """Only where they listen is another address here, and which port they use."""
    given = document["services"]["elasticmq"]["environment"]["JAVA_TOOL_OPTIONS"].split()
    assert given == [option for option in ELASTICMQ.properties if ".bind-" not in option]
    java, jar, *arguments = document["services"]["dynamodb"]["command"]
    assert (java, jar) == ("-jar", "DynamoDBLocal.jar")
    assert arguments == [argument for argument in DYNAMODB.arguments if argument not in {"-port", "{port}"}]


def test_programs_wait_for_all_that_they_need_and_every_server_has_a_health_check(document: Any) -> None:
    for name in ("front-end", "consumer"):
        assert document["services"][name]["depends_on"] == {
            "provision": {"condition": "service_completed_successfully"},
            DATABASE: {"condition": "service_healthy"},
        }
    assert {name for name, service in document["services"].items() if "healthcheck" not in service} == {"provision"}


def test_database_is_that_of_the_users(document: Any) -> None:
    server = document["services"][DATABASE]["environment"]
    name, word, database = (server[f"POSTGRES_{part}"] for part in ("USER", "PASSWORD", "DB"))
    for ours in OURS:
        url = document["services"][ours]["environment"]["USERS_DATABASE_URL"]
        assert url == f"postgresql://{name}:{word}@{DATABASE}:5432/{database}"


@pytest.mark.parametrize("name", OURS)
def test_penstock_runs_as_the_image_is_meant_to(document: Any, name: str) -> None:
    service = document["services"][name]
    assert service["image"] == "${PENSTOCK_IMAGE:-penstock-users}"
    assert "build" not in service  # it would build over the image that the variable names
    assert (service["init"], service["read_only"], service["tmpfs"]) == (True, True, ["/tmp"])
    assert service["cap_drop"] == ["ALL"]
    assert service["environment"]["PENSTOCK_AUTH"] == "keys"
    grace = int(service["stop_grace_period"].removesuffix("s"))
    assert grace >= Settings.model_fields["grace_seconds"].default + 35  # infra/README.md: Drain


def test_image_is_built_by_the_commands_in_the_readme() -> None:
    told = (ROOT / "infra" / "README.md").read_text()
    [(tag, file)] = re.findall(r"docker build --tag (penstock-users) --file (\S+) \.", told)
    assert (ROOT / file).read_text().startswith("# The users example on the image of Penstock")
    assert f":-{tag}}}" in FILE.read_text()


@pytest.mark.parametrize("name", OURS)
def test_every_variable_is_a_setting(document: Any, name: str) -> None:
    ours = {variable for variable in document["services"][name]["environment"] if variable.startswith(PREFIX)}
    assert ours <= {PREFIX + field.upper() for field in Settings.model_fields}


def test_operator_key_is_a_secret_of_the_front_end_alone(document: Any) -> None:
    assert [name for name, service in document["services"].items() if "secrets" in service] == ["front-end"]
    [(secret, source)] = document["secrets"].items()
    assert document["services"]["front-end"]["secrets"] == [secret]
    assert document["services"]["front-end"]["environment"]["PENSTOCK_OPERATOR_KEY_FILE"] == f"/run/secrets/{secret}"
    # Compose mounts no secret from a variable into a container whose file system is read-only.
    assert re.fullmatch(r"\$\{PENSTOCK_OPERATOR_KEY_FILE:\?.+\}", source["file"])


def test_only_this_machine_reaches_the_ports(document: Any) -> None:
    ports = {name: service["ports"] for name, service in document["services"].items() if "ports" in service}
    assert ports == {"front-end": ["127.0.0.1:8080:8080", "127.0.0.1:8081:8081"]}


@pytest.mark.parametrize("name", SERVERS)
def test_servers_have_the_versions_that_the_tests_run_with(document: Any, name: str) -> None:
    image, _, tag = document["services"][name]["image"].partition(":")
    assert image.count("/") == 1
    assert f"<artifactId>{SERVERS[name]}</artifactId>\n          <version>{tag}</version>" in POM.read_text()
