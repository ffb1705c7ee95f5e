"""The embedded S3 stores objects as they come, holds a presigned POST to its policy, forgets what is overwritten."""

import json
import re
import secrets
from base64 import b64decode, b64encode
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import aiohttp
import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError
from moto.s3 import models as moto_s3

from tests.support.aws import Aws

if TYPE_CHECKING:
    from types_boto3_s3 import S3Client

ANY_BYTES = bytes(range(256)) * 40
LEAST, MOST = 4, 12

pytestmark = pytest.mark.parametrize("aws", ["embedded"], indirect=True)


@pytest.fixture
def s3(aws: Aws) -> Iterator["S3Client"]:
    client: S3Client = boto3.client(
        "s3",
        endpoint_url=aws.environment["AWS_ENDPOINT_URL"],
        region_name="us-east-1",
        aws_access_key_id="any",
        aws_secret_access_key="any",
        config=Config(signature_version="s3v4", retries={"mode": "standard", "total_max_attempts": 1}),
    )
    yield client
    client.close()


@pytest.fixture
def bucket(s3: "S3Client") -> str:
    name = f"bucket-{secrets.token_hex(4)}"
    s3.create_bucket(Bucket=name)
    return name


@pytest.mark.parametrize("key", ["plain", "in/some/folder.png", "spaces & + % = ü.png"])
@pytest.mark.parametrize("content", [ANY_BYTES, b"", b"{&Action=DeleteQueue&", b"a=b&key=c", b"x" * 3_000_000])
def test_an_object_is_read_as_it_was_written(s3: "S3Client", bucket: str, key: str, content: bytes) -> None:
    s3.put_object(Bucket=bucket, Key=key, Body=content, ContentType="image/png")

    answer = s3.get_object(Bucket=bucket, Key=key)

    assert answer["Body"].read() == content
    assert (answer["ContentLength"], answer["ContentType"]) == (len(content), "image/png")
    assert [each["Key"] for each in s3.list_objects_v2(Bucket=bucket)["Contents"]] == [key]


def test_what_is_not_there_is_said_to_be_missing(s3: "S3Client", bucket: str) -> None:
    with pytest.raises(s3.exceptions.NoSuchKey):
        s3.get_object(Bucket=bucket, Key="nothing")
    with pytest.raises(s3.exceptions.NoSuchBucket):
        s3.get_object(Bucket=f"not-{bucket}", Key="nothing")
    with pytest.raises(ClientError, match="404"):
        s3.head_bucket(Bucket=f"not-{bucket}")


async def test_a_presigned_get_needs_no_credentials(s3: "S3Client", bucket: str) -> None:
    s3.put_object(Bucket=bucket, Key="a.png", Body=ANY_BYTES, ContentType="image/png")
    url = s3.generate_presigned_url("get_object", Params={"Bucket": bucket, "Key": "a.png"})

    async with aiohttp.ClientSession() as session, session.get(url) as answer:
        assert (answer.status, await answer.read(), answer.content_type) == (200, ANY_BYTES, "image/png")


@pytest.mark.parametrize("size", [LEAST, MOST])
async def test_an_upload_that_keeps_to_its_policy_is_stored(s3: "S3Client", bucket: str, size: int) -> None:
    offer = presigned_post(s3, bucket)

    answer = await post(offer["url"], offer["fields"], ANY_BYTES[-size:])

    assert answer == (204, "")
    assert s3.get_object(Bucket=bucket, Key="in/a.png")["Body"].read() == ANY_BYTES[-size:]


@pytest.mark.parametrize(
    ("changes", "size", "refusal"),
    [
        ({}, LEAST - 1, (400, "EntityTooSmall")),
        ({}, MOST + 1, (400, "EntityTooLarge")),
        ({"key": "in/b.png"}, MOST, (403, "AccessDenied")),  # another place
        ({"kind": "text"}, MOST, (403, "AccessDenied")),  # does not begin as it should
        ({"acl": "public-read"}, MOST, (403, "AccessDenied")),  # a field that the policy does not know
        ({"Content-Type": "text/html"}, MOST, (403, "AccessDenied")),  # another of these
        ({"policy": b64encode(b"{}").decode()}, MOST, (400, "InvalidPolicyDocument")),
        ({"policy": "!"}, MOST, (400, "InvalidPolicyDocument")),
    ],
)
async def test_an_upload_that_breaks_its_policy_is_refused(
    s3: "S3Client", bucket: str, changes: Mapping[str, str], size: int, refusal: tuple[int, str]
) -> None:
    offer = presigned_post(s3, bucket)

    status, said = await post(offer["url"], {**offer["fields"], **changes}, ANY_BYTES[:size])

    assert (status, re.findall("<Code>(.*)</Code>", said)) == (refusal[0], [refusal[1]])
    assert s3.list_objects_v2(Bucket=bucket)["KeyCount"] == 0


async def test_an_upload_that_comes_too_late_is_refused(s3: "S3Client", bucket: str) -> None:
    offer = presigned_post(s3, bucket)
    policy = json.loads(b64decode(offer["fields"]["policy"]))
    policy["expiration"] = (datetime.now(UTC) - timedelta(seconds=1)).isoformat()

    status, said = await post(offer["url"], {**offer["fields"], "policy": as_policy(policy)}, ANY_BYTES[:MOST])

    assert status == 403
    assert "Policy expired" in said


def test_what_is_overwritten_is_let_go(s3: "S3Client", bucket: str) -> None:
    for content in (ANY_BYTES, b"newer"):
        s3.put_object(Bucket=bucket, Key="a", Body=content)

    tracked = vars(moto_s3.FakeKey)["instances_tracked"]

    assert tracked == [], "moto keeps every object it ever made"


def presigned_post(s3: "S3Client", bucket: str) -> dict[str, Any]:
    conditions: list[Any] = [["content-length-range", LEAST, MOST], ["starts-with", "$kind", "image"]]
    return s3.generate_presigned_post(bucket, "in/a.png", Fields={"kind": "images"}, Conditions=conditions)


def as_policy(policy: Mapping[str, Any]) -> str:
    return b64encode(json.dumps(policy).encode()).decode()


async def post(url: str, fields: Mapping[str, str], content: bytes) -> tuple[int, str]:
    form = aiohttp.FormData(fields)
    form.add_field("file", content, filename="any.png")
    async with aiohttp.ClientSession() as session, session.post(url, data=form) as answer:
        return answer.status, await answer.text()
