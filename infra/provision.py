"""Makes the queues and the table where they are missing: `python -m infra.provision`, or `penstock provision`.

May be repeated: what stands is brought to what is described here, and nothing is ever deleted.
"""

import argparse
import json
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING

import boto3
from botocore.exceptions import ClientError

from penstock.aws import error_code, explained
from penstock.dynamodb import DUE_INDEX
from penstock.errors import PenstockError
from penstock.settings import Settings, read_settings
from penstock.signals import end_with_parent

if TYPE_CHECKING:
    from types_boto3_dynamodb import DynamoDBClient
    from types_boto3_sqs import SQSClient
    from types_boto3_sqs.literals import QueueAttributeNameType

# SQS's own redrive is a backstop, far above our attempts: it catches what kills a consumer before it can say anything.
BACKSTOP_RECEIVES = 100
RETENTION_SECONDS = 14 * 24 * 3600  # the longest that SQS keeps a message


def provision(settings: Settings) -> list[str]:
    """Returns a line for each thing that stands now."""
    with explained():
        sqs = boto3.client("sqs", region_name=settings.aws_region)
        dynamodb = boto3.client("dynamodb", region_name=settings.aws_region)
        dead_letters = _provision_queue(sqs, settings.dead_letter_queue, {})
        redrive = {"deadLetterTargetArn": _arn(sqs, dead_letters), "maxReceiveCount": BACKSTOP_RECEIVES}
        of_chunks: dict[QueueAttributeNameType, str] = {
            "VisibilityTimeout": str(settings.visibility_seconds),
            "RedrivePolicy": json.dumps(redrive),
        }
        chunks = [_provision_queue(sqs, name, of_chunks) for name in settings.chunk_queues.values()]
        table = _provision_table(dynamodb, settings.table)
    return [*(f"queue {url}" for url in chunks), f"queue {dead_letters}", f"table {table}"]


def _provision_queue(sqs: "SQSClient", name: str, own: "Mapping[QueueAttributeNameType, str]") -> str:
    attributes: dict[QueueAttributeNameType, str] = {"MessageRetentionPeriod": str(RETENTION_SECONDS), **own}
    try:
        return sqs.create_queue(QueueName=name, Attributes=attributes)["QueueUrl"]
    except ClientError as error:
        if error_code(error) not in {"QueueAlreadyExists", "QueueNameExists"}:
            raise
    # It stands with other attributes.
    url = sqs.get_queue_url(QueueName=name)["QueueUrl"]
    sqs.set_queue_attributes(QueueUrl=url, Attributes=attributes)
    return url


def _arn(sqs: "SQSClient", url: str) -> str:
    return sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]


def _provision_table(dynamodb: "DynamoDBClient", name: str) -> str:
    try:
        dynamodb.create_table(
            TableName=name,
            BillingMode="PAY_PER_REQUEST",
            KeySchema=[{"AttributeName": "pk", "KeyType": "HASH"}, {"AttributeName": "sk", "KeyType": "RANGE"}],
            AttributeDefinitions=[
                {"AttributeName": "pk", "AttributeType": "S"},
                {"AttributeName": "sk", "AttributeType": "S"},
                {"AttributeName": "open", "AttributeType": "S"},
                {"AttributeName": "due_at", "AttributeType": "N"},
            ],
            GlobalSecondaryIndexes=[
                {
                    # The batches that are not final, by the time at which something must become of them.
                    "IndexName": DUE_INDEX,
                    "KeySchema": [
                        {"AttributeName": "open", "KeyType": "HASH"},
                        {"AttributeName": "due_at", "KeyType": "RANGE"},
                    ],
                    "Projection": {"ProjectionType": "KEYS_ONLY"},
                }
            ],
        )
    except ClientError as error:
        if error_code(error) != "ResourceInUseException":
            raise
    dynamodb.get_waiter("table_exists").wait(TableName=name, WaiterConfig={"Delay": 1, "MaxAttempts": 120})
    standing = dynamodb.describe_time_to_live(TableName=name)["TimeToLiveDescription"]
    if standing.get("TimeToLiveStatus", "DISABLED") == "DISABLED":
        dynamodb.update_time_to_live(
            TableName=name, TimeToLiveSpecification={"Enabled": True, "AttributeName": "expires_at"}
        )
    return name


def main() -> None:
    parser = argparse.ArgumentParser(prog="penstock provision")
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
