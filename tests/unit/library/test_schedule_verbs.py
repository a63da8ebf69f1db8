"""`sagastream schedule`, and what `status` and `doctor` say of schedules."""

import asyncio
import json
import sys
from typing import Any

import pytest

from sagastream import Bus
from sagastream.cli.main import main
from sagastream.schedules import read_schedule
from tests.plain_client import call

pytestmark = pytest.mark.blocking

STREAM = "shop:commands"
NIGHTLY = (
    *("schedule", "set", "nightly", "--stream", STREAM, "--event-type", "shop:report"),
    *("--cron", "30 2 * * *", "--zone", "Europe/Berlin", "--payload", '{"n": 1}'),
)


class Program:
    """Runs verbs in the namespace of a test."""

    def __init__(self, bus: Bus, capsys: pytest.CaptureFixture[str]) -> None:
        self.bus = bus
        self._capsys = capsys

    async def run(self, *arguments: str) -> tuple[int, str, str]:
        """Run one; returns its exit code, standard output and standard error."""
        options = ["--url", self.bus.url, "--namespace", self.bus.namespace, *arguments]
        self._capsys.readouterr()
        try:
            code = await asyncio.to_thread(main, options)
        except SystemExit as ended:
            code = int(str(ended.code))
        captured = self._capsys.readouterr()
        return code, captured.out, captured.err

    async def json(self, *arguments: str) -> Any:
        """Run one; returns its answer."""
        _, out, err = await self.run(*arguments, "-o", "json")
        assert out, err
        return json.loads(out)


@pytest.fixture
def program(bus: Bus, capsys: pytest.CaptureFixture[str]) -> Program:
    """The command, on the server of the test."""
    return Program(bus, capsys)


async def test_a_schedule_is_set_and_changed(program: Program) -> None:
    """Of one that is there, only what is given changes."""
    assert (await program.run(*NIGHTLY))[1] == "schedule nightly is set\n"
    assert (await program.run(*NIGHTLY))[1] == "schedule nightly was set so already\n"
    await program.run("schedule", "set", "nightly", "--catch-up", "3", "--overlap", "queue")
    shown = await program.json("schedule", "show", "night")
    assert shown["when"] == "30 2 * * * Europe/Berlin"
    assert (shown["catch_up"], shown["overlap"], shown["payload"]) == (3, "queue", {"n": 1})
    await program.run("schedule", "set", "nightly", "--every", "90")
    shown = await program.json("schedule", "show", "nightly")
    assert (shown["when"], shown["cron"]) == ("every 90 s", "")
    times = ("--starts", "2030-01-01T00:00:00+01:00", "--ends", "2031-01-01T00:00:00Z")
    await program.run("schedule", "set", "nightly", *times)
    shown = await program.json("schedule", "show", "nightly")
    assert shown["starts"] == "2029-12-31T23:00:00+00:00"
    assert shown["priority"] is None
    await program.run("schedule", "set", "nightly", "--priority", "low")
    await program.run("schedule", "set", "nightly", "--fairness-key", "acme")
    shown = await program.json("schedule", "show", "nightly")
    assert shown["priority"] == {"priority": "low", "fairness_key": "acme", "weight": 1.0}


async def test_a_schedule_is_listed_paused_run_and_dropped(program: Program) -> None:
    """The list has the next due time, the last request and its outcome."""
    await program.run(*NIGHTLY)
    (row,) = await program.json("schedule", "list")
    assert (row["state"], row["last_request"], row["last_outcome"]) == ("active", "", "")
    _, text, _ = await program.run("schedule", "list")
    assert "30 2 * * * Europe/Berlin" in text
    assert "T" in text.splitlines()[1], "its due time"
    await program.run("schedule", "pause", "nightly")
    code, text, _ = await program.run("schedule", "run", "nightly")
    assert code == 0
    request_id = text.split()[-1]
    (row,) = await program.json("schedule", "list", "--stream", STREAM)
    assert (row["state"], row["last_request"]) == ("paused", request_id)
    assert row["last_outcome"] == "pending"
    assert row["fired"] == 1
    code, _, err = await program.run("schedule", "run", "nightly")
    assert code == 1
    assert err == (
        f"sagastream: schedule nightly: request {request_id} has not ended; wait for it or cancel it "
        "first\n"
    )
    assert (await program.json("schedule", "resume", "nightly"))["state"] == "active"
    await program.run("schedule", "drop", "nightly")
    assert await program.json("schedule", "list") == []
    await program.bus.cancel(request_id)


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (("--cron", "0 4 * * *"), 1, "stream: of a new schedule is needed: --stream"),
        ((*NIGHTLY[3:], "--cron", "0 25 * * *"), 1, "cron: '0 25 * * *': Bad hour"),
        ((*NIGHTLY[3:], "--zone", "Mars/Base"), 1, "zone: 'Mars/Base' is not a time zone"),
        ((*NIGHTLY[3:], "--overlap", "queue"), 1, "catch_up: must be 1 or more"),
        ((*NIGHTLY[3:], "--overlap", "both"), 2, "--overlap"),
        ((*NIGHTLY[3:], "--starts", "tomorrow"), 2, "tomorrow is not a time"),
        ((*NIGHTLY[3:], "--ends", "2030-01-01"), 2, "needs a time zone"),
        ((*NIGHTLY[3:], "--payload", "[1]"), 2, "must be a JSON object"),
    ],
)
async def test_a_wrong_setting_gets_one_line(
    program: Program, arguments: tuple[str, ...], code: int, text: str
) -> None:
    """That names the field, and nothing is set."""
    found = await program.run("schedule", "set", "nightly", *arguments)
    assert found[0] == code
    assert text in found[2]
    assert len(found[2].splitlines()) == 1
    assert await read_schedule(program.bus, "nightly") is None


async def test_an_unknown_schedule_gets_one_line(program: Program) -> None:
    """For each verb."""
    for verb in ("show", "pause", "resume", "run", "drop"):
        code, _, err = await program.run("schedule", verb, "none")
        assert code == 1
        assert err == "sagastream: there is no schedule none, and none whose id begins so\n"


async def test_doctor_and_status_see_schedules(program: Program) -> None:
    """One that nobody fires is a problem, with its fix; one that cannot be read a warning."""
    await program.run(*NIGHTLY)
    checks = {each["check"]: each for each in await program.json("doctor")}
    assert checks["schedules"]["verdict"] == "ok"
    await call(program.bus, "HSET", "schedule:nightly", "due", 1000, "at", 1000)
    await program.run(*NIGHTLY[:2], "broken", *NIGHTLY[3:])
    await call(program.bus, "HSET", "schedule:broken", "spec", "{")
    checks = {each["check"]: each for each in await program.json("doctor")}
    late, broken = checks["schedule nightly"], checks["schedule broken"]
    assert (late["verdict"], broken["verdict"]) == ("problem", "warning")
    assert "start a listener of shop:commands" in late["fix"]
    await program.bus.emit_command(
        STREAM, event_type="shop:x", payload={}, request_id="r", deadline_s=60
    )
    (row,) = await program.json("status")
    assert row["schedules"] == 2
    await program.bus.cancel("r")


async def test_a_cron_expression_without_the_extra_gets_one_line(
    program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that is on the server is unreadable here, and others are still listed."""
    await program.run(*NIGHTLY)
    await program.run(*NIGHTLY[:2], "hourly", *NIGHTLY[3:7], "--every", "3600")
    monkeypatch.setitem(sys.modules, "cronsim", None)
    code, _, err = await program.run(*NIGHTLY[:2], "weekly", *NIGHTLY[3:])
    assert (code, err) == (1, "sagastream: cron: needs pip install 'sagastream[schedule]'\n")
    states = {row["name"]: row["state"] for row in await program.json("schedule", "list")}
    assert states == {"hourly": "active", "nightly": "unreadable"}
