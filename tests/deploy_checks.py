"""Static checks of the files in deploy/: keys, names and queries.

Each check yields one line for each fault that it finds.
"""

import re
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import promql_parser
import yaml

ANY: Any = object()
_LISTENERS = {"endpoint": ANY}

# Keys of Tempo 3; a list means a list of such maps.
TEMPO: Any = {
    "stream_over_http_enabled": ANY,
    "target": ANY,
    "server": {"http_listen_port": ANY, "http_listen_address": ANY, "log_level": ANY},
    "distributor": {"receivers": {"otlp": {"protocols": {"grpc": _LISTENERS, "http": _LISTENERS}}}},
    "query_frontend": {"query_end_cutoff": ANY, "search": ANY, "trace_by_id": ANY},
    "live_store": {"fail_on_high_lag": ANY},
    "metrics_generator": {
        "storage": {"path": ANY, "remote_write": [{"url": ANY, "send_exemplars": ANY}]},
        "processor": {
            "service_graphs": {"enable_messaging_system_latency_histogram": ANY, "dimensions": ANY},
            "span_metrics": {"dimensions": ANY},
        },
    },
    "storage": {"trace": {"backend": ANY, "wal": {"path": ANY}, "local": {"path": ANY}}},
    "overrides": {"defaults": {"metrics_generator": {"processors": ANY}}},
    "usage_report": {"reporting_enabled": ANY},
}
PROMETHEUS: Any = {
    "global": {"scrape_interval": ANY, "evaluation_interval": ANY},
    "scrape_configs": [
        {"job_name": ANY, "metrics_path": ANY, "static_configs": [{"targets": ANY, "labels": ANY}]}
    ],
}
DATASOURCES: Any = {
    "apiVersion": ANY,
    "datasources": [
        {
            **dict.fromkeys(("name", "uid", "type", "access", "url", "isDefault"), ANY),
            "jsonData": {
                "httpMethod": ANY,
                "timeInterval": ANY,
                "exemplarTraceIdDestinations": [{"name": ANY, "datasourceUid": ANY}],
                "serviceMap": {"datasourceUid": ANY},
                "nodeGraph": {"enabled": ANY},
                "streamingEnabled": {"search": ANY, "metrics": ANY},
                "tracesToMetrics": {
                    **dict.fromkeys(("datasourceUid", "spanStartTimeShift"), ANY),
                    "spanEndTimeShift": ANY,
                    "tags": [{"key": ANY, "value": ANY}],
                    "queries": [{"name": ANY, "query": ANY}],
                },
            },
        }
    ],
}
PROVIDERS: Any = {
    "apiVersion": ANY,
    "providers": [
        {
            **dict.fromkeys(("name", "folder", "type", "disableDeletion", "allowUiUpdates"), ANY),
            "options": {"path": ANY},
        }
    ],
}

_NOT_IN_3 = {"ingester", "compactor", "ingester_client", "querier.frontend_worker.address"}
_TRACE_ID = re.compile(r"\$\w+|[0-9a-f]{32}")
_CONDITION = (
    r"(?:name|status|kind|duration|rootName|rootServiceName|(?:span|resource|event|link)?\.[\w.:]+)"
    r" *(?:=~|!=|!~|>=|<=|=|>|<) *"
    r"(?:\"[^\"]*\"|nil|true|false|error|ok|unset|client|server|producer|consumer|internal|[\d.]+\w*)"
)
_SPANSET = rf"\{{ *(?:{_CONDITION}(?: *(?:&&|\|\|) *{_CONDITION})*)? *\}}"
_TRACEQL = re.compile(rf"{_SPANSET}(?: *(?:&&|\|\||>>|>|<<|<) *{_SPANSET})*")
# A full version, and perhaps a digest.
_PINNED = re.compile(r"[^\s:@]+:v?\d+\.\d+\.\d+[\w.-]*(@sha256:[0-9a-f]{64})?")
# Metrics that Tempo's generator writes to Prometheus.
_OF_TEMPO = re.compile(r"traces_(spanmetrics|service_graph)_\w+")


def faults_of_keys(given: Any, known: Any, path: str = "") -> Iterator[str]:
    """Yield keys that are unknown at their position."""
    if known is ANY:
        return
    if isinstance(known, list):
        for item in given if isinstance(given, list) else [given]:
            yield from faults_of_keys(item, known[0], f"{path}[]")
        return
    if not isinstance(given, Mapping):
        yield f"{path} is not a map"
        return
    for name, value in given.items():
        where = f"{path}.{name}".lstrip(".")
        if name not in known:
            hint = " (a key of Tempo 2, fatal in Tempo 3)" if name in _NOT_IN_3 else ""
            yield f"{where} is not a known key{hint}"
        else:
            yield from faults_of_keys(value, known[name], where)


def faults_of_compose(path: Path) -> Iterator[str]:
    """Check the Compose specification, pinned images, health checks and existing files."""
    checked = subprocess.run(
        [
            *(sys.executable, "-m", "check_jsonschema"),
            *("--builtin-schema", "vendor.compose-spec", str(path)),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    if checked.returncode:
        yield checked.stdout
    given = yaml.safe_load(path.read_text())
    for name, service in given.get("services", {}).items():
        if not _PINNED.fullmatch(str(service.get("image", ""))):
            yield f"{name}: the image {service.get('image')} is not pinned"
        if "build" in service:
            yield from _faults_of_hardening(name, service)
        if "healthcheck" not in service:
            yield f"{name}: it has no health check"
        for volume in service.get("volumes", ()):
            place = str(volume).split(":")[0]
            if place.startswith(".") and not (path.parent / place).exists():
                yield f"{name}: {place} does not exist"
            elif not place.startswith((".", "/")) and place not in given.get("volumes", {}):
                yield f"{name}: volume {place} is not declared"
        for other in service.get("depends_on", {}):
            if other not in given["services"]:
                yield f"{name}: depends on {other}, which does not exist"


def _faults_of_hardening(name: str, service: Mapping[str, Any]) -> Iterator[str]:
    """Our own image needs no right but to write to its volume and to /tmp."""
    if service.get("read_only") is not True or service.get("tmpfs") != ["/tmp"]:  # noqa: S108
        yield f"{name}: its root file system is not read-only"
    if service.get("cap_drop") != ["ALL"] or service.get("cap_add"):
        yield f"{name}: it keeps capabilities"
    if service.get("privileged") or "no-new-privileges:true" not in service.get("security_opt", ()):
        yield f"{name}: its processes can get more privileges"
    if service.get("user", "10001") in {"root", "0", 0}:
        yield f"{name}: it runs as root"


def faults_of_dockerfile(text: str) -> Iterator[str]:
    """Check that the image names its base exactly, and runs as a user that is not root."""
    bases = re.findall(r"^FROM (\S+)", text, re.MULTILINE)
    for base in bases:
        if not _PINNED.fullmatch(base):
            yield f"the base {base} is not pinned"
    users = re.findall(r"^USER (\S+)", text, re.MULTILINE)
    if not users or not users[-1].isdecimal() or users[-1] == "0":
        yield "it does not end as a numbered user that is not root"
    if "--require-hashes" not in text:
        yield "it installs packages without their hashes"


def faults_of_targets(prometheus: Any, compose: Any) -> Iterator[str]:
    """Yield scrape targets that are not services."""
    for job in prometheus["scrape_configs"]:
        for group in job["static_configs"]:
            for target in group["targets"]:
                if target.split(":")[0] not in compose["services"]:
                    yield f"{job['job_name']}: {target} is not a service"


def faults_of_dashboard(
    dashboard: Any, sources: Sequence[str], metrics: Sequence[str]
) -> Iterator[str]:
    """Yield queries with syntax errors, unknown metrics or unknown data sources."""
    names = {variable["name"] for variable in dashboard["templating"]["list"]}
    for panel in dashboard["panels"]:
        for target in panel["targets"]:
            where = f"{dashboard['title']}: {panel['title']}"
            if target["datasource"]["uid"] not in sources:
                yield f"{where}: no data source {target['datasource']['uid']}"
            if "expr" in target:
                yield from (
                    f"{where}: {fault}" for fault in faults_of_promql(target["expr"], metrics)
                )
            elif target.get("queryType") == "traceql":
                yield from (
                    f"{where}: {fault}" for fault in faults_of_traceql(target["query"], names)
                )


def faults_of_promql(query: str, metrics: Sequence[str]) -> Iterator[str]:
    """Check syntax and metric names of a PromQL query."""
    plain = query.replace("$__rate_interval", "5m").replace("$$__tags", 'service="x"')
    try:
        promql_parser.parse(plain)
    except ValueError as error:
        yield f"{query}: {error}"
        return
    for name in re.findall(r"([a-z_:][\w:]*)(?=[{\[)])", re.sub(r"by \([^)]*\)", "", plain)):
        if name not in metrics and not _OF_TEMPO.fullmatch(name):
            yield f"{query}: unknown metric {name}"


def faults_of_traceql(query: str, variables: set[str]) -> Iterator[str]:
    """Check a TraceQL query against the used part of the grammar."""
    if _TRACE_ID.fullmatch(query):
        if query.startswith("$") and query[1:] not in variables:
            yield f"{query}: unknown variable"
    elif not _TRACEQL.fullmatch(query):
        yield f"{query}: is not TraceQL"
