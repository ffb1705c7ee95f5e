"""The settings that both programs share. They are read once from the environment and checked.

Only this file reads the environment. The variable of a setting is `PENSTOCK_` and the field's name in capitals.
"""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AliasChoices,
    Field,
    SecretStr,
    StringConstraints,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from penstock.api_key import Redaction
from penstock.backoff import Backoff
from penstock.chunk import Fit
from penstock.errors import Misconfigured, NotConfigured
from penstock.forwarding.headers import check_added, check_passed
from penstock.forwarding.upstream import read_upstream, without_secrets
from penstock.message import room_in_message
from penstock.open_limit import MOST_OPERATIONS
from penstock.priority import DEFAULT_WEIGHTS, Priority
from penstock.quota import Quota
from penstock.webhooks.endpoint import Secrets
from penstock.webhooks.urls import Allowed

MIB = 1024 * 1024
DAY_SECONDS = 24 * 3600
PREFIX = "PENSTOCK_"
LONGEST_ACCEPT_SECONDS = 3_600
MOST_DAYS_AHEAD = 7  # from a request to the start of its batch: half of the longest deadline, which begins then
LONGEST_DEADLINE_SECONDS = 14 * DAY_SECONDS  # as long as SQS keeps a message
LONGEST_RETENTION_SECONDS = 3_650 * DAY_SECONDS
LONGEST_SQS_WAIT_SECONDS = 20
LONGEST_SQS_VISIBILITY_SECONDS = 12 * 3600
_OPERATOR_KEY = re.compile(r"[A-Za-z0-9._~+/-]{32,256}")
_ABOUT_OPERATOR_KEY = "Use 32 to 256 letters, digits and -._~+/, such as the output of `openssl rand -hex 24`"
MOST_KEY_FILE_BYTES = 1_000
_PUBLIC_URL = re.compile(r"https?://([A-Za-z0-9.-]+|\[[0-9A-Fa-f:.]+\])(:[0-9]{1,5})?(/[A-Za-z0-9._~-]+)*/?")
_SECRETS = {"upstream_authorization", "operator_key", "webhook_secret"}
SHORTEST_WEBHOOK_SECRET = 32
ELEMENTS, ELEMENTS_OF_OPERATION = 200_000, 20  # 8 are the operation itself with three values in its body
MOST_DEATHS = 10_000  # the table keeps the ids of dead processes in the item of the batch


class Settings(BaseSettings):
    """The settings of a front end or a consumer. The descriptions are also the settings table for users."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        frozen=True,
        extra="ignore",
        env_ignore_empty=True,
        hide_input_in_errors=True,  # a traceback shows the error of pydantic, and the input may be a secret
    )

    name: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]{3,40}$")] = Field(
        "penstock", description="The prefix of every resource name: 3 to 40 letters, digits, `-` and `_`."
    )
    app: str | None = Field(None, description="The application to load, as `MODULE:ATTRIBUTE`.")
    aws_region: str | None = Field(
        None,
        validation_alias=AliasChoices("AWS_REGION", "AWS_DEFAULT_REGION"),
        description="The AWS region. `AWS_DEFAULT_REGION` works as well.",
    )

    concurrency: int = Field(
        10, ge=1, le=10_000, description="Maximum number of handlers that run at the same time in one process."
    )
    weight_high: int = Field(
        DEFAULT_WEIGHTS[Priority.HIGH],
        ge=1,
        le=1_000,
        description="The share of the slots for `high` batches, relative to the other two weights.",
    )
    weight_normal: int = Field(
        DEFAULT_WEIGHTS[Priority.NORMAL],
        ge=1,
        le=1_000,
        description="The share of the slots for `normal` batches, relative to the other two weights.",
    )
    weight_low: int = Field(
        DEFAULT_WEIGHTS[Priority.LOW],
        ge=1,
        le=1_000,
        description="The share of the slots for `low` batches, relative to the other two weights.",
    )
    cpu_processes: int | None = Field(
        None,
        ge=1,
        le=1_000,
        description="Number of processes for `cpu_bound` handlers in each program. Unset: the number of cores.",
    )
    sync_max_operations: int = Field(
        100,
        ge=0,
        le=10_000,
        description="Maximum number of operations in a batch that runs synchronously. Larger batches run in the "
        "background.",
    )
    sync_seconds: float = Field(
        10,
        gt=0,
        le=900,
        description="Time limit for a synchronous batch in seconds. After that, the rest of it runs in the background.",
    )
    max_operations: int = Field(
        1_000, ge=1, le=1_000_000, description="Maximum number of operations in one JSON document."
    )
    max_body_bytes: int = Field(
        10 * MIB, ge=1_024, le=1_024 * MIB, description="Maximum size of a JSON document in bytes, after decompression."
    )
    max_elements: int | None = Field(
        None,
        ge=1_000,
        le=100_000_000,
        description="Maximum number of values and member names in one JSON document or one line of a stream. Unset: "
        "200,000, or 20 for each operation of `PENSTOCK_MAX_OPERATIONS` if that is more.",
    )
    request_memory_bytes: int = Field(
        512 * MIB,
        ge=64 * MIB,
        le=1_024 * 1_024 * MIB,
        description="Memory in bytes for all unfinished requests and answers of a front end. Beyond it, requests get a "
        "503.",
    )
    max_stream_operations: int = Field(
        1_000_000, ge=1, le=10_000_000, description="Maximum number of operations in one NDJSON stream."
    )
    max_stream_bytes: int = Field(
        2_048 * MIB,
        ge=1_024,
        le=1_024 * 1_024 * MIB,
        description="Maximum size of an NDJSON stream in bytes, after decompression.",
    )
    background_upload_bytes: int = Field(
        16 * MIB,
        ge=0,
        le=5 * 1_024 * MIB,
        description="An uploaded file that is larger than this many bytes is validated by a consumer, after the client "
        "was answered.",
    )
    max_upload_operations: int = Field(
        10_000_000,
        ge=1,
        le=10_000_000,
        description="Maximum number of operations in an uploaded file that a consumer validates.",
    )
    max_upload_bytes: int = Field(
        5 * 1_024 * MIB, ge=1_024, le=5 * 1_024 * MIB, description="Maximum size of an uploaded file in bytes."
    )
    chunk_seconds: float = Field(2, gt=0, le=300, description="Target for the handler time of one chunk, in seconds.")
    chunk_operations: int = Field(1_000, ge=1, le=10_000, description="Maximum number of operations in one chunk.")
    min_chunks: int = Field(
        16,
        ge=1,
        le=1_000,
        description="Minimum number of chunks of a batch with 16 seconds of handler time. Shorter batches have fewer.",
    )
    message_bytes: int = Field(
        MIB, ge=4_096, le=MIB, description="Maximum size of one queue message, and of one call to the queue, in bytes."
    )
    accept_seconds: float = Field(
        60,
        ge=1,
        le=LONGEST_ACCEPT_SECONDS,
        description="A batch that is not accepted within this many seconds is abandoned, and none of its operations "
        "runs.",
    )
    deadline_seconds: float = Field(
        DAY_SECONDS,
        gt=0,
        le=LONGEST_DEADLINE_SECONDS,
        description="Default deadline of a batch in seconds. Operations that have not finished by then expire.",
    )
    settle_seconds: float = Field(
        300,
        ge=1,
        le=DAY_SECONDS,
        description="Time in seconds that running operations of a cancelled batch have to finish.",
    )
    max_deaths: int = Field(
        100,
        ge=1,
        le=MOST_DEATHS,
        description="A batch is stopped when more consumer processes than this have died while running it.",
    )
    retention_seconds: float = Field(
        7 * DAY_SECONDS,
        ge=60,
        le=LONGEST_RETENTION_SECONDS,
        description="Time in seconds that the table keeps a batch and its results.",
    )

    idempotency_seconds: float = Field(
        DAY_SECONDS, ge=60, le=365 * DAY_SECONDS, description="Time in seconds that an Idempotency-Key is remembered."
    )
    idempotency_answer_bytes: int = Field(
        MIB,
        ge=0,
        le=64 * MIB,
        description="Maximum size in bytes of an answer that is stored for an Idempotency-Key. A repeated request "
        "whose answer was larger gets a 409.",
    )
    visibility_seconds: int = Field(
        60,
        ge=2,
        le=LONGEST_SQS_VISIBILITY_SECONDS,
        description="Length of the lease on a chunk in seconds. Consumers extend it while they run the chunk.",
    )
    receive_wait_seconds: int = Field(
        LONGEST_SQS_WAIT_SECONDS,
        ge=0,
        le=LONGEST_SQS_WAIT_SECONDS,
        description="Maximum time in seconds that one receive call waits for chunks.",
    )
    chunk_budget_seconds: float = Field(
        300,
        gt=0,
        le=12 * 3600,
        description="Maximum time in seconds that a chunk runs. The remaining operations follow as another chunk.",
    )
    sweep_seconds: float = Field(
        30, gt=0, le=3_600, description="Interval in seconds at which consumers check for overdue batches."
    )
    stall_seconds: float = Field(
        60,
        ge=2,
        le=3_600,
        description="A program exits when a handler blocks its event loop for this many seconds, or when handlers "
        "block all its threads or slots.",
    )
    public_url: str | None = Field(
        None,
        description="The URL under which clients reach the front end, such as `https://api.example/bulk`. URLs in "
        "answers start with it. Unset: they are paths.",
    )
    trust_proxy: bool = Field(
        False,
        description="Whether URLs in answers follow `X-Forwarded-Proto`, `-Host` and `-Prefix`. Only for a proxy that "
        "sets or removes all three: otherwise a client could send them.",
    )
    leave_seconds: float = Field(
        5,
        ge=0,
        le=300,
        description="Time in seconds that a stopping front end reports that it is not ready, before it stops "
        "listening.",
    )
    grace_seconds: float = Field(
        20, ge=0, le=3_600, description="Time in seconds that running handlers have to finish after SIGTERM."
    )
    backoff_seconds: float = Field(
        1,
        ge=0,
        le=3_600,
        description="Upper bound of the delay before the second attempt, in seconds. The bound doubles with each "
        "attempt.",
    )
    backoff_max_seconds: float = Field(
        300, ge=0, le=86_400, description="Upper bound of the delay before any attempt, in seconds."
    )
    dead_letter_rejections: bool = Field(
        True,
        description="Whether rejected operations go to the dead letter queue, too. If false, only other failures do.",
    )
    show_errors: bool = Field(
        False,
        description="Whether clients get the words of an unexpected exception in a handler or a validator, for "
        "development. If false, they get the `error_id` under which the log has them.",
    )

    upstream: str | None = Field(
        None,
        description="The URL of an existing API to which every operation is forwarded, instead of to an application.",
    )
    upstream_headers: str | None = Field(
        None,
        description="The headers of a batch's request that its forwarded operations carry, such as `Accept-Language, "
        "If-Match`.",
    )
    upstream_authorization: SecretStr | None = Field(
        None, description="The value of the `Authorization` header of every forwarded operation."
    )
    upstream_timeout_seconds: float = Field(
        60, gt=0, le=3_600, description="Time limit for one attempt of a forwarded operation, in seconds."
    )
    upstream_max_attempts: int = Field(
        3, ge=1, le=100, description="Maximum number of attempts for a forwarded operation, including the first."
    )
    upstream_result_bytes: int = Field(
        262_144,
        ge=1,
        le=16 * MIB,
        description="Maximum size of an upstream's response in bytes. An operation whose response is larger fails.",
    )
    upstream_connections: int | None = Field(
        None,
        ge=1,
        le=10_000,
        description="Maximum number of connections from one process to one upstream host. Unset: the value of "
        "`PENSTOCK_CONCURRENCY`.",
    )

    auth: Literal["none", "keys", "header"] | None = Field(
        None,
        description="What a request needs. `keys`: an API key. `header`: the tenant in `PENSTOCK_TENANT_HEADER`, which "
        "a gateway sets. `none`: nothing. Unset: `header` if that header is set, otherwise `none`, but only on "
        "loopback addresses.",
    )
    operator_key: SecretStr | None = Field(
        None,
        description="A key with all scopes that is not in the table: 32 to 256 letters, digits and `-._~+/`.",
    )
    operator_key_file: str | None = Field(
        None, description="A file with that key, such as a secret of Docker Compose. Set this or the variable above."
    )
    tenant_header: str | None = Field(
        None,
        pattern=r"^[A-Za-z0-9-]+$",
        description="The request header with the name of the tenant, which your gateway sets. Every request needs "
        "it exactly once, or an API key. A tenant holds at most half of a front end's slots.",
    )
    tenant_limit: str | None = Field(
        None,
        description="The quota of each tenant: how many operations it may submit in how many seconds, such as "
        "`100000/3600`. Unset: there is no quota.",
    )
    tenant_max_open: int | None = Field(
        None,
        ge=1,
        le=MOST_OPERATIONS,
        description="How many operations of each tenant may be accepted and not finished. Unset: there is no limit.",
    )
    webhook_secret: SecretStr | None = Field(
        None,
        description="The secret from which the secrets of all webhooks are derived: at least 32 characters, the same "
        "for all programs. Unset: there are no webhooks.",
    )
    webhook_allow: str | None = Field(
        None,
        description="Hosts and networks inside your network to which events may be sent, such as `hooks.internal, "
        "10.1.0.0/16`. They may also use http, and any port. Unset: events are sent to the internet only.",
    )
    bucket: str | None = Field(
        None,
        pattern=r"^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$",
        description="The S3 bucket for uploads, and for results of up to 5 MiB. Unset: files can only be sent in the "
        "body of a request, and results may have 1 MiB.",
    )
    dialects: str | None = Field(
        None,
        description="The formats of other APIs that clients can speak, separated by commas, or `none`. Unset: all.",
    )
    metrics: Literal["auto", "cloudwatch", "off"] = Field(
        "auto",
        description="`cloudwatch` publishes metrics, `off` does not. `auto` publishes them, but not to AWS if the "
        "queue is a local one.",
    )
    log_format: Literal["auto", "json", "text"] = Field(
        "auto",
        description="The format of log lines: `json`, `text`, or `auto`, which is text on a terminal and JSON "
        "otherwise.",
    )
    access_log: bool = Field(
        True,
        description="Whether the front end logs a line for each request: its id, tenant, status, bytes and seconds.",
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="The lowest level that is logged: `debug`, `info`, `warning` or `error`."
    )

    @property
    def needs_keys(self) -> bool:
        """Return True if a request without an API key is rejected."""
        return self.auth == "keys"

    @property
    def asks_for(self) -> str:
        """Return what a request needs: `none`, `keys` or `header`."""
        return self.auth or ("none" if self.tenant_header is None else "header")

    @property
    def redaction(self) -> Redaction:
        return Redaction(None if self.operator_key is None else self.operator_key.get_secret_value())

    @property
    def webhook_secrets(self) -> Secrets | None:
        return None if self.webhook_secret is None else Secrets(self.webhook_secret.get_secret_value())

    def require_webhook_secrets(self) -> Secrets:
        if self.webhook_secrets is None:
            raise NotConfigured(
                "Webhooks are not configured here. An operator has to set PENSTOCK_WEBHOOK_SECRET to the same secret "
                "of at least 32 characters for all front ends and consumers."
            )
        return self.webhook_secrets

    @property
    def webhook_targets(self) -> Allowed:
        return Allowed.parse(self.webhook_allow)

    @property
    def has_tenants(self) -> bool:
        """Return True if requests can come from several tenants."""
        return self.needs_keys or self.tenant_header is not None

    @property
    def is_open_by_accident(self) -> bool:
        """Return True if anybody may call, and nobody has decided that."""
        return self.auth is None and self.tenant_header is None

    @property
    def connections_for_each_host(self) -> int:
        return self.upstream_connections or self.concurrency

    @property
    def passed_headers(self) -> tuple[str, ...]:
        return _names(self.upstream_headers)

    @property
    def most_elements(self) -> int:
        """Return how many values and member names a JSON document may have."""
        return self.max_elements or max(ELEMENTS, self.max_operations * ELEMENTS_OF_OPERATION)

    @property
    def backoff(self) -> Backoff:
        return Backoff(self.backoff_seconds, self.backoff_max_seconds)

    @property
    def fit(self) -> Fit:
        return Fit(
            self.chunk_operations,
            room_in_message(self.message_bytes),
            seconds=self.chunk_seconds,
            least_chunks=self.min_chunks,
        )

    @property
    def tenant_quota(self) -> Quota | None:
        return None if self.tenant_limit is None else Quota.parse(self.tenant_limit)

    @property
    def table(self) -> str:
        return self.name

    @property
    def weights(self) -> dict[Priority, int]:
        return {priority: getattr(self, f"weight_{priority}") for priority in Priority}

    @property
    def chunk_queues(self) -> dict[Priority, str]:
        return {priority: f"{self.name}-chunks-{priority}" for priority in Priority}

    @property
    def dead_letter_queue(self) -> str:
        return f"{self.name}-dead-letters"

    @field_validator("upstream")
    @classmethod
    def _check_upstream(cls, url: str | None) -> str | None:
        if url is not None:
            read_upstream(url)
        return url

    @field_validator("public_url")
    @classmethod
    def _public_url_is_plain(cls, url: str | None) -> str | None:
        if url is not None and not _PUBLIC_URL.fullmatch(url):
            raise ValueError("Use a URL such as https://api.example/bulk, without a query, a fragment and a user")
        return url

    @field_validator("tenant_limit")
    @classmethod
    def _check_limit(cls, limit: str | None) -> str | None:
        return None if limit is None else str(Quota.parse(limit))

    @field_validator("upstream_headers")
    @classmethod
    def _check_headers(cls, names: str | None) -> str | None:
        check_passed(_names(names))
        return names

    @field_validator("upstream_authorization")
    @classmethod
    def _check_authorization(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None:
            check_added({"Authorization": value.get_secret_value()})
        return value

    @field_validator("operator_key")
    @classmethod
    def _check_operator_key(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and not _OPERATOR_KEY.fullmatch(value.get_secret_value()):
            raise ValueError(_ABOUT_OPERATOR_KEY)
        return value

    @field_validator("webhook_secret")
    @classmethod
    def _check_webhook_secret(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and len(value.get_secret_value()) < SHORTEST_WEBHOOK_SECRET:
            raise ValueError(
                f"Use at least {SHORTEST_WEBHOOK_SECRET} characters, such as the output of `openssl rand -hex 24`"
            )
        return value

    @field_validator("webhook_allow")
    @classmethod
    def _check_webhook_allow(cls, listed: str | None) -> str | None:
        Allowed.parse(listed)
        return listed

    @model_validator(mode="before")
    @classmethod
    def _read_operator_key(cls, values: dict[str, Any]) -> dict[str, Any]:
        path = values.get("operator_key_file")
        if path is None:
            return values
        if values.get("operator_key") is not None:
            raise ValueError("PENSTOCK_OPERATOR_KEY and PENSTOCK_OPERATOR_KEY_FILE are both set. Set only one")
        return {**values, "operator_key": _key_in(path)}

    @model_validator(mode="after")
    def _check_auth(self) -> "Settings":
        if self.auth == "header" and self.tenant_header is None:
            raise ValueError("PENSTOCK_AUTH is header, so set PENSTOCK_TENANT_HEADER to the name of that header")
        if self.auth == "keys" and self.tenant_header is not None:
            raise ValueError(
                "PENSTOCK_AUTH is keys, so the key names the tenant. Remove PENSTOCK_TENANT_HEADER, or set "
                "PENSTOCK_AUTH to header"
            )
        return self

    @model_validator(mode="after")
    def _check_against_each_other(self) -> "Settings":
        if self.sync_max_operations > self.max_operations:
            raise ValueError(
                f"PENSTOCK_SYNC_MAX_OPERATIONS ({self.sync_max_operations}) is larger than "
                f"PENSTOCK_MAX_OPERATIONS ({self.max_operations}). Lower the first or raise the second"
            )
        if self.app is not None and self.upstream is not None:
            raise ValueError(
                "PENSTOCK_APP and PENSTOCK_UPSTREAM are both set. Set only one. To forward operations from an "
                'application, call operations.forward("/{path}", to=...) in it'
            )
        return self


class TracingSettings(BaseSettings):
    """The OpenTelemetry variables that turn tracing on or off. OpenTelemetry's SDK reads the other variables itself."""

    model_config = SettingsConfigDict(frozen=True, extra="ignore")

    sdk_disabled: str = Field("", validation_alias="OTEL_SDK_DISABLED")
    exporter: str = Field("", validation_alias="OTEL_TRACES_EXPORTER")
    endpoint: str = Field("", validation_alias="OTEL_EXPORTER_OTLP_ENDPOINT")
    traces_endpoint: str = Field("", validation_alias="OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
    any_protocol: str = Field("", validation_alias="OTEL_EXPORTER_OTLP_PROTOCOL")
    traces_protocol: str = Field("", validation_alias="OTEL_EXPORTER_OTLP_TRACES_PROTOCOL")

    @property
    def is_disabled(self) -> bool:
        return self.sdk_disabled.strip().lower() == "true"

    @property
    def has_endpoint(self) -> bool:
        return bool(self.traces_endpoint or self.endpoint)

    @property
    def protocol(self) -> str:
        return self.traces_protocol or self.any_protocol


def read_settings() -> Settings:
    """Read the settings from the environment.

    Raises Misconfigured with one line for each invalid variable: its value, and the values that are allowed.
    """
    return _checked(Settings)


class _GivenSettings(Settings):
    """Settings that come only from their caller. The environment changes nothing."""

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],  # noqa: ARG003
        init_settings: PydanticBaseSettingsSource,
        *_: Any,
        **_others: Any,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return (init_settings,)


def given_settings(**values: Any) -> Settings:
    """Return settings with these values, whatever the environment says. The other settings have their defaults.

    Raises Misconfigured as `read_settings` does, and if there is no setting with one of the names.
    """
    names = {name for name, field in Settings.model_fields.items() if field.validation_alias is None}
    if unknown := sorted(values.keys() - names):
        raise Misconfigured(
            f"Unknown settings: {', '.join(unknown)}. Use the names of docs/settings.md in lower case and without "
            f"{PREFIX}, such as max_operations."
        )
    return _checked(lambda: _GivenSettings(**values))


def _checked(read: Callable[[], Settings]) -> Settings:
    try:
        return read()
    except ValidationError as error:
        problems = [_explain(one) for one in error.errors(include_url=False)]
        raise Misconfigured("Invalid settings:\n" + "\n".join(f"  {problem}" for problem in problems)) from error


def require_app(settings: Settings) -> str:
    """Return the name of the application. Raises Misconfigured if it is not set."""
    if settings.app is None:
        raise Misconfigured(
            "No application is set. Set PENSTOCK_APP to MODULE:ATTRIBUTE, or pass --app. "
            "To forward to an existing API, set PENSTOCK_UPSTREAM to its URL."
        )
    return settings.app


def _key_in(path: str) -> str:
    """Return the operator key in a file. Raises ValueError, without the content of the file, if there is none."""
    try:
        with Path(path).open("rb") as file:
            key = file.read(MOST_KEY_FILE_BYTES).decode("ascii", "replace").strip()
    except OSError as error:
        raise ValueError(f"PENSTOCK_OPERATOR_KEY_FILE={path!r} cannot be read: {error.strerror}") from None
    if not _OPERATOR_KEY.fullmatch(key):
        raise ValueError(f"The file PENSTOCK_OPERATOR_KEY_FILE={path!r} has no valid key. {_ABOUT_OPERATOR_KEY}")
    return key


def _names(listed: str | None) -> tuple[str, ...]:
    return tuple(name.strip() for name in (listed or "").split(",") if name.strip())


def _explain(error: ErrorDetails) -> str:
    message = error["msg"].removeprefix("Value error, ")
    if not error["loc"]:
        return f"{message}."
    field = str(error["loc"][0])
    variable = field if field.isupper() else PREFIX + field.upper()
    return f"{variable}={_printable(field, error['input'])}: {message[0].lower()}{message[1:]}.{_range(field)}"


def _printable(field: str, value: Any) -> str:
    """Return a value without its secrets, since the message goes to the log."""
    if field in _SECRETS:
        return "***"
    return repr(without_secrets(str(value)) if field == "upstream" else value)


def _range(field: str) -> str:
    """Return a sentence with the allowed range of a number, or an empty text if the field is not a number."""
    rules = Settings.model_fields[field].metadata if field in Settings.model_fields else []
    bounds = {name: getattr(rule, name) for rule in rules for name in ("gt", "ge", "le") if hasattr(rule, name)}
    if not bounds:
        return ""
    if "le" not in bounds:
        return f" Use a number of at least {bounds['ge']:,}."
    low = f"above {bounds['gt']:,} and up" if "gt" in bounds else f"from {bounds['ge']:,}"
    return f" Use a number {low} to {bounds['le']:,}."
