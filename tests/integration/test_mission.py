"""Complete missions, with every program in its own process."""

import json
import os
import select
import signal
import subprocess
import sys
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from app.config import ROOT
from app.exploration.map_files import load_map
from app.missions.frames import FrameDecoder
from sagastream.testing import EmbeddedServer
from tests.integration.conftest import Ended, environment, run
from tests.plain_client import connect
from tests.polling import eventually_sync

pytestmark = pytest.mark.blocking

STEPS = {
    "allocate_resources": "resources:allocate",
    "plan_route": "routing:plan",
    "perform_exploration": "exploration:perform",
    "integrate_maps": "map:integrate",
}
_ORCHESTRATE = ("app.orchestrator", "--area", "rooms", "--robots", "2", "-o", "json")


def _entries(url: str, stream: str) -> list[dict[str, str]]:
    with connect(url) as client:
        return [fields for _, fields in client.xrange(stream)]


def _holders(url: str) -> set[str]:
    with connect(url) as client:
        return {json.loads(robot)["holder"] for robot in client.hgetall("fleet").values()}


def _mission(*arguments: str, env: dict[str, str]) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", "app.cli", "run", *arguments],
        cwd=ROOT,
        env=env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # Background jobs of a shell ignore SIGINT, and so would their children.
        preexec_fn=_heed_interrupts,  # noqa: PLW1509 - only sets a signal
    )


def _heed_interrupts() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def _children(pid: int) -> list[int]:
    found = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        found += [int(child) for child in (task / "children").read_text().split()]
    return found + [grandchild for child in found for grandchild in _children(child)]


def _until_exploring(process: "subprocess.Popen[str]") -> None:
    assert process.stderr is not None
    for line in process.stderr:
        if "perform_exploration: running" in line:
            return
    raise AssertionError("the mission ended before it explored")


def test_a_mission_explores_a_floor_through_the_whole_chain(running: dict[str, str]) -> None:
    """Every step's stages are in the stream in order and in one trace; the robots are free."""
    ended = run(*_ORCHESTRATE, env=running)
    assert ended.code == 0, ended.err
    report = ended.json
    assert report["status"] == "completed"
    assert report["coverage"] >= 0.97
    assert report["accuracy"] >= 0.97
    assert [(step["name"], step["status"]) for step in report["steps"]] == [
        (name, "completed") for name in STEPS
    ]

    url = running["REDIS_URL"]
    stages = defaultdict(list)
    for entry in _entries(url, f"saga:{report['saga_id']}:replies"):
        stages[entry["event_type"]].append(entry)
    assert list(stages) == list(STEPS.values())
    for step in report["steps"]:
        told = stages[STEPS[step["name"]]]
        statuses = [entry["status"] for entry in told]
        assert statuses[0] == "start"
        assert statuses[-1] == "completed"
        assert set(statuses[1:-1]) <= {"progress"}
        assert {entry["request_id"] for entry in told} == {step["request_id"]}
    assert [e["status"] for e in stages["exploration:perform"]].count("progress") >= 1

    commands = [
        entry
        for stream in ("resources", "routing", "exploration", "map")
        for entry in _entries(url, f"{stream}:commands")
        if entry["saga_id"] == report["saga_id"]
    ]
    assert len(commands) == 4
    for entry in [*commands, *(entry for told in stages.values() for entry in told)]:
        version, trace, span, _ = entry["traceparent"].split("-")
        assert (version, trace) == ("00", report["trace_id"])
        assert entry["parent_span_id"] == span
        assert entry["correlation_id"] == report["correlation_id"]
        assert entry["saga_id"] == report["saga_id"]
        assert entry["v"] == "1"
        assert int(entry["timestamp"]) > 0
    assert _holders(url) == {""}


def test_the_recording_of_a_mission_ends_with_its_map(running: dict[str, str]) -> None:
    """The last decoded frame is the map; frames are not traced; `mission replay` shows it."""
    ended = run(*_ORCHESTRATE, env=running)
    entries = _entries(running["REDIS_URL"], f"missions:{ended.json['saga_id']}:frames")
    assert {entry["traceparent"][-3:] for entry in entries} == {"-00"}
    decoder = FrameDecoder()
    shown = [decoder.decode(json.loads(entry["payload"])) for entry in entries]
    frames = [frame for frame in shown if frame]
    seconds = [frame.simulated_s for frame in frames]
    assert seconds == sorted(seconds)
    assert len(frames) >= 2
    assert frames[0].fraction < frames[-1].fraction
    written = load_map(Path(ended.json["artifacts"]["map_yaml"]))
    assert np.array_equal(frames[-1].cells, written.grid)
    assert decoder.grid == written.frame
    replayed = run("app.cli", "replay", ended.json["saga_id"], env=running)
    assert replayed.code == 0, replayed.err
    assert "█" in replayed.out
    assert f"{seconds[-1]:.0f} s simulated" in replayed.out


def test_progress_reports_every_pose(running: dict[str, str]) -> None:
    """Progress reports have the known share and every robot's pose."""
    report = run(*_ORCHESTRATE, "--seed", "3", env=running).json
    told = [
        json.loads(entry["payload"])
        for entry in _entries(running["REDIS_URL"], f"saga:{report['saga_id']}:replies")
        if (entry["event_type"], entry["status"]) == ("exploration:perform", "progress")
    ]
    fractions = [payload["fraction"] for payload in told]
    assert fractions == sorted(fractions)
    assert all(len(robot["pose"]) == 3 for p in told for robot in p["robots"].values())
    assert {len(payload["robots"]) for payload in told} == {2}


def test_the_same_seed_gives_the_same_map_to_the_byte(running: dict[str, str]) -> None:
    """Three runs, one on a loaded machine, give equal maps; another seed gives another mission."""

    def bytes_of(ended: Ended) -> tuple[bytes, bytes, bytes]:
        assert ended.code == 0, ended.err
        files = ended.json["artifacts"]
        return tuple(Path(files[name]).read_bytes() for name in ("map_pgm", "map_yaml", "picture"))  # type: ignore[return-value]

    first = bytes_of(run(*_ORCHESTRATE, "--seed", "7", env=running))
    assert bytes_of(run(*_ORCHESTRATE, "--seed", "7", env=running)) == first
    burners = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(3)]
    try:
        assert bytes_of(run(*_ORCHESTRATE, "--seed", "7", env=running)) == first
    finally:
        for burner in burners:
            burner.kill()
            burner.wait()
    assert bytes_of(run(*_ORCHESTRATE, "--seed", "8", env=running)) != first


def test_a_result_is_a_valid_input_map(running: dict[str, str], maps: Path) -> None:
    """The merged map can be loaded, and has the size of the floor."""
    files = run(*_ORCHESTRATE, env=running).json["artifacts"]
    merged = load_map(Path(files["map_yaml"]))
    floor = load_map(maps / "rooms.yaml")
    assert merged.frame == floor.frame
    report = json.loads(Path(files["report"]).read_text())
    assert report["area"] == "rooms"
    assert report["coverage"] >= 0.97
    assert Path(files["picture"]).read_bytes().startswith(b"\x89PNG")


def test_more_robots_than_are_free_is_compensated(running: dict[str, str]) -> None:
    """Exit code 3, a message with the number of available robots, and nothing reserved."""
    ended = run("app.orchestrator", "--area", "rooms", "--robots", "5", env=running)
    assert ended.code == 3
    assert "TooFewRobots: 5 robots asked for, 3 free" in ended.out
    assert _holders(running["REDIS_URL"]) == {""}


def test_mission_run_uses_running_workers(running: dict[str, str]) -> None:
    """With --attach no worker is started; the fleet keeps its three robots."""
    ended = run(
        "app.cli", "run", "--attach", "--area", "rooms", "--robots", "1", "-o", "json", env=running
    )
    assert ended.code == 0, ended.err
    fleet = run("app.cli", "fleet", "-o", "json", env=running)
    assert [robot["present"] for robot in json.loads(fleet.out)] == [True] * 3


def test_missions_on_running_workers_are_started_shown_and_cancelled(
    running: dict[str, str],
) -> None:
    """A mission is started once, listed, shown and cancelled; then its robots are free."""

    def mission(*arguments: str) -> Ended:
        return run("app.cli", *arguments, env=running)

    asked = (
        "start",
        "--area",
        "rooms",
        "--robots",
        "1",
        "--seed",
        "5",
        "--id",
        "one",
        "-o",
        "json",
    )
    assert mission(*asked).json == mission(*asked).json == {"saga_id": "one"}
    watched = mission("watch", "one", "-o", "json")
    assert watched.code == 0, watched.err
    assert watched.json["status"] == "completed"
    shown = mission("show", "one", "-o", "json").json
    assert [(e["step"], e["direction"], e["status"]) for e in shown["entries"]] == [
        (step, "forward", "completed") for step in STEPS
    ]
    late = mission("cancel", "one")
    assert late.code == 1
    assert "already completed" in late.err
    mission("start", "--area", "suite", "--robots", "1", "--id", "two")
    cancelled = mission("cancel", "two", "--reason", "the wrong floor", "-o", "json")
    assert cancelled.code == 3, cancelled.err
    assert cancelled.json["error"]["message"] == "the wrong floor"
    listed = json.loads(mission("list", "-o", "json").out)
    assert [(row["saga_id"], row["status"]) for row in listed[:2]] == [
        ("two", "compensated"),
        ("one", "completed"),
    ]
    assert _holders(running["REDIS_URL"]) == {""}
    assert mission("show", "nobody").code == 1
    refused = mission("start", "--area", "rooms", "--id", "../out")
    assert refused.code == 1
    assert "mission: '../out' must be letters, digits" in refused.err


def test_a_failing_integration_is_undone_in_reverse(
    own_server: EmbeddedServer, maps: Path, tmp_path: Path
) -> None:
    """Exit code 3; the compensations run in reverse; the robots are free."""
    process = _mission(
        *("--map", str(maps / "rooms.yaml"), "--robots", "2", "-o", "json"),
        *("--out", str(tmp_path / "results")),
        env=environment(REDIS_URL=own_server.url),
    )
    _until_exploring(process)
    (tmp_path / "results").write_text("not a folder")
    out, err = process.communicate(timeout=100)
    assert process.returncode == 3, err
    report = json.loads(out)
    assert report["status"] == "compensated"
    assert report["error"]["error_type"] in {"NotADirectoryError", "FileExistsError"}
    assert report["error"]["trace_id"] == report["trace_id"]
    assert [step["status"] for step in report["steps"]] == [
        *("compensated", "completed", "compensated", "failed")
    ]
    told = _entries(own_server.url, f"saga:{report['saga_id']}:replies")
    ends = [(e["event_type"], e["status"]) for e in told if e["status"] in {"completed", "failed"}]
    assert ends[3:] == [
        ("map:integrate", "failed"),
        ("map:rollback", "completed"),
        ("exploration:abort", "completed"),
        ("resources:release", "completed"),
    ]
    assert _holders(own_server.url) == {""}
    assert [path.name for path in tmp_path.iterdir()] == ["results"]


def test_an_interrupted_mission_is_undone(own_server: EmbeddedServer, tmp_path: Path) -> None:
    """Ctrl-C: exit code 130, robots free, no child process left, no results."""
    env = environment(REDIS_URL=own_server.url)
    process = _mission("--robots", "2", "--out", str(tmp_path / "out"), env=env)
    _until_exploring(process)
    children = _children(process.pid)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 130, err
    assert len(children) >= 4
    assert not [pid for pid in children if Path(f"/proc/{pid}").exists()]
    assert _holders(own_server.url) == {""}
    assert not (tmp_path / "out").exists()


def test_the_page_of_a_mission_is_served_while_it_runs(
    own_server: EmbeddedServer, maps: Path, tmp_path: Path
) -> None:
    """The address is printed; the web server ends with the mission."""
    env = environment(REDIS_URL=own_server.url)
    process = _mission(
        *("--map", str(maps / "suite.yaml"), "--out", str(tmp_path), "--page"), env=env
    )
    assert process.stderr is not None
    address = next(line.strip() for line in process.stderr if line.startswith("http://"))

    def is_there() -> bool:
        try:
            return "Compensation" not in httpx.get(address).raise_for_status().text
        except httpx.HTTPError:
            return False

    eventually_sync(is_there, within_s=60, why="the page of the mission is served")
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=30)
    assert process.returncode == 130
    assert not is_there()


def test_a_mission_that_takes_too_long_is_undone(
    own_server: EmbeddedServer, tmp_path: Path
) -> None:
    """Exit code 5 after the timeout; robots free."""
    env = environment(REDIS_URL=own_server.url)
    ended = run(
        *("app.cli", "run", "--timeout", "1", "--robots", "1", "--out", str(tmp_path)),
        *("-o", "json"),
        env=env,
    )
    assert ended.code == 5, ended.err
    assert ended.json["status"] == "compensated"
    assert ended.json["error"]["message"] == "not done within 1 s"
    assert "not done within 1 s" in ended.err
    assert _holders(own_server.url) == {""}


def test_a_mission_of_an_own_server_is_found_afterwards(maps: Path, tmp_path: Path) -> None:
    """`list`, `show`, `replay` and `watch` find it in DATA_DIR, by the beginning of its id."""
    env = environment(
        MAP_DIR=str(maps),
        OUT_DIR=str(tmp_path / "out"),
        DATA_DIR=str(tmp_path / "data"),
        TRACE_DIR=str(tmp_path / "traces"),
    )
    env.pop("REDIS_URL", None)
    ended = run("app.cli", "run", "--area", "rooms", "-o", "json", env=env)
    assert ended.code == 0, ended.err
    saga_id = ended.json["saga_id"]
    listed = json.loads(run("app.cli", "list", "-o", "json", env=env).out)
    assert saga_id in [one["saga_id"] for one in listed]
    for verb in ("show", "watch"):
        assert (
            run("app.cli", verb, saga_id[:8], "-o", "json", env=env).json["status"] == "completed"
        )
    frames = json.loads(run("app.cli", "replay", saga_id[:8], "-o", "json", env=env).out)
    assert len(frames) > 1


def test_a_killed_mission_leaves_no_child_behind(tmp_path: Path) -> None:
    """SIGKILL of `mission run` also ends server, workers and robots."""
    process = _mission("--robots", "1", "--out", str(tmp_path), env=environment())
    _until_exploring(process)
    children = _children(process.pid)
    descriptors = [os.pidfd_open(pid) for pid in children]
    process.kill()
    process.communicate()
    assert len(children) >= 5
    eventually_sync(
        lambda: set(select.select(descriptors, [], [], 0)[0]) == set(descriptors),
        within_s=15,
        why="all children of the killed process have ended",
    )
    for descriptor in descriptors:
        os.close(descriptor)


def test_an_unreachable_server_is_named_without_its_password(tmp_path: Path) -> None:
    """Exit code 1 within 5 s, without the password in the output."""
    env = environment(REDIS_URL="redis://me:secret@127.0.0.1:1/0")
    began = time.monotonic()
    ended = run("app.cli", "run", "--out", str(tmp_path), env=env)
    assert time.monotonic() - began < 5 + _startup()
    assert ended.code == 1
    assert "redis://127.0.0.1:1/0" in ended.err
    assert "secret" not in ended.out + ended.err


def _startup() -> float:
    began = time.monotonic()
    run("app.cli", "--help", env=environment())
    return time.monotonic() - began


@pytest.mark.parametrize(
    ("name", "robots"),
    [("depot", 3), ("turtlebot3_world", 2)],
)
def test_real_floors(exploration_maps: Path | None, tmp_path: Path, name: str, robots: int) -> None:
    """Real floors are explored completely."""
    if exploration_maps is None:
        pytest.skip("EXPLORATION_MAPS names no folder of real floor maps")
    ended = run(
        *("app.cli", "run", "--map", str(exploration_maps / f"{name}.yaml"), "-o", "json"),
        *("--robots", str(robots), "--out", str(tmp_path)),
        env=environment(),
    )
    assert ended.code == 0, ended.err
    report: dict[str, Any] = ended.json
    assert report["coverage"] >= 0.97
    assert report["accuracy"] >= 0.97
    assert load_map(Path(report["artifacts"]["map_yaml"])).grid.size
