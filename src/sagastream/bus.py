"""`Bus`: emit commands and events, wait for replies, follow and cancel requests.

A bus is cheap to make and safe to share: it connects when it is first used, once per process
and event loop. A request's record on the server is the source of truth; the streams carry it.
"""

from collections.abc import AsyncIterator, Sequence
from datetime import datetime
from typing import Any, TypeVar, overload

from sagastream._client import commands
from sagastream._client.replies import BackoffConfig, follow_stages
from sagastream._client.request import read_replies, request_and_reply, result_converter
from sagastream._client.server_access import ServerAccess
from sagastream._client.terminal_outcome import read_confirmed
from sagastream._codec.validation import check_name
from sagastream._redis.deadline import Deadline
from sagastream._telemetry.trace_context import trace_of
from sagastream.admission import Priority, Unique
from sagastream.effects import Effect
from sagastream.message import OnProgress, Payload

Result = TypeVar("Result")


class Bus(ServerAccess):
    """Durable commands, events and replies over the streams of one server.

    Args:
        url: `redis://`, `rediss://` or `unix://`; `redis+sentinel://host:port,host:port/service/db`
            for the primary that Sentinels know; `redis+cluster://host:port,host:port` for a
            cluster, with a namespace. Its password is in no error, log or span.
        namespace: Put before every key as `{namespace}:`; letters, digits, `-` and `_`.
        max_payload: The largest payload, in bytes of JSON.
        retention: How long results are kept, and for how long the ids of ended requests are
            remembered. Handlers and listeners can have their own.
        call_timeout_s: How long a call waits for a server that does not answer, in seconds.
        max_in_flight: How many requests of this process may wait for their replies at once.
        when_full: Whether one more request waits for a slot, or raises `Overloaded`.
        durability: `replicated`: no call returns, no handler begins and no requester gets its
            reply before replicas have confirmed what the server wrote. It is `primary` otherwise.
        replicas: How many replicas have to confirm it.
        replicated_within_s: How long they have for that, in seconds; then `NotReplicated` is
            raised.

    Raises:
        InvalidMessage: The URL or the namespace is invalid.
        ValueError: Another value is.
    """

    async def emit_command(
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
        """Ask for work: write a command, and the record of its request, in one step.

        Emitting the same `request_id` again writes nothing, but adds the reply stream.

        Args:
            stream: The command stream, `domain:commands`.
            event_type: `domain:action`.
            payload: A JSON object: a dict, dataclass, pydantic model or msgspec Struct.
            correlation_id: One id for everything that belongs together; new if None.
            saga_id: The saga that the request belongs to. Its replies go to
                `saga:<saga_id>:replies` too.
            request_id: The request's identity; new if None.
            reply_stream: The stream that gets the replies.
            deadline_s: Seconds from now, by the server's clock, after which it is not run.
            delay_s: Seconds from now before which it is not run.
            not_before: The time before which it is not run, with a time zone, by the server's
                clock; of both the later one counts. A command that waits has no entry yet, holds
                nothing, and can be cancelled.
            priority: When it begins before other commands that wait; None to go before all that
                have one.
            unique: Keep only the first or the last of the commands that have its key within a window.
            maxlen: Trim the stream to about this many entries. Hazard: this removes commands
                that no listener has read yet; only for streams that may lose some.
            ttl: Seconds after which the whole stream expires. Hazard: as with `maxlen`,
                with all pending commands and the consumer group.

        Returns:
            The id of the command's entry; `0-0` while it waits for its time or turn. With
            `unique`, that of the command that is kept.

        Raises:
            InvalidMessage: An argument is invalid.
            RequestConflict: The request id is known with another payload.
            ResultExpired: The request has ended, and its result is no longer kept.
            ServerUnavailable: The server did not answer.
            NotReplicated: The command is written, but replicas have not confirmed it in time.
        """
        ids = (correlation_id, saga_id, request_id)
        spec = commands.command_spec(event_type, payload, *ids, reply_stream)
        spec |= {"deadline_s": deadline_s, "maxlen": maxlen, "ttl": ttl}
        spec |= {
            "delay_s": delay_s,
            "not_before": not_before,
            "priority": priority,
            "unique": unique,
        }
        session, deadline = self.session(), Deadline(self._options.call_timeout_s)
        emitting = commands.emit(session, stream, spec, deadline=deadline)
        return (await session.connection.within(deadline, emitting))[0]

    async def emit_event(
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
        """Write an event, such as a stage of a request that has no record.

        Args:
            stream: The stream, for instance a reply stream.
            event_type: `domain:action`.
            status: A stage, or any word of the domain.
            payload: A JSON object, or a model.
            correlation_id: The correlation id of the request or saga that it belongs to.
            request_id: The request whose stage it is.
            maxlen: Trim the stream to about this many entries. Hazard: this removes replies
                that no requester has read yet.
            ttl: Seconds after which the whole stream expires, read or not.

        Returns:
            The entry's id.

        Raises:
            InvalidMessage: An argument is invalid.
            StageRefused: The request has a record, and this is not its handler.
        """
        ids = {"correlation_id": correlation_id, "request_id": request_id or ""}
        ids |= {"event_type": event_type, "status": status}
        session = self.session()
        return await commands.emit_event(session, stream, ids, payload, maxlen=maxlen, ttl=ttl)

    async def read_replies(
        self,
        stream: str,
        correlation_id: str,
        request_id: str,
        timeout: float,
        backoff_config: BackoffConfig = BackoffConfig(),  # noqa: B008 - frozen
    ) -> dict[str, Any]:
        """Wait on a reply stream for the end of one request.

        Args:
            stream: The reply stream.
            correlation_id: Its correlation id.
            request_id: The request.
            timeout: Seconds to wait at most; the request itself is not affected.
            backoff_config: How the waits of empty reads grow.

        Returns:
            The completed reply: every field of its entry, `payload` decoded.

        Raises:
            ReplyTimeout: No terminal stage in time.
            RequestFailed: The request failed; raised at once.
            RequestCancelled: The request was cancelled.
        """
        return await read_replies(
            self.session(),
            stream,
            correlation_id=correlation_id,
            request_id=request_id,
            timeout=timeout,
            backoff=backoff_config,
        )

    # fmt: off
    @overload
    async def request_and_reply(
        self, stream: str, event_type: str, payload: Payload, timeout: float = ...,
        on_progress: OnProgress | None = ..., request_id: str | None = ...,
        correlation_id: str | None = ..., saga_id: str | None = ..., *,
        supersedes: Sequence[str] = ..., effect: Effect | None = ..., reply_type: None = ...,
        delay_s: float | None = ..., not_before: datetime | None = ...,
        priority: Priority | None = ...,
    ) -> dict[str, Any]: ...
    @overload
    async def request_and_reply(
        self, stream: str, event_type: str, payload: Payload, timeout: float = ...,
        on_progress: OnProgress | None = ..., request_id: str | None = ...,
        correlation_id: str | None = ..., saga_id: str | None = ..., *,
        supersedes: Sequence[str] = ..., effect: Effect | None = ..., reply_type: type[Result],
        delay_s: float | None = ..., not_before: datetime | None = ...,
        priority: Priority | None = ...,
    ) -> Result: ...
    # fmt: on
    async def request_and_reply(  # noqa: PLR0917 - the public signature
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
        """Ask for work and wait for its end.

        With the `request_id` of a request that runs or has ended, this waits for the end of
        that request: nothing runs twice.

        Args:
            stream: The command stream.
            event_type: `domain:action`.
            payload: A JSON object, or a model.
            timeout: Seconds to wait at most; the request itself is not affected.
            on_progress: Called with each stage in order, as a dict of its fields; may be
                async. What it raises is raised here; the request goes on.
            request_id: The request's identity; new if None.
            correlation_id: One id for everything that belongs together; new if None.
            saga_id: The saga that the request belongs to.
            supersedes: Requests that this one supersedes. They end as `cancelled` in the same
                step, and this one begins when their handlers have stopped, or have lost their
                leases.
            effect: The effect policy that the handler must declare; it fails otherwise.
            reply_type: The type of the result, such as a dataclass or a pydantic model.
            delay_s: As for `emit_command`; `timeout` counts from now, too.
            not_before: As for `emit_command`.
            priority: As for `emit_command`.

        Returns:
            The completed reply: every field of its entry, `payload` decoded; with a `reply_type`
            only its payload, as that type.

        Raises:
            InvalidMessage: An argument is invalid.
            InvalidPayload: The request has completed, but its result is not a `reply_type`.
            RequestConflict: The request id is known with another payload.
            ResultExpired: The request has ended, and its result is no longer kept.
            RequestFailed: The request failed; raised at once.
            RequestCancelled: The request was cancelled.
            ReplyTimeout: No terminal stage in time.
            DataLost: The server came back without our data.
            Overloaded: Too many requests of this process are in flight.
            ServerUnavailable: The server did not answer.
            NotReplicated: Replicas have not confirmed the command or its reply in time.
        """
        session, convert = self.session(), result_converter(reply_type)
        inbox, terminal_only = session.inbox.name, on_progress is None
        ids = (correlation_id, saga_id, request_id)
        spec = commands.command_spec(event_type, payload, *ids, inbox)
        spec |= {"supersedes": supersedes, "effect": effect, "terminal_only": terminal_only}
        spec |= {"delay_s": delay_s, "not_before": not_before, "priority": priority}
        reply = await request_and_reply(
            *(session, stream, spec),
            timeout=timeout,
            on_progress=on_progress,
            wait_for_slot=self._when_full == "wait",
        )
        return convert(reply)

    async def follow(
        self, request_id: str, after: str | None = None
    ) -> AsyncIterator[dict[str, Any]]:
        """Every stage of a request, from the first that is kept to the terminal one.

        Any process may follow until the result expires, and even before the command is emitted.
        Stages are kept from the first follower on, and the last `start` and `progress` before it.

        Args:
            request_id: The request.
            after: The `entry_id` of the last stage seen, to continue after it.

        Yields:
            Each stage as a dict of its fields, with its `entry_id`.
        """
        check_name("request_id", request_id)
        async for stage in follow_stages(self.session(), request_id, after, trace_of()):
            yield stage

    async def cancel(self, request_id: str) -> str:
        """Cancel a request. The cancel is durable, and so is the answer.

        Returns:
            `cancelled`: it had not begun, or has not been emitted yet, and never will begin.
            `cancelling`: it runs, and its handler is asked to stop; wait for its end.
            `completed`, `failed`: it had already ended.

        Raises:
            InvalidMessage: The request id is invalid.
        """
        record = self._options.record_key(check_name("request_id", request_id))
        return (await self.session().requests.cancel(record, trace=trace_of())).status

    async def outcome(self, request_id: str) -> dict[str, Any] | None:
        """The terminal reply in a request's record, None while there is none.

        Raises:
            ResultExpired: The request has ended, and its result is no longer kept.
            ServerUnavailable: The server did not answer.
        """
        deadline = Deadline(self._options.call_timeout_s)
        return await read_confirmed(self.session(), request_id, deadline)
