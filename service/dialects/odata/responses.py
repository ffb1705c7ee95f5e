"""Turns outcomes into response objects (section 19.5 of the OData JSON format). Pure."""

from collections.abc import Iterable, Mapping
from typing import Any

from penstock.outcome import Outcome
from penstock.service.dialects.odata.errors import error_of_request
from penstock.service.dialects.odata.request_object import GROUP_END
from penstock.service.schemas import outcome_body

NEXT_LINK = "@odata.nextLink"
_WITHOUT_BODY = frozenset({204, 205})
# OData writes the names of headers in lower case. Microsoft's clients read a body as JSON only with this spelling.
_JSON = {"Content-Type": "application/json"}


def batch_response(outcomes: Iterable[Outcome]) -> dict[str, Any]:
    """Return the answer to a batch that has run."""
    return {"responses": [response_object(outcome_body(outcome)) for outcome in outcomes]}


def response_object(outcome: Mapping[str, Any]) -> dict[str, Any]:
    """Return the response to an individual request. `outcome` is as in the results of a batch."""
    group, _, request_id = outcome["id"].rpartition(GROUP_END)
    response = {"id": request_id, **({"atomicityGroup": group} if group else {}), "status": outcome["status"]}
    if "error" in outcome:
        return {**response, "headers": _JSON, "body": error_of_request(outcome["error"])}
    if outcome["status"] in _WITHOUT_BODY:
        return response
    if "resultMissing" in outcome:  # it was large, and its file is gone. A name with @ is an annotation
        response["@penstock.resultMissing"] = outcome["resultMissing"]
    return {**response, "headers": _JSON, "body": outcome["result"]}
