"""Nearly all operations are read without Pydantic, but as Pydantic would read them."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from penstock.reading.operation_request import (
    LONGEST_ID,
    LONGEST_KEY,
    LONGEST_PATH,
    OperationRequest,
    read_plain_operation,
)

PLAIN = {"method": "POST", "path": "/users"}
KEYS = st.sampled_from(["a", " ~", "a" * LONGEST_KEY, "a" * (LONGEST_KEY + 1), "a\n", "\x7f", "\x1f", "ü"])
TEXTS = st.sampled_from(["", "/", "/users", "/ü\n", "users", " /", "a" * LONGEST_ID, "/" * (LONGEST_PATH + 1)])
VALUES = st.one_of(st.none(), st.booleans(), st.integers(), st.just([]), st.just({}), st.just(["POST"]), TEXTS)
METHODS = st.sampled_from(["GET", "POST", "PUT", "PATCH", "DELETE", "post", "HEAD"])
DOCUMENTS = st.one_of(
    VALUES,
    st.fixed_dictionaries(
        {},
        optional={
            "id": VALUES,
            "method": st.one_of(METHODS, VALUES),
            "path": TEXTS,
            "body": VALUES,
            "key": st.one_of(KEYS, VALUES),
            "more": VALUES,
        },
    ),
)


@given(DOCUMENTS)
def test_plain_operations_are_read_as_by_pydantic(document: Any) -> None:
    try:
        request = OperationRequest.model_validate(document)
    except ValidationError:
        assert read_plain_operation(document) is None
        return
    as_by_pydantic = (request.method, request.path, request.body, "body" in request.model_fields_set, request.key)
    has_null = None in {document.get("id", ""), document.get("key", "")}
    assert read_plain_operation(document) == (None if has_null else as_by_pydantic)


@pytest.mark.parametrize("id_", ["a" * LONGEST_ID, "1", "ü"])
def test_an_operation_with_an_id_is_plain(id_: str) -> None:
    assert read_plain_operation(PLAIN | {"id": id_}) == ("POST", "/users", None, False, None)


@pytest.mark.parametrize(
    "other",
    [{"id": None}, {"id": ""}, {"id": 1}, {"id": "a" * (LONGEST_ID + 1)}, {"path": "/" * (LONGEST_PATH + 1)}, {"x": 1}],
)
def test_other_operations_are_left_to_pydantic(other: dict[str, Any]) -> None:
    assert read_plain_operation(PLAIN | {"path": "/" * LONGEST_PATH}) is not None
    assert read_plain_operation(PLAIN | other) is None
