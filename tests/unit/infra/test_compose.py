"""The Compose file, as far as it can be judged without an engine. An acceptance test runs what its services run."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from penstock.infra.local.servers import POM
from penstock.settings import PREFIX, Settings

FILE = Path(__file__).parents[3] / "infra" / "compose.yaml"
OURS = ["front-end", "consumer", "provision"]
SERVERS = {"elasticmq": "elasticmq-server_2.13", "dynamodb": "DynamoDBLocal"}


@pytest.fixture(scope="module")
def document() -> Any:
    return yaml.safe_load(FILE.read_text())


def test_services_are_those_of_this_test(document: Any) -> None:
    assert list(document["services"]) == [*OURS, *SERVERS]


@pytest.mark.parametrize("name", OURS)
def test_penstock_runs_as_the_image_is_meant_to(document: Any, name: str) -> None:
    service = document["services"][name]
    assert service["image"] == "${PENSTOCK_IMAGE:-penstock}"
    assert (service["init"], service["read_only"], service["tmpfs"]) == (True, True, ["/tmp"])
    assert service["cap_drop"] == ["ALL"]
    assert service["environment"]["PENSTOCK_AUTH"] == "keys"
    grace = int(service["stop_grace_period"].removesuffix("s"))
    assert grace >= Settings.model_fields["grace_seconds"].default + 35  # infra/README.md: Drain


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
