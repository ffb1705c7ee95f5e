"""Rejects answers that are not from AWS, such as the page of a proxy with status 200.

AWS's client library reads whatever is not JSON as an empty answer: a receive that found nothing, or a delete that
worked. Here it is an error that may pass.
"""

from typing import Any

from aiobotocore.parsers import AioJSONParser, AioResponseParserFactory
from botocore.parsers import ResponseParserError

_FIRST_ERROR_STATUS = 301  # from this status on, the library reads an answer as an error
# What the library raises while it reads JSON of another form.
_WRONG_FORM = (AttributeError, KeyError, TypeError, ValueError)


class StrictParsers(AioResponseParserFactory):  # type: ignore[misc]
    """Creates the parsers of a session. Those of DynamoDB and SQS are strict."""

    def create_parser(self, protocol_name: str) -> Any:
        if protocol_name == "json":
            return _StrictJsonParser(**self._defaults)
        return super().create_parser(protocol_name)


class _StrictJsonParser(AioJSONParser):  # type: ignore[misc]
    async def parse(self, response: dict[str, Any], shape: Any) -> Any:
        try:
            parsed = await super().parse(response, shape)
        except _WRONG_FORM as error:
            raise ResponseParserError(f"not in the form of AWS ({error!r})") from error
        if response["status_code"] < _FIRST_ERROR_STATUS and not _has_form(response["body"], parsed, shape):
            raise ResponseParserError(f"not in the form of AWS: {response['body'][:200]!r}")
        return parsed


def _has_form(body: bytes, parsed: Any, shape: Any) -> bool:
    """Return True if the answer has a member that the service knows, or if it is empty and may be."""
    if parsed is None:
        return False
    members = () if shape is None else shape.members
    if any(member in parsed for member in members):
        return True
    content = body.strip()
    return content == b"{}" or (not content and not members)
