"""A blocking connection for a thread without an event loop."""

from types import TracebackType
from typing import Any, Self

import redis
from redis.backoff import NoBackoff
from redis.exceptions import MasterDownError, ReadOnlyError, RedisError, ResponseError
from redis.retry import Retry

from sagastream._redis.connection import redact
from sagastream._redis.protocol import error_of
from sagastream._redis.retrying import has_moved
from sagastream.errors import ServerError, ServerUnavailable


class SyncConnection:
    """One connection whose calls block. It connects on its first call, and again after a loss.

    Args:
        url: `redis://`, `rediss://` or `unix://`.
        answer_timeout_s: How long to wait for an answer, in seconds.
        connect_timeout_s: How long to wait for a connection, in seconds.
    """

    def __init__(self, url: str, *, answer_timeout_s: float, connect_timeout_s: float) -> None:
        self._address = redact(url)
        self._client = redis.Redis.from_url(
            url,
            socket_timeout=answer_timeout_s,
            socket_connect_timeout=connect_timeout_s,
            retry=Retry(NoBackoff(), 0),
            retry_on_error=[],
            driver_info=None,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._client.close()

    def call(self, *args: Any) -> Any:
        """Send a command once and wait for its answer.

        Raises:
            ServerUnavailable: No answer in time.
            ServerError: The server refused the command.
        """
        try:
            return self._client.execute_command(*args)  # type: ignore[no-untyped-call]
        except ResponseError as error:
            answer = error_of(str(error))
            # redis-py leaves the code out of the text of errors that have a class.
            is_replica = isinstance(error, ReadOnlyError | MasterDownError)
            if is_replica or (isinstance(answer, ServerError) and has_moved(answer)):
                self._client.connection_pool.disconnect()
            raise answer from error
        except (RedisError, OSError) as error:
            raise ServerUnavailable(self._address, str(error) or repr(error)) from error
