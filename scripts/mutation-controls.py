#!/usr/bin/env python3
"""Remove one check at a time from a copy of the library: its tests must fail.

    .venv/bin/python scripts/mutation-controls.py [NAME…]
    .venv/bin/python scripts/mutation-controls.py --of-the-day 5

Print one line for each control, and fail if the tests pass without a check. Without a name run
all controls, and then all tests of the unchanged library, which must pass. `--of-the-day` runs a
few controls; the date selects which ones, so that all of them run within some weeks.
"""

import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LIBRARY = ROOT / "src" / "sagastream"
RECORD, REQUEST = "_functions/lua/record.lua", "_functions/lua/request.lua"
PACKING, PAGES = "_functions/lua/packing.lua", "_functions/lua/pages.lua"
DUE = "_functions/lua/due.lua"
CLAIM, STREAM = "_functions/lua/claim.lua", "_functions/lua/stream.lua"
SAGA_LUA, READERS = "_functions/lua/saga.lua", "_functions/lua/readers.lua"
CALL, MEMORY = "_functions/lua/call.lua", "_functions/lua/memory.lua"
REPLIES_LUA = "_functions/lua/replies.lua"
UNIT = "tests/unit/library/test_functions.py"
CLAIMS = "tests/unit/library/test_claims.py"
LISTENER = "tests/unit/library/test_listener.py"
JOURNAL = "tests/unit/library/test_journal.py"
SAGA = "tests/unit/library/test_saga.py"
SAGA_CLOCKS = "tests/unit/library/test_saga_clocks.py"
BRANCHES = "tests/unit/library/test_branches.py"
SAGA_BRANCHES = "tests/unit/library/test_saga_branches.py"
SCHEDULES = "tests/unit/library/test_schedules.py"
DUE_TIMES = "tests/unit/library/test_due_times.py"
UNREADABLE = "tests/unit/library/test_unreadable_journals.py"
STOPPING = "tests/unit/library/test_stopping.py"
POISON = "tests/unit/library/test_poison.py"
KINDS = "tests/unit/library/test_handler_kinds.py"
DEADLINES = "tests/unit/library/test_deadlines.py"
FULL = "tests/unit/library/test_full_server.py"
FAILOVER = "tests/unit/library/test_failover.py"
CLUSTERS = "tests/unit/library/test_clusters.py"
REPLICATION = "tests/unit/library/test_replication.py"
RETRIES = "tests/unit/library/test_retries.py"
WAITING = "tests/unit/library/test_waiting_records.py"
FOLLOW = "tests/unit/library/test_follow.py"
RETENTION = "tests/unit/library/test_retention.py"
EFFECTS = "tests/unit/library/test_effects.py"
REPLIES = "tests/unit/application/test_redis_utils.py"
MODEL = "tests/faults/test_model.py"
SCHEDULES_OF_SAGAS = "tests/faults/test_branch_schedules.py"
LIMITS = "tests/unit/library/test_flow_control.py"
LIMITER, QUEUE = "_functions/lua/limiter.lua", "_functions/lua/queue.lua"
LOAD = "tests/faults/test_load.py"
CONNECTIONS = "tests/faults/test_connections.py"
DELIVERY = "tests/faults/test_delivery.py"
SERVER = "tests/faults/test_server.py"
NO_WRITES = f"{SERVER}::test_results_wait_for_a_server_that_refuses_writes"
ALL = ("tests/unit/library", "tests/faults", "--ignore=tests/faults/test_missions.py")


@dataclass(frozen=True)
class Control:
    """A check, how it is removed, and the tests that must fail without it."""

    name: str
    file: str
    old: str
    new: str
    tests: str


CONTROLS = [
    Control(
        "1 same id, other payload",
        REQUEST,
        "if (known.digest ~= digest and known.digest ~= '') or (known.stream or stream) ~= stream then",
        "if false then",
        UNIT,
    ),
    Control(
        "3 a limit is checked when a request begins",
        LIMITER,
        "free_of(call, stream, name, count, interval) < 1 then",
        "false then",
        LIMITS,
    ),
    Control(
        "5 a lapsed lease frees its permit",
        LIMITER,
        "      redis.call('ZREM', permits, key)\n",
        "",
        LIMITS,
    ),
    Control(
        "5 a permit lasts as long as its lease",
        LIMITER,
        "  return until_ms > now and until_ms or nil\n",
        "  return nil\n",
        LIMITS,
    ),
    Control(
        "3 the one that ends lets the next one in",
        LIMITER,
        "      if redis.call('EXISTS', limiter_key(stream, name)) == 1 then",
        "      if false then",
        LIMITS,
    ),
    Control(
        "3 the keys of a class take turns",
        QUEUE,
        "math.max(tonumber(tags[1] or 0), tonumber(tags[2] or 0))",
        "tonumber(redis.call('ZCARD', queue_key(name, class)))",
        LIMITS,
    ),
    Control(
        "1 an id is remembered",
        REPLIES_LUA,
        "    remember(call, key, status, command.digest, retention)\n",
        "",
        RETENTION,
    ),
    Control(
        "1 a remembered id with another payload",
        REQUEST,
        "if memory.digest ~= string.sub(digest, 1, SHORT_DIGEST) then",
        "if false then",
        RETENTION,
    ),
    Control(
        "1 an entry of a remembered request is not run",
        REQUEST,
        "  if memory then\n    ack(call, stream, group, entry_id)",
        "  if false then\n    ack(call, stream, group, entry_id)",
        RETENTION,
    ),
    Control(
        "1 an id is forgotten",
        MEMORY,
        "ipairs(redis.call('ZRANGEBYSCORE', registry, '-inf', int(now_ms(call)))) do",
        "ipairs({}) do",
        RETENTION,
    ),
    Control(
        "2 emit is idempotent",
        REQUEST,
        "  local is_there = redis.call('EXISTS', key) == 1\n",
        "  local is_there = false\n",
        UNIT,
    ),
    Control(
        "2 a late reply stream gets the reply",
        REPLIES_LUA,
        "      add_terminal(call, stream, key, record, ttl_of(record, retention))\n      told",
        "      told",
        UNIT,
    ),
    Control(
        "2 a stream gets the end once",
        REPLIES_LUA,
        "    if not string.find(told, mark, 1, true) then",
        "    if true then",
        RETENTION,
    ),
    Control(
        "2 a stream for the end alone gets it",
        REPLIES_LUA,
        "  if is_terminal then\n    for",
        "  if false then\n    for",
        UNIT,
    ),
    Control(
        "2 lost commands are requeued",
        STREAM,
        "  requeue(call, stream, REQUEUE_LIMIT)",
        "",
        DELIVERY,
    ),
    Control(
        "2 a forwarded command is added once",
        STREAM,
        "if redis.call('XACK', stream, group, entry_id) == 0 then",
        "if redis.call('XACK', stream, group, entry_id) < 0 then",
        UNIT,
    ),
    Control(
        "3 writes are fenced",
        REPLIES_LUA,
        "return record.token == token and not TERMINAL[record.status]",
        "return not TERMINAL[record.status]",
        UNIT,
    ),
    Control(
        "3 the first outcome wins",
        REPLIES_LUA,
        "return record.token == token and not TERMINAL[record.status]",
        "return string.sub(record.token, 1, 8) == string.sub(token, 1, 8)",
        UNIT,
    ),
    Control(
        "3 the model notices a missing fence",
        REPLIES_LUA,
        "return record.token == token and not TERMINAL[record.status]",
        "return not TERMINAL[record.status]",
        MODEL,
    ),
    Control(
        "3 busy while a lease is current",
        CLAIM,
        "if record.status == 'running' and left > 0 then",
        "if false then",
        UNIT,
    ),
    Control(
        "3 begin repeats its answer",
        CLAIM,
        "  if record.token == token then",
        "  if false then",
        UNIT,
    ),
    Control(
        "3 progress is numbered",
        CLAIM,
        "  if seq > record.seq then",
        "  if true then",
        UNIT,
    ),
    Control(
        "3 stages belong to the handler",
        STREAM,
        "if record.status and (TERMINAL[status] or not owns(record, token)) then",
        "if false then",
        LISTENER,
    ),
    Control(
        "3 a refused request stops no other",
        CALL,
        "        answer = { 'error', type(answer) == 'table' and answer.err or tostring(answer) }",
        "        error(answer, 0)",
        UNIT,
    ),
    Control(
        "4 no ack without a reply",
        REPLIES_LUA,
        "  add_replies(call, key, record, retention, status, payload, trace, true)\n",
        "",
        UNIT,
    ),
    Control(
        "4 a shutdown writes no terminal stage",
        "_worker/dispatcher.py",
        '        if claim.ending in {None, "stopped"} or claim.is_handed_over:',
        '        if claim.ending in {None, "stopped"} or claim.is_handed_over:\n'
        "            await claim.cancel()",
        LISTENER,
    ),
    Control(
        "5 leases are renewed",
        "_worker/lease.py",
        "                    self._renew(connection)",
        "",
        CLAIMS,
    ),
    Control(
        "5 renewal checks the token",
        CLAIM,
        "elseif record.token == token and record.status == 'running' and has_permits(call",
        "elseif record.status == 'running' and has_permits(call",
        UNIT,
    ),
    Control(
        "5 no more than the free slots",
        "_worker/consumer.py",
        "if limit < len(streams):",
        "if False:",
        LISTENER,
    ),
    Control(
        "5 a frozen server lapses no lease",
        "_worker/consumer.py",
        "idle_ms = lease_ms if self._keeper.contact_s >= self._lease_s else IDLE_MS",
        "idle_ms = lease_ms",
        CLAIMS,
    ),
    Control(
        "5 commands of dead listeners are swept",
        "_worker/consumer.py",
        "found = await self._sweep(limit)",
        "found: list[Delivery] = []",
        CLAIMS,
    ),
    Control(
        "5 one sweeper at a time",
        STREAM,
        "if held[1] and held[1] ~= consumer and tonumber(held[2]) > now then",
        "if false then",
        UNIT,
    ),
    Control(
        "5 a consumer with pending entries stays",
        STREAM,
        " and other[4] == 0 and other[6] >",
        " and other[6] >",
        UNIT,
    ),
    Control("6 poison", CLAIM, "released > limit then", "released > 1000 then", UNIT),
    Control(
        "6 a release is no lost handler",
        CLAIM,
        "if attempts + 1 - released > limit then",
        "if attempts + 1 > limit then",
        UNIT,
    ),
    Control(
        "7 pending commands are not trimmed",
        STREAM,
        "redis.call('XPENDING', stream, group[2])[2] or group[8]",
        "group[8]",
        UNIT,
    ),
    Control(
        "7 no live record expires",
        RECORD,
        "  append(call.opened, stream, call.now_text, key)",
        "  redis.call('PEXPIRE', key, 60000)",
        UNIT,
    ),
    Control(
        "7 a followed record does not expire",
        REQUEST,
        "    redis.call('DEL', key) -- the note, and its TTL: a live record has none\n",
        "",
        FOLLOW,
    ),
    Control(
        "7 results beyond a limit are dropped",
        MEMORY,
        "    if is_there and not is_surplus() then\n      return",
        "    if is_there then\n      return",
        RETENTION,
    ),
    Control(
        "7 expired results make room",
        MEMORY,
        "    redis.call('DECRBY', list .. ':bytes', size)\n",
        "",
        RETENTION,
    ),
    Control(
        "7 ended commands are trimmed by bytes",
        STREAM,
        "math.min(keep, length * keep_bytes / math.max(bytes, 1))",
        "keep",
        UNIT,
    ),
    Control(
        "7 a purge leaves the requests of sagas",
        REQUEST,
        "record.command.saga_id == '' and record.at",
        "record.at",
        RETENTION,
    ),
    Control(
        "7 a stuck saga does not expire",
        SAGA_LUA,
        "    redis.call('ZADD', stuck, int(now), saga_id)",
        "    redis.call('PEXPIRE', saga, delay_ms)",
        SAGA,
    ),
    Control(
        "7 a reply stream with an entry stays",
        READERS,
        "if redis.call('XLEN', stream) == 0 and",
        "if",
        REPLIES,
    ),
    Control(
        "8 atomic writes are checked",
        CLAIM,
        "if (is_expected == '1' and current ~= expected) or (is_expected == '0' and current) then",
        "if false then",
        EFFECTS,
    ),
    Control(
        "8 at most once asks first",
        "_worker/execution.py",
        "if handler.reconcile and command.attempt > 1:",
        "if False:",
        EFFECTS,
    ),
    Control(
        "8 a step's policy is required",
        "_worker/dispatcher.py",
        'elif claim.effect not in {"", handler.effect}:',
        "elif False:",
        SAGA,
    ),
    Control(
        "9 the journal moves by compare-and-set",
        SAGA_LUA,
        "if version ~= expected then",
        "if false then",
        UNIT,
    ),
    Control(
        "9 compensation in reverse",
        "saga/walk.py",
        "in reversed(nodes)",
        "in nodes",
        JOURNAL,
    ),
    Control(
        "9 branches are compensated as far as they began",
        "saga/walk.py",
        'or begun is None or begun.kind != "request"',
        'or begun is None or begun.status == "failed"',
        BRANCHES,
    ),
    Control(
        "9 what runs is undone, too, after the first failure",
        "saga/journal.py",
        'if entry.status in {"intended", "waiting"}',
        "if False",
        BRANCHES,
    ),
    Control(
        "9 an event and the note of a wait are one step",
        "_functions/lua/signal.lua",
        "  if payload then\n    return { 'event', payload }\n  end\n",
        "",
        SAGA_BRANCHES,
    ),
    Control(
        "1 a due time is fired once",
        "_functions/lua/schedule.lua",
        "(known[2] ~= due or known[3])",
        "known[3]",
        SCHEDULES,
    ),
    Control(
        "1 an edited schedule is not fired as it was",
        "_functions/lua/schedule.lua",
        "known[1] ~= spec or",
        "",
        SCHEDULES,
    ),
    Control(
        "11 a firing that is late is missed",
        "_schedules/due_times.py",
        "missed_before_ms = now_ms - round(1000 * schedule.late_s)",
        "missed_before_ms = 0",
        DUE_TIMES,
    ),
    Control(
        "9 a compensation supersedes its forward request",
        REQUEST,
        "if supersede(call, other, trace, retention) then",
        "if false then",
        SAGA,
    ),
    Control(
        "9 a compensation waits for the forward handler",
        CLAIM,
        "if held > 0 then",
        "if false then",
        SAGA,
    ),
    Control(
        "9 a request that was superseded before its emit is refused",
        REQUEST,
        "      note_cancel(key, trace, retention.remember_ms)\n    end\n    return false",
        "    end\n    return false",
        SAGA,
    ),
    Control(
        "9 a superseded handler confirms its end",
        CLAIM,
        "if record.held_until > 0 and record.token == token then",
        "if false then",
        SAGA,
    ),
    Control(
        "9 a heartbeat does not reopen a saga",
        SAGA_LUA,
        "redis.call('ZADD', keys[1], 'XX', at, args[i])",
        "redis.call('ZADD', keys[1], at, args[i])",
        UNIT,
    ),
    Control(
        "9 a compensation that no handler begins is tried for a minute",
        "saga/journal.py",
        "last.started - since >= UNHANDLED_S",
        "True",
        JOURNAL,
    ),
    Control(
        "9 a compensation that handlers fail is stuck at once",
        "saga/journal.py",
        "if len(failed) - len(unhandled) >= max_attempts:",
        "if False:",
        JOURNAL,
    ),
    Control(
        "10 sagas that are due are driven",
        "saga/runner.py",
        "due = await self._store.take_due(_TAKE_LIMIT)",
        "due = list[str]()",
        SAGA,
    ),
    Control(
        "10 a due saga goes to one runner",
        SAGA_LUA,
        "    redis.call('ZADD', keys[1], int(now + tonumber(args[2])), saga_id)\n",
        "",
        UNIT,
    ),
    Control(
        "11 an expired request is not run",
        "_worker/dispatcher.py",
        "elif claim.is_expired:",
        "elif False:",
        LISTENER,
    ),
    Control(
        "11 a deadline ends a running handler",
        "_worker/claim.py",
        "if self._left_s is not None and self._alarm is None:",
        "if False:",
        CLAIMS,
    ),
    Control(
        "11 a runner asks the server for the time",
        "saga/store.py",
        "return server_s + time.monotonic() - read_at",
        "return time.time()",
        SAGA_CLOCKS,
    ),
    Control(
        "12 a journal of a newer release is left alone",
        "saga/journal_json.py",
        "if version > JOURNAL_VERSION:",
        "if False:",
        UNREADABLE,
    ),
    Control(
        "12 a lost library is loaded again",
        "_redis/connection.py",
        'elif "Function not found" in error.message:',
        "elif False:",
        UNIT,
    ),
    Control(
        "12 lost answers are requested again",
        "_redis/connection.py",
        "        except (OSError, ServerError, NotReplicated) as error:\n            answer = await",
        "        except (ServerError, NotReplicated) as error:\n            answer = await",
        CONNECTIONS,
    ),
    Control(
        "12 a server that takes no writes is waited for",
        "_redis/connection.py",
        "if not isinstance(error, ServerError) or is_temporary(error):",
        "if not isinstance(error, ServerError):",
        NO_WRITES,
    ),
    Control(
        "12 lost data are noticed",
        "_client/data_loss.py",
        "if known_id and known_id != current_id:",
        "if False:",
        LOAD,
    ),
    Control(
        "12 older data are noticed",
        "_client/data_loss.py",
        "if counter < highest:",
        "if False:",
        LOAD,
    ),
    Control(
        "4 a read that waits is asked to end",
        "listener.py",
        "await consumer.end(deadline)",
        "reading.cancel()",
        STOPPING,
    ),
    Control(
        "4 a claim gives back what it did not end",
        "_worker/claim.py",
        "        self.let_go()\n        try:",
        "        return\n        try:",
        STOPPING,
    ),
    Control(
        "4 what nobody handles is given back",
        "listener.py",
        "await uninterrupted(consumer.give_back(dispatcher.handed_over, Deadline(_LEAVE_S)))",
        "pass",
        STOPPING,
    ),
    Control(
        "4 what was given back is taken over at once",
        "_worker/consumer.py",
        "idle_ms = lease_ms if self._keeper.contact_s >= self._lease_s else IDLE_MS",
        "idle_ms = lease_ms\n        if self._keeper.contact_s < self._lease_s:\n            return []",
        STOPPING,
    ),
    Control(
        "4 hand-backs have a limit",
        CLAIM,
        "elseif released >= limit * RELEASES_PER_DELIVERY then",
        "elseif false then",
        POISON,
    ),
    Control(
        "5 a thread keeps its lease after its listener",
        "_worker/execution.py",
        "            claim.hand_over(thread)\n",
        "            pass\n",
        STOPPING,
    ),
    Control(
        "5 an entry has one task",
        "listener.py",
        "        if entry in self._tasks and not self._tasks[entry].done():\n            return\n",
        "",
        STOPPING,
    ),
    Control(
        "5 the end of a claim is not interrupted",
        "_redis/retrying.py",
        "await asyncio.shield(task)",
        "await task",
        STOPPING,
    ),
    Control(
        "6 failed deliveries count",
        "_worker/dispatcher.py",
        "if delivery.deliveries < self._limit(error):",
        "if True:",
        POISON,
    ),
    Control(
        "6 a dead letter replies where it can",
        CLAIM,
        "  drop_broken_streams(record)\n",
        "",
        POISON,
    ),
    Control(
        "6 an entry has a limit of fields",
        "_codec/entries.py",
        "if len(raw) > _MAX_FIELDS:",
        "if False:",
        POISON,
    ),
    Control(
        "9 an undo that waits has no slot",
        "_worker/dispatcher.py",
        "        slot.leave()\n        claim.keep()",
        "        claim.keep()",
        STOPPING,
    ),
    Control(
        "9 a delivery that waits keeps its entry",
        CLAIM,
        "if is_pending(stream, group, consumer, entry_id) then\n        redis.pcall",
        "if false then\n        redis.pcall",
        STOPPING,
    ),
    Control(
        "11 a deadline ends the wait for an answer",
        "_redis/connection.py",
        "            async with deadline.timeout():\n                return await answer",
        "            return await answer",
        DEADLINES,
    ),
    Control(
        "12 a full server ends what it has",
        CLAIM,
        "register('finish', batched(finish, 5), WHEN_FULL)",
        "register('finish', batched(finish, 5))",
        FULL,
    ),
    Control(
        "12 a function does nothing while its slot is being migrated",
        "_functions/lua/call.lua",
        "    require_owned(keys[1])",
        "",
        CLUSTERS,
    ),
    Control(
        "12 an answer waits until replicas have it",
        "_redis/connection.py",
        "if self._servers.replication and args[0] == _FUNCTION:",
        "if False:",
        REPLICATION,
    ),
    Control(
        "12 what waits for its next attempt is moved when it is due",
        DUE,
        "record.status == 'pending' and record.due > 0 then",
        "false then",
        RETRIES,
    ),
    Control(
        "12 only the current claim postpones a request",
        CLAIM,
        "if record.due and record.due > 0 and redis.call('HGET', key, 'postponed') == token then",
        "if true then",
        RETRIES,
    ),
    Control(
        "12 a node that became a replica is left",
        "_redis/connection.py",
        "if is_replica_now(error):",
        "if False:",
        FAILOVER,
    ),
    Control(
        "12 the lease's thread leaves it too",
        "_redis/sync.py",
        "if is_replica or (isinstance(answer, ServerError) and is_replica_now(answer)):",
        "if False:",
        FAILOVER,
    ),
    Control(
        "12 a lost record is noticed though others went on",
        "_client/inbox.py",
        "if self._newest in self._waiters and not await self._has_record(self._newest):",
        "if False:",
        FAILOVER,
    ),
    Control(
        "12 an outage fails no request",
        "_redis/retrying.py",
        "return isinstance(error, _AWAY)",
        "return False",
        POISON,
    ),
    Control(
        "12 a newer record is refused",
        PACKING,
        "  if layout and layout ~= LAYOUT_TEXT and tonumber(layout) > LAYOUT then",
        "  if false then",
        POISON,
    ),
    Control(
        "12 a record of the layout before is read",
        RECORD,
        "  if not digest then\n    return",
        "  if true then\n    return",
        RETENTION,
    ),
    Control(
        "12 a newer entry is left to its release",
        "_worker/dispatcher.py",
        "return is_newer_entry(delivery.raw) and delivery.deliveries < self._newer_release_limit",
        "return False",
        POISON,
    ),
    Control(
        "2 a waiting record keeps what most do not have",
        PACKING,
        "is_plain = is_plain and (value == '' or value == false)",
        "is_plain = true",
        WAITING,
    ),
    Control(
        "2 only an exact text is shortened",
        PAGES,
        "if string.format(form[4], unpack(parts)) == text then",
        "if true then",
        WAITING,
    ),
    Control(
        "7 a request that waits is no result to drop",
        MEMORY,
        "type(letter) == 'string' and STATUS_OF[letter] ~= nil",
        "type(letter) == 'string'",
        WAITING,
    ),
    Control(
        "12 an index of long pages is split",
        PAGES,
        "elseif length > PAGE_LENGTH then",
        "elseif false then",
        WAITING,
    ),
    Control(
        "12 the index of another release is taken over",
        DUE,
        "  take_over_delayed(call, stream, later)\n",
        "",
        WAITING,
    ),
    Control(
        "9 a later step waits for all branches before it",
        "saga/walk.py",
        '            if outlook.state != "done":\n                return outlook\n        return Outlook()\n\n    def _node(self, node: Node, scope: Scope) -> Outlook:\n        if isinstance(node, Parallel):\n            found = [',
        '            if outlook.state == "failed":\n                return outlook\n        return Outlook()\n\n    def _node(self, node: Node, scope: Scope) -> Outlook:\n        if isinstance(node, Parallel):\n            found = [',
        SCHEDULES_OF_SAGAS,
    ),
    Control(
        "9 what is done in a list is undone",
        "saga/walk.py",
        '            return _together(self._requests.each(node, scope, "undo", self._step))\n',
        "            return Outlook()\n",
        SCHEDULES_OF_SAGAS,
    ),
    Control(
        "9 what is done in a child saga is undone in reverse",
        "saga/walk.py",
        '            return self.sequence(node.saga.steps, Scope(f"{scope.prefix}{node.name}/"))\n',
        '            return self.sequence(node.saga.steps[::-1], Scope(f"{scope.prefix}{node.name}/"))\n',
        SCHEDULES_OF_SAGAS,
    ),
    Control(
        "9 a wait that is not over holds up what comes after it",
        "saga/walk.py",
        '            return Outlook(states.get(entry.status, "open"))\n',
        '            return Outlook(states.get(entry.status, "done"))\n',
        SCHEDULES_OF_SAGAS,
    ),
    Control(
        "13 a method is refused in its class",
        "_handlers/signature.py",
        'if (names and names[0] in {"self", "cls"}) or (in_class and not is_static):',
        "if False:",
        KINDS,
    ),
    Control(
        "14 a saga's command waits for its listener",
        "_worker/dispatcher.py",
        "if not command.saga_id or age_s > _LISTENER_WAIT_S:",
        "if True:",
        KINDS,
    ),
    Control(
        "14 an unreadable journal hides no other",
        "saga/store.py",
        "except (UnreadableJournal, InvalidMessage, ServerError) as error:",
        "except ZeroDivisionError as error:",
        UNREADABLE,
    ),
    Control(
        "14 the values in a journal are checked",
        "saga/journal_json.py",
        "not has_type(value, _TYPES[kind][name])",
        "False",
        UNREADABLE,
    ),
]


def run_tests(package: Path, *tests: str, timeout_s: int = 30) -> int:
    """Run tests against the library in a folder; return pytest's exit status."""
    path = f"import sys; sys.path.insert(0, {str(package.parent)!r}); import pytest"
    command = f"{path}; sys.exit(pytest.main(['-q', '-x', '--timeout={timeout_s}', *{tests!r}]))"
    return subprocess.run(
        [sys.executable, "-c", command],
        cwd=ROOT,
        env={"PYTHONPATH": str(package.parent), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        check=False,
    ).returncode


def goes_red(control: Control) -> bool:
    """Run the tests without the check; return whether they fail."""
    with tempfile.TemporaryDirectory(prefix="mutation-") as name:
        package = Path(name) / "src" / "sagastream"
        shutil.copytree(LIBRARY, package)
        target = package / control.file
        text = target.read_text(encoding="utf-8")
        target.write_text(text.replace(control.old, control.new), encoding="utf-8")
        status = run_tests(package, control.tests)
    if status in {2, 4, 5}:  # interrupted, wrong usage, no tests
        sys.exit(f"{control.name}: {control.tests} cannot run (pytest ended with {status})")
    return status != 0


def chosen(arguments: list[str]) -> list[Control]:
    """Select controls: by name, of the day, or all.

    Model and load tests take minutes, so they are not of the day.
    """
    if arguments[:1] == ["--of-the-day"]:
        quick = [control for control in CONTROLS if control.tests not in {MODEL, LOAD, NO_WRITES}]
        count = int(arguments[1])
        first = datetime.now(tz=UTC).toordinal() * count
        return [quick[(first + number) % len(quick)] for number in range(count)]
    return [c for c in CONTROLS if not arguments or any(name in c.name for name in arguments)]


def main() -> None:
    """Run the controls.

    Raises:
        SystemExit: A check is not in the file that its control names, or tests pass without it.
    """
    wanted = chosen(sys.argv[1:])
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
        green = run_tests(LIBRARY, *ALL, timeout_s=600) == 0
        print(f"{'green' if green else 'red':6}unchanged library", flush=True)
        if not green:
            wrong.append("unchanged library")
    if wrong:
        sys.exit(f"wrong: {', '.join(wrong)}")


if __name__ == "__main__":
    main()
