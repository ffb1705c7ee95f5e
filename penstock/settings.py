"""The settings both programs share: read once from the environment, bounded, refused with a clear sentence.

Only this file reads the environment. Names on the outside are `PENSTOCK_` and the field's name in capitals.
"""

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
from pydantic_settings import BaseSettings, SettingsConfigDict

from penstock.backoff import Backoff
from penstock.errors import Misconfigured
from penstock.forwarding.headers import check_added, check_passed
from penstock.forwarding.upstream import read_upstream, without_secrets
from penstock.priority import DEFAULT_WEIGHTS, Priority

MIB = 1024 * 1024
DAY_SECONDS = 24 * 3600
PREFIX = "PENSTOCK_"
LONGEST_SQS_WAIT_SECONDS = 20
LONGEST_SQS_VISIBILITY_SECONDS = 12 * 3600


class Settings(BaseSettings):
    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, extra="ignore", env_ignore_empty=True)

    name: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]{3,40}$")] = Field(
        "penstock", description="Prefixes the name of every resource: letters, digits, `-` and `_`."
    )
    app: str | None = Field(None, description="The application, as `module:attribute`.")
    aws_region: str | None = Field(
        None,
        validation_alias=AliasChoices("AWS_REGION", "AWS_DEFAULT_REGION"),
        description="The AWS region; also `AWS_DEFAULT_REGION`.",
    )

    concurrency: int = Field(10, ge=1, le=10_000, description="Handlers that run at once in one process.")
    weight_high: int = Field(
        DEFAULT_WEIGHTS[Priority.HIGH], ge=1, le=1_000, description="The share of the slots that `high` batches have."
    )
    weight_normal: int = Field(
        DEFAULT_WEIGHTS[Priority.NORMAL], ge=1, le=1_000, description="The share that `normal` ones have beside them."
    )
    weight_low: int = Field(
        DEFAULT_WEIGHTS[Priority.LOW], ge=1, le=1_000, description="The share that `low` ones have beside them."
    )
    cpu_processes: int | None = Field(
        None, ge=1, le=1_000, description="Processes for `cpu_bound` handlers, beside each program; as many as cores."
    )
    sync_max_operations: int = Field(100, ge=0, le=10_000, description="Up to so many operations are answered at once.")
    sync_seconds: float = Field(10, gt=0, le=900, description="What a batch answered at once may take, in seconds.")
    max_operations: int = Field(1_000, ge=1, le=1_000_000, description="Operations in one JSON document.")
    max_body_bytes: int = Field(10 * MIB, ge=1_024, le=1_024 * MIB, description="Size of a JSON document, in bytes.")
    max_stream_operations: int = Field(1_000_000, ge=1, le=10_000_000, description="Operations in one NDJSON stream.")
    max_stream_bytes: int = Field(
        2_048 * MIB, ge=1_024, le=1_024 * 1_024 * MIB, description="Size of an NDJSON stream, in bytes."
    )
    chunk_seconds: float = Field(2, gt=0, le=300, description="Handler time that a chunk aims at, in seconds.")
    chunk_operations: int = Field(1_000, ge=1, le=10_000, description="The most operations in a chunk.")
    min_chunks: int = Field(
        16, ge=1, le=1_000, description="A batch is cut into so many chunks or more, if they take 0.1 s or more."
    )
    message_bytes: int = Field(
        MIB, ge=4_096, le=MIB, description="What the queue takes as one message and as one call, in bytes."
    )
    accept_seconds: float = Field(
        60, ge=1, le=3_600, description="A batch not accepted for so many seconds is abandoned: nothing of it runs."
    )
    deadline_seconds: float = Field(
        DAY_SECONDS, gt=0, le=14 * DAY_SECONDS, description="What of a batch has not ended after so long is expired."
    )
    settle_seconds: float = Field(
        300, ge=1, le=DAY_SECONDS, description="How long what runs of a cancelled batch may take to end."
    )
    max_deaths: int = Field(
        100, ge=1, description="A batch that has cost more consumer processes than this is stopped."
    )
    retention_seconds: float = Field(
        7 * DAY_SECONDS,
        ge=60,
        le=3_650 * DAY_SECONDS,
        description="How long the table keeps a batch and its results, in seconds.",
    )

    idempotency_seconds: float = Field(
        DAY_SECONDS, ge=60, le=365 * DAY_SECONDS, description="How long an Idempotency-Key is remembered."
    )
    visibility_seconds: int = Field(
        60, ge=2, le=LONGEST_SQS_VISIBILITY_SECONDS, description="The lease on a chunk; extended while we work on it."
    )
    receive_wait_seconds: int = Field(
        LONGEST_SQS_WAIT_SECONDS, ge=0, le=LONGEST_SQS_WAIT_SECONDS, description="How long a receive waits for chunks."
    )
    chunk_budget_seconds: float = Field(
        300, gt=0, le=12 * 3600, description="A chunk that runs longer is recorded, and its rest follows as another."
    )
    sweep_seconds: float = Field(
        30, gt=0, le=3_600, description="How often consumers look for batches past their time."
    )
    stall_seconds: float = Field(
        60,
        ge=2,
        le=3_600,
        description="Ends a consumer whose loop, or a program all of whose threads, handlers block for so long.",
    )
    leave_seconds: float = Field(
        5, ge=0, le=300, description="How long a front end says that it is not ready, before it stops listening."
    )
    grace_seconds: float = Field(20, ge=0, le=3_600, description="How long running handlers may go on after SIGTERM.")
    backoff_seconds: float = Field(1, ge=0, le=3_600, description="Bound of the first wait before another attempt.")
    backoff_max_seconds: float = Field(300, ge=0, le=86_400, description="Bound of every wait before another attempt.")
    dead_letter_rejections: bool = Field(
        True, description="Whether what a handler rejected goes to the dead letter queue too, or only what broke."
    )

    upstream: str | None = Field(
        None, description="The URL of an existing API that every operation is forwarded to, in place of an application."
    )
    upstream_headers: str | None = Field(
        None, description="Headers of a batch's request that go along with its operations: `Accept-Language, ...`."
    )
    upstream_authorization: SecretStr | None = Field(
        None, description="The `Authorization` header of every forwarded operation."
    )
    upstream_timeout_seconds: float = Field(
        60, gt=0, le=3_600, description="What a forwarded operation may take, in seconds."
    )
    upstream_max_attempts: int = Field(3, ge=1, le=100, description="How often one is tried, the first included.")
    upstream_result_bytes: int = Field(
        262_144, ge=1, le=16 * MIB, description="The most that is kept of an upstream's answer, in bytes."
    )
    upstream_connections: int | None = Field(
        None,
        ge=1,
        le=10_000,
        description="Connections of one process to one upstream host. Unset: as `PENSTOCK_CONCURRENCY`.",
    )

    tenant_header: str | None = Field(
        None,
        pattern=r"^[A-Za-z0-9-]+$",
        description="The request header, set by your gateway, that names the tenant. Unset: one tenant.",
    )
    metrics: Literal["auto", "cloudwatch", "off"] = Field(
        "auto",
        description="`cloudwatch`: publish; `off`; `auto`: publish, unless CloudWatch is AWS's and the queue is not.",
    )
    log_format: Literal["auto", "json", "text"] = Field(
        "auto", description="`json`, `text`, or `auto`: text on a terminal."
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="The least that is logged.")

    @property
    def connections_for_each_host(self) -> int:
        return self.upstream_connections or self.concurrency

    @property
    def passed_headers(self) -> tuple[str, ...]:
        return _names(self.upstream_headers)

    @property
    def backoff(self) -> Backoff:
        return Backoff(self.backoff_seconds, self.backoff_max_seconds)

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

    @model_validator(mode="after")
    def _check_against_each_other(self) -> "Settings":
        if self.sync_max_operations > self.max_operations:
            raise ValueError(
                f"PENSTOCK_SYNC_MAX_OPERATIONS ({self.sync_max_operations}) is above "
                f"PENSTOCK_MAX_OPERATIONS ({self.max_operations}); lower the one or raise the other"
            )
        if self.app is not None and self.upstream is not None:
            raise ValueError(
                "PENSTOCK_APP and PENSTOCK_UPSTREAM are both set; choose one: an application forwards what it has no "
                'handler for by operations.forward("/{path}", to=...)'
            )
        return self


class TracingSettings(BaseSettings):
    """OpenTelemetry's own variables, as far as they say whether there are spans. The rest its SDK reads by itself."""

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
    """Settings from the environment. Raises Misconfigured naming each variable, its value and what it may be."""
    try:
        return Settings()
    except ValidationError as error:
        problems = [_explain(one) for one in error.errors(include_url=False)]
        raise Misconfigured("Mend the settings:\n" + "\n".join(f"  {problem}" for problem in problems)) from error


def require_app(settings: Settings) -> str:
    if settings.app is None:
        raise Misconfigured(
            "Name the application: set PENSTOCK_APP to MODULE:ATTRIBUTE, or give --app. "
            "For an existing API set PENSTOCK_UPSTREAM to its URL."
        )
    return settings.app


def _names(listed: str | None) -> tuple[str, ...]:
    return tuple(name.strip() for name in (listed or "").split(",") if name.strip())


def _explain(error: ErrorDetails) -> str:
    message = error["msg"].removeprefix("Value error, ")
    if not error["loc"]:
        return f"{message}."
    field = str(error["loc"][0])
    variable = field if field.isupper() else PREFIX + field.upper()
    return f"{variable}={_shown(field, error['input'])}: {message[0].lower()}{message[1:]}{_range(field)}."


def _shown(field: str, value: Any) -> str:
    """A value as it may be told to whoever reads the log."""
    if field == "upstream_authorization":
        return "***"
    return repr(without_secrets(str(value)) if field == "upstream" else value)


def _range(field: str) -> str:
    """What a number may be; nothing for a field that is none."""
    rules = Settings.model_fields[field].metadata if field in Settings.model_fields else []
    bounds = {name: getattr(rule, name) for rule in rules for name in ("gt", "ge", "le") if hasattr(rule, name)}
    if not bounds:
        return ""
    low = f"above {bounds['gt']:,}" if "gt" in bounds else f"from {bounds['ge']:,}"
    high = f"to {bounds['le']:,}" if "le" in bounds else "upwards"
    return f"; it may be {low} {high}"
