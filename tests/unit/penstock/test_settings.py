"""Settings are read from the environment, within bounds, or refused with the variable, its value and what it may be."""

import traceback
from pathlib import Path

import pytest
from pydantic import SecretStr, ValidationError

from penstock.backoff import Backoff
from penstock.errors import Misconfigured
from penstock.settings import MIB, Settings, read_settings, require_app


def refusal(monkeypatch: pytest.MonkeyPatch, **variables: str) -> str:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(Misconfigured) as refused:
        read_settings()
    return str(refused.value)


def test_defaults_are_what_the_readme_says() -> None:
    settings = read_settings()
    assert (settings.name, settings.app, settings.aws_region) == ("penstock", None, None)
    assert (settings.concurrency, settings.sync_max_operations, settings.sync_seconds) == (10, 100, 10)
    assert (settings.max_operations, settings.max_body_bytes) == (1_000, 10 * MIB)
    assert (settings.chunk_operations, settings.message_bytes) == (1_000, MIB)
    assert (settings.chunk_seconds, settings.min_chunks) == (2, 16)
    assert settings.backoff == Backoff(base_seconds=1, max_seconds=300)


BOUNDS = [
    ("concurrency", 1, 10_000, "from 1 to 10,000"),
    ("sync_max_operations", 0, 1_000, ""),  # its upper bound, 10,000, is above max_operations
    ("max_operations", 100, 1_000_000, ""),  # likewise its lower one, 1
    ("max_body_bytes", 1_024, 1_024 * MIB, "from 1,024 to 1,073,741,824"),
    ("chunk_operations", 1, 10_000, "from 1 to 10,000"),
    ("message_bytes", 4_096, MIB, "from 4,096 to 1,048,576"),
    ("accept_seconds", 1, 3_600, "from 1 to 3,600"),
    ("deadline_seconds", 1, 1_209_600, ""),  # above 0, of which there is no least
    ("settle_seconds", 1, 86_400, "from 1 to 86,400"),
    ("retention_seconds", 60, 315_360_000, "from 60 to 315,360,000"),
    ("idempotency_seconds", 60, 31_536_000, "from 60 to 31,536,000"),
    ("visibility_seconds", 2, 43_200, "from 2 to 43,200"),
    ("receive_wait_seconds", 0, 20, "from 0 to 20"),
    ("chunk_budget_seconds", 1, 43_200, ""),
    ("sweep_seconds", 1, 3_600, ""),
    ("stall_seconds", 2, 3_600, "from 2 to 3,600"),
    ("leave_seconds", 0, 300, "from 0 to 300"),
    ("grace_seconds", 0, 3_600, "from 0 to 3,600"),
    ("backoff_seconds", 0, 3_600, "from 0 to 3,600"),
    ("backoff_max_seconds", 0, 86_400, "from 0 to 86,400"),
    ("upstream_timeout_seconds", 1, 3_600, ""),  # above 0
    ("upstream_max_attempts", 1, 100, "from 1 to 100"),
    ("upstream_result_bytes", 1, 16 * MIB, "from 1 to 16,777,216"),
    ("upstream_connections", 1, 10_000, "from 1 to 10,000"),
]
SENTENCES = [(name, low, high, sentence) for name, low, high, sentence in BOUNDS if sentence]


@pytest.mark.parametrize(("name", "low", "high", "sentence"), BOUNDS)
def test_bounds_themselves_are_taken(
    monkeypatch: pytest.MonkeyPatch, name: str, low: int, high: int, sentence: str
) -> None:
    for value in (low, high):
        monkeypatch.setenv(f"PENSTOCK_{name.upper()}", str(value))
        assert getattr(read_settings(), name) == value


@pytest.mark.parametrize(("name", "low", "high", "sentence"), SENTENCES)
def test_what_is_beyond_a_bound_is_refused_with_variable_value_and_range(
    monkeypatch: pytest.MonkeyPatch, name: str, low: int, high: int, sentence: str
) -> None:
    variable = f"PENSTOCK_{name.upper()}"
    for value in (low - 1, high + 1):
        told = refusal(monkeypatch, **{variable: str(value)})
        assert told.startswith(f"Invalid settings:\n  {variable}='{value}': ")
        assert told.endswith(f". Use a number {sentence}.")


@pytest.mark.parametrize(
    ("variable", "value", "told"),
    [
        ("PENSTOCK_SYNC_SECONDS", "0", "Use a number above 0 and up to 900"),
        ("PENSTOCK_SYNC_SECONDS", "901", "Use a number above 0 and up to 900"),
        ("PENSTOCK_DEADLINE_SECONDS", "0", "Use a number above 0 and up to 1,209,600"),
        ("PENSTOCK_DEADLINE_SECONDS", "1209601", "Use a number above 0 and up to 1,209,600"),
        ("PENSTOCK_MAX_DEATHS", "0", "Use a number from 1 to 10,000"),
        ("PENSTOCK_SYNC_MAX_OPERATIONS", "-1", "Use a number from 0 to 10,000"),
        ("PENSTOCK_WEIGHT_HIGH", "1001", "Use a number from 1 to 1,000"),
        ("PENSTOCK_WEIGHT_LOW", "0", "Use a number from 1 to 1,000"),
        ("PENSTOCK_WEIGHT_NORMAL", "much", "Use a number from 1 to 1,000"),
        ("PENSTOCK_MAX_OPERATIONS", "1000001", "Use a number from 1 to 1,000,000"),
        ("PENSTOCK_CONCURRENCY", "ten", "a valid integer.*[.] Use a number from 1 to 10,000"),
        ("PENSTOCK_CONCURRENCY", "1.5", "a valid integer.*[.] Use a number from 1 to 10,000"),
        ("PENSTOCK_GRACE_SECONDS", "nan", "Use a number from 0 to 3,600"),
        ("PENSTOCK_RETENTION_SECONDS", "inf", "Use a number from 60 to 315,360,000"),
        ("PENSTOCK_NAME", "my penstock", "should match pattern"),
        ("PENSTOCK_NAME", "ab", "should match pattern"),  # DynamoDB's tables have three letters at least
        ("PENSTOCK_NAME", "a" * 41, "should match pattern"),  # SQS's queues have 80 at most, suffix included
        ("PENSTOCK_NAME", "täglich", "should match pattern"),
        ("PENSTOCK_TENANT_HEADER", "X Tenant", "should match pattern"),
        ("PENSTOCK_LOG_FORMAT", "xml", "'auto', 'json' or 'text'"),
        ("PENSTOCK_LOG_LEVEL", "loud", "'debug', 'info', 'warning' or 'error'"),
        ("PENSTOCK_DEAD_LETTER_REJECTIONS", "perhaps", "a valid boolean"),
        ("PENSTOCK_UPSTREAM", "api.example", "write a URL such as https://api.example.com or http"),
        (
            "PENSTOCK_UPSTREAM",
            "http://api.example:http",
            "write a URL such as https://api.example.com .*: it is not a valid URL",
        ),
        ("PENSTOCK_UPSTREAM_HEADERS", "Accept-Language, Host", "remove Host: Penstock sets this header itself"),
        ("PENSTOCK_UPSTREAM_HEADERS", "Accept Language", "'Accept Language' is not a valid header name"),
    ],
)
def test_refusal_names_variable_value_and_what_it_may_be(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str, told: str
) -> None:
    with pytest.raises(Misconfigured, match=rf"{variable}='{value}': .*{told}"):
        raise Misconfigured(refusal(monkeypatch, **{variable: value}))


@pytest.mark.parametrize(
    "name", [name for name, field in Settings.model_fields.items() if field.annotation in (int, float)]
)
def test_number_that_is_none_is_refused_with_what_it_may_be(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    variable = f"PENSTOCK_{name.upper()}"
    assert ". Use a number " in refusal(monkeypatch, **{variable: "many"})


def test_all_that_is_wrong_is_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    told = refusal(monkeypatch, PENSTOCK_CONCURRENCY="0", PENSTOCK_LOG_LEVEL="loud", PENSTOCK_NAME="ab").splitlines()
    assert [line.partition("=")[0].strip() for line in told[1:]] == [
        "PENSTOCK_NAME",
        "PENSTOCK_CONCURRENCY",
        "PENSTOCK_LOG_LEVEL",
    ]


@pytest.mark.parametrize(
    ("sync_max_operations", "max_operations"), [("1001", "1000"), ("100", "99"), ("10000", "1000")]
)
def test_more_cannot_be_answered_at_once_than_be_sent(
    monkeypatch: pytest.MonkeyPatch, sync_max_operations: str, max_operations: str
) -> None:
    told = refusal(
        monkeypatch, PENSTOCK_SYNC_MAX_OPERATIONS=sync_max_operations, PENSTOCK_MAX_OPERATIONS=max_operations
    )
    assert told == (
        f"Invalid settings:\n  PENSTOCK_SYNC_MAX_OPERATIONS ({sync_max_operations}) is larger than "
        f"PENSTOCK_MAX_OPERATIONS ({max_operations}). Lower the first or raise the second."
    )


@pytest.mark.parametrize(
    ("variables", "region"),
    [
        ({}, None),
        ({"AWS_REGION": "eu-west-1"}, "eu-west-1"),
        ({"AWS_DEFAULT_REGION": "eu-west-2"}, "eu-west-2"),
        ({"AWS_REGION": "eu-west-1", "AWS_DEFAULT_REGION": "eu-west-2"}, "eu-west-1"),
        ({"AWS_REGION": "", "AWS_DEFAULT_REGION": "eu-west-2"}, "eu-west-2"),
    ],
)
def test_region_is_the_one_that_aws_programs_go_by(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], region: str | None
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert read_settings().aws_region == region


@pytest.mark.parametrize(
    ("variable", "value", "told"),
    [
        ("PENSTOCK_UPSTREAM", "https://user:secret@api.example", "PENSTOCK_UPSTREAM='https://***@api.example': remove"),
        ("PENSTOCK_UPSTREAM", "https://api.example?key=secret", "PENSTOCK_UPSTREAM='https://api.example?***': remove"),
        ("PENSTOCK_UPSTREAM", "user:secret@api.example", "PENSTOCK_UPSTREAM='***@api.example': write a URL"),
        ("PENSTOCK_UPSTREAM_AUTHORIZATION", "Bearer secret\n", "PENSTOCK_UPSTREAM_AUTHORIZATION=***: the value"),
    ],
)
def test_secrets_are_not_told(monkeypatch: pytest.MonkeyPatch, variable: str, value: str, told: str) -> None:
    refused = refusal(monkeypatch, **{variable: value})
    assert told in refused
    assert "secret" not in refused


def test_secret_is_not_shown_with_the_settings() -> None:
    assert "Bearer" not in repr(
        Settings(upstream="https://api.example", upstream_authorization=SecretStr("Bearer secret"))
    )


def test_application_and_upstream_are_not_both_set(monkeypatch: pytest.MonkeyPatch) -> None:
    told = refusal(monkeypatch, PENSTOCK_APP="shop:operations", PENSTOCK_UPSTREAM="https://api.example")
    assert told == (
        "Invalid settings:\n  PENSTOCK_APP and PENSTOCK_UPSTREAM are both set. Set only one. To forward operations "
        'from an application, call operations.forward("/{path}", to=...) in it.'
    )


def test_names_of_headers_stand_between_commas() -> None:
    assert Settings().passed_headers == ()
    assert Settings(upstream_headers=" Accept-Language,If-Match , ").passed_headers == ("Accept-Language", "If-Match")


def test_connections_are_as_many_as_handlers_unless_it_is_said() -> None:
    assert Settings(concurrency=7).connections_for_each_host == 7
    assert Settings(concurrency=7, upstream_connections=3).connections_for_each_host == 3


def test_document_may_have_twenty_elements_for_each_of_its_operations() -> None:
    assert Settings().most_elements == 200_000
    assert Settings(max_operations=100_000).most_elements == 2_000_000
    assert Settings(max_operations=100_000, max_elements=5_000).most_elements == 5_000


def test_empty_variable_counts_as_unset(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PENSTOCK_CONCURRENCY", "")
    monkeypatch.setenv("PENSTOCK_APP", "")
    assert (read_settings().concurrency, read_settings().app) == (10, None)


def test_variable_that_is_not_ours_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PENSTOCK_SOMETHING_NEW", "1")
    assert read_settings() == Settings()


def test_settings_do_not_change_once_read() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        read_settings().concurrency = 5  # type: ignore[misc]


def test_names_of_the_resources_begin_with_the_name() -> None:
    settings = Settings(name="shop")
    assert settings.table == "shop"
    assert list(settings.chunk_queues.values()) == ["shop-chunks-high", "shop-chunks-normal", "shop-chunks-low"]
    assert settings.dead_letter_queue == "shop-dead-letters"


def test_application_must_be_named_where_one_is_needed() -> None:
    assert require_app(Settings(app="shop:operations")) == "shop:operations"
    with pytest.raises(Misconfigured, match=r"^No application is set\. Set PENSTOCK_APP to MODULE:ATTRIBUTE"):
        require_app(Settings())


@pytest.mark.parametrize(
    ("variables", "needs_keys", "has_tenants", "is_open_by_accident"),
    [
        ({}, False, False, True),
        ({"AUTH": "none"}, False, False, False),
        ({"TENANT_HEADER": "X-Tenant"}, False, True, False),  # as before there was PENSTOCK_AUTH
        ({"AUTH": "none", "TENANT_HEADER": "X-Tenant"}, False, True, False),
        ({"AUTH": "header", "TENANT_HEADER": "X-Tenant"}, False, True, False),
        ({"AUTH": "keys"}, True, True, False),
    ],
)
def test_what_a_request_needs(
    monkeypatch: pytest.MonkeyPatch,
    variables: dict[str, str],
    needs_keys: bool,
    has_tenants: bool,
    is_open_by_accident: bool,
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(f"PENSTOCK_{name}", value)
    settings = read_settings()
    assert (settings.needs_keys, settings.has_tenants) == (needs_keys, has_tenants)
    assert settings.is_open_by_accident == is_open_by_accident


@pytest.mark.parametrize(
    ("variables", "told"),
    [
        ({"AUTH": "header"}, "set PENSTOCK_TENANT_HEADER"),
        ({"AUTH": "keys", "TENANT_HEADER": "X-Tenant"}, "Remove PENSTOCK_TENANT_HEADER"),
        ({"AUTH": "key"}, "'none', 'keys' or 'header'"),
    ],
)
def test_settings_that_do_not_fit_together_are_invalid(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], told: str
) -> None:
    assert told in refusal(monkeypatch, **{f"PENSTOCK_{name}": value for name, value in variables.items()})


@pytest.mark.parametrize("key", ["a" * 31, "a" * 257, "a" * 31 + " ", "a" * 31 + "ä"])
def test_invalid_operator_key_is_not_shown(monkeypatch: pytest.MonkeyPatch, key: str) -> None:
    told = refusal(monkeypatch, PENSTOCK_OPERATOR_KEY=key)
    assert "PENSTOCK_OPERATOR_KEY=***" in told
    assert key not in told


def test_traceback_shows_no_invalid_operator_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PENSTOCK_OPERATOR_KEY", "a" * 31)
    with pytest.raises(Misconfigured) as caught:
        read_settings()
    assert "aaaa" not in "".join(traceback.format_exception(caught.value))


def test_operator_key_is_read_from_a_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_text("a" * 32 + "\n")
    monkeypatch.setenv("PENSTOCK_OPERATOR_KEY_FILE", str(path))
    settings = read_settings()
    assert settings.operator_key is not None
    assert settings.operator_key.get_secret_value() == "a" * 32
    assert "aaaa" not in repr(settings)


@pytest.mark.parametrize(
    ("content", "words"),
    [(None, "cannot be read: No such file or directory."), (b"a" * 31, "has no valid key. Use 32 to 256 letters")]
    + [(content, "has no valid key") for content in (b"", b"\xff" * 40, b"a" * 20 + b"\n" + b"a" * 20, b"a" * 2_000)],
)
def test_file_without_an_operator_key_is_named_and_not_shown(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, content: bytes | None, words: str
) -> None:
    path = tmp_path / "key"
    if content is not None:
        path.write_bytes(content)
    told = refusal(monkeypatch, PENSTOCK_OPERATOR_KEY_FILE=str(path))
    assert f"PENSTOCK_OPERATOR_KEY_FILE='{path}'" in told
    assert words in told
    assert "aaaa" not in told


def test_operator_key_and_its_file_together_are_rejected(monkeypatch: pytest.MonkeyPatch) -> None:
    told = refusal(monkeypatch, PENSTOCK_OPERATOR_KEY="a" * 32, PENSTOCK_OPERATOR_KEY_FILE="/run/secrets/key")
    assert "PENSTOCK_OPERATOR_KEY and PENSTOCK_OPERATOR_KEY_FILE are both set." in told
    assert "aaaa" not in told


def test_operator_key_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PENSTOCK_OPERATOR_KEY", "a" * 32)
    settings = read_settings()
    for shown in (repr(settings), str(settings), settings.model_dump_json(), repr(settings.model_dump())):
        assert "aaaa" not in shown
