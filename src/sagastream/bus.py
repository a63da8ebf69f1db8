"""`Bus`: emit commands and events, wait for replies, follow and cancel requests.

A bus is cheap to make and safe to share: it connects when it is first used, once per process
and event loop. A request's record on the server is the source of truth; the streams carry it.
"""

import copy
from collections.abc import AsyncIterator, Mapping, Sequence
from types import TracebackType
from typing import Any, Literal, Self

from sagastream._client import commands
from sagastream._client.replies import BackoffConfig, follow_stages, read_entries
from sagastream._client.request import read_replies, request_and_reply
from sagastream._client.session import Session, SessionOptions, SessionRegistry
from sagastream._client.terminal_outcome import read_outcome
from sagastream._codec.entries import SCHEMA_VERSION, StreamEntry, text_fields
from sagastream._codec.payload import MAX_PAYLOAD_BYTES, encode_payload
from sagastream._codec.validation import check_name, new_id
from sagastream._redis.deadline import Deadline
from sagastream._redis.nodes import Servers
from sagastream._redis.replication import Replication
from sagastream._telemetry.trace_context import trace_of
from sagastream.effects import Effect
from sagastream.message import OnProgress
from sagastream.retention import Retention


class Bus:
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
        self.url = url
        self.namespace = namespace
        self.max_payload = max_payload
        self.retention = retention
        self._when_full = when_full
        prefix = f"{{{check_name('namespace', namespace)}}}:" if namespace else ""
        if durability not in {"primary", "replicated"}:
            raise ValueError(f"durability must be 'primary' or 'replicated', not {durability!r}")
        replication = Replication(replicas, replicated_within_s, f"{prefix}sagastream:instance")
        self._options = SessionOptions(
            Servers(url),
            prefix,
            call_timeout_s=call_timeout_s,
            retention=retention,
            max_payload=max_payload,
            max_in_flight=max_in_flight,
            replication=replication if durability == "replicated" else None,
        )
        self._sessions = SessionRegistry(self._options)

    def __repr__(self) -> str:
        return f"<Bus {self.address} {self._options.prefix}>"

    @property
    def address(self) -> str:
        """The server, without user and password."""
        return self._options.servers.address

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    def key(self, name: str) -> str:
        """The key of a stream or record on the server."""
        return self._options.key(name)

    def with_namespace(self, namespace: str) -> Self:
        """A bus for another namespace that shares the connections of this one.

        Each has to be closed; the last one closes the connections.
        """
        other = copy.copy(self)
        prefix = f"{{{check_name('namespace', namespace)}}}:"
        other.namespace = namespace
        other._options = self._options.with_prefix(prefix)  # noqa: SLF001 - the same class
        other._sessions = SessionRegistry(other._options)  # noqa: SLF001
        return other

    def session(self) -> Session:
        """The connections of this process and event loop; for the library's own use."""
        return self._sessions.current()

    async def close(self) -> None:
        """Close the connections of this process and event loop. The bus can be used again."""
        await self._sessions.close()

    async def ping(self) -> None:
        """Check that the server answers, is suitable, and has our functions.

        Raises:
            ServerUnavailable: It does not answer.
            ServerUnsuitable: It refuses this client, has no functions, may evict keys, or belongs
                to a cluster and the bus has no namespace.
        """
        await self.session().check()

    async def emit_command(
        self,
        stream: str,
        *,
        event_type: str,
        payload: Mapping[str, Any],
        correlation_id: str | None = None,
        saga_id: str | None = None,
        request_id: str | None = None,
        reply_stream: str | None = None,
        deadline_s: float | None = None,
        maxlen: int | None = None,
        ttl: float | None = None,
    ) -> str:
        """Ask for work: write a command, and the record of its request, in one step.

        Emitting the same `request_id` again writes nothing, but adds the reply stream.

        Args:
            stream: The command stream, `domain:commands`.
            event_type: `domain:action`.
            payload: A JSON object.
            correlation_id: One id for everything that belongs together; new if None.
            saga_id: The saga that the request belongs to. Its replies go to
                `saga:<saga_id>:replies` too.
            request_id: The request's identity; new if None.
            reply_stream: The stream that gets the replies.
            deadline_s: Seconds from now, by the server's clock, after which it is not run.
            maxlen: Trim the stream to about this many entries. Hazard: this removes commands
                that no listener has read yet; only for streams that may lose some.
            ttl: Seconds after which the whole stream expires. Hazard: as with `maxlen`,
                with all pending commands and the consumer group.

        Returns:
            The id of the command's entry.

        Raises:
            InvalidMessage: An argument is invalid.
            RequestConflict: The request id is known with another payload.
            ResultExpired: The request has ended, and its result is no longer kept.
            ServerUnavailable: The server did not answer.
            NotReplicated: The command is written, but replicas have not confirmed it in time.
        """
        spec: commands.CommandSpec = {
            "event_type": event_type,
            "payload": payload,
            "correlation_id": correlation_id or new_id(),
            "saga_id": saga_id or "",
            "request_id": request_id or new_id(),
            "reply_stream": reply_stream or "",
            "deadline_s": deadline_s,
            "maxlen": maxlen,
            "ttl": ttl,
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
        payload: Mapping[str, Any],
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
            payload: A JSON object.
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
        check_name("stream", stream)
        fields = {
            "correlation_id": check_name("correlation_id", correlation_id),
            "request_id": check_name("request_id", request_id or "", required=False),
            "event_type": check_name("event_type", event_type),
            "status": check_name("status", status),
            "payload": encode_payload(payload, max_bytes=self.max_payload),
            "v": SCHEMA_VERSION,
        }
        return await commands.emit_event(self.session(), stream, fields, maxlen=maxlen, ttl=ttl)

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
            correlation_id: The request's correlation id.
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

    async def request_and_reply(  # noqa: PLR0917 - the public signature
        self,
        stream: str,
        event_type: str,
        payload: Mapping[str, Any],
        timeout: float = 30.0,
        on_progress: OnProgress | None = None,
        request_id: str | None = None,
        correlation_id: str | None = None,
        saga_id: str | None = None,
        *,
        supersedes: Sequence[str] = (),
        effect: Effect | None = None,
    ) -> dict[str, Any]:
        """Ask for work and wait for its end.

        With the `request_id` of a request that runs or has ended, this waits for the end of
        that request: nothing runs twice.

        Args:
            stream: The command stream.
            event_type: `domain:action`.
            payload: A JSON object.
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

        Returns:
            The completed reply: every field of its entry, `payload` decoded.

        Raises:
            InvalidMessage: An argument is invalid.
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
        session = self.session()
        spec: commands.CommandSpec = {
            "event_type": event_type,
            "payload": payload,
            "correlation_id": correlation_id or new_id(),
            "saga_id": saga_id or "",
            "request_id": request_id or new_id(),
            "reply_stream": session.inbox.name,
            "terminal_only": on_progress is None,
            "supersedes": supersedes,
            "effect": effect,
        }
        return await request_and_reply(
            session,
            stream,
            spec,
            timeout=timeout,
            on_progress=on_progress,
            wait_for_slot=self._when_full == "wait",
        )

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
        session = self.session()
        outcome = await read_outcome(session, request_id)
        await session.connection.confirm(deadline=Deadline(self._options.call_timeout_s))
        return outcome

    async def command(self, *args: str | bytes | float, timeout: float | None = None) -> Any:
        """Send one Redis command, for keys that belong to the application.

        The server may get it twice, if its first answer is lost: use idempotent commands. The
        namespace is not put before keys: see `key`.

        Args:
            args: The command and its arguments, such as `"HGET", bus.key("fleet"), "r1"`.
            timeout: Seconds to wait for the answer; None for the bus's `call_timeout_s`.

        Returns:
            The answer, with text as bytes.

        Raises:
            ServerUnavailable: The server did not answer in time.
            ServerRefused: The server takes no writes for now.
            ServerError: The server answered with another error.
        """
        deadline = Deadline(self._options.call_timeout_s if timeout is None else timeout)
        return await self.session().connection.call(*args, deadline=deadline)

    async def read_entries(
        self, after: Mapping[str, str], *, count: int = 100, block_s: float = 0.0
    ) -> list[StreamEntry]:
        """Read the entries of streams that come after a known one.

        Args:
            after: For each stream, without the namespace, the id of the last entry seen;
                `0-0` for all.
            count: Read at most this many of each stream.
            block_s: Wait this long for the first entry if there is none; 2 at most.

        Returns:
            The entries stream by stream, each stream's oldest first.

        Raises:
            ServerUnavailable: The server did not answer.
        """
        return await read_entries(self.session(), after, count=count, block_s=block_s)

    async def last_entries(self, stream: str, count: int) -> list[StreamEntry]:
        """Read the last entries of a stream, the newest first.

        Raises:
            ServerUnavailable: The server did not answer.
        """
        answer = await self.command("XREVRANGE", self.key(stream), "+", "-", "COUNT", count)
        return [StreamEntry(stream, entry.decode(), text_fields(raw)) for entry, raw in answer]
