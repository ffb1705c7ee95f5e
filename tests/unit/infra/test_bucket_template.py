"""The template of the bucket: nothing in it is public, files expire, and its names are those of the code."""

from copy import deepcopy
from typing import Any

import pytest

from penstock.bucket import UPLOADS
from penstock.infra.cloudformation import Document, Stack, read_template
from penstock.infra.provision import BUCKET_TEMPLATE, TEMPLATE
from penstock.large_results import RESULTS
from penstock.settings import DAY_SECONDS, Settings

NEEDED = {"BucketName": "files", "FrontEndRole": "front-end", "ConsumerRole": "consumer"}


@pytest.fixture
def template() -> Document:
    return deepcopy(read_template(BUCKET_TEMPLATE))


def deployed(template: Document, **parameters: str) -> Stack:
    return Stack(template, {**NEEDED, **parameters}, lambda name, attribute: f"<{name}.{attribute}>")


def bucket(template: Document, **parameters: str) -> Any:
    return deployed(template, **parameters).properties("Bucket")


def test_every_parameter_is_described(template: Document) -> None:
    assert [name for name, one in template["Parameters"].items() if "Description" not in one] == []


def test_the_name_of_the_bucket_is_one_that_the_programs_accept(template: Document) -> None:
    assert template["Parameters"]["BucketName"]["AllowedPattern"] in str(Settings.model_fields["bucket"].metadata)


def test_nothing_in_it_is_public(template: Document) -> None:
    assert set(bucket(template)["PublicAccessBlockConfiguration"].values()) == {True}


def test_files_are_encrypted_with_the_key_that_is_named(template: Document) -> None:
    def algorithms(**parameters: str) -> list[str]:
        rules = bucket(template, **parameters)["BucketEncryption"]["ServerSideEncryptionConfiguration"]
        return [rule["ServerSideEncryptionByDefault"]["SSEAlgorithm"] for rule in rules]

    assert algorithms() == ["AES256"]
    assert algorithms(KmsKeyArn="arn:key") == ["aws:kms"]


def test_files_are_kept_for_longer_than_batches(template: Document) -> None:
    rules = bucket(template)["LifecycleConfiguration"]["Rules"]
    days = {rule["Prefix"]: int(rule["ExpirationInDays"]) for rule in rules if "Prefix" in rule}

    assert days.keys() == {UPLOADS, "planning/", RESULTS, "exports/"}
    assert min(days.values()) * DAY_SECONDS > Settings().retention_seconds


def test_parts_that_were_never_finished_are_deleted(template: Document) -> None:
    [rule] = [rule for rule in bucket(template)["LifecycleConfiguration"]["Rules"] if "Prefix" not in rule]

    assert rule["AbortIncompleteMultipartUpload"] == {"DaysAfterInitiation": 1}


def test_the_bucket_outlives_its_stack_unless_its_first_deploy_fails(template: Document) -> None:
    resource = template["Resources"]["Bucket"]

    assert (resource["DeletionPolicy"], resource["UpdateReplacePolicy"]) == ("RetainExceptOnCreate", "Retain")


def test_plain_http_is_denied_for_the_bucket_and_for_its_files(template: Document) -> None:
    policy = deployed(template).properties("EncryptedTransportOnly")

    assert policy["PolicyDocument"]["Statement"] == [
        {
            "Effect": "Deny",
            "Principal": "*",
            "Action": "s3:*",
            "Resource": ["<Bucket.Arn>", "<Bucket.Arn>/*"],
            "Condition": {"Bool": {"aws:SecureTransport": "false"}},
        }
    ]


@pytest.mark.parametrize(("origin", "rules"), [("", None), ("https://app.example.com", ["https://app.example.com"])])
def test_web_pages_upload_only_from_the_origin_that_is_named(
    template: Document, origin: str, rules: list[str] | None
) -> None:
    allowed = bucket(template, UploadOrigin=origin).get("CorsConfiguration")

    assert (None if allowed is None else allowed["CorsRules"][0]["AllowedOrigins"]) == rules


@pytest.mark.parametrize(
    ("policy", "rights"),
    [
        (
            "FrontEndPolicy",
            [
                (
                    ["s3:GetObject", "s3:PutObject", "s3:AbortMultipartUpload"],
                    ["<Bucket.Arn>/uploads/*", "<Bucket.Arn>/exports/*"],
                ),
                ("s3:DeleteObject", "<Bucket.Arn>/uploads/*"),
                (["s3:GetObject", "s3:PutObject"], "<Bucket.Arn>/results/*"),
                ("s3:ListBucket", "<Bucket.Arn>"),
            ],
        ),
        (
            "ConsumerPolicy",
            [
                ("s3:GetObject", "<Bucket.Arn>/uploads/*"),
                ("s3:PutObject", "<Bucket.Arn>/results/*"),
                (["s3:GetObject", "s3:PutObject"], "<Bucket.Arn>/planning/*"),
                ("s3:ListBucket", "<Bucket.Arn>"),
            ],
        ),
    ],
)
def test_programs_reach_only_what_they_need(template: Document, policy: str, rights: list[Any]) -> None:
    statements = deployed(template).properties(policy)["PolicyDocument"]["Statement"]

    assert [(one["Action"], one["Resource"]) for one in statements] == rights


def test_its_parameters_name_roles_of_the_first_stack(template: Document) -> None:
    roles = {name for name in template["Parameters"] if name.endswith("Role")}

    assert roles <= set(read_template(TEMPLATE)["Resources"])
