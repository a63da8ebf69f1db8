#!/usr/bin/env python3
"""Remove one check at a time from a copy of the library, and see the tests go red.

    .venv/bin/python scripts/mutation-controls.py [NAME…]

Prints a line a control, and fails if the tests stay green without a check. Without a name all
controls run, and then the untouched library against all tests of it, which must be green.
"""

import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LIBRARY = ROOT / "src" / "sagastream"
LUA = "functions/sagastream.lua"
UNIT = "tests/unit/library/test_functions.py"
LEASES = "tests/unit/library/test_leases.py"
LISTENER = "tests/unit/library/test_listener.py"
JOURNAL = "tests/unit/library/test_journal.py"
SAGA = "tests/unit/library/test_saga.py"
FOLLOW = "tests/unit/library/test_follow.py"
EFFECTS = "tests/unit/library/test_effects.py"
MODEL = "tests/faults/test_model.py"
LOAD = "tests/faults/test_load.py"
CONNECTIONS = "tests/faults/test_connections.py"
DELIVERY = "tests/faults/test_delivery.py"
SERVER = "tests/faults/test_server.py"
NO_WRITES = f"{SERVER}::test_a_server_that_takes_no_writes_for_a_while"
ALL = ("tests/unit/library", "tests/faults", "--ignore=tests/faults/test_missions.py")


@dataclass(frozen=True)
class Control:
    """A check, how it is removed, and the tests that must notice."""

    name: str
    file: str
    old: str
    new: str
    tests: str


CONTROLS = [
    Control(
        "1 same id, other payload",
        LUA,
        "if record.digest ~= about.digest or record.stream ~= stream then",
        "if false then",
        UNIT,
    ),
    Control(
        "2 emit is idempotent",
        LUA,
        "  if record.digest then\n    record = record_of(key)",
        "  if false then\n    record = record_of(key)",
        UNIT,
    ),
    Control(
        "2 late reply stream gets the reply",
        LUA,
        "  if TERMINAL[record.status] then\n    for",
        "  if false then\n    for",
        UNIT,
    ),
    Control(
        "3 writes are fenced",
        LUA,
        "return record.token == token and not TERMINAL[record.status]",
        "return not TERMINAL[record.status]",
        UNIT,
    ),
    Control(
        "3 first outcome wins",
        LUA,
        "return record.token == token and not TERMINAL[record.status]",
        "return record.token == token",
        UNIT,
    ),
    Control(
        "3 busy while a lease is current",
        LUA,
        "if record.status == 'running' and left > 0 then",
        "if false then",
        UNIT,
    ),
    Control(
        "3 begin repeats its answer",
        LUA,
        "  if record.token == token then",
        "  if false then",
        UNIT,
    ),
    Control(
        "3 progress is numbered",
        LUA,
        "if tonumber(seq) > tonumber(record.seq or '0') then",
        "if true then",
        UNIT,
    ),
    Control(
        "3 stages are their holder's alone",
        LUA,
        "if record.digest and STAGE[status] and",
        "if false and",
        LISTENER,
    ),
    Control(
        "4 no ack without a reply",
        LUA,
        "  add_replies(record, reply_ttl_ms, stage_of(record, status, payload, trace, now), true)\n",
        "",
        UNIT,
    ),
    Control(
        "4 a shutdown writes no end",
        "listener.py",
        "        if claim.ending is None:",
        "        if claim.ending is None:\n            await claim.cancel()",
        LISTENER,
    ),
    Control("5 renewal", "lease.py", "                    self._renew(client)", "", LEASES),
    Control(
        "5 renewal checks the owner",
        LUA,
        "if found[1] == token and found[2] == 'running' then",
        "if true then",
        UNIT,
    ),
    Control(
        "5 no more than the free slots",
        "intake.py",
        "if free < len(streams):",
        "if False:",
        LISTENER,
    ),
    Control(
        "5 a frozen server lapses nobody",
        "intake.py",
        " or self._keeper.contact_s < self._lease_s",
        "",
        LEASES,
    ),
    Control("5 dead listeners are swept", "intake.py", "swept or await", "await", LEASES),
    Control("6 poison", LUA, "> tonumber(max_deliveries) then", "> 1000 then", UNIT),
    Control(
        "6 a release is no loss",
        LUA,
        "claims + 1 - tonumber(record.released or '0') > tonumber(max_deliveries)",
        "claims + 1 > tonumber(max_deliveries)",
        UNIT,
    ),
    Control(
        "7 what is pending is not trimmed",
        LUA,
        "redis.call('XPENDING', stream, group[2])[2] or group[8]",
        "group[8]",
        FOLLOW,
    ),
    Control(
        "7 nothing live expires",
        LUA,
        "  append(opened, stream .. ':open', int(now_ms()), key)",
        "  redis.call('PEXPIRE', key, 60000)",
        UNIT,
    ),
    Control(
        "7 a saga that is stuck does not expire",
        LUA,
        "    redis.call('ZADD', stuck, int(now), saga_id)",
        "    redis.call('PEXPIRE', saga, delay_ms)",
        SAGA,
    ),
    Control(
        "9 journal by compare-and-set", LUA, "if version ~= expected then", "if false then", UNIT
    ),
    Control("9 undo in reverse", "journal.py", "in reversed(saga.steps)", "in saga.steps", JOURNAL),
    Control(
        "9 an undo closes what it undoes",
        LUA,
        "if close(other, trace, doorbells, reply_ttl_ms) then",
        "if false then",
        SAGA,
    ),
    Control("9 an undo waits for who is at it", LUA, "if held > 0 then", "if false then", SAGA),
    Control(
        "10 sagas that are due are taken up",
        "saga.py",
        "for saga_id in await self._store.due(_MOST_AT_ONCE):",
        "for saga_id in ():",
        SAGA,
    ),
    Control("11 expired is not run", "listener.py", "elif claim.expired:", "elif False:", LISTENER),
    Control(
        "11 a deadline ends what runs",
        "claim.py",
        "if self._left_s is not None:\n            self._alarm",
        "if False:\n            self._alarm",
        LEASES,
    ),
    Control(
        "12 a lost library is loaded again",
        "connection.py",
        'elif "Function not found" in str(error):',
        "elif False:",
        UNIT,
    ),
    Control(
        "12 lost answers are asked for again",
        "connection.py",
        "except (*LOST, ResponseError, AuthenticationError)",
        "except (ResponseError, AuthenticationError)",
        CONNECTIONS,
    ),
    Control("2 lost commands are put back", LUA, "  requeue(stream, REQUEUE_LIMIT)", "", DELIVERY),
    Control(
        "8 atomic writes are checked",
        LUA,
        "if (is_expected == '1' and found ~= expected) or (is_expected == '0' and found) then",
        "if false then",
        EFFECTS,
    ),
    Control(
        "8 at most once asks first",
        "handlers.py",
        "if handler.reconcile and command.epoch > 1:",
        "if False:",
        EFFECTS,
    ),
    Control(
        "3 the model notices a missing fence",
        LUA,
        "return record.token == token and not TERMINAL[record.status]",
        "return not TERMINAL[record.status]",
        MODEL,
    ),
    Control(
        "12 a server that takes no writes is waited for",
        "connection.py",
        "if isinstance(error, LOST) or _mends_itself(error):",
        "if isinstance(error, LOST):",
        NO_WRITES,
    ),
    Control(
        "12 lost data are noticed", "instance.py", "if known and known != found:", "if False:", LOAD
    ),
    Control(
        "8 a step's policy is demanded",
        "listener.py",
        'elif claim.effect not in {"", handler.effect}:',
        "elif False:",
        SAGA,
    ),
    Control(
        "9 what was closed before it came is refused",
        LUA,
        """    redis.call('HSET', key, 'cancel', cjson.encode(trace))
    redis.call('PEXPIRE', key, reply_ttl_ms)
""",
        "",
        SAGA,
    ),
    Control(
        "9 a closed handler confirms its end",
        LUA,
        "if record.held_until and record.token == token then",
        "if false then",
        SAGA,
    ),
    Control(
        "3 one that is refused stops no other",
        LUA,
        "      answer = { 'error', type(answer) == 'table' and answer.err or tostring(answer) }",
        "      error(answer, 0)",
        UNIT,
    ),
    Control(
        "2 who wants the end alone gets it",
        LUA,
        "  if is_end then\n    for",
        "  if false then\n    for",
        UNIT,
    ),
    Control("12 older data are noticed", "instance.py", "if counter < highest:", "if False:", LOAD),
]


def run_tests(package: Path, *tests: str) -> int:
    """Run tests against the library in a folder; pytest's status."""
    path = f"import sys; sys.path.insert(0, {str(package.parent)!r}); import pytest"
    command = f"{path}; sys.exit(pytest.main(['-q', '-x', '--timeout=30', *{tests!r}]))"
    return subprocess.run(
        [sys.executable, "-c", command],
        cwd=ROOT,
        env={"PYTHONPATH": str(package.parent), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        check=False,
    ).returncode


def goes_red(control: Control) -> bool:
    """Whether the tests notice that the check is gone."""
    with tempfile.TemporaryDirectory(prefix="mutation-") as name:
        package = Path(name) / "src" / "sagastream"
        shutil.copytree(LIBRARY, package)
        target = package / control.file
        text = target.read_text(encoding="utf-8")
        target.write_text(text.replace(control.old, control.new), encoding="utf-8")
        return run_tests(package, control.tests) == 1


def main() -> None:
    """Run all controls, or those whose names contain an argument.

    Raises:
        SystemExit: A check is not where its control looks for it, or not as it should be.
    """
    wanted = [c for c in CONTROLS if not sys.argv[1:] or any(a in c.name for a in sys.argv[1:])]
    for control in wanted:
        if control.old not in (LIBRARY / control.file).read_text(encoding="utf-8"):
            sys.exit(f"{control.name}: {control.file} has no {control.old!r}")
    wrong = []
    for control in wanted:
        red = goes_red(control)
        print(f"{'red' if red else 'green':6}{control.name}", flush=True)
        if not red:
            wrong.append(control.name)
    if not sys.argv[1:]:
        green = run_tests(LIBRARY, *ALL) == 0
        print(f"{'green' if green else 'red':6}nothing is removed", flush=True)
        if not green:
            wrong.append("nothing is removed")
    if wrong:
        sys.exit(f"not as it should be: {', '.join(wrong)}")


if __name__ == "__main__":
    main()
