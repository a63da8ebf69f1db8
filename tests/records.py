"""Records of requests, as the server has them."""

import json
from typing import Any

import redis

from sagastream import Bus
from sagastream._functions.answers import Expired, texts
from sagastream._functions.library import SOURCE, function_name

_INSPECT = function_name("inspect")


async def record_of(bus: Bus, request_id: str) -> dict[str, str]:
    """The fields of a record by name; empty if there is none, or if its result has gone."""
    found = await bus.session().requests.inspect(bus.key(f"request:{request_id}"))
    return {} if found is None or isinstance(found, Expired) else found


def read_record(client: "redis.Redis", request_id: str) -> dict[str, str]:
    """As `record_of`, for a plain client and no namespace."""
    call: Any = (_INSPECT, 1, f"request:{request_id}")
    try:
        word, *parts = client.fcall(*call)
    except redis.ResponseError as error:
        if "not found" not in str(error):
            raise
        client.function_load(SOURCE, replace=True)
        word, *parts = client.fcall(*call)
    values = texts(parts)
    is_record = word in {b"record", "record"}
    return dict(zip(values[::2], values[1::2], strict=True)) if is_record else {}


# The values of `state`, in their order, with their defaults.
_STATE: dict[str, Any] = {
    "status": "",
    "epoch": 0,
    "entry_id": "",
    "reply_streams": "",
    "end_streams": "",
    "effect": "",
    "context": "",
    "after": "",
    "followed": False,
    "token": "",
    "consumer": "",
    "lease_until": 0,
    "began": 0,
    "seq": 0,
    "progressed": 0,
    "span": "",
    "lost": "",
    "released": 0,
    "cancel": "",
    "held_until": 0,
    "span_taken": "",
    "attempts": 0,
}
_ALTER = """
local state = {cmsgpack.unpack(redis.call('HGET', KEYS[1], 'state'))}
for i, value in ipairs(cjson.decode(ARGV[1])) do
  if state[i] == nil then state[i] = value end
end
for name, value in pairs(cjson.decode(ARGV[2])) do state[tonumber(name)] = value end
redis.call('HSET', KEYS[1], 'state', cmsgpack.pack(unpack(state)))
"""


async def alter_record(bus: Bus, request_id: str, **values: Any) -> None:
    """Change values of the state of an open request, as another process might."""
    names = list(_STATE)
    changed = {str(names.index(name) + 1): value for name, value in values.items()}
    defaults = json.dumps(list(_STATE.values()))
    await bus.command(
        *("EVAL", _ALTER, 1, bus.key(f"request:{request_id}"), defaults, json.dumps(changed))
    )
