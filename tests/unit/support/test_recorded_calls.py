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
    assert read_call("POST", path, headers, body) == Call("service", action, resource)


@pytest.mark.parametrize("key", ["test", "local", "AKIA"])
def test_call_of_anyone_else_is_not_recorded(key: str) -> None:
    headers = {"Authorization": authorization(key), "X-Amz-Target": "AmazonSQS.SendMessageBatch"}
    assert read_call("POST", "/", headers, SEND) is None


OF_S3 = "AWS4-HMAC-SHA256 Credential=service/20261123/us-east-1/s3/aws4_request, SignedHeaders=host, Signature=0"
FORM = (
    b'--x\r\nContent-Disposition: form-data; name="key"\r\n\r\nuploads/acme/1\r\n'
    b'--x\r\nContent-Disposition: form-data; name="x-amz-credential"\r\n\r\nservice/20261123/us-east-1/s3/x\r\n'
)


@pytest.mark.parametrize(
    ("method", "query", "action"),
    [
        ("GET", "", "s3:GetObject"),
        ("HEAD", "", "s3:GetObject"),
        ("PUT", "", "s3:PutObject"),
        ("POST", "?uploads", "s3:PutObject"),
        ("PUT", "?partNumber=1&uploadId=x", "s3:PutObject"),
        ("DELETE", "", "s3:DeleteObject"),
        ("DELETE", "?uploadId=x", "s3:AbortMultipartUpload"),
    ],
)
def test_call_about_a_file(method: str, query: str, action: str) -> None:
    call = read_call(method, f"/bucket/uploads/acme/1{query}", {"Authorization": OF_S3}, b"")
    assert call == Call("service", action, "/uploads/*")


def test_question_whether_the_bucket_exists() -> None:
    assert read_call("HEAD", "/bucket", {"Authorization": OF_S3}, b"") == Call("service", "s3:ListBucket", "")


@pytest.mark.parametrize("slash", ["/", "%2F"])
def test_download_from_a_signed_url_needs_the_permission_of_the_program_that_signed_it(slash: str) -> None:
    url = f"/bucket/exports/acme/1?X-Amz-Credential=service{slash}20261123{slash}us-east-1&X-Amz-Signature=0"
    assert read_call("GET", url, {}, b"") == Call("service", "s3:GetObject", "/exports/*")
    assert read_call("GET", url.replace("service", "test"), {}, b"") is None


def test_upload_of_a_client_needs_the_permission_of_the_program_that_signed_its_form() -> None:
    headers = {"Content-Type": "multipart/form-data; boundary=x"}
    assert read_call("POST", "/bucket", headers, FORM) == Call("service", "s3:PutObject", "/uploads/*")


def test_upload_with_a_form_of_a_test_is_not_recorded() -> None:
    headers = {"Content-Type": "multipart/form-data; boundary=x"}
    assert read_call("POST", "/bucket", headers, FORM.replace(b"service", b"test")) is None
    assert read_call("POST", "/bucket", headers, b"") is None


def test_call_without_a_signature_is_not_recorded() -> None:
    assert read_call("POST", "/moto-api/reset", {}, b"") is None
