import json
import re
import shutil
import subprocess
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml
from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.sdk.metrics import MeterProvider
from prometheus_client import CollectorRegistry, generate_latest

from app.config import ROOT
from app.observability import gauges
from sagastream._telemetry import metrics
from tests.deploy_checks import (
    DATASOURCES,
    PROMETHEUS,
    PROVIDERS,
    TEMPO,
    faults_of_compose,
    faults_of_dashboard,
    faults_of_dockerfile,
    faults_of_keys,
    faults_of_promql,
    faults_of_targets,
    faults_of_traceql,
)
from tests.scripts import load_script

DEPLOY = ROOT / "deploy"
FILES = {
    "tempo.yaml": TEMPO,
    "prometheus.yml": PROMETHEUS,
    "grafana/provisioning/datasources/datasources.yaml": DATASOURCES,
    "grafana/provisioning/dashboards/dashboards.yaml": PROVIDERS,
}

pytestmark = pytest.mark.blocking


def _load(name: str) -> Any:
    return yaml.safe_load((DEPLOY / name).read_text())


@pytest.fixture(scope="module")
def script() -> ModuleType:
    """The script that generates the dashboards."""
    return load_script("dashboards")


@pytest.fixture(scope="module")
def sources() -> list[str]:
    """The provisioned data sources."""
    listed = _load("grafana/provisioning/datasources/datasources.yaml")
    return [source["uid"] for source in listed["datasources"]]


@pytest.fixture(scope="module")
def names() -> list[str]:
    """The names of our metrics on /metrics."""
    registry = CollectorRegistry()
    reader = PrometheusMetricReader(registry=registry)
    meter = MeterProvider([reader]).get_meter("test")
    found = set()
    for module in (metrics, gauges):
        for made in re.finditer(
            r'_METER\.create_(\w+)\(\s*"([\w.]+)",\s*(?:unit="([^"]+)")?',
            Path(str(module.__file__)).read_text(),
        ):
            found.add((made[1], made[2], made[3] or ""))
    found |= {
        ("gauge", name, unit)
        for name, unit in re.findall(
            r'\("(sagastream[\w.]+)", "([^"]+)"', Path(str(gauges.__file__)).read_text()
        )
    }
    for kind, name, unit in found:
        made_by = getattr(meter, f"create_{kind}")
        instrument = made_by(name, unit=unit)
        getattr(instrument, {"histogram": "record", "counter": "add", "gauge": "set"}[kind])(1)
    text = generate_latest(registry).decode()
    return sorted({re.split(r"[{ ]", line)[0] for line in text.splitlines() if line[0] != "#"})


@pytest.mark.parametrize("name", FILES)
def test_keys_are_known(name: str) -> None:
    """Every key of every file is known to the program that reads it."""
    assert list(faults_of_keys(_load(name), FILES[name])) == []


@pytest.mark.parametrize(
    ("name", "change", "fault"),
    [
        (
            "tempo.yaml",
            {"ingester": {"max_block_duration": "5m"}},
            "ingester is not.*fatal in Tempo 3",
        ),
        ("tempo.yaml", {"compactor": {}}, "compactor is not.*fatal in Tempo 3"),
        ("tempo.yaml", {"storage": {"trace": {"backnd": "local"}}}, "storage.trace.backnd is not"),
        ("tempo.yaml", {"server": "3200"}, "server is not a map"),
        ("prometheus.yml", {"scrape_configs": [{"jobname": "x"}]}, r"\[\].jobname is not"),
        (
            "grafana/provisioning/datasources/datasources.yaml",
            {"datasources": [{"jsonData": {"serviceMap": {"datasource": "x"}}}]},
            "serviceMap.datasource is not",
        ),
        (
            "grafana/provisioning/dashboards/dashboards.yaml",
            {"providers": [{"option": {}}]},
            "option is not",
        ),
    ],
)
def test_a_wrong_key_is_found(name: str, change: dict[str, Any], fault: str) -> None:
    """A typo, a key of Tempo 2, and a value instead of a map are faults."""
    found = list(faults_of_keys(_load(name) | change, FILES[name]))
    assert any(re.search(fault, one) for one in found), found


@pytest.mark.skipif(not shutil.which("promtool"), reason="promtool is Debian's `prometheus`")
@pytest.mark.parametrize(("old", "new", "code"), [("", "", 0), ("scrape_interval", "scrape", 1)])
def test_prometheus_accepts_its_configuration(
    tmp_path: Path, old: str, new: str, code: int
) -> None:
    """`promtool` accepts the configuration and refuses a misspelt key."""
    path = tmp_path / "prometheus.yml"
    path.write_text((DEPLOY / "prometheus.yml").read_text().replace(old, new))
    checked = subprocess.run(
        ["promtool", "check", "config", path], capture_output=True, check=False
    )
    assert checked.returncode == code, checked.stderr


def test_compose_is_valid() -> None:
    """It follows the specification, with pinned images, health checks and existing files."""
    assert list(faults_of_compose(DEPLOY / "compose.yaml")) == []


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        ("image: valkey/", "imaje: valkey/", "imaje"),
        ("valkey/valkey:9.1.2", "valkey/valkey:latest", "not pinned"),
        ("./tempo.yaml:", "./tmpo.yaml:", "./tmpo.yaml does not exist"),
        ("tempo:/var/tempo", "temp:/var/tempo", "volume temp is not declared"),
        ("      prometheus: {condition", "      promtheus: {condition", "depends on promtheus"),
        ("  read_only: true\n", "", "not read-only"),
        ('  tmpfs: ["/tmp"]\n', "", "not read-only"),
        ("  cap_drop: [ALL]\n", "", "keeps capabilities"),
        ('  security_opt: ["no-new-privileges:true"]\n', "", "more privileges"),
        ("  read_only: true\n", "  read_only: true\n  user: root\n", "runs as root"),
        ("valkey/valkey:9.1.2", "valkey/valkey:9.1.2@sha256:123", "not pinned"),
        ('healthcheck: {test: ["CMD", "valkey-cli"', 'x-check: {test: ["CMD", "a"', "health"),
    ],
)
def test_a_wrong_compose_file_is_found(tmp_path: Path, old: str, new: str, fault: str) -> None:
    """Each seeded fault is reported."""
    text = (DEPLOY / "compose.yaml").read_text()
    assert old in text
    for name in ("tempo.yaml", "prometheus.yml", "mosquitto.conf"):
        (tmp_path / name).write_text("")
    for name in ("grafana/provisioning", "grafana/dashboards"):
        (tmp_path / name).mkdir(parents=True)
    path = tmp_path / "compose.yaml"
    path.write_text(text)
    assert list(faults_of_compose(path)) == []
    path.write_text(text.replace(old, new, 1))
    assert any(fault in found for found in faults_of_compose(path))


def test_an_image_with_a_digest_is_pinned(tmp_path: Path) -> None:
    """`scripts/pin-images.sh` adds the digest to the version."""
    image = f"x/y:1.2.3@sha256:{'a' * 64}"
    path = tmp_path / "compose.yaml"
    path.write_text(f"services: {{a: {{image: '{image}', healthcheck: {{test: [CMD, a]}}}}}}")
    assert list(faults_of_compose(path)) == []


@pytest.mark.parametrize(("answer", "code"), [(f"sha256:{'b' * 64}", 0), ("latest", 1), ("", 1)])
def test_digests_come_from_the_registry(tmp_path: Path, answer: str, code: int) -> None:
    """Each image gets its own, a second time too; an answer that is no digest changes nothing."""
    shutil.copytree(DEPLOY, tmp_path / "deploy")
    (tmp_path / "scripts").mkdir()
    script = shutil.copy(ROOT / "scripts" / "pin-images.sh", tmp_path / "scripts")
    docker = tmp_path / "bin" / "docker"
    docker.parent.mkdir()
    docker.write_text(f"#!/bin/sh\necho {answer}\n")
    docker.chmod(0o755)
    env = {"PATH": f"{docker.parent}:/usr/bin:/bin"}
    before = (tmp_path / "deploy" / "compose.yaml").read_text()
    for _ in range(2):
        done = subprocess.run([script], env=env, capture_output=True, text=True, check=False)
        assert done.returncode == code, done.stderr
    text = (tmp_path / "deploy" / "compose.yaml").read_text()
    dockerfile = (tmp_path / "deploy" / "Dockerfile").read_text()
    if code:
        assert text == before
        return
    assert text.count(f"@{answer}") == 5
    assert dockerfile.count(f"@{answer}") == 1
    assert "mission-control:0.1.0\n" in text
    assert list(faults_of_compose(tmp_path / "deploy" / "compose.yaml")) == []
    assert list(faults_of_dockerfile(dockerfile)) == []


def test_the_image_runs_as_its_user() -> None:
    """Which is not root, on an exact base, with packages that have their hashes."""
    assert list(faults_of_dockerfile((DEPLOY / "Dockerfile").read_text())) == []


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        ("USER 10001\n", "", "numbered user"),
        ("USER 10001\n", "USER 0\n", "numbered user"),
        ("USER 10001\n", "USER 10001\nUSER mission\n", "numbered user"),
        ("slim-bookworm", "slim-bookworm\nFROM python:3", "python:3 is not pinned"),
        ("--require-hashes ", "", "hashes"),
    ],
)
def test_a_wrong_dockerfile_is_found(old: str, new: str, fault: str) -> None:
    """Each seeded fault is reported."""
    text = (DEPLOY / "Dockerfile").read_text()
    assert old in text
    found = list(faults_of_dockerfile(text.replace(old, new, 1)))
    assert any(fault in each for each in found), found


def test_scrape_targets_exist() -> None:
    """Scrape targets are services of the compose file; a misspelt one is found."""
    prometheus, compose = _load("prometheus.yml"), _load("compose.yaml")
    assert list(faults_of_targets(prometheus, compose)) == []
    prometheus["scrape_configs"][0]["static_configs"][0]["targets"].append("listner:8080")
    assert list(faults_of_targets(prometheus, compose)) == [
        "mission-control: listner:8080 is not a service"
    ]


def test_dashboards_are_what_the_script_writes(script: ModuleType, tmp_path: Path) -> None:
    """Edited and additional dashboards are reported."""
    assert script.drift(DEPLOY / "grafana" / "dashboards") == []
    for path in (DEPLOY / "grafana" / "dashboards").glob("*.json"):
        (tmp_path / path.name).write_text(path.read_text())
    (tmp_path / "streams.json").write_text((tmp_path / "streams.json").read_text() + " ")
    (tmp_path / "other.json").write_text("{}")
    assert script.drift(tmp_path) == ["other.json", "streams.json"]


def test_dashboards_query_existing_metrics(
    script: ModuleType, sources: list[str], names: list[str]
) -> None:
    """Every query parses, its metrics exist, and its data source is provisioned."""
    for dashboard in script.dashboards().values():
        assert list(faults_of_dashboard(dashboard, sources, names)) == []


def test_a_dashboard_of_an_unknown_source_is_found(script: ModuleType, names: list[str]) -> None:
    """Without Prometheus, each of its panels is reported."""
    streams = script.dashboards()["streams.json"]
    assert len(list(faults_of_dashboard(streams, ["tempo"], names))) == len(streams["panels"])


@pytest.mark.parametrize(
    "query",
    [
        "sum(rate(sagastream_redeliveries_total[5m])",
        "rate(sagastream_redeliveries_total)[5m",
        "sum by (le) (rate(sagastream_redelivery_total[5m]))",
        "max(mission_explored_ratio)",
    ],
)
def test_a_bad_query_is_found(query: str, names: list[str]) -> None:
    """Syntax errors and unknown metrics are reported."""
    assert list(faults_of_promql(query, names))


@pytest.mark.parametrize(
    "query",
    ["{ status = eror }", "{ name = 'x' }", "{ kind = consumer", "$trcae", "{ spam.x = 1 }"],
)
def test_a_bad_trace_query_is_found(query: str) -> None:
    """Typos, wrong quotes, open braces, unknown variables and scopes are reported."""
    assert list(faults_of_traceql(query, {"trace"}))


def test_queries_of_data_sources_parse(names: list[str]) -> None:
    """The queries that link spans to metrics parse."""
    for source in _load("grafana/provisioning/datasources/datasources.yaml")["datasources"]:
        for query in source["jsonData"].get("tracesToMetrics", {}).get("queries", ()):
            assert list(faults_of_promql(query["query"], names)) == []


def test_dashboards_are_valid_for_grafana(script: ModuleType) -> None:
    """Panel ids are unique, panels do not overlap, dashboard names are unique."""
    made = [json.loads(json.dumps(one)) for one in script.dashboards().values()]
    assert len({dashboard["uid"] for dashboard in made}) == len(made)
    for dashboard in made:
        cells = [
            (x, y)
            for panel in dashboard["panels"]
            for x in range(panel["gridPos"]["x"], panel["gridPos"]["x"] + panel["gridPos"]["w"])
            for y in range(panel["gridPos"]["y"], panel["gridPos"]["y"] + panel["gridPos"]["h"])
        ]
        assert len(cells) == len(set(cells))
        assert max(x for x, _ in cells) < 24
