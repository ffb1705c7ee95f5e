import pytest
from multidict import CIMultiDict, CIMultiDictProxy

from penstock.errors import MalformedRequest
from penstock.service.dialects.odata.headers import answer_version, applied_on_error, check_versions, stops_at_error


def headers(**given: str) -> CIMultiDictProxy[str]:
    return CIMultiDictProxy(CIMultiDict({name.replace("_", "-"): value for name, value in given.items()}))


@pytest.mark.parametrize(
    ("most", "version"),
    [(None, "4.01"), ("4.0", "4.0"), ("4.01", "4.01"), ("4.02", "4.01"), ("5.0", "4.01"), ("what", "4.01")],
)
def test_answer_is_in_the_latest_version_that_the_client_understands(most: str | None, version: str) -> None:
    assert answer_version(headers(**({} if most is None else {"odata_maxversion": most}))) == version


@pytest.mark.parametrize("given", [{"OData_Version": "3.0"}, {"OData_Version": "4"}, {"OData_MaxVersion": "3.0"}])
def test_other_version_is_rejected(given: dict[str, str]) -> None:
    with pytest.raises(MalformedRequest, match=r"is not supported. Use 4.01 or 4.0."):
        check_versions(headers(**given))


@pytest.mark.parametrize("given", [{}, {"OData_Version": "4.0"}, {"OData_Version": "4.01", "OData_MaxVersion": "4.01"}])
def test_versions_4_are_accepted(given: dict[str, str]) -> None:
    check_versions(headers(**given))


@pytest.mark.parametrize(
    ("prefer", "stops", "applied"),
    [
        (None, False, None),
        ("respond-async", False, None),
        ("continue-on-error", False, "continue-on-error=true"),
        ("continue-on-error=true", False, "continue-on-error=true"),
        ("continue-on-error=false", True, "continue-on-error=false"),
        ("respond-async, odata.continue-on-error=False", True, "odata.continue-on-error=false"),
        ('continue-on-error="false"', True, "continue-on-error=false"),
        ("continue-on-error, odata.continue-on-error=false", False, "continue-on-error=true"),
    ],
)
def test_client_says_if_requests_run_after_an_error(prefer: str | None, stops: bool, applied: str | None) -> None:
    given = headers(**({} if prefer is None else {"Prefer": prefer}))
    assert (stops_at_error(given), applied_on_error(given)) == (stops, applied)
