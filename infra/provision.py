"""Makes the queues and the table of `template.yaml` with single calls, where there is no CloudFormation.

`python -m penstock.infra.provision` or `penstock provision`, for the embedded AWS, ElasticMQ and DynamoDB Local. May be
repeated: what stands is brought to what the template says, and nothing is ever deleted. Every type but AWS::SQS::Queue
and AWS::DynamoDB::Table is left out: services, roles, scaling, alarms, the dashboard, and the policy that refuses plain
HTTP, which is what such servers speak. On AWS this makes nothing and says how to deploy the template: what runs there
is to be changed in one way only.
"""

import argparse
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import boto3
from botocore.exceptions import ClientError

from penstock.aws.clients import error_code, explained
from penstock.errors import Misconfigured, PenstockError
from penstock.settings import Settings, read_settings
from penstock.signals import end_with_parent

if TYPE_CHECKING:
    from types_boto3_dynamodb import DynamoDBClient
    from types_boto3_dynamodb.type_defs import TableDescriptionTypeDef
    from types_boto3_sqs import SQSClient

    from penstock.infra.cloudformation import Stack

TEMPLATE = Path(__file__).with_name("template.yaml")
QUEUE, TABLE = "AWS::SQS::Queue", "AWS::DynamoDB::Table"
OF_AWS = (".amazonaws.com", ".amazonaws.com.cn", ".amazonaws.eu", ".api.aws")
TABLE_SECONDS = 120

_QUEUE_ATTRIBUTES = {
    "MaximumMessageSize",
    "MessageRetentionPeriod",
    "VisibilityTimeout",
    "RedrivePolicy",
    "SqsManagedSseEnabled",
}
_TABLE_PROPERTIES = {
    "TableName",
    "BillingMode",
    "AttributeDefinitions",
    "KeySchema",
    "GlobalSecondaryIndexes",
    "DeletionProtectionEnabled",
}
_AFTERWARDS = {"TimeToLiveSpecification", "PointInTimeRecoverySpecification"}  # set on a table that stands

DEPLOY = """\
Deploy the template with CloudFormation: on AWS it makes the queues and the table, and all that works on them.
  aws cloudformation deploy --stack-name {name} --template-file {template} \\
    --capabilities CAPABILITY_IAM --parameter-overrides Name={name} VpcId=... (infra/README.md has the rest)
What this command makes it makes on other servers only: set AWS_ENDPOINT_URL, or AWS_ENDPOINT_URL_SQS and \
AWS_ENDPOINT_URL_DYNAMODB."""


@dataclass(frozen=True, slots=True)
class Standing:
    """A resource that stands now: what others may ask of it, and what the template says but the server cannot have."""

    line: str
    attributes: Mapping[str, str]
    unknown: Sequence[str]


def provision(settings: Settings) -> list[str]:
    """Returns a line for each thing that stands now, and one for what the servers know nothing of, if there is any."""
    with explained():
        sqs = boto3.client("sqs", region_name=settings.aws_region)
        dynamodb = boto3.client("dynamodb", region_name=settings.aws_region)
        _refuse_aws(settings, sqs.meta.endpoint_url, dynamodb.meta.endpoint_url)
        made = _make(settings, {QUEUE: Queues(sqs).make, TABLE: Tables(dynamodb).make})
    unknown = sorted({name for one in made for name in one.unknown})
    return [*(one.line for one in made), *([f"not known to these servers: {', '.join(unknown)}"] if unknown else [])]


def _refuse_aws(settings: Settings, *urls: str) -> None:
    if any(map(leads_to_aws, urls)):
        raise Misconfigured(DEPLOY.format(name=settings.name, template=TEMPLATE))


def leads_to_aws(url: str) -> bool:
    return str(urlsplit(url).hostname).endswith(OF_AWS)


def _make(settings: Settings, makers: Mapping[str, Callable[[dict[str, Any]], Standing]]) -> list[Standing]:
    """In the template's order: what others refer to stands above them."""
    made: dict[str, Standing] = {}
    stack = read_stack(settings, made)
    for name, resource in stack.resources(*makers).items():
        made[name] = makers[resource["Type"]](stack.properties(name))
    return list(made.values())


def read_stack(settings: Settings, made: Mapping[str, Standing]) -> "Stack":
    """The template as it is for these settings. The rest of its parameters are as it says itself."""
    try:
        from penstock.infra.cloudformation import NotUnderstood, Stack, read_template  # noqa: PLC0415 - not needed on AWS
    except ModuleNotFoundError as error:
        if error.name != "yaml":
            raise
        raise Misconfigured("Install what stands in for AWS: pip install 'penstock[local]'.") from error

    def look_up(name: str, attribute: str) -> str:
        try:
            return made[name].attributes[attribute]
        except KeyError as error:
            raise NotUnderstood(f"{attribute} of {name} is asked for before it is made") from error

    parameters = {"Name": settings.name, "VisibilitySeconds": str(settings.visibility_seconds)}
    return Stack(read_template(TEMPLATE), parameters, look_up)


@dataclass(frozen=True, slots=True)
class Queues:
    client: "SQSClient"

    def make(self, properties: dict[str, Any]) -> Standing:
        name = properties.pop("QueueName")
        _check_known(f"queue {name}", properties, _QUEUE_ATTRIBUTES)
        wanted = {attribute: _to_text(value) for attribute, value in properties.items()}
        url = self._create(name, wanted)
        standing = self._read(url)
        if differing := _differing(wanted, standing):
            for attribute in differing:
                self._set(url, attribute, wanted[attribute])
            standing = self._read(url)
        attributes = {"Ref": url, "Arn": standing["QueueArn"], "QueueName": name}
        # What differs still was refused, or taken and forgotten.
        return Standing(f"queue {url}", attributes, _differing(wanted, standing))

    def _read(self, url: str) -> Mapping[str, str]:
        attributes = self.client.get_queue_attributes(QueueUrl=url, AttributeNames=["All"])["Attributes"]
        return {str(name): value for name, value in attributes.items()}

    def _create(self, name: str, attributes: Any) -> str:
        try:
            return self.client.create_queue(QueueName=name, Attributes=attributes)["QueueUrl"]
        except ClientError as error:
            if error_code(error) not in {"QueueAlreadyExists", "QueueNameExists"}:
                raise
        return self.client.get_queue_url(QueueName=name)["QueueUrl"]  # it stands with other attributes

    def _set(self, url: str, attribute: Any, value: str) -> None:
        _is_known(lambda: self.client.set_queue_attributes(QueueUrl=url, Attributes={attribute: value}))


@dataclass(frozen=True, slots=True)
class Tables:
    client: "DynamoDBClient"

    def make(self, properties: dict[str, Any]) -> Standing:
        name = properties["TableName"]
        _check_known(f"table {name}", properties, _TABLE_PROPERTIES | _AFTERWARDS)
        wanted = {one: value for one, value in properties.items() if one in _TABLE_PROPERTIES}
        wanted["DeletionProtectionEnabled"] = _to_text(wanted["DeletionProtectionEnabled"]) == "true"
        table = self._create(wanted)
        for change in changes_of(wanted, table):
            self.client.update_table(TableName=name, **change)
            self._wait(name)
        self._forget(name, properties["TimeToLiveSpecification"])
        recovery = "PointInTimeRecoverySpecification"
        unknown = [] if self._protect(name, properties[recovery]) else [recovery]
        return Standing(f"table {name}", {"Ref": name, "Arn": table["TableArn"]}, unknown)

    def _create(self, wanted: dict[str, Any]) -> "TableDescriptionTypeDef":
        try:
            self.client.create_table(**wanted)
        except ClientError as error:
            if error_code(error) != "ResourceInUseException":
                raise
        return self._wait(wanted["TableName"])

    def _wait(self, name: str) -> "TableDescriptionTypeDef":
        self.client.get_waiter("table_exists").wait(
            TableName=name, WaiterConfig={"Delay": 1, "MaxAttempts": TABLE_SECONDS}
        )
        return self.client.describe_table(TableName=name)["Table"]

    def _forget(self, name: str, wanted: Any) -> None:
        standing = self.client.describe_time_to_live(TableName=name)["TimeToLiveDescription"]
        if standing.get("TimeToLiveStatus", "DISABLED") == "DISABLED":
            self.client.update_time_to_live(TableName=name, TimeToLiveSpecification=wanted)

    def _protect(self, name: str, wanted: Any) -> bool:
        return _is_known(
            lambda: self.client.update_continuous_backups(TableName=name, PointInTimeRecoverySpecification=wanted)
        )


def changes_of(wanted: Mapping[str, Any], standing: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What UpdateTable is to be called with, one after the other. Raises Misconfigured for what it cannot change."""
    indexes = {index["IndexName"]: index for index in standing.get("GlobalSecondaryIndexes", ())}
    pairs = [(wanted, standing)]
    pairs += [
        (one, indexes[one["IndexName"]]) for one in wanted["GlobalSecondaryIndexes"] if one["IndexName"] in indexes
    ]
    if any(_keys(one) != _keys(other) for one, other in pairs):
        raise Misconfigured(
            f"Choose another PENSTOCK_NAME: the table {wanted['TableName']} stands with other keys than Penstock's."
        )
    changes: list[dict[str, Any]] = []
    if standing.get("BillingModeSummary", {}).get("BillingMode", "PROVISIONED") != wanted["BillingMode"]:
        changes.append({"BillingMode": wanted["BillingMode"]})  # first: an index would have to name its capacity
    changes += [
        {
            "AttributeDefinitions": wanted["AttributeDefinitions"],
            "GlobalSecondaryIndexUpdates": [{"Create": index}],
        }
        for index in wanted["GlobalSecondaryIndexes"]
        if index["IndexName"] not in indexes
    ]
    if standing.get("DeletionProtectionEnabled", False) != wanted["DeletionProtectionEnabled"]:
        changes.append({"DeletionProtectionEnabled": wanted["DeletionProtectionEnabled"]})
    return changes


def _keys(thing: Mapping[str, Any]) -> set[tuple[str, str]]:
    return {(key["AttributeName"], key["KeyType"]) for key in thing["KeySchema"]}


def _differing(wanted: Mapping[str, str], standing: Mapping[str, str]) -> list[str]:
    return [attribute for attribute, value in wanted.items() if not is_same(value, standing.get(attribute))]


def is_same(one: str, other: str | None) -> bool:
    """Whether two values of a queue's attribute mean the same, in whatever order and type their members are written."""
    if other is None or not one.startswith("{"):
        return one == other
    ours, theirs = json.loads(one), json.loads(other)
    return {name: str(value) for name, value in ours.items()} == {name: str(value) for name, value in theirs.items()}


def _check_known(what: str, properties: Mapping[str, Any], known: set[str]) -> None:
    unknown = sorted(set(properties) - known)
    if unknown:
        raise Misconfigured(f"Teach infra/provision.py to make {', '.join(unknown)}: the template says so of {what}.")


def _is_known(call: Callable[[], Any]) -> bool:
    """False where the server does not know what is asked of it."""
    try:
        call()
    except ClientError as error:
        if error_code(error) not in {"InvalidAttributeName", "UnknownOperationException"}:
            raise
        return False
    return True


def _to_text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def main() -> None:
    parser = argparse.ArgumentParser(prog="penstock provision", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--exit-with-parent", type=int, metavar="PID", help="end once PID is not its parent")
    arguments = parser.parse_args()
    if arguments.exit_with_parent is not None:
        end_with_parent(arguments.exit_with_parent)
    try:
        for line in provision(read_settings()):
            print(line)  # noqa: T201 - what this program is asked for
    except PenstockError as error:
        sys.exit(f"penstock provision: {error}")


if __name__ == "__main__":
    main()
