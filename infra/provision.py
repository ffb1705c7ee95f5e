"""Creates the queues and the table of `template.yaml`, and a bucket, where there is no CloudFormation.

`penstock provision` starts it for the embedded AWS, ElasticMQ and DynamoDB Local. Only resources of the types
AWS::SQS::Queue and AWS::DynamoDB::Table are created. The policy that rejects plain HTTP is left out, too: such servers
offer nothing else. On AWS nothing is created, so that there is only one way to change what runs there.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import boto3
import typer
from botocore.exceptions import ClientError

from penstock.aws.clients import error_code, explained
from penstock.distribution import install_command
from penstock.errors import Misconfigured
from penstock.process import command_line
from penstock.process.command_line import ExitWithParent
from penstock.settings import Settings, read_settings

if TYPE_CHECKING:
    from types_boto3_dynamodb import DynamoDBClient
    from types_boto3_dynamodb.type_defs import TableDescriptionTypeDef
    from types_boto3_s3 import S3Client
    from types_boto3_sqs import SQSClient

    from penstock.infra.cloudformation import Stack

TEMPLATE = Path(__file__).with_name("template.yaml")
BUCKET_TEMPLATE = Path(__file__).with_name("bucket.yaml")
QUEUE, TABLE = "AWS::SQS::Queue", "AWS::DynamoDB::Table"
OF_AWS = (".amazonaws.com", ".amazonaws.com.cn", ".amazonaws.eu", ".api.aws")
TABLE_SECONDS = 120
HOME_REGION = "us-east-1"  # the only region that must not be named when a bucket is created in it

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
_AFTERWARDS = {"TimeToLiveSpecification", "PointInTimeRecoverySpecification"}  # set once the table exists

DEPLOY = """\
Deploy the template with CloudFormation: on AWS it creates the queues, the table and everything that uses them.
  aws cloudformation deploy --stack-name {name} --template-file {template} \\
    --capabilities CAPABILITY_IAM --parameter-overrides Name={name} VpcId=... (infra/README.md has the rest)
This command works on other servers only: set AWS_ENDPOINT_URL, or AWS_ENDPOINT_URL_SQS and \
AWS_ENDPOINT_URL_DYNAMODB, and for a bucket AWS_ENDPOINT_URL_S3."""


@dataclass(frozen=True, slots=True)
class Provisioned:
    """A queue or a table that now exists as the template describes it."""

    line: str  # for the person who started the command
    attributes: Mapping[str, str]  # what other resources of the template can refer to
    unknown: Sequence[str]  # properties of the template that the server does not support


def provision(settings: Settings) -> list[str]:
    """Create or update the queues and the table. Return a line for each, and one for properties without support.

    If `PENSTOCK_BUCKET` is set, create that bucket, too.
    """
    with explained():
        sqs = boto3.client("sqs", region_name=settings.aws_region)
        dynamodb = boto3.client("dynamodb", region_name=settings.aws_region)
        _check_is_not_aws(settings, sqs.meta.endpoint_url, dynamodb.meta.endpoint_url)
        files = [] if settings.bucket is None else [_make_bucket(settings, settings.bucket)]
        provisioned = _make(settings, {QUEUE: Queues(sqs).make, TABLE: Tables(dynamodb).make})
    unknown = sorted({name for one in provisioned for name in one.unknown})
    lines = [*(one.line for one in provisioned), *files]
    return [*lines, f"not known to these servers: {', '.join(unknown)}"] if unknown else lines


def _make_bucket(settings: Settings, name: str) -> str:
    s3 = boto3.client("s3", region_name=settings.aws_region)
    _check_is_not_aws(settings, s3.meta.endpoint_url)
    try:
        s3.head_bucket(Bucket=name)
    except ClientError as error:
        if error_code(error) != "404":
            raise
        _create_bucket(s3, name)
    return f"bucket {name}"


def _create_bucket(s3: "S3Client", name: str) -> None:
    region: Any = s3.meta.region_name
    if region == HOME_REGION:
        s3.create_bucket(Bucket=name)
    else:
        s3.create_bucket(Bucket=name, CreateBucketConfiguration={"LocationConstraint": region})


def _check_is_not_aws(settings: Settings, *urls: str) -> None:
    if any(map(leads_to_aws, urls)):
        raise Misconfigured(DEPLOY.format(name=settings.name, template=TEMPLATE))


def leads_to_aws(url: str) -> bool:
    return str(urlsplit(url).hostname).endswith(OF_AWS)


def _make(settings: Settings, makers: Mapping[str, Callable[[dict[str, Any]], Provisioned]]) -> list[Provisioned]:
    """Make the resources in the template's order: it defines each before another refers to it."""
    made: dict[str, Provisioned] = {}
    stack = read_stack(settings, made)
    for name, resource in stack.resources(*makers).items():
        made[name] = makers[resource["Type"]](stack.properties(name))
    return list(made.values())


def read_stack(settings: Settings, made: Mapping[str, Provisioned]) -> "Stack":
    """Return the template with the parameters that these settings determine. Its other parameters have defaults."""
    try:
        from penstock.infra.cloudformation import NotUnderstood, Stack, read_template  # noqa: PLC0415 - not needed on AWS
    except ModuleNotFoundError as error:
        if error.name != "yaml":
            raise
        raise Misconfigured(f"Install what this command needs: {install_command('local')}.") from error

    def look_up(name: str, attribute: str) -> str:
        try:
            return made[name].attributes[attribute]
        except KeyError as error:
            raise NotUnderstood(f"{attribute} of {name} is used before {name} exists") from error

    parameters = {"Name": settings.name, "VisibilitySeconds": str(settings.visibility_seconds)}
    return Stack(read_template(TEMPLATE), parameters, look_up)


@dataclass(frozen=True, slots=True)
class Queues:
    client: "SQSClient"

    def make(self, properties: dict[str, Any]) -> Provisioned:
        name = properties.pop("QueueName")
        _check_known(f"queue {name}", properties, _QUEUE_ATTRIBUTES)
        wanted = {attribute: _to_text(value) for attribute, value in properties.items()}
        url = self._create(name, wanted)
        existing = self._read(url)
        if differing := _differing(wanted, existing):
            for attribute in differing:
                self._set(url, attribute, wanted[attribute])
            existing = self._read(url)
        attributes = {"Ref": url, "Arn": existing["QueueArn"], "QueueName": name}
        # If an attribute still differs, the server rejected it, or accepted and ignored it.
        return Provisioned(f"queue {url}", attributes, _differing(wanted, existing))

    def _read(self, url: str) -> Mapping[str, str]:
        attributes = self.client.get_queue_attributes(QueueUrl=url, AttributeNames=["All"])["Attributes"]
        return {str(name): value for name, value in attributes.items()}

    def _create(self, name: str, attributes: Any) -> str:
        try:
            return self.client.create_queue(QueueName=name, Attributes=attributes)["QueueUrl"]
        except ClientError as error:
            if error_code(error) not in {"QueueAlreadyExists", "QueueNameExists"}:
                raise
        return self.client.get_queue_url(QueueName=name)["QueueUrl"]  # it exists with other attributes

    def _set(self, url: str, attribute: Any, value: str) -> None:
        _is_known(lambda: self.client.set_queue_attributes(QueueUrl=url, Attributes={attribute: value}))


@dataclass(frozen=True, slots=True)
class Tables:
    client: "DynamoDBClient"

    def make(self, properties: dict[str, Any]) -> Provisioned:
        name = properties["TableName"]
        _check_known(f"table {name}", properties, _TABLE_PROPERTIES | _AFTERWARDS)
        wanted = {one: value for one, value in properties.items() if one in _TABLE_PROPERTIES}
        wanted["DeletionProtectionEnabled"] = _to_text(wanted["DeletionProtectionEnabled"]) == "true"
        table = self._create(wanted)
        for change in changes_of(wanted, table):
            self.client.update_table(TableName=name, **change)
            self._wait(name)
        self._set_time_to_live(name, properties["TimeToLiveSpecification"])
        recovery = "PointInTimeRecoverySpecification"
        unknown = [] if self._set_recovery(name, properties[recovery]) else [recovery]
        return Provisioned(f"table {name}", {"Ref": name, "Arn": table["TableArn"]}, unknown)

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

    def _set_time_to_live(self, name: str, wanted: Any) -> None:
        existing = self.client.describe_time_to_live(TableName=name)["TimeToLiveDescription"]
        if existing.get("TimeToLiveStatus", "DISABLED") == "DISABLED":
            self.client.update_time_to_live(TableName=name, TimeToLiveSpecification=wanted)

    def _set_recovery(self, name: str, wanted: Any) -> bool:
        return _is_known(
            lambda: self.client.update_continuous_backups(TableName=name, PointInTimeRecoverySpecification=wanted)
        )


def changes_of(wanted: Mapping[str, Any], existing: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the arguments of the UpdateTable calls to make, in order.

    Raise Misconfigured if the table differs in something that UpdateTable cannot change.
    """
    indexes = {index["IndexName"]: index for index in existing.get("GlobalSecondaryIndexes", ())}
    pairs = [(wanted, existing)]
    pairs += [
        (one, indexes[one["IndexName"]]) for one in wanted["GlobalSecondaryIndexes"] if one["IndexName"] in indexes
    ]
    if any(_keys(one) != _keys(other) for one, other in pairs):
        raise Misconfigured(
            f"Choose another PENSTOCK_NAME: the table {wanted['TableName']} exists with keys that are not Penstock's."
        )
    changes: list[dict[str, Any]] = []
    if existing.get("BillingModeSummary", {}).get("BillingMode", "PROVISIONED") != wanted["BillingMode"]:
        changes.append(
            {"BillingMode": wanted["BillingMode"]}
        )  # first: in the other mode a new index must name its capacity
    changes += [
        {
            "AttributeDefinitions": wanted["AttributeDefinitions"],
            "GlobalSecondaryIndexUpdates": [{"Create": index}],
        }
        for index in wanted["GlobalSecondaryIndexes"]
        if index["IndexName"] not in indexes
    ]
    if existing.get("DeletionProtectionEnabled", False) != wanted["DeletionProtectionEnabled"]:
        changes.append({"DeletionProtectionEnabled": wanted["DeletionProtectionEnabled"]})
    return changes


def _keys(thing: Mapping[str, Any]) -> set[tuple[str, str]]:
    return {(key["AttributeName"], key["KeyType"]) for key in thing["KeySchema"]}


def _differing(wanted: Mapping[str, str], existing: Mapping[str, str]) -> list[str]:
    return [attribute for attribute, value in wanted.items() if not is_same(value, existing.get(attribute))]


def is_same(one: str, other: str | None) -> bool:
    """Return True if two values of a queue's attribute mean the same.

    In a JSON value, the order of the members and the type of their values do not matter.
    """
    if other is None or not one.startswith("{"):
        return one == other
    ours, theirs = json.loads(one), json.loads(other)
    return {name: str(value) for name, value in ours.items()} == {name: str(value) for name, value in theirs.items()}


def _check_known(what: str, properties: Mapping[str, Any], known: set[str]) -> None:
    unknown = sorted(set(properties) - known)
    if unknown:
        raise Misconfigured(f"Add {', '.join(unknown)} to infra/provision.py: the template sets it on the {what}.")


def _is_known(call: Callable[[], Any]) -> bool:
    """Make the call. Return False if the server does not know the operation or the attribute."""
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
    command_line.run("provision", _provision)


def _provision(exit_with_parent: ExitWithParent = None) -> None:
    """Create the queues, the table and the bucket on servers other than AWS, such as ElasticMQ and DynamoDB Local.

    They are created as infra/template.yaml describes them. The command can be repeated: it updates what exists and
    deletes nothing. Every other type of the template is left out: services, roles, scaling, alarms, dashboard, queue
    policies. On AWS, deploy the template with CloudFormation; the command then prints how.
    """
    command_line.apply_common_options(exit_with_parent=exit_with_parent)
    for line in provision(read_settings()):
        typer.echo(line)


if __name__ == "__main__":
    main()
