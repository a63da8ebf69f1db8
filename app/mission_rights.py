"""The rights of mission control's processes on the server, for `mission acl`.

A process needs the rights of its roles in the library, some commands for keys of the application,
and those of Celery's transport, which are limited to the keys of the broker. Tests let a mission
run with users of these rights, and look at what the server has refused.
"""

from collections.abc import Mapping
from typing import Literal, get_args

from sagastream import rights as library
from sagastream.rights import Role

MissionRole = Literal["page", "celery", "listener", "robots", "operator", "workers"]
ROLES: tuple[MissionRole, ...] = get_args(MissionRole)

# Of the library. All but the robots drive sagas, or start them.
IN_LIBRARY: Mapping[MissionRole, tuple[Role, ...]] = {
    "page": ("saga-runner", "reader"),
    "celery": ("saga-runner",),
    "listener": ("listener", "saga-runner", "reader"),
    "robots": ("listener",),
    "operator": ("saga-runner", "reader"),
    "workers": ("listener", "saga-runner", "reader"),
}
_FLEET = frozenset({"hgetall", "mget"})
_BLOBS = frozenset({"getrange", "set"})
# Of the library's page, beside what its roles have: search, and retry and drop dead letters.
_OPERATING = frozenset({"hexists", "scan", "xdel"})
_ROBOTS = _BLOBS | {"del", "exists", "hget", "hsetnx"}
# For the fleet, parts of maps, and what `mission doctor` and `/readyz` read.
IN_APPLICATION: Mapping[MissionRole, frozenset[str]] = {
    "page": _FLEET | _OPERATING,
    "celery": frozenset({"info", "zcard"}),
    "listener": _FLEET | _BLOBS,
    "robots": _ROBOTS,
    "operator": _FLEET | {"getrange", "info", "llen"},
    "workers": _FLEET | _ROBOTS | {"info"},
}
# Of Celery's transport: what sends tasks, what asks workers, and what works.
_SENDING = frozenset(
    {
        *("evalsha", "exec", "llen", "lpush", "multi", "ping", "sadd", "script|exists"),
        *("script|load", "smembers"),
    }
)
_RESTORING = frozenset(
    {
        *("del", "discard", "exists", "get", "hdel", "hget", "pexpire", "pttl", "rpush", "set"),
        *("time", "unwatch", "watch", "zadd", "zrange", "zrangebyscore", "zrem"),
    }
)
_ASKING = _SENDING | _RESTORING | {"brpop", "publish", "rpop", "srem"}
_WORKING = _ASKING | {
    *("hset", "psubscribe", "punsubscribe", "subscribe", "unsubscribe"),
}
IN_BROKER: Mapping[MissionRole, frozenset[str]] = {
    "page": _SENDING,
    "celery": _WORKING,
    "listener": _SENDING,
    "robots": frozenset(),
    "operator": _ASKING,
    "workers": _WORKING,
}
# The queue, its bindings, what workers have not finished, and the answers of workers.
BROKER_KEYS = ("celery*", "_kombu.*", "unacked*", "*.reply.celery.pidbox*")


def commands(role: MissionRole) -> frozenset[str]:
    """The commands that a process may use on all keys of its namespace."""
    of_library = (library.commands(each) for each in IN_LIBRARY[role])
    return IN_APPLICATION[role].union(*of_library)


def rules(role: MissionRole, namespace: str, *, database: int = 0) -> list[str]:
    """The rules of a process in a namespace, for ACL SETUSER; without a password.

    Args:
        role: The process.
        namespace: The setting `NAMESPACE`.
        database: The database of the broker, which is in the names of its channels.

    Raises:
        InvalidMessage: The namespace is invalid, or empty.
    """
    prefix = f"{{{namespace}}}:"
    # The keys and the checks are those of the library; the rest of its rules are commands.
    keys = [rule for rule in library.rules("requester", namespace) if not rule.startswith("+")]
    found = [*keys, *(f"+{name}" for name in sorted(commands(role)))]
    if IN_BROKER[role]:
        of_broker = [f"~{prefix}{pattern}" for pattern in BROKER_KEYS]
        of_broker += [f"&{prefix}/{database}.celery.pidbox"]
        of_broker += [f"+{name}" for name in sorted(IN_BROKER[role])]
        found.append(f"({' '.join(of_broker)})")
    return found
