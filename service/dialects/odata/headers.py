"""The versions and preferences of a request (OData Protocol, section 8). Pure."""

import re

from multidict import CIMultiDictProxy, MultiMapping

from penstock.errors import MalformedRequest
from penstock.service.intake.preferences import parse_preferences

VERSION = "OData-Version"
MOST_VERSION = "OData-MaxVersion"
_SUPPORTED = {(4, 0): "4.0", (4, 1): "4.01"}
_ON_ERROR = ("continue-on-error", "odata.continue-on-error")  # OData 4.01 and 4.0
_FORM = re.compile(r"([0-9]{1,3})\.([0-9]{1,3})")


def check_versions(headers: CIMultiDictProxy[str]) -> None:
    """Raise MalformedRequest if a request is in a version that is not spoken here, or wants an answer in one."""
    given = headers.get(VERSION)
    if given is not None and _parse(given) not in _SUPPORTED:
        raise MalformedRequest(f"The {VERSION} {given} is not supported. Use 4.01 or 4.0.")
    most = headers.get(MOST_VERSION)
    if most is not None and (_parse(most) or (0, 0)) < min(_SUPPORTED):
        raise MalformedRequest(f"The {MOST_VERSION} {most} is not supported. Use 4.01 or 4.0.")


def answer_version(headers: CIMultiDictProxy[str]) -> str:
    """Return the version of the answer: the latest that the client understands."""
    most = _parse(headers.get(MOST_VERSION, ""))
    known = [version for version in _SUPPORTED if most is None or version <= most]
    return _SUPPORTED[max(known, default=(4, 0))]


def stops_at_error(headers: MultiMapping[str]) -> bool:
    """Return True if no further request runs after one has failed. In the JSON format, that is not the default."""
    _, wanted = _wanted_on_error(headers)
    return wanted == "false"


def applied_on_error(headers: MultiMapping[str]) -> str | None:
    """Return what the client wants to happen after a request has failed, as it names it. Return None if it does not."""
    name, wanted = _wanted_on_error(headers)
    return None if wanted is None else f"{name}={'false' if wanted == 'false' else 'true'}"


def _wanted_on_error(headers: MultiMapping[str]) -> tuple[str, str | None]:
    preferences = parse_preferences(", ".join(headers.getall("Prefer", ())))
    name = next((name for name in _ON_ERROR if name in preferences), _ON_ERROR[0])
    return name, preferences[name].lower() if name in preferences else None


def _parse(version: str) -> tuple[int, int] | None:
    match = _FORM.fullmatch(version.strip())
    return (int(match[1]), int(match[2])) if match else None
