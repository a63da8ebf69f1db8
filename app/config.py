"""Settings of the application: every default in one place, overridden from the environment.

The environment variable of a field has the field's name in capitals. A secret can be in a file
instead, which NAME_FILE names. Nothing else in the project reads the environment, except that the
OpenTelemetry SDK reads the standard OTEL_* variables too.
"""

import os
import sys
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, ValidationError, ValidationInfo, field_validator, model_validator
from pydantic_settings import SettingsConfigDict

from app.secret_files import SECRETS, read_secrets
from app.vda5050_settings import Vda5050Settings
from sagastream import Bus, InvalidMessage

ROOT = Path(__file__).resolve().parent.parent


class Settings(Vda5050Settings):
    """The application's settings."""

    # A value may be a password: no error shows it.
    model_config = SettingsConfigDict(frozen=True, hide_input_in_errors=True)

    redis_url: str = Field(
        "redis://127.0.0.1:6379/0",
        repr=False,
        description=(
            "URL of the Redis or Valkey server: redis://, rediss://, unix://, redis+sentinel:// or "
            "redis+cluster://."
        ),
    )
    redis_url_file: Path | None = Field(
        None, description="File with the URL, instead of `REDIS_URL`."
    )
    broker_url: str = Field(
        "",
        repr=False,
        description=(
            "URL of the server of Celery's messages, in the same forms; '' for `REDIS_URL`. It "
            "cannot be a cluster."
        ),
    )
    broker_url_file: Path | None = Field(
        None, description="File with that URL, instead of `BROKER_URL`."
    )
    durability: Literal["primary", "replicated"] = Field(
        "primary", description="replicated: what is acknowledged is on a replica."
    )
    replicas: int = Field(1, ge=1, description="Replicas that have to confirm it.")
    replicated_within_s: float = Field(
        2.0, gt=0, description="Seconds that they have for it; then a call fails."
    )
    namespace: str = Field(
        "", pattern=r"^[A-Za-z0-9_-]*$", description="Prefix of every key, written as {namespace}:."
    )
    map_dir: Path = Field(ROOT / "maps", description="Folder of the maps that missions may name.")
    out_dir: Path = Field(
        ROOT / "missions" / "results",
        description="Folder for mission results, one for each mission.",
    )
    record_mcap: bool = Field(True, description="Write `mission.mcap` to the results, too.")
    data_dir: Path = Field(
        ROOT / "missions" / "data",
        description="Folder where `mission run` and `mission dev` keep the missions of servers that they start.",
    )

    resources_stream: str = Field(
        "resources:commands", description="Command stream of the fleet registry."
    )
    routing_stream: str = Field(
        "routing:commands", description="Command stream of the route planner."
    )
    exploration_stream: str = Field(
        "exploration:commands", description="Command stream of exploration and its abort."
    )
    map_stream: str = Field(
        "map:commands", description="Command stream of map integration and rollback."
    )
    mission_stream: str = Field(
        "mission:commands", description="Command stream of `mission:start`."
    )
    robot_streams: str = Field(
        "robots:{robot}:commands",
        description="Command stream of one robot; {robot} is its id.",
    )
    recording_streams: str = Field(
        "missions:{mission}:frames",
        description="Stream of a mission's recorded frames; {mission} is its id.",
    )
    handler_package: str = Field(
        "app.command_handlers.handlers",
        description="Package whose handlers the command listener runs.",
    )

    listener_concurrency: int = Field(
        64, ge=1, description="Commands that one listener handles at the same time."
    )
    listener_drain_s: float = Field(
        10.0, gt=0, description="Seconds that running handlers get to finish on shutdown."
    )
    listener_processes: int = Field(
        1, ge=1, le=64, description="Command listeners that `mission run` starts."
    )
    celery_concurrency: int = Field(64, ge=1, description="Threads of a Celery worker.")
    lease_s: float = Field(
        10.0, gt=0, description="Seconds after which the claim of a dead handler expires."
    )
    wake_after_s: float = Field(
        10.0, gt=0, description="Seconds until an unattended mission is resumed."
    )
    undo_attempts: int = Field(
        5, ge=1, description="Attempts of a compensation before the mission is stuck."
    )
    retry_s: float = Field(
        0.5,
        gt=0,
        description="Seconds before the second attempt; doubles with each one, up to 5 s.",
    )
    retention_s: float = Field(
        86_400.0,
        gt=0,
        description="Seconds to keep ended missions, and to remember the ids of ended requests.",
    )
    result_s: float = Field(
        3600.0,
        gt=0,
        description="Seconds to keep results of requests that belong to no mission.",
    )
    call_timeout_s: float = Field(
        10.0, gt=0, description="Seconds to wait for an unresponsive server."
    )
    max_payload: int = Field(
        64 * 1024, ge=1024, description="Maximum size of a message payload, in bytes of JSON."
    )
    event_maxlen: int | None = Field(
        None, description="Approximate maximum length (MAXLEN ~) of event streams."
    )
    event_ttl_s: float | None = Field(
        None, description="Seconds after which event streams expire (EXPIRE)."
    )

    reply_timeout_s: float = Field(30.0, gt=0, description="Seconds to wait for a reply.")
    reply_initial_delay_s: float = Field(
        0.1, gt=0, description="Seconds of the first wait after an empty read."
    )
    reply_max_delay_s: float = Field(
        1.0, gt=0, le=2, description="Seconds of the longest wait after an empty read."
    )
    reply_backoff_factor: float = Field(2.0, ge=1, description="Growth factor of these waits.")

    allocate_timeout_s: float = Field(
        30.0, gt=0, description="Timeout of allocate_resources, in seconds."
    )
    plan_timeout_s: float = Field(60.0, gt=0, description="Timeout of plan_route, in seconds.")
    explore_timeout_s: float = Field(
        1800.0, gt=0, description="Timeout of perform_exploration, in seconds."
    )
    approval_timeout_s: float = Field(
        86_400.0, gt=0, description="Seconds to wait for an approval; the mission is undone then."
    )
    integrate_timeout_s: float = Field(
        120.0, gt=0, description="Timeout of integrate_maps, in seconds."
    )
    robot_timeout_s: float = Field(
        30.0, gt=0, description="Timeout of one order to a robot, in seconds."
    )
    blob_ttl_s: int = Field(3600, ge=60, description="Seconds to keep stored map parts.")
    checkpoint_s: float = Field(2.0, gt=0, description="Seconds between two checkpoints.")
    checkpoint_ttl_s: int = Field(
        600, ge=60, description="Seconds to keep the parts of a checkpoint."
    )
    missions_per_area: int = Field(0, ge=0, description="Missions in one area at once; 0 for any.")
    quorum: float = Field(
        0.5, gt=0, le=1, description="Minimum share of its robots that a mission needs to continue."
    )
    progress_interval_s: float = Field(
        0.25, ge=0, description="Minimum seconds between progress reports."
    )

    fleet_size: int = Field(8, ge=0, le=256, description="Robots of the simulated fleet.")
    robot_processes: int = Field(
        2, ge=1, le=64, description="Processes that the simulated fleet is spread over."
    )
    robot_seen_s: float = Field(
        10.0, gt=0, description="Seconds of silence after which a robot counts as absent."
    )
    battery_least: float = Field(
        20.0, ge=0, le=100, description="Minimum battery charge for a mission, in percent."
    )
    battery_per_metre: float = Field(
        0.02, ge=0, description="Battery charge used per metre, in percent."
    )
    charge_per_s: float = Field(
        1.0, ge=0, description="Battery charge gained per second at rest, in percent."
    )

    log_level: str = Field("WARNING", description="DEBUG, INFO, WARNING or ERROR.")
    http_host: str = Field("127.0.0.1", description="Address of /healthz, /readyz and /metrics.")
    http_port: int = Field(
        0, ge=0, le=65535, description="Port of /healthz, /readyz and /metrics; 0 disables them."
    )
    web_host: str = Field("127.0.0.1", description="Address of `mission serve`.")
    web_port: int = Field(
        8080, ge=0, le=65535, description="Port of `mission serve`; 0 picks a free one."
    )
    web_token: str = Field(
        "", repr=False, description="Bearer token of `mission serve`; required beyond loopback."
    )
    web_token_file: Path | None = Field(
        None,
        description="File with the token, instead of `WEB_TOKEN`. `mission serve` makes "
        "a file that is missing.",
    )
    web_hosts: str = Field(
        "",
        description="Names by which clients may address `mission serve`, separated by commas; "
        "none: without a token those of loopback, with one any.",
    )
    web_proxies: str = Field(
        "",
        description="Addresses of proxies whose `X-Forwarded-For`, `-Proto` and `-Host` are believed.",
    )
    web_root_path: str = Field(
        "",
        pattern=r"^(/[A-Za-z0-9._~-]+)*$",
        description="Path below which a proxy serves the pages, such as `/missions`.",
    )
    web_requests_per_s: float = Field(
        20.0, gt=0, description="Changes allowed per client and second."
    )
    web_streams: int = Field(
        2000, ge=1, description="Maximum of open event streams of `mission serve`."
    )
    web_streams_per_client: int = Field(
        500, ge=1, description="Maximum of open event streams of one client address."
    )
    web_streams_per_mission: int = Field(
        1000, ge=1, description="Maximum of open event streams of one mission."
    )
    grafana_url: str = Field(
        "", description="Base URL of Grafana for links to traces; none: no links."
    )
    web_open_missions: int = Field(
        100, ge=1, description="Maximum of open missions before `serve` refuses new ones."
    )
    trace_file: Path | None = Field(
        None, description="File for spans in OTLP JSON; none: spans are not written."
    )
    trace_dir: Path = Field(
        ROOT / "missions" / "traces", description="Folder for the spans of each `mission run`."
    )
    otel_exporter_otlp_endpoint: str = Field(
        "", description="OTLP endpoint of spans and metrics; none: no export."
    )
    otel_exporter_otlp_traces_endpoint: str = Field("", description="OTLP endpoint for spans only.")
    otel_exporter_otlp_metrics_endpoint: str = Field(
        "", description="OTLP endpoint for metrics only."
    )
    otel_exporter_otlp_protocol: str = Field("http/protobuf", description="http/protobuf or grpc.")
    otel_exporter_otlp_traces_protocol: str = Field("", description="Protocol for spans only.")
    otel_exporter_otlp_metrics_protocol: str = Field("", description="Protocol for metrics only.")
    otel_exporter_otlp_headers: str = Field(
        "", repr=False, description="Headers of each export; never logged."
    )
    otel_traces_exporter: str = Field("otlp", description="otlp, or none.")
    otel_metrics_exporter: str = Field("otlp", description="otlp, or none.")
    otel_bsp_schedule_delay: int = Field(
        1000,
        gt=0,
        description=(
            "Milliseconds between exports of spans; a killed process loses the spans since the "
            "last export."
        ),
    )
    otel_metric_export_interval: int = Field(
        10_000, gt=0, description="Milliseconds between exports of metrics."
    )

    @model_validator(mode="before")
    @classmethod
    def _read_files(cls, given: dict[str, Any]) -> dict[str, Any]:
        """Read the secrets that are in files."""
        return given | read_secrets(given)

    @field_validator("redis_url", "broker_url")
    @classmethod
    def _known_url(cls, value: str, info: ValidationInfo) -> str:
        try:
            return Bus(value).url if value or info.field_name == "redis_url" else ""
        except InvalidMessage as error:
            raise ValueError(error.reason) from None

    @model_validator(mode="after")
    def _broker_is_one_server(self) -> Self:
        if "+cluster:" in self.celery_url:
            raise ValueError(
                "BROKER_URL: Celery's messages cannot go through a cluster; name one server, or a "
                "service with Sentinels"
            )
        return self

    @property
    def celery_url(self) -> str:
        """URL of the server of Celery's messages."""
        return self.broker_url or self.redis_url

    @field_validator("log_level")
    @classmethod
    def _known_level(cls, value: str) -> str:
        if value.upper() not in {"DEBUG", "INFO", "WARNING", "ERROR"}:
            raise ValueError("must be DEBUG, INFO, WARNING or ERROR")
        return value.upper()

    @property
    def exports_spans(self) -> bool:
        """Whether a standard OTEL_* variable enables the export of spans."""
        endpoint = self.otel_exporter_otlp_endpoint or self.otel_exporter_otlp_traces_endpoint
        return bool(endpoint) and self.otel_traces_exporter != "none"

    @property
    def exports_metrics(self) -> bool:
        """Whether a standard OTEL_* variable enables the export of metrics."""
        endpoint = self.otel_exporter_otlp_endpoint or self.otel_exporter_otlp_metrics_endpoint
        return bool(endpoint) and self.otel_metrics_exporter != "none"

    @property
    def traces_protocol(self) -> str:
        """OTLP protocol for spans."""
        return self.otel_exporter_otlp_traces_protocol or self.otel_exporter_otlp_protocol

    @property
    def metrics_protocol(self) -> str:
        """OTLP protocol for metrics."""
        return self.otel_exporter_otlp_metrics_protocol or self.otel_exporter_otlp_protocol

    @property
    def step_streams(self) -> tuple[str, ...]:
        """Command streams of a mission's steps: listeners must read all of them."""
        return self.resources_stream, self.routing_stream, self.exploration_stream, self.map_stream

    def robot_stream(self, robot: str) -> str:
        """Return the command stream of one robot."""
        return self.robot_streams.format(robot=robot)

    def recording_stream(self, mission: str) -> str:
        """Return the stream of a mission's recorded frames."""
        return self.recording_streams.format(mission=mission)

    def environment(self) -> dict[str, str]:
        """Return the environment that gives a child process these settings."""
        own = self.model_dump(exclude_unset=True, mode="json", exclude_none=True)
        inherited = dict(os.environ)
        for name in SECRETS:  # the children get what this process has read
            own.pop(f"{name}_file", None)
            inherited.pop(f"{name}_file".upper(), None)
        return inherited | {name.upper(): str(value) for name, value in own.items()}


_chosen: dict[str, Any] = {}


@lru_cache
def get_settings() -> Settings:
    """Return the settings of this process, read once.

    Raises:
        pydantic.ValidationError: A variable has an invalid value; the error names it.
    """
    return Settings(**_chosen)


def settings_or_exit() -> Settings:
    """Return the settings of this process; end it with one line if a variable is invalid."""
    try:
        return get_settings()
    except ValidationError as error:
        sys.stderr.write(f"{explain(error)}\n")
        sys.exit(2)


def explain(error: ValidationError) -> str:
    """Return one line that names the variable that is invalid, and does not show its value."""
    first = error.errors(include_input=False)[0]
    name = "_".join(str(part) for part in first["loc"]).upper()
    return ": ".join(filter(None, (name, first["msg"].removeprefix("Value error, "))))


def choose_settings(**changes: Any) -> Settings:
    """Override settings from the command line, for this process and its children."""
    _chosen.update({f"{name}_file": None for name in SECRETS if name in changes})
    _chosen.update(changes)
    get_settings.cache_clear()
    return get_settings()
