"""The rights that the user of each role needs on a server.

The server runs a function with the rights of its caller, so a role has the commands that its
functions call. A test reads them from the Lua, and others let real users with these rules do
what a role must do, and what it must not.
"""

import re
from collections.abc import Mapping
from typing import Literal, get_args

from sagastream._codec.validation import check_name
from sagastream.errors import InvalidMessage

# What else is in a name could let the pattern of its keys match those of others.
_PLAIN = re.compile(r"[A-Za-z0-9._:-]+")

Role = Literal["requester", "listener", "saga-runner", "reader", "administrator"]
ROLES: tuple[Role, ...] = get_args(Role)

# What the functions of each role call. A requester's end a request that it supersedes.
_ENDING = frozenset(
    {
        *("decrby", "exists", "get", "getrange", "hget", "hincrby", "hset", "incrby"),
        *("lindex", "llen", "lpop"),
        *("pexpire", "pexpireat", "pexpiretime", "rpush", "time", "type", "unlink", "xack", "zadd"),
        *("zrem",),
    }
)
_READING = frozenset({"get", "hget", "hgetall", "hmget", "zrange"})
_MOVING = (
    _ENDING
    | _READING
    | {"del", "pttl", "set", "xadd", "xgroup|create", "xlen", "xtrim"}
    | {"decr", "hdel", "hexists", "hlen", "incr", "zcard", "zrangebyscore", "zrevrangebylex"}
)
IN_FUNCTIONS: Mapping[Role, frozenset[str]] = {
    "requester": _MOVING
    | {"xgroup|createconsumer", "xgroup|destroy", "xinfo|consumers", "xinfo|groups"},
    "listener": _MOVING
    | {
        *("memory|usage", "xautoclaim", "xclaim", "xdel", "xgroup|delconsumer"),
        *("xinfo|consumers", "xinfo|groups", "xpending", "xrange", "zremrangebyscore", "zscore"),
    },
    "saga-runner": _ENDING
    | {"del", "dump", "pttl", "restore", "xadd", "zrangebyscore", "zremrangebyscore"},
    "reader": _READING,
    "administrator": (_MOVING - {"xgroup|create", "xlen"})
    | {"dump", "hdel", "restore", "zremrangebyscore"},
}
# What the processes of each role send themselves.
_SENT_BY_ALL = frozenset(
    {"cluster|slots", "fcall", "fcall_ro", "ping", "role", "select", "time", "wait"}
)
_SENT_BY_REQUESTERS = _SENT_BY_ALL | {
    *("del", "exists", "hmget", "hsetnx", "xread", "xreadgroup", "xrevrange", "xtrim"),
    "zrangebyscore",
}
_SENT: Mapping[Role, frozenset[str]] = {
    "requester": _SENT_BY_REQUESTERS,
    "listener": _SENT_BY_ALL
    | {"blpop", "client|id", "client|unblock", "expire", "rpush", "xreadgroup"},
    "saga-runner": _SENT_BY_REQUESTERS | {"blpop", "hget", "zcard", "zrange", "zrem"},
    "reader": (_SENT_BY_ALL - {"fcall"})
    | {
        *("exists", "hget", "hmget", "xinfo|groups", "xlen", "xpending", "xrange", "xread"),
        *("xrevrange", "zcard", "zrange", "zrangebyscore"),
    },
    "administrator": _SENT_BY_ALL
    | {
        *("dbsize", "function|list", "function|load", "info", "memory|usage", "scan", "xdel"),
        *("exists", "hexists", "hget", "hmget", "xinfo|consumers", "xinfo|groups", "xlen"),
        *("xpending", "xrange", "xrevrange", "zcard", "zrange", "zrangebyscore"),
    },
}


def commands(role: Role) -> frozenset[str]:
    """The commands that a role needs, with a subcommand behind `|`.

    A saga runner is a requester, too.
    """
    own = IN_FUNCTIONS[role] | _SENT[role]
    return own | IN_FUNCTIONS["requester"] if role == "saga-runner" else own


def rules(role: Role, namespace: str) -> list[str]:
    """The rules of a role in a namespace, for ACL SETUSER; without a password.

    Raises:
        InvalidMessage: The namespace is invalid, or empty.
    """
    if not _PLAIN.fullmatch(check_name("namespace", namespace)):
        raise InvalidMessage("namespace", "has characters with a meaning in patterns of keys")
    keys = f"{'%R~' if role == 'reader' else '~'}{{{namespace}}}:*"
    return ["reset", "on", "resetchannels", keys, *(f"+{each}" for each in sorted(commands(role)))]
