"""A blocking connection for a thread without an event loop."""

import contextlib
from types import TracebackType
from typing import Any, Self

import redis
from redis.backoff import NoBackoff
from redis.exceptions import (
    MasterDownError,
    MovedError,
    ReadOnlyError,
    RedisError,
    ResponseError,
)
from redis.retry import Retry

from sagastream._redis.address import Address
from sagastream._redis.nodes import Servers, primary_query
from sagastream._redis.protocol import error_of
from sagastream._redis.retrying import is_replica_now
from sagastream.errors import ServerError, ServerUnavailable


class SyncConnection:
    """One connection whose calls block. It connects on its first call, and again after a loss.

    Args:
        servers: The server, the service or the cluster.
        answer_timeout_s: How long to wait for an answer, in seconds.
        connect_timeout_s: How long to wait for a connection, in seconds.
    """

    def __init__(
        self, servers: Servers, *, answer_timeout_s: float, connect_timeout_s: float
    ) -> None:
        self._servers = servers
        self._answer_timeout_s = answer_timeout_s
        self._connect_timeout_s = connect_timeout_s
        self._node = servers.known[0] if servers.known else None
        self._client: redis.Redis | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._close()

    def call(self, *args: Any) -> Any:
        """Send a command once and wait for its answer.

        Raises:
            ServerUnavailable: No answer in time.
            ServerError: The server refused the command.
        """
        try:
            return self._open().execute_command(*args)  # type: ignore[no-untyped-call]
        except MovedError as error:
            self._servers.learn([Address(error.host, error.port)])
            self._close(Address(error.host, error.port))
            raise ServerUnavailable(self._servers.address, str(error)) from error
        except ResponseError as error:
            answer = error_of(str(error))
            # redis-py leaves the code out of the text of errors that have a class.
            is_replica = isinstance(error, ReadOnlyError | MasterDownError)
            if is_replica or (isinstance(answer, ServerError) and is_replica_now(answer)):
                self._close(self._node)
            raise answer from error
        except (RedisError, OSError) as error:
            self._close(self._servers.after(self._node))
            raise ServerUnavailable(self._servers.address, str(error) or repr(error)) from error

    def _open(self) -> "redis.Redis":
        """The client of the node to which commands go; it connects by itself."""
        if self._client is None:
            node = self._primary() if self._servers.url.kind == "sentinel" else self._node
            self._client = self._client_of(self._servers.url.plain, node)
        return self._client

    def _client_of(self, url: str, node: Address | None) -> "redis.Redis":
        client = redis.Redis.from_url(
            url,
            socket_timeout=self._answer_timeout_s,
            socket_connect_timeout=self._connect_timeout_s,
            retry=Retry(NoBackoff(), 0),
            retry_on_error=[],
            driver_info=None,
        )
        if node:
            client.connection_pool.connection_kwargs |= {"host": node.host, "port": node.port}
        return client

    def _primary(self) -> Address:
        """Ask the Sentinels where the primary is."""
        url = self._servers.url
        for each in url.hosts:
            sentinel = self._client_of(url.sentinel, each)
            with contextlib.closing(sentinel), contextlib.suppress(RedisError, OSError):
                answer = sentinel.execute_command(*primary_query(url.service))  # type: ignore[no-untyped-call]
                if answer:
                    return Address(_text(answer[0]), int(answer[1]))
        raise ConnectionError("no Sentinel knows the primary")

    def _close(self, node: Address | None = None) -> None:
        """Close the connection; the next call goes to this node, or asks Sentinel."""
        self._node = node
        if self._client:
            self._client.close()
            self._client = None


def _text(value: bytes | str) -> str:
    return value.decode() if isinstance(value, bytes) else value
