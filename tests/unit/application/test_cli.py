import asyncio
import io
import json
import os
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import typer
from rich.console import Console
from typer.testing import CliRunner, Result

import sagastream
from app import config
from app.cli.base import _ORDER, Output, printable, stage_printer
from app.cli.display import MissionDisplay, _detail
from app.cli.main import app
from app.config import ROOT, get_settings
from app.exploration.grid import GridFrame
from app.exploration.map_files import save_map
from app.exploration.planning.remaining import Remaining
from app.exploration.simulation.floor_plans import draw_rooms
from app.missions.frames import Frame
from app.missions.mission import Mission
from app.redis_utils import get_bus
from app.robots import fleet
from sagastream.testing import EmbeddedServer

pytestmark = pytest.mark.blocking


@pytest.fixture(autouse=True)
def fresh_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let each call read the environment again, as a new process does."""
    monkeypatch.setattr(config, "_chosen", {})
    monkeypatch.setattr("app.cli.base.configure", lambda settings, service: None)
    get_settings.cache_clear()


@pytest.fixture
def floor(tmp_path: Path) -> Path:
    """A valid map file."""
    drawn = draw_rooms(1)
    save_map(tmp_path / "room.yaml", drawn.grid, drawn.frame)
    return tmp_path / "room.yaml"


def _run(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments))


def _refused(result: Result) -> str:
    """Return the single line of a usage error."""
    assert result.exit_code == 2, result.output
    (line,) = result.stderr.strip().splitlines()
    assert result.stdout == ""
    return line


@pytest.mark.parametrize("robots", ["0", "65", "-3"])
def test_a_wrong_number_of_robots_is_a_usage_error(robots: str) -> None:
    """Exit 2 and one line that names the field and the bounds."""
    assert "robots: must be from 1 to 64" in _refused(_run("run", "--robots", robots))


def test_a_wrong_seed_is_a_usage_error() -> None:
    """The seed must be valid for every random generator."""
    assert "seed" in _refused(_run("run", "--seed", "-1"))


def test_a_missing_map_is_named(tmp_path: Path) -> None:
    """The error names the file."""
    assert "nowhere.yaml" in _refused(_run("run", "--map", str(tmp_path / "nowhere.yaml")))


def test_an_unknown_area_is_named_with_the_known_ones() -> None:
    """The error lists the known areas."""
    line = _refused(_run("run", "--area", "depott"))
    assert "depott" in line
    assert "office" in line


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("{", "yaml"),
        ("a: &x 1\nb: *x\n", "alias"),
        ("image: ../room.pgm\nresolution: 0.05\norigin: [0, 0, 0]\n", "room.pgm"),
        ("image: /etc/hostname\nresolution: 0.05\norigin: [0, 0, 0]\n", "/etc/hostname"),
        ("image: link.pgm\nresolution: 0.05\norigin: [0, 0, 0]\n", "link.pgm"),
        ("image: short.pgm\nresolution: 0.05\norigin: [0, 0, 0]\n", "short.pgm"),
        ("image: huge.pgm\nresolution: 0.05\norigin: [0, 0, 0]\n", "huge.pgm"),
        ("image: dark.pgm\nresolution: 0.05\norigin: [0, 0, 0]\n", "no free cell"),
    ],
)
def test_a_bad_map_is_refused_in_one_line(floor: Path, text: str, fault: str) -> None:
    """Exit 2; the line names the file and the fault; no mission was started."""
    place = floor.parent / "inner"
    place.mkdir()
    (place / "link.pgm").symlink_to(floor.with_suffix(".pgm"))
    (place / "short.pgm").write_bytes(b"P5\n100 100\n255\nxx")
    (place / "huge.pgm").write_bytes(b"P5\n5000 5000\n255\n")
    (place / "dark.pgm").write_bytes(b"P5\n2 2\n255\n\0\0\0\0")
    rest = "negate: 0\noccupied_thresh: 0.65\nfree_thresh: 0.25\n" if "image" in text else ""
    (place / "bad.yaml").write_text(text + rest)
    line = _refused(_run("run", "--map", str(place / "bad.yaml")))
    assert "bad.yaml" in line
    assert fault in line


@pytest.mark.parametrize("name", ["floor.png", "floor.pgm", "floor.yaml"])
def test_an_image_instead_of_a_yaml_is_refused_with_what_to_give(tmp_path: Path, name: str) -> None:
    """The line has the keys of the yaml that is missing."""
    content = b"\x89PNG\r\n\x1a\n" if name == "floor.png" else b"P5\n1 1\n255\n\xfe"
    (tmp_path / name).write_bytes(content + bytes(100_000))
    line = _refused(_run("run", "--map", str(tmp_path / name)))
    assert f"{name}: is an image: give a yaml that names it, such as floor.yaml" in line
    assert f"image: {name}, resolution: 0.05, origin: [0, 0, 0], negate: 0" in line


def test_a_folder_instead_of_a_yaml_is_refused(tmp_path: Path) -> None:
    """The line says what the argument is."""
    assert "is a folder: give the yaml" in _refused(_run("run", "--map", str(tmp_path)))


@pytest.mark.parametrize(
    ("name", "area"),
    [("my floor (2).yaml", "my_floor_2"), ("floor.yml", "floor"), ("plan", "plan")],
)
def test_a_map_may_have_any_name(
    floor: Path, monkeypatch: pytest.MonkeyPatch, name: str, area: str
) -> None:
    """--map takes any file name, even one that messages could not carry as an area."""
    odd = floor.with_name(name)
    odd.write_text(floor.read_text())
    seen: list[str] = []

    async def note(mission: Mission, *_args: Any, **_options: Any) -> dict[str, Any]:
        mission.check()
        seen.append(mission.area)
        return {"status": "completed"}

    monkeypatch.setattr("app.cli.main.run_mission", note)
    result = _run("run", "--map", str(odd), "-o", "json")
    assert result.exit_code == 0, result.output
    assert seen == [area]


def test_map_and_area_exclude_each_other(floor: Path) -> None:
    """Giving both is an error."""
    assert "give one" in _refused(_run("run", "--map", str(floor), "--area", "office"))


def test_attach_excludes_map_and_out(floor: Path) -> None:
    """Running workers cannot use a map file of this machine."""
    assert "MAP_DIR" in _refused(_run("run", "--attach", "--map", str(floor)))


def test_an_invalid_setting_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """One line names the variable and the fault."""
    monkeypatch.setenv("FLEET_SIZE", "many")
    assert _refused(_run("run")).startswith("mission: FLEET_SIZE: ")


def test_an_empty_fleet_prints_a_hint(
    server: EmbeddedServer, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An empty fleet prints a hint."""
    monkeypatch.setenv("REDIS_URL", server.url)
    monkeypatch.setenv("NAMESPACE", namespace)
    result = _run("fleet")
    assert result.exit_code == 0
    assert "mission workers" in result.output
    assert json.loads(_run("fleet", "-o", "json").stdout) == []


async def _check_in_two() -> None:
    async with get_bus():
        await fleet.check_in("r1")
        await fleet.check_in("r2")


def test_jsonl_is_one_line_per_item(
    server: EmbeddedServer, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each item is one line, equal to the item of the JSON list."""
    monkeypatch.setenv("REDIS_URL", server.url)
    monkeypatch.setenv("NAMESPACE", namespace)
    asyncio.run(_check_in_two())
    lines = _run("fleet", "-o", "jsonl").stdout.splitlines()
    robots = [json.loads(line) for line in lines]
    assert [robot["name"] for robot in robots] == ["r1", "r2"]
    assert json.loads(_run("fleet", "-o", "json").stdout) == robots


async def _store_newer_journal() -> None:
    async with get_bus() as bus:
        await bus.command("HSET", bus.key("saga:newer"), "journal", '{"v": 4}', "version", "1")
        await bus.command("ZADD", bus.key("sagas:mission:open"), "1", "newer")


def test_a_mission_of_a_newer_release_is_listed(
    server: EmbeddedServer, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The list has it as `unreadable`; every verb explains in one line what to do."""
    monkeypatch.setenv("REDIS_URL", server.url)
    monkeypatch.setenv("NAMESPACE", namespace)
    asyncio.run(_store_newer_journal())
    (line,) = [line for line in _run("list").stdout.splitlines() if "newer" in line]
    assert [cell.strip() for cell in line.strip("│").split("│")] == ["newer", "unreadable", *"----"]
    (summary,) = json.loads(_run("list", "-o", "json").stdout)
    assert (summary["status"], summary["age_s"]) == ("unreadable", None)
    for verb in ("show", "watch", "cancel", "resume", "compensate"):
        result = _run(verb, "newer")
        assert result.exit_code == 1
        assert "version 4, and this release reads version 3" in result.stderr
        assert result.stderr.count("\n") == 1


def test_jsonl_has_every_stage(capsys: pytest.CaptureFixture[str]) -> None:
    """With jsonl, stages are printed as they arrive; otherwise only the display shows them."""
    shown: list[dict[str, Any]] = []
    stage = {"status": "start", "payload": {}}
    stage_printer(Output.JSON, shown.append)(stage)
    assert capsys.readouterr().out == ""
    stage_printer(Output.JSONL, shown.append)(stage)
    assert json.loads(capsys.readouterr().out) == stage
    assert shown == [stage, stage]


def test_a_namespace_with_braces_is_a_usage_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """A namespace becomes part of every key."""
    monkeypatch.setenv("NAMESPACE", "{x}")
    assert "NAMESPACE" in _refused(_run("fleet"))


def test_only_the_configuration_reads_the_environment() -> None:
    """No other module reads environment variables, but for the address of a command's server."""
    readers = [
        path.relative_to(ROOT).as_posix()
        for folder in ("app", "src")
        for path in sorted((ROOT / folder).rglob("*.py"))
        if re.search(r"os\.environ|getenv", path.read_text())
    ]
    assert readers == ["app/config.py", "src/sagastream/cli/server_address.py"]
    assert os.environ


_ODD_STAGES: tuple[dict[str, Any], ...] = (
    {},
    {"status": "progress"},
    {"event_type": "exploration:perform", "status": "progress", "payload": {"robots": [1]}},
    *(
        {"event_type": "exploration:perform", "status": "progress", "payload": payload}
        for payload in (
            {"robots": {"r": robot}, "fraction": 1e300, "simulated_s": 10**400}
            for robot in (
                None,
                {},
                {"pose": [1]},
                {"pose": "abc", "driven_m": 1},
                {"pose": [0, 0, 0]},
            )
        )
    ),
)


@pytest.mark.invariant(14)
@pytest.mark.parametrize("stage", _ODD_STAGES)
def test_an_odd_stage_hides_no_other(stage: dict[str, Any]) -> None:
    """What is malformed in it is left out."""
    console = Console(file=io.StringIO(), width=200)
    display = MissionDisplay()
    display._console = console
    good = {"pose": [1.0, 2.0, 0.0], "driven_m": 3.0}
    progress = {"event_type": "exploration:perform", "status": "progress"}
    display.show(progress | {"payload": {"fraction": 0.5, "robots": {"ours": good}}})
    display.show(stage)
    console.print(display._draw())
    assert "at (1.0, 2.0) m" in console.file.getvalue()  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("payload", "shown"),
    [
        ({"fraction": 0.5, "known_m2": 123.4, "simulated_s": 61.2}, "123 m² known, 61 s simulated"),
        ({"fraction": 0.5, "known_m2": 123.4}, "123 m² known"),
        ({"fraction": 0.5, "simulated_s": 61.2}, ""),
        ({"fraction": 0.5, "maps": 2}, "50%"),
        ({"known_m2": "much", "fraction": None}, ""),
    ],
)
def test_the_progress_of_an_exploration_is_an_area(payload: dict[str, Any], shown: str) -> None:
    """How much of a floor can be known is not known before its end: no share of it is shown."""
    assert _detail("progress", payload) == shown


@pytest.mark.parametrize("text", ["\x1b[2Jgone", "\x9b31m", "[/red] [bold]", "a\tb"])
def test_a_missions_error_does_not_steer_the_terminal(text: str) -> None:
    """Neither by escapes nor by the markup of the library that draws the tables."""
    console = Console(file=io.StringIO(), width=200)
    display = MissionDisplay()
    display._console = console
    stage = {"event_type": "map:integrate", "status": "failed"}
    display.show(stage | {"payload": {"error_type": "E", "message": text}})
    display.show(stage | {"status": "progress", "payload": {"fraction": "much"}})
    display.show(stage | {"payload": {"error_type": "E", "message": text}})
    console.print(display._draw())
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    assert "E: " in shown
    assert "\x1b]" not in shown
    assert printable(text) in shown


def test_the_version_is_printed() -> None:
    """That of the checkout, and nothing else."""
    result = _run("--version")
    assert (result.exit_code, result.stdout) == (0, f"mission {sagastream.__version__}\n")


def test_commands_are_listed_in_the_order_of_their_use() -> None:
    """What a beginner needs stands first; every command has its place."""
    names = list(typer.main.get_command(app).list_commands(None))  # type: ignore[attr-defined]
    assert names[:5] == ["run", "dev", "start", "list", "show"]
    assert set(names) == set(_ORDER)


def test_the_doctor_says_what_to_do_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first of the checks that failed, in the order of causes."""
    result = CliRunner().invoke(app, ["doctor"], env={"REDIS_URL": "redis://127.0.0.1:1/0"})
    assert result.exit_code == 1
    assert "checks failed; first server: start it" in result.stderr.splitlines()[-1]


def test_the_headline_has_the_id_and_what_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """In real time: here a simulated second takes two."""
    now = [0.0]
    monkeypatch.setattr("app.cli.display.time", SimpleNamespace(monotonic=lambda: now[0]))
    display = MissionDisplay(started=0.0, saga_id="m-1")
    cells = np.zeros((4, 4), np.int8)
    grid = GridFrame(4, 4, 1.0)
    display.show_map(Frame(0.0, 0.1, (), (), cells), grid)
    now[0] = 20.0
    remaining = Remaining(15.0, 7.5, 60.0, 12.0)
    display.show_map(Frame(10.0, 0.5, (), ((1.0, 1.0),), cells, remaining), grid)
    headline = display._headline().plain
    assert headline.startswith("mission m-1")
    assert headline.endswith("about 30 s left (15 to 120 s)")
