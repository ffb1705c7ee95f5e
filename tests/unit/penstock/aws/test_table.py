"""The requests that the table sends to DynamoDB, and what it returns for each answer."""

from typing import Any, cast

import pytest
from botocore.exceptions import ClientError
from types_aiobotocore_dynamodb import DynamoDBClient

from penstock.aws.attributes import number, text
from penstock.aws.table import Blocked, Done, Table
from penstock.errors import RejectedCall, Unavailable

KEY = {"pk": text("a"), "sk": text("b")}
OTHER = {"pk": text("a"), "sk": text("c")}


def client_error(code: str, **rest: Any) -> ClientError:
    response: Any = {"Error": {"Code": code, "Message": "no"}, "ResponseMetadata": {"HTTPStatusCode": 400}, **rest}
    return ClientError(response, "UpdateItem")


class Server:
    """Answers every call with the next of the given answers, and keeps the requests."""

    def __init__(self, *answers: Any) -> None:
        self._answers = list(answers)
        self.requests: list[dict[str, Any]] = []

    async def answer(self, **request: Any) -> Any:
        self.requests.append(request)
        answer = self._answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    get_item = put_item = update_item = query = batch_get_item = answer


def table_of(server: Server) -> Table:
    return Table(cast("DynamoDBClient", server), "penstock")


async def test_conditional_write_that_takes_effect_is_done() -> None:
    server = Server({"Attributes": {"n": number(2)}})
    written = await table_of(server).update_if(
        "#state = :old", KEY, "SET #state = :new, n = :n", {"old": text("x"), "new": text("y"), "n": number(2)}
    )
    assert written == Done({"n": number(2)})
    assert server.requests == [
        {
            "TableName": "penstock",
            "Key": KEY,
            "UpdateExpression": "SET #state = :new, n = :n",
            "ConditionExpression": "#state = :old",
            "ExpressionAttributeNames": {"#state": "state"},
            "ExpressionAttributeValues": {":old": text("x"), ":new": text("y"), ":n": number(2)},
        }
    ]


async def test_conditional_write_returns_what_blocked_it() -> None:
    item = {**KEY, "state": text("z")}
    server = Server(client_error("ConditionalCheckFailedException", Item=item))
    assert await table_of(server).put_if("attribute_not_exists(pk)", KEY, return_blocker=True) == Blocked(item)
    assert server.requests == [
        {
            "TableName": "penstock",
            "Item": KEY,
            "ConditionExpression": "attribute_not_exists(pk)",
            "ReturnValuesOnConditionCheckFailure": "ALL_OLD",
        }
    ]


async def test_write_that_is_blocked_by_a_missing_item_has_no_blocker() -> None:
    server = Server(client_error("ConditionalCheckFailedException"))
    assert await table_of(server).put_if("attribute_exists(pk)", KEY, return_blocker=True) == Blocked({})


@pytest.mark.parametrize(
    ("code", "raised"), [("ThrottlingException", Unavailable), ("ValidationException", RejectedCall)]
)
async def test_every_other_error_is_raised(code: str, raised: type[Exception]) -> None:
    with pytest.raises(raised):
        await table_of(Server(client_error(code))).put_if("attribute_not_exists(pk)", KEY)


async def test_query_asks_for_few_items_first_and_reads_all_pages() -> None:
    server = Server({"Items": [{"n": number(1)}], "LastEvaluatedKey": KEY}, {"Items": [{"n": number(2)}]})
    found = [item async for item in table_of(server).query("a", "b", "c", first_items=1)]
    assert found == [{"n": number(1)}, {"n": number(2)}]
    assert [request.get("Limit") for request in server.requests] == [1, None]
    assert [request.get("ExclusiveStartKey") for request in server.requests] == [None, KEY]


async def test_keys_that_were_not_processed_are_asked_for_again_after_a_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)

    monkeypatch.setattr("penstock.aws.table.asyncio.sleep", sleep)
    rest = {"penstock": {"Keys": [KEY], "ConsistentRead": True}}
    server = Server(
        {"Responses": {"penstock": [{**OTHER, "n": number(1)}]}, "UnprocessedKeys": rest},
        {"Responses": {"penstock": [{**KEY, "n": number(2)}]}},
    )
    assert await table_of(server).get_many([KEY, OTHER], "n") == [{**OTHER, "n": number(1)}, {**KEY, "n": number(2)}]
    assert server.requests[0]["RequestItems"]["penstock"]["ProjectionExpression"] == "pk, sk, n"
    assert server.requests[1] == {"RequestItems": rest}
    assert len(pauses) == 1
    assert 0 < pauses[0] <= 0.05


async def test_item_that_must_exist_is_not_left_out_silently() -> None:
    with pytest.raises(LookupError, match="The table penstock has lost the item"):
        await table_of(Server({})).get_existing(KEY)


async def test_answer_without_its_items_is_an_error_that_may_pass() -> None:
    with pytest.raises(Unavailable, match="no Responses"):
        await table_of(Server({})).get_many([KEY])
    with pytest.raises(Unavailable, match="no Items"):
        _ = [item async for item in table_of(Server({})).query("a", "0", "~")]
