"""What provisioning decides before it calls anybody."""

import sys
from typing import Any

import pytest

from penstock.errors import Misconfigured
from penstock.infra.provision import Queues, Tables, changes_of, is_same, leads_to_aws, read_stack
from penstock.settings import Settings

KEYS = [{"AttributeName": "pk", "KeyType": "HASH"}, {"AttributeName": "sk", "KeyType": "RANGE"}]
INDEX = {"IndexName": "due", "KeySchema": [{"AttributeName": "open", "KeyType": "HASH"}]}
WANTED: dict[str, Any] = {
    "TableName": "shop",
    "BillingMode": "PAY_PER_REQUEST",
    "AttributeDefinitions": [],
    "KeySchema": KEYS,
    "GlobalSecondaryIndexes": [INDEX],
    "DeletionProtectionEnabled": True,
}
STANDING: dict[str, Any] = {
    "KeySchema": KEYS,
    "GlobalSecondaryIndexes": [{**INDEX, "IndexStatus": "ACTIVE"}],
    "BillingModeSummary": {"BillingMode": "PAY_PER_REQUEST"},
    "DeletionProtectionEnabled": True,
}


@pytest.mark.parametrize(
    ("changed", "calls"),
    [
        ({}, []),
        ({"KeySchema": list(reversed(KEYS))}, []),  # in any order
        ({"DeletionProtectionEnabled": False}, [{"DeletionProtectionEnabled": True}]),
        ({"BillingModeSummary": {}}, [{"BillingMode": "PAY_PER_REQUEST"}]),  # provisioned ones do not say so
        (
            {"GlobalSecondaryIndexes": []},
            [{"AttributeDefinitions": [], "GlobalSecondaryIndexUpdates": [{"Create": INDEX}]}],
        ),
    ],
)
def test_a_table_is_changed_where_it_differs(changed: dict[str, Any], calls: list[dict[str, Any]]) -> None:
    assert changes_of(WANTED, {**STANDING, **changed}) == calls


@pytest.mark.parametrize(
    "changed", [{"KeySchema": KEYS[:1]}, {"GlobalSecondaryIndexes": [{**INDEX, "KeySchema": KEYS}]}]
)
def test_a_table_with_other_keys_is_refused(changed: dict[str, Any]) -> None:
    with pytest.raises(Misconfigured, match="Choose another PENSTOCK_NAME: the table shop"):
        changes_of(WANTED, {**STANDING, **changed})


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("60", "60", True),
        ("60", "61", False),
        ("60", None, False),
        ('{"a": "x", "b": 100}', '{"b":"100","a":"x"}', True),  # ElasticMQ and moto write it as they like
        ('{"a": "x", "b": 100}', '{"b":"10","a":"x"}', False),
        ('{"a": "x"}', None, False),
    ],
)
def test_values_are_compared_by_what_they_mean(one: str, other: str | None, same: bool) -> None:
    assert is_same(one, other) == same


@pytest.mark.parametrize(
    ("url", "leads"),
    [
        ("https://sqs.eu-central-1.amazonaws.com", True),
        ("https://sqs.cn-north-1.amazonaws.com.cn", True),
        ("https://dynamodb.eu-central-1.api.aws", True),
        ("https://vpce-1-2.sqs.us-east-1.vpce.amazonaws.com", True),
        ("http://127.0.0.1:9324", False),
        ("http://elasticmq:9324", False),
        ("http://amazonaws.com.example:9324", False),
    ],
)
def test_it_knows_aws_by_its_name(url: str, leads: bool) -> None:
    assert leads_to_aws(url) == leads


def test_what_it_cannot_make_it_refuses_before_it_makes_anything() -> None:
    nobody: Any = object()  # a call of any kind would fail

    with pytest.raises(Misconfigured, match=r"Add FifoQueue to infra/provision\.py: .* on the queue shop"):
        Queues(nobody).make({"QueueName": "shop", "FifoQueue": True})
    with pytest.raises(Misconfigured, match=r"Add TableClass to infra/provision\.py: .* on the table shop"):
        Tables(nobody).make({"TableName": "shop", "TableClass": "STANDARD"})


def test_without_the_reader_of_yaml_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "penstock.infra.cloudformation", raising=False)
    monkeypatch.setitem(sys.modules, "yaml", None)

    with pytest.raises(Misconfigured, match=r"pip install 'penstock-bulk\[local\]'"):
        read_stack(Settings(), {})
