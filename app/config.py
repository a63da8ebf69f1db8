"""Every default of the application, from the environment, in one place.

Each field is the environment variable of its name in capitals. Nothing else in the
project reads the environment, but for the standard OTEL_* variables, which the
OpenTelemetry SDK reads.
"""

import os
from functools import lru_cache
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from pydantic import Field, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

ROOT = Path(__file__).resolve().parent.parent


class Settings(BaseSettings):
    """The application's settings."""

    model_config = SettingsConfigDict(frozen=True)

    redis_url: str = Field(
        "redis://127.0.0.1:6379/0",
        description="The server: redis://, rediss:// or unix://.",
    )
    namespace: str = Field(
        "", pattern=r"^[A-Za-z0-9_-]*$", description="Put before every key as {namespace}:."
    )
    map_dir: Path = Field(ROOT / "maps", description="Where the maps named in messages are.")
    out_dir: Path = Field(ROOT / "missions", description="Where missions write their results.")

    resources_stream: str = Field("resources:commands", description="Commands to the fleet.")
    routing_stream: str = Field("routing:commands", description="Commands to the planner.")
    exploration_stream: str = Field("exploration:commands", description="Explore, and abort.")
    map_stream: str = Field("map:commands", description="Merge maps, and roll back.")
    mission_stream: str = Field("mission:commands", description="Start missions.")
    robot_streams: str = Field(
        "robots:{robot}:commands",
        description="Commands to one robot; {robot} is its id.",
    )
    recording_streams: str = Field(
        "missions:{mission}:frames",
        description="What a mission looked like; {mission} is its id.",
    )
    handler_package: str = Field(
        "app.command_handlers.handlers",
        description="The package whose handlers the command listener runs.",
    )

    listener_concurrency: int = Field(64, ge=1, description="Commands handled at once.")
    listener_drain_s: float = Field(10.0, gt=0, description="Seconds to finish in when stopped.")
    listener_processes: int = Field(1, ge=1, le=64, description="Listeners of `mission run`.")
    celery_concurrency: int = Field(64, ge=1, description="Threads of a Celery worker.")
    lease_s: float = Field(10.0, gt=0, description="Seconds until a dead handler is replaced.")
    wake_after_s: float = Field(10.0, gt=0, description="Seconds until a mission left is taken up.")
    undo_attempts: int = Field(5, ge=1, description="Tries of a compensation until it is stuck.")
    retry_s: float = Field(0.5, gt=0, description="Seconds before the second try; it doubles.")
    retention_s: float = Field(86_400.0, gt=0, description="Seconds that ended things are kept.")
    call_timeout_s: float = Field(10.0, gt=0, description="Seconds to wait for a silent server.")
    max_payload: int = Field(64 * 1024, ge=1024, description="Bytes of JSON in one message.")
    event_maxlen: int | None = Field(None, description="MAXLEN ~ of emitted events.")
    event_ttl_s: float | None = Field(None, description="EXPIRE of streams of emitted events.")

    reply_timeout_s: float = Field(30.0, gt=0, description="Seconds to wait for a reply.")
    reply_initial_delay_s: float = Field(0.1, gt=0, description="First wait of an empty read.")
    reply_max_delay_s: float = Field(1.0, gt=0, le=2, description="Longest wait of an empty read.")
    reply_backoff_factor: float = Field(2.0, ge=1, description="Growth of the waits.")

    allocate_timeout_s: float = Field(30.0, gt=0, description="Seconds for allocate_resources.")
    plan_timeout_s: float = Field(60.0, gt=0, description="Seconds for plan_route.")
    explore_timeout_s: float = Field(1800.0, gt=0, description="Seconds for perform_exploration.")
    integrate_timeout_s: float = Field(120.0, gt=0, description="Seconds for integrate_maps.")
    robot_timeout_s: float = Field(30.0, gt=0, description="Seconds for one order to a robot.")
    blob_ttl_s: int = Field(3600, ge=60, description="Seconds that stored map parts live.")
    checkpoint_s: float = Field(2.0, gt=0, description="Seconds between checkpoints.")
    checkpoint_ttl_s: int = Field(600, ge=60, description="Seconds that a checkpoint's parts live.")
    quorum: float = Field(0.5, gt=0, le=1, description="Share of robots that a mission needs.")
    progress_interval_s: float = Field(0.25, ge=0, description="Seconds between progress reports.")

    fleet_size: int = Field(8, ge=1, le=256, description="Robots of the simulated fleet.")
    robot_processes: int = Field(2, ge=1, le=64, description="Processes that the fleet lives in.")
    robot_seen_s: float = Field(10.0, gt=0, description="Seconds until a silent robot is absent.")
    battery_least: float = Field(20.0, ge=0, le=100, description="Percent below which none goes.")
    battery_per_metre: float = Field(0.02, ge=0, description="Percent used for each metre.")
    charge_per_s: float = Field(1.0, ge=0, description="Percent gained in a second of rest.")

    log_level: str = Field("WARNING", description="DEBUG, INFO, WARNING or ERROR.")
    http_host: str = Field("127.0.0.1", description="Address of /healthz, /readyz, /metrics.")
    http_port: int = Field(0, ge=0, le=65535, description="Port of these; 0: they are not there.")
    web_host: str = Field("127.0.0.1", description="Address of `mission serve`.")
    web_port: int = Field(8080, ge=0, le=65535, description="Its port; 0: any that is free.")
    web_token: str = Field("", description="What its callers must bear; needed beyond loopback.")
    web_requests_per_s: float = Field(20.0, gt=0, description="Changes of one client a second.")
    grafana_url: str = Field("", description="Grafana, for links to traces; none: no links.")
    web_open_missions: int = Field(100, ge=1, description="Missions open at once, for `serve`.")
    trace_file: Path | None = Field(None, description="Where spans go as OTLP JSON; none: nowhere.")
    trace_dir: Path = Field(
        ROOT / "missions" / "traces", description="Where `mission run` keeps the spans of its runs."
    )
    otel_exporter_otlp_endpoint: str = Field(
        "", description="Where spans and metrics go; none: nowhere."
    )
    otel_exporter_otlp_traces_endpoint: str = Field("", description="The same for traces alone.")
    otel_exporter_otlp_metrics_endpoint: str = Field("", description="The same for metrics alone.")
    otel_exporter_otlp_protocol: str = Field("http/protobuf", description="Or grpc.")
    otel_exporter_otlp_traces_protocol: str = Field("", description="The same for traces alone.")
    otel_exporter_otlp_metrics_protocol: str = Field("", description="The same for metrics alone.")
    otel_exporter_otlp_headers: str = Field("", description="Sent along; never logged.")
    otel_traces_exporter: str = Field("otlp", description="otlp, or none.")
    otel_metrics_exporter: str = Field("otlp", description="otlp, or none.")
    otel_bsp_schedule_delay: int = Field(
        1000, gt=0, description="Milliseconds until spans leave; a killed process loses as many."
    )
    otel_metric_export_interval: int = Field(
        10_000, gt=0, description="Milliseconds between exports of metrics."
    )

    @field_validator("log_level")
    @classmethod
    def _known_level(cls, value: str) -> str:
        if value.upper() not in {"DEBUG", "INFO", "WARNING", "ERROR"}:
            raise ValueError("must be DEBUG, INFO, WARNING or ERROR")
        return value.upper()

    @property
    def broker_url(self) -> str:
        """The same server as Celery's transport writes it."""
        parts = urlsplit(self.redis_url)
        if parts.scheme == "unix":
            return f"redis+socket://{parts.path}"
        return self.redis_url

    @property
    def exports_spans(self) -> bool:
        """Whether a standard OTEL_* variable asks for export."""
        named = self.otel_exporter_otlp_endpoint or self.otel_exporter_otlp_traces_endpoint
        return bool(named) and self.otel_traces_exporter != "none"

    @property
    def exports_metrics(self) -> bool:
        """Whether a standard OTEL_* variable asks for the export of metrics."""
        named = self.otel_exporter_otlp_endpoint or self.otel_exporter_otlp_metrics_endpoint
        return bool(named) and self.otel_metrics_exporter != "none"

    @property
    def traces_protocol(self) -> str:
        """How spans are exported."""
        return self.otel_exporter_otlp_traces_protocol or self.otel_exporter_otlp_protocol

    @property
    def metrics_protocol(self) -> str:
        """How metrics are exported."""
        return self.otel_exporter_otlp_metrics_protocol or self.otel_exporter_otlp_protocol

    def robot_stream(self, robot: str) -> str:
        """The command stream of one robot."""
        return self.robot_streams.format(robot=robot)

    def recording_stream(self, mission: str) -> str:
        """The stream of one mission's frames."""
        return self.recording_streams.format(mission=mission)

    def environment(self) -> dict[str, str]:
        """The environment for a child process that is to have these settings."""
        own = self.model_dump(exclude_unset=True, mode="json", exclude_none=True)
        return dict(os.environ) | {name.upper(): str(value) for name, value in own.items()}


_chosen: dict[str, Any] = {}


@lru_cache
def get_settings() -> Settings:
    """The settings of this process, read once.

    Raises:
        pydantic.ValidationError: A variable is not what it must be; names it.
    """
    return Settings(**_chosen)


def choose_settings(**changes: Any) -> Settings:
    """Put a command line's choices over the environment, for this process and its children."""
    _chosen.update(changes)
    get_settings.cache_clear()
    return get_settings()
