"""What stands after `penstock provision` is what the template says, property by property, on each server."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import boto3
import pytest
from botocore.exceptions import ClientError

from penstock.errors import Misconfigured
from penstock.infra.provision import QUEUE, TABLE, Provisioned, changes_of, is_same, provision, read_stack
from penstock.settings import Settings
from tests.conftest import MakeSettings
from tests.support.aws import Aws

if TYPE_CHECKING:
    from types_boto3_dynamodb import DynamoDBClient
    from types_boto3_sqs import SQSClient

# What a server cannot show, and why; a test below fails once it can.
NOT_SHOWN: Mapping[str, Mapping[str, str]] = {
    "embedded": {},
    "real": {
        "MaximumMessageSize": "ElasticMQ takes it, and keeps to its own limit, which is the same.",
        "MessageRetentionPeriod": "ElasticMQ takes it, and forgets it as it never forgets a message.",
        "SqsManagedSseEnabled": "ElasticMQ keeps messages as they are, and does not know the attribute.",
        "PointInTimeRecoverySpecification": "DynamoDB Local has no backups, and does not know the call.",
    },
}


@dataclass(frozen=True, slots=True)
class Ground:
    settings: Settings
    sqs: "SQSClient"
    dynamodb: "DynamoDBClient"

    def described(self) -> dict[str, dict[str, Any]]:
        """What the template says of each queue and table, with the ARNs that these servers gave."""
        stack = read_stack(self.settings, {"DeadLetters": Provisioned("", {"Arn": self._arn("dead-letters")}, ())})
        return {name: stack.properties(name) for name in stack.resources(QUEUE, TABLE)}

    def standing(self, name: str) -> dict[str, Any]:
        described = self.described()[name]
        return self._queue(described["QueueName"]) if "QueueName" in described else self._table(described["TableName"])

    def _arn(self, name: str) -> str:
        return str(self._queue(f"{self.settings.name}-{name}")["QueueArn"])

    def _queue(self, name: str) -> dict[str, Any]:
        url = self.sqs.get_queue_url(QueueName=name)["QueueUrl"]
        attributes = self.sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["All"])["Attributes"]
        return {"QueueName": url.rpartition("/")[2], **{str(one): value for one, value in attributes.items()}}

    def _table(self, name: str) -> dict[str, Any]:
        table: dict[str, Any] = {**self.dynamodb.describe_table(TableName=name)["Table"]}
        forgetting = self.dynamodb.describe_time_to_live(TableName=name)["TimeToLiveDescription"]
        indexes = [
            {part: index[part] for part in ("IndexName", "KeySchema", "Projection")}
            for index in table["GlobalSecondaryIndexes"]
        ]
        return {
            **table,
            "BillingMode": table["BillingModeSummary"]["BillingMode"],
            "GlobalSecondaryIndexes": indexes,
            "TimeToLiveSpecification": {
                "AttributeName": forgetting.get("AttributeName"),
                "Enabled": forgetting["TimeToLiveStatus"] == "ENABLED",
            },
            "PointInTimeRecoverySpecification": self._recovery(name),
        }

    def _recovery(self, name: str) -> dict[str, bool] | None:
        try:
            backups = self.dynamodb.describe_continuous_backups(TableName=name)["ContinuousBackupsDescription"]
        except ClientError:
            return None
        status = backups["PointInTimeRecoveryDescription"]["PointInTimeRecoveryStatus"]
        return {"PointInTimeRecoveryEnabled": status == "ENABLED"}


@pytest.fixture
def ground(make_settings: MakeSettings) -> Iterator[Ground]:
    settings = make_settings(visibility_seconds=77)
    region = settings.aws_region
    sqs, dynamodb = boto3.client("sqs", region_name=region), boto3.client("dynamodb", region_name=region)
    yield Ground(settings, sqs, dynamodb)
    sqs.close()
    dynamodb.close()


def means_the_same(wanted: Any, standing: Any) -> bool:
    """Parameters come as text, servers answer in text or in types of their own, and lists of keys in any order."""
    match wanted, standing:
        case list(), list():
            return len(wanted) == len(standing) and all(one in standing for one in wanted)
        case {"deadLetterTargetArn": _}, str():
            return is_same(json.dumps(wanted), standing)
        case dict(), _:
            return bool(wanted == standing)
    return str(wanted).lower() == str(standing).lower()


def test_every_property_stands_as_the_template_says(aws: Aws, ground: Ground) -> None:
    provision(ground.settings)

    for name, properties in ground.described().items():
        standing = ground.standing(name)
        for one, wanted in properties.items():
            if one not in NOT_SHOWN[aws.kind]:
                assert means_the_same(wanted, standing.get(one)), (name, one, wanted, standing.get(one))


def test_what_is_listed_as_not_shown_is_really_not_shown_and_said(aws: Aws, ground: Ground) -> None:
    lines = provision(ground.settings)

    for one in NOT_SHOWN[aws.kind]:
        shown = [
            means_the_same(properties[one], ground.standing(name).get(one))
            for name, properties in ground.described().items()
            if one in properties
        ]
        assert shown
        assert not any(shown), one
    said = [line.partition(": ")[2] for line in lines if line.startswith("not known to these servers: ")]
    assert said == ([", ".join(sorted(NOT_SHOWN[aws.kind]))] if NOT_SHOWN[aws.kind] else [])


def test_a_queue_and_a_table_that_differ_are_brought_to_the_template(aws: Aws, ground: Ground) -> None:
    name = ground.settings.name
    ground.sqs.create_queue(QueueName=f"{name}-chunks-low", Attributes={"MessageRetentionPeriod": "3600"})
    key: Any = [{"AttributeName": "pk", "KeyType": "HASH"}, {"AttributeName": "sk", "KeyType": "RANGE"}]
    types: Any = [{"AttributeName": "pk", "AttributeType": "S"}, {"AttributeName": "sk", "AttributeType": "S"}]
    ground.dynamodb.create_table(
        TableName=name,
        KeySchema=key,
        AttributeDefinitions=types,
        ProvisionedThroughput={"ReadCapacityUnits": 1, "WriteCapacityUnits": 1},
    )

    provision(ground.settings)

    for resource in ("ChunksLow", "Table"):
        standing = ground.standing(resource)
        for one, wanted in ground.described()[resource].items():
            if one not in NOT_SHOWN[aws.kind]:
                assert means_the_same(wanted, standing.get(one)), (resource, one, wanted, standing.get(one))


def test_a_table_of_somebody_else_is_left_alone(ground: Ground) -> None:
    key: Any = [{"AttributeName": "id", "KeyType": "HASH"}]
    types: Any = [{"AttributeName": "id", "AttributeType": "S"}]
    name = ground.settings.name
    ground.dynamodb.create_table(
        TableName=name, KeySchema=key, AttributeDefinitions=types, BillingMode="PAY_PER_REQUEST"
    )
    before = ground.dynamodb.describe_table(TableName=name)["Table"]

    with pytest.raises(Misconfigured, match="Choose another PENSTOCK_NAME"):
        provision(ground.settings)

    assert ground.dynamodb.describe_table(TableName=name)["Table"] == before


def test_nothing_is_changed_where_all_stands(ground: Ground) -> None:
    provision(ground.settings)
    wanted = ground.described()["Table"]
    wanted["DeletionProtectionEnabled"] = True

    assert changes_of(wanted, ground.dynamodb.describe_table(TableName=ground.settings.name)["Table"]) == []
