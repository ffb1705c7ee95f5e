"""The words that describe an endpoint: its parameters, its body and its answers."""

from collections.abc import Sequence

from penstock.service.content import JSON
from penstock.service.openapi.values import Fragment, ref
from penstock.service.request_ids import HEADER as HEADER_OF_REQUEST_ID

REJECTED = (403, 421)  # by every endpoint for operators


def endpoint(
    operation_id: str,
    summary: str,
    answers: Fragment,
    parameters: Sequence[str] = (),
    *,
    body: str | None = None,
    needs_body: bool = True,
) -> Fragment:
    described: Fragment = {"operationId": operation_id, "summary": summary, "responses": answers}
    if parameters:
        described["parameters"] = [{"$ref": f"#/components/parameters/{name}"} for name in parameters]
    if body is not None:
        described.setdefault("parameters", []).append({"$ref": "#/components/parameters/Content-Encoding"})
        described["requestBody"] = {"required": needs_body, "content": {JSON: {"schema": ref(body)}}}
    return described


def batch_answers(status: int, schema: str, *errors: int) -> Fragment:
    return answers_of(status, schema, 400, 404, *errors, 503)


def answers_of(status: int, schema: str, *errors: int) -> Fragment:
    return {str(status): answer(f"{schema}.", {JSON: ref(schema)}), **problems(*errors)}


def problems(*errors: int) -> Fragment:
    return {str(error): {"$ref": f"#/components/responses/{error}"} for error in errors}


def answer(description: str, contents: Fragment, *headers: str) -> Fragment:
    content = {kind: {"schema": schema} for kind, schema in contents.items()}
    described: Fragment = {"description": description, "content": content, "headers": {}}
    add_headers(described, HEADER_OF_REQUEST_ID, *headers)
    return described


def add_headers(answer: Fragment, *names: str) -> None:
    answer["headers"] |= {name: {"$ref": f"#/components/headers/{name}"} for name in names}
