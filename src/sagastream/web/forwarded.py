"""What a proxy in front of the server says of its clients, and the path below which it is served.

X-Forwarded-For, -Proto and -Host are taken from named proxies only: a page of a foreign name that
resolves to this server could send them, too.
"""

from collections.abc import Sequence
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network

from starlette.types import ASGIApp, Message, Receive, Scope, Send

Network = IPv4Network | IPv6Network


def networks_of(text: str) -> tuple[Network, ...]:
    """Return the networks of a list of addresses and networks, separated by commas.

    Raises:
        ValueError: One is neither.
    """
    names = filter(None, (name.strip() for name in text.split(",")))
    return tuple(ip_network(name, strict=False) for name in names)


class ForwardedMiddleware:
    """Applies what proxies forward, adds the root path, and answers HEAD as GET without a body.

    Args:
        app: The application.
        proxies: The networks of the proxies that are believed.
        root_path: The path below which the server is served, such as `/missions`; '' for none. A
            proxy may remove it from the paths that it sends, or leave it there.
    """

    def __init__(
        self, app: ASGIApp, *, proxies: Sequence[Network] = (), root_path: str = ""
    ) -> None:
        self._app = app
        self._proxies = proxies
        self._root_path = root_path

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request to the application as its client sent it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        path, root = scope["path"], self._root_path
        if root and path != root and not path.startswith(f"{root}/"):
            path = root + path
        scope = dict(scope, root_path=root, path=path)
        if self._is_proxy((scope.get("client") or ("",))[0]):
            self._apply(scope)
        if scope["method"] == "HEAD":
            receive, send = _without_body(receive, send)
            scope["method"] = "GET"
        await self._app(scope, receive, send)

    def _is_proxy(self, address: str) -> bool:
        try:
            parsed = ip_address(address)
        except ValueError:
            return False
        mapped = getattr(parsed, "ipv4_mapped", None) or parsed
        return any(mapped in network for network in self._proxies)

    def _apply(self, scope: Scope) -> None:
        forwarded: dict[bytes, list[str]] = {}
        for name, value in scope["headers"]:
            parts = (part.strip() for part in value.decode("latin-1").split(","))
            forwarded.setdefault(name, []).extend(filter(None, parts))
        # The last address that is no proxy: what stands before it may be invented by the client.
        clients = forwarded.get(b"x-forwarded-for", [])
        client = next((one for one in reversed(clients) if not self._is_proxy(one)), None)
        if client:
            scope["client"] = (client, 0)
        if scheme := forwarded.get(b"x-forwarded-proto"):
            scope["scheme"] = "https" if scheme[-1].lower() == "https" else "http"
        if host := forwarded.get(b"x-forwarded-host"):
            others = [pair for pair in scope["headers"] if pair[0] != b"host"]
            scope["headers"] = [(b"host", host[-1].encode("latin-1")), *others]


def _without_body(receive: Receive, send: Send) -> tuple[Receive, Send]:
    """Send the start of a response only; the client then counts as gone, so that streams end."""
    is_answered = False

    async def receive_until_answered() -> Message:
        return {"type": "http.disconnect"} if is_answered else await receive()

    async def send_start(message: Message) -> None:
        nonlocal is_answered
        if message["type"] == "http.response.start":
            await send(message)
            await send({"type": "http.response.body", "body": b""})
            is_answered = True

    return receive_until_answered, send_start
