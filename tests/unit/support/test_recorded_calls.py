"""What is recorded of a program's AWS call."""

import pytest

from tests.support.recorded_calls import Call, read_call

SEND = b'{"QueueUrl": "http://127.0.0.1:1/123456789012/test-0a1b2c3d-chunks-normal", "Entries": [{"TableName": "no"}]}'
INDEX = b'{"TableName": "test-0a1b2c3d", "IndexName": "due", "KeyConditionExpression": "pk = :pk"}'


def authorization(key: str) -> str:
    return f"AWS4-HMAC-SHA256 Credential={key}/20261123/us-east-1/sqs/aws4_request, SignedHeaders=host, Signature=0"


@pytest.mark.parametrize(
    ("path", "target", "body", "action", "resource"),
    [
        ("/", "AmazonSQS.SendMessageBatch", SEND, "sqs:SendMessage", "-chunks-normal"),
        ("/", "AmazonSQS.GetQueueUrl", b'{"QueueName":"penstock-dead-letters"}', "sqs:GetQueueUrl", "-dead-letters"),
        ("/", "AmazonSQS.ListQueues", b"{}", "sqs:ListQueues", "*"),
        ("/", "DynamoDB_20120810.PutItem", b'{"TableName":"test-0a1b2c3d"}', "dynamodb:PutItem", ""),
        ("/", "DynamoDB_20120810.Query", INDEX, "dynamodb:Query", "/index/due"),
        ("/", "DynamoDB_20120810.BatchGetItem", b'{"RequestItems": {"test-0a1b2c3d": 1}}', "dynamodb:BatchGetItem", ""),
        ("/", "DynamoDB_20120810.PutItem", b'{"TableName":"other"}', "dynamodb:PutItem", "other"),
        ("/service/GraniteServiceVersion20100801/operation/PutMetricData", "", b"", "cloudwatch:PutMetricData", "*"),
        ("/bucket/picture.png", "", b"", "/bucket/picture.png:?", "*"),
    ],
)
def test_call_of_a_program(path: str, target: str, body: bytes, action: str, resource: str) -> None:
    headers = {"Authorization": authorization("service"), "X-Amz-Target": target}
    assert read_call(path, headers, body) == Call("service", action, resource)


@pytest.mark.parametrize("key", ["test", "local", "AKIA"])
def test_call_of_anyone_else_is_not_recorded(key: str) -> None:
    headers = {"Authorization": authorization(key), "X-Amz-Target": "AmazonSQS.SendMessageBatch"}
    assert read_call("/", headers, SEND) is None


def test_call_without_a_signature_is_not_recorded() -> None:
    assert read_call("/moto-api/reset", {}, b"") is None
