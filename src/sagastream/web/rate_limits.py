"""How many requests a client of a web server may send."""

import time
from collections import OrderedDict
from collections.abc import Callable
from ipaddress import IPv4Address, IPv6Network, ip_address

from starlette.types import Scope

_MAX_CLIENTS = 10_000


class RateLimiter:
    """A token bucket per client, which refills at a constant rate.

    Args:
        per_s: Requests per second, and the size of a burst.
        now: A monotonic clock in seconds.
    """

    def __init__(self, per_s: float, now: Callable[[], float] = time.monotonic) -> None:
        self._per_s = per_s
        self._now = now
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, client: str) -> bool:
        """Take a token; return whether one was left."""
        now = self._now()
        left, since = self._buckets.pop(client, (self._per_s, now))
        left = min(self._per_s, left + (now - since) * self._per_s)
        self._buckets[client] = (left - 1 if left >= 1 else left, now)
        if len(self._buckets) > _MAX_CLIENTS:
            self._buckets.popitem(last=False)
        return left >= 1


def client_of(scope: Scope) -> str:
    """The address of a client; of an IPv6 address the network, which one client has as a whole."""
    address = str((scope.get("client") or ("?",))[0])
    try:
        parsed = ip_address(address)
    except ValueError:
        return address
    if isinstance(parsed, IPv4Address):
        return address
    mapped = parsed.ipv4_mapped
    return str(mapped or IPv6Network((int(parsed), 64), strict=False))
