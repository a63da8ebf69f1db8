"""`sagastream.sync.Bus`: the blocking form of `sagastream.Bus`, for Flask, Django and scripts.

Its calls run in an event loop of a daemon thread, which all threads of the process share.
"""

import inspect
from collections.abc import Callable, Coroutine, Iterator, Sequence
from datetime import datetime
from functools import partial
from queue import SimpleQueue
from types import TracebackType
from typing import Any, Concatenate, Literal, ParamSpec, Self, TypeVar, overload

from sagastream._client.loop_thread import BlockingRunner, Callbacks
from sagastream._client.replies import BackoffConfig, read_stages
from sagastream._codec.payload import MAX_PAYLOAD_BYTES
from sagastream._codec.validation import check_name
from sagastream._telemetry.trace_context import trace_of
from sagastream.admission import Priority, Unique
from sagastream.bus import Bus as AsyncBus
from sagastream.bus import Result
from sagastream.effects import Effect
from sagastream.message import TERMINAL_STAGES, OnProgress, Payload
from sagastream.retention import Retention

__all__ = ["Bus"]

T = TypeVar("T")
P = ParamSpec("P")


class Bus:
    """The blocking form of `sagastream.Bus`: same arguments, results and errors.

    Threads may share it. Nothing starts before the first call; a forked child starts its own
    thread. The caller's context variables and span are current in a call. Ctrl-C, and any other
    exception that interrupts a call, cancels its wait; the request goes on. A thread that runs
    an event loop must use `sagastream.Bus`: every call raises RuntimeError there.

    Args:
        url: As for `sagastream.Bus`, as all arguments.
        namespace: Put before every key.
        max_payload: The largest payload, in bytes of JSON.
        retention: How long results are kept, and ids remembered.
        call_timeout_s: How long a call waits for a server that does not answer, in seconds.
        max_in_flight: How many requests of this process may wait for their replies at once.
        when_full: Whether one more request waits for a slot, or raises `Overloaded`.
        durability: Whether calls return only when replicas have confirmed what was written.
        replicas: How many of them.
        replicated_within_s: How long they have for that, in seconds.
    """

    def __init__(
        self,
        url: str,
        *,
        namespace: str = "",
        max_payload: int = MAX_PAYLOAD_BYTES,
        retention: Retention = Retention(),  # noqa: B008 - frozen
        call_timeout_s: float = 10.0,
        max_in_flight: int = 10_000,
        when_full: Literal["wait", "raise"] = "wait",
        durability: Literal["primary", "replicated"] = "primary",
        replicas: int = 1,
        replicated_within_s: float = 1.0,
    ) -> None:
        self._bus = AsyncBus(
            url,
            namespace=namespace,
            max_payload=max_payload,
            retention=retention,
            call_timeout_s=call_timeout_s,
            max_in_flight=max_in_flight,
            when_full=when_full,
            durability=durability,
            replicas=replicas,
            replicated_within_s=replicated_within_s,
        )
        self._runner = BlockingRunner(self._bus.address, self._bus.close)

    def __repr__(self) -> str:
        return f"<sync.{repr(self._bus)[1:]}"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """As `sagastream.Bus.close`, and end the thread. Idempotent; the bus can be used again.

        Calls of other threads that still wait raise `ServerUnavailable`.
        """
        self._runner.close()

    def ping(self) -> None:
        """As `sagastream.Bus.ping`."""
        self._run(self._bus.ping)

    def emit_command(
        self,
        stream: str,
        *,
        event_type: str,
        payload: Payload,
        correlation_id: str | None = None,
        saga_id: str | None = None,
        request_id: str | None = None,
        reply_stream: str | None = None,
        deadline_s: float | None = None,
        delay_s: float | None = None,
        not_before: datetime | None = None,
        priority: Priority | None = None,
        unique: Unique | None = None,
        maxlen: int | None = None,
        ttl: float | None = None,
    ) -> str:
        """As `sagastream.Bus.emit_command`."""
        return self._run(
            self._bus.emit_command,
            stream,
            event_type=event_type,
            payload=payload,
            correlation_id=correlation_id,
            saga_id=saga_id,
            request_id=request_id,
            reply_stream=reply_stream,
            deadline_s=deadline_s,
            delay_s=delay_s,
            not_before=not_before,
            priority=priority,
            unique=unique,
            maxlen=maxlen,
            ttl=ttl,
        )

    def emit_event(
        self,
        stream: str,
        *,
        event_type: str,
        status: str,
        payload: Payload,
        correlation_id: str,
        request_id: str | None = None,
        maxlen: int | None = None,
        ttl: float | None = None,
    ) -> str:
        """As `sagastream.Bus.emit_event`."""
        return self._run(
            self._bus.emit_event,
            stream,
            event_type=event_type,
            status=status,
            payload=payload,
            correlation_id=correlation_id,
            request_id=request_id,
            maxlen=maxlen,
            ttl=ttl,
        )

    def read_replies(
        self,
        stream: str,
        correlation_id: str,
        request_id: str,
        timeout: float,
        backoff_config: BackoffConfig = BackoffConfig(),  # noqa: B008 - frozen
    ) -> dict[str, Any]:
        """As `sagastream.Bus.read_replies`."""
        return self._run(
            self._bus.read_replies, stream, correlation_id, request_id, timeout, backoff_config
        )

    # fmt: off
    @overload
    def request_and_reply(
        self, stream: str, event_type: str, payload: Payload, timeout: float = ...,
        on_progress: OnProgress | None = ..., request_id: str | None = ...,
        correlation_id: str | None = ..., saga_id: str | None = ..., *,
        supersedes: Sequence[str] = ..., effect: Effect | None = ..., reply_type: None = ...,
        delay_s: float | None = ..., not_before: datetime | None = ...,
        priority: Priority | None = ...,
    ) -> dict[str, Any]: ...
    @overload
    def request_and_reply(
        self, stream: str, event_type: str, payload: Payload, timeout: float = ...,
        on_progress: OnProgress | None = ..., request_id: str | None = ...,
        correlation_id: str | None = ..., saga_id: str | None = ..., *,
        supersedes: Sequence[str] = ..., effect: Effect | None = ..., reply_type: type[Result],
        delay_s: float | None = ..., not_before: datetime | None = ...,
        priority: Priority | None = ...,
    ) -> Result: ...
    # fmt: on
    def request_and_reply(  # noqa: PLR0917 - the public signature
        self,
        stream: str,
        event_type: str,
        payload: Payload,
        timeout: float = 30.0,
        on_progress: OnProgress | None = None,
        request_id: str | None = None,
        correlation_id: str | None = None,
        saga_id: str | None = None,
        *,
        supersedes: Sequence[str] = (),
        effect: Effect | None = None,
        reply_type: type[Result] | None = None,
        delay_s: float | None = None,
        not_before: datetime | None = None,
        priority: Priority | None = None,
    ) -> dict[str, Any] | Result:
        """As `sagastream.Bus.request_and_reply`.

        `on_progress` is called in the caller's thread, so it may block; it must not be async.

        Raises:
            TypeError: `on_progress` is async.
        """
        callbacks: Callbacks = SimpleQueue()

        def forward(stage: dict[str, Any]) -> None:
            assert on_progress is not None
            callbacks.put(partial(_call_plain, on_progress, stage))

        return self._runner.run(
            partial(
                self._bus.request_and_reply,
                stream,
                event_type,
                payload,
                timeout,
                None if on_progress is None else forward,
                request_id,
                correlation_id,
                saga_id,
                supersedes=supersedes,
                effect=effect,
                reply_type=reply_type,
                delay_s=delay_s,
                not_before=not_before,
                priority=priority,
            ),
            callbacks,
        )

    def follow(self, request_id: str, after: str | None = None) -> Iterator[dict[str, Any]]:
        """As `sagastream.Bus.follow`; each step of the iterator blocks until the next stage."""
        check_name("request_id", request_id)
        while True:
            for stage in self._run(self._read_stages, request_id, after):
                after = stage["entry_id"]
                yield stage
                if stage["status"] in TERMINAL_STAGES:
                    return

    def cancel(self, request_id: str) -> str:
        """As `sagastream.Bus.cancel`."""
        return self._run(self._bus.cancel, request_id)

    def outcome(self, request_id: str) -> dict[str, Any] | None:
        """As `sagastream.Bus.outcome`."""
        return self._run(self._bus.outcome, request_id)

    def run(
        self,
        function: Callable[Concatenate[AsyncBus, P], Coroutine[Any, Any, T]],
        *args: P.args,
        **options: P.kwargs,
    ) -> T:
        """Call an async function whose first argument is a `sagastream.Bus`, and wait for its result.

        So threads set schedules, pause streams or signal sagas: `bus.run(set_schedule, nightly)`.

        Args:
            function: It runs in the event loop of the daemon thread.
            args: Its other arguments.
            options: Its arguments by name.

        Raises:
            TypeError: It is not async.
            Exception: What the function raises.
        """

        async def awaited() -> T:
            result = function(self._bus, *args, **options)
            if not inspect.isawaitable(result):
                raise TypeError(f"{function!r} must be async, and take a Bus first")
            return await result

        return self._run(awaited)

    def _run(
        self, function: Callable[..., Coroutine[Any, Any, T]], *args: Any, **options: Any
    ) -> T:
        return self._runner.run(partial(function, *args, **options))

    async def _read_stages(self, request_id: str, after: str | None) -> list[dict[str, Any]]:
        return await read_stages(self._bus.session(), request_id, after, trace_of())


def _call_plain(on_progress: OnProgress, stage: dict[str, Any]) -> None:
    result = on_progress(stage)
    if inspect.isawaitable(result):
        if inspect.iscoroutine(result):
            result.close()
        raise TypeError("on_progress of sagastream.sync.Bus must be a plain function, not async")
