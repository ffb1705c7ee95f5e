"""A role that lacks what was called, or grants what never was, is found."""

import copy

import pytest

from penstock.infra.cloudformation import Document, NotUnderstood, read_template
from penstock.infra.provision import BUCKET_TEMPLATE, TEMPLATE
from tests.support.recorded_calls import Call
from tests.support.roles import compare, granted, granted_in_bucket, left_out

SEND = Call("service", "sqs:SendMessage", "-chunks-normal")
QUERY = Call("consumer", "dynamodb:Query", "/index/due")


def test_grants_are_read_from_the_template() -> None:
    grants = granted(read_template(TEMPLATE))
    assert {SEND, QUERY, Call("consumer", "dynamodb:PutItem", "")} <= grants
    assert Call("service", "cloudwatch:PutMetricData", "*") in grants
    assert {call.program for call in grants} == {"service", "consumer"}


def test_grants_in_the_bucket_are_read_from_its_template() -> None:
    granted = {
        "service": {
            "": {"s3:ListBucket"},
            "/uploads/*": {"s3:GetObject", "s3:PutObject", "s3:AbortMultipartUpload", "s3:DeleteObject"},
            "/exports/*": {"s3:GetObject", "s3:PutObject", "s3:AbortMultipartUpload"},
            "/results/*": {"s3:GetObject", "s3:PutObject"},
        },
        "consumer": {
            "": {"s3:ListBucket"},
            "/uploads/*": {"s3:GetObject"},
            "/results/*": {"s3:PutObject"},
            "/planning/*": {"s3:GetObject", "s3:PutObject"},
        },
    }
    assert granted_in_bucket(read_template(BUCKET_TEMPLATE)) == {
        Call(program, action, folder)
        for program, folders in granted.items()
        for folder, actions in folders.items()
        for action in actions
    }


@pytest.mark.parametrize("role", ["FrontEndRole", "ConsumerRole"])
def test_refusal_is_not_taken_for_a_grant(role: str) -> None:
    template = copy.deepcopy(read_template(TEMPLATE))
    template["Resources"][role]["Properties"]["Policies"][0]["PolicyDocument"]["Statement"][0]["Effect"] = "Deny"
    with pytest.raises(NotUnderstood, match=f"{role}: teach .* to read Deny"):
        granted(template)


def test_what_is_not_compared_is_known() -> None:
    """The embedded AWS encrypts nothing, and knows no ECS that starts programs: nobody calls these in a test."""
    assert left_out(read_template(TEMPLATE)) == {
        ("FrontEndRole", "key", "kms:Decrypt"),
        ("FrontEndRole", "key", "kms:GenerateDataKey"),
        ("ConsumerRole", "key", "kms:Decrypt"),
        ("ConsumerRole", "key", "kms:GenerateDataKey"),
        ("ExecutionRole", "start", "ecr:GetAuthorizationToken"),
        ("ExecutionRole", "start", "ecr:BatchCheckLayerAvailability"),
        ("ExecutionRole", "start", "ecr:GetDownloadUrlForLayer"),
        ("ExecutionRole", "start", "ecr:BatchGetImage"),
        ("ExecutionRole", "start", "logs:CreateLogStream"),
        ("ExecutionRole", "start", "logs:PutLogEvents"),
        ("ExecutionRole", "environment", "s3:GetObject"),
        ("ExecutionRole", "environment", "s3:GetBucketLocation"),
        ("ExecutionRole", "secret", "secretsmanager:GetSecretValue"),
        ("ExecutionRole", "operator-key", "secretsmanager:GetSecretValue"),
    }


def without_first_statement(role: str) -> Document:
    template = copy.deepcopy(read_template(TEMPLATE))
    del template["Resources"][role]["Properties"]["Policies"][0]["PolicyDocument"]["Statement"][0]
    return template


def test_call_that_a_role_lacks_is_told_in_any_run() -> None:
    lacking = granted(without_first_statement("FrontEndRole"))
    told = compare({SEND}, lacking, is_whole_run=False)
    assert told == ["FrontEndRole lacks sqs:SendMessage on NAME-chunks-normal, which was called"]


def test_grant_that_is_never_used_is_told_of_a_whole_run_alone() -> None:
    assert compare({SEND}, {SEND, QUERY}, is_whole_run=False) == []
    told = compare({SEND}, {SEND, QUERY}, is_whole_run=True)
    assert told == ["ConsumerRole grants dynamodb:Query on NAME/index/due, which no test has called"]


def test_grant_that_only_errors_need_may_be_unused() -> None:
    drop = Call("service", "s3:AbortMultipartUpload", "/exports/*")
    assert compare({SEND}, {SEND, drop}, is_whole_run=True) == []
    assert compare({SEND, drop}, {SEND}, is_whole_run=True) == [
        "FrontEndRole lacks s3:AbortMultipartUpload on NAME/exports/*, which was called"
    ]


def test_roles_that_grant_what_was_called_are_right() -> None:
    assert compare({SEND, QUERY}, {SEND, QUERY}, is_whole_run=True) == []
