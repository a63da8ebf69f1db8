"""`Bus`: emit commands and events, and wait for replies.

A bus is cheap to make and safe to share: it connects when it is first used, once per
process and loop. What it promises stands in the request's record on the server; the
streams only carry it.
"""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextvars import ContextVar
from types import TracebackType
from typing import Any, Literal, Self, Unpack

from sagastream._client.emit import CommandSpec, emit, reply_names
from sagastream._client.inbox import wait_until_terminal
from sagastream._client.outcome import REPLY_FIELDS, completed_or_raise, decode_record
from sagastream._client.replies import BackoffConfig, follow_stages, read_until_terminal
from sagastream._client.session import Session, SessionRegistry
from sagastream._client.timeouts import named
from sagastream._codec.entries import SCHEMA_VERSION, StreamEntry, text_fields
from sagastream._codec.payload import MAX_PAYLOAD_BYTES, encode_payload
from sagastream._codec.validation import (
    as_milliseconds,
    check_count,
    check_name,
    check_seconds,
    new_id,
)
from sagastream._redis.connection import entries, redact
from sagastream._telemetry import spans
from sagastream.effects import Effect
from sagastream.errors import ReplyTimeout, ServerUnavailable, StageRefused
from sagastream.message import OnProgress

# The claim under which the current handler runs, so that it may write its own stages.
claim_token: ContextVar[str] = ContextVar("sagastream_claim_token", default="")


class Bus:
    """Durable commands, events and replies over the streams of one server.

    Args:
        url: `redis://`, `rediss://` or `unix://`.
        namespace: Put before every key as `{namespace}:`; letters, digits, `-` and `_`.
        max_payload: The largest payload, in bytes of JSON.
        retention_s: How long an ended request's record, and a reply stream after its last
            entry, are kept. Repeating a request is recognised for as long.
        call_timeout_s: How long a call waits for a server that does not answer.
        max_in_flight: How many requests of this process may wait for their replies at once.
        when_full: One request more waits for a place, or raises `Overloaded`.
    """

    def __init__(
        self,
        url: str,
        *,
        namespace: str = "",
        max_payload: int = MAX_PAYLOAD_BYTES,
        retention_s: float = 86_400.0,
        call_timeout_s: float = 10.0,
        max_in_flight: int = 10_000,
        when_full: Literal["wait", "raise"] = "wait",
    ) -> None:
        self.url = url
        self.max_payload = max_payload
        self.retention_s = retention_s
        self._prefix = f"{{{check_name('namespace', namespace)}}}:" if namespace else ""
        self._when_full = when_full
        self._endpoints = SessionRegistry(
            url,
            self._prefix,
            call_timeout_s=call_timeout_s,
            retention_s=retention_s,
            max_payload=max_payload,
            max_in_flight=max_in_flight,
        )

    def __repr__(self) -> str:
        return f"<Bus {self.address} {self._prefix}>"

    @property
    def address(self) -> str:
        """Where the server is, without user and password."""
        return redact(self.url)

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
        return self._prefix + name

    def session(self) -> Session:
        """The connections of this process and loop, made now if there are none."""
        return self._endpoints.here()

    async def close(self) -> None:
        """Close what this process and loop has open. The bus can be used again after it."""
        await self._endpoints.close()

    async def ping(self) -> None:
        """Ask the server for a sign of life, and make sure that it has our functions.

        Raises:
            ServerUnavailable: It does not answer.
            ServerUnsuitable: It refuses us, cannot hold functions, may evict keys, or is of a
                cluster while there is no namespace.
        """
        await self.session().check()

    async def command(self, *args: str | bytes | float, timeout: float | None = None) -> Any:
        """Send one command of the server's own, for keys that belong to the application.

        It may reach the server twice, when the answer to the first was lost: use commands that
        do no harm when they are repeated. Keys are used as they are: see `key`.

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
        connection = self.session().connection
        if timeout is None:
            return await connection.call(*args)
        try:
            async with asyncio.timeout(timeout):
                return await connection.call(*args, call_timeout_s=timeout)
        except TimeoutError:
            raise ServerUnavailable(self.address, f"no answer within {timeout:g} s") from None

    async def read_entries(
        self, after: Mapping[str, str], *, count: int = 100, block_s: float = 0.0
    ) -> list[StreamEntry]:
        """Read the entries of streams that come behind a known one.

        Args:
            after: For each stream, without the namespace, the id of the last entry seen;
                `0-0` for all.
            count: Read at most so many of each stream.
            block_s: Wait so long for the first entry if there is none; 2 at most.

        Returns:
            The entries stream by stream, each stream's oldest first.

        Raises:
            ServerUnavailable: The server did not answer.
        """
        names = {self.key(stream).encode(): stream for stream in after}
        streams = ("COUNT", count, "STREAMS", *names, *after.values())
        connection = self.session().connection
        if block_s:
            answer = await connection.block("XREAD", "BLOCK", round(block_s * 1000), *streams)
        else:
            answer = await connection.call("XREAD", *streams)
        return [
            StreamEntry(names[key], entry_id.decode(), text_fields(raw))
            for key, entry_id, raw in entries(answer)
        ]

    async def last_entries(self, stream: str, count: int) -> list[StreamEntry]:
        """Read the last entries of a stream, the newest first.

        Raises:
            ServerUnavailable: The server did not answer.
        """
        answer = await self.command("XREVRANGE", self.key(stream), "+", "-", "COUNT", count)
        return [StreamEntry(stream, found.decode(), text_fields(raw)) for found, raw in answer]

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

        Emitting the same `request_id` again writes nothing but adds the reply stream.

        Args:
            stream: The command stream, `domain:commands`.
            event_type: `domain:action`.
            payload: A JSON object.
            correlation_id: One for everything that belongs together; new if None.
            saga_id: The saga that this belongs to. Its replies go to
                `saga:<saga_id>:replies` too.
            request_id: The request's identity; new if None.
            reply_stream: Where replies go.
            deadline_s: Seconds from now, by the server's clock, after which it is not run.
            maxlen: Trim the stream to about so many entries. Hazard: this takes away
                commands that nobody has read yet; only for streams that may lose some.
            ttl: Seconds after which the whole stream expires. Hazard: as with `maxlen`,
                with all pending commands and the consumer group.

        Returns:
            The id of the command's entry.

        Raises:
            InvalidMessage: An argument is not what it must be.
            RequestConflict: The request id is known with another payload.
            ServerUnavailable: The server did not answer.
        """
        entry_id, _ = await self._emit(
            self.session(),
            stream,
            event_type=event_type,
            payload=payload,
            correlation_id=correlation_id or new_id(),
            saga_id=saga_id or "",
            request_id=request_id or new_id(),
            reply_stream=reply_stream or "",
            deadline_s=deadline_s,
            maxlen=maxlen,
            ttl=ttl,
        )
        return entry_id

    async def _emit(
        self, session: Session, stream: str, **options: Unpack[CommandSpec]
    ) -> tuple[str, bool]:
        return await emit(session, self.key, stream, self.max_payload, options)

    def reply_streams(self, reply_stream: str, saga_id: str) -> list[str]:
        """The keys that a request's replies go to: the requester's stream, and the saga's."""
        return [self.key(name) for name in reply_names(reply_stream, saga_id)]

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
            correlation_id: What it belongs to.
            request_id: The request whose stage this is.
            maxlen: Trim the stream to about so many entries. Hazard: replies that nobody
                has read yet go too.
            ttl: Seconds after which the whole stream expires, read or not.

        Returns:
            The entry's id.

        Raises:
            InvalidMessage: An argument is not what it must be.
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
        session = self.session()
        with spans.sending(session.server, stream, fields) as span:
            answer = await session.functions.event(
                self.key(stream),
                self.key(f"request:{request_id}" if request_id else "request:"),
                fields | spans.carrier(),
                token=claim_token.get(),
                maxlen=check_count("maxlen", maxlen),
                ttl_ms=as_milliseconds("ttl", ttl),
            )
            if answer.word == "refused":
                raise StageRefused(request_id or "", status)
            span.set_attribute("messaging.message.id", answer.rest[0])
            return answer.rest[0]

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
        check_name("stream", stream)
        check_seconds("timeout", timeout)
        ids = {"correlation_id": correlation_id, "request_id": request_id}

        async def look() -> dict[str, Any] | None:
            reply = await self.outcome(request_id)
            return reply if reply and reply.get("correlation_id") == correlation_id else None

        session = self.session()
        with spans.Receiving(session.server, stream, ids) as receiving:
            try:
                reply = await read_until_terminal(
                    session.connection,
                    session.functions,
                    self.key(stream),
                    correlation_id=correlation_id,
                    request_id=request_id,
                    timeout=timeout,
                    backoff=backoff_config,
                    look=look,
                    check=session.instance.check,
                    on_stage=receiving.stage,
                    max_bytes=self.max_payload,
                )
            except ReplyTimeout as silence:
                raise await named(session.connection, self._prefix, silence) from None
        return completed_or_raise(reply)

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

        With the `request_id` of a request that is running or has ended, this waits for
        that one's end: nothing runs twice.

        Args:
            stream: The command stream.
            event_type: `domain:action`.
            payload: A JSON object.
            timeout: Seconds to wait at most; the request itself is not affected.
            on_progress: Called with each stage in order, as a dict of its fields; may be
                async. What it raises is raised here; the request goes on.
            request_id: The request's identity; new if None.
            correlation_id: One for everything that belongs together; new if None.
            saga_id: The saga that this belongs to.
            supersedes: Requests that this one takes the place of. They end as `cancelled` in the
                same step, and this one begins when their handlers have stopped, or lost
                their leases.
            effect: The effect policy that the handler must declare; it fails otherwise.

        Returns:
            The completed reply: every field of its entry, `payload` decoded.

        Raises:
            InvalidMessage: An argument is not what it must be.
            RequestConflict: The request id is known with another payload.
            RequestFailed: The request failed; raised at once.
            RequestCancelled: The request was cancelled.
            ReplyTimeout: No terminal stage in time.
            DataLost: The server came back without our data.
            Overloaded: Too many requests wait in this process.
            ServerUnavailable: The server did not answer.
        """
        check_seconds("timeout", timeout)
        request_id = request_id or new_id()
        correlation_id = correlation_id or new_id()
        loop = asyncio.get_running_loop()
        give_up = loop.time() + timeout
        session = self.session()
        inbox = session.inbox
        await inbox.acquire_slot(give_up, wait=self._when_full == "wait")
        mail = inbox.wait_for(request_id)
        alarm = loop.call_at(give_up, mail.put, TimeoutError())
        try:
            _, is_new = await self._emit(
                session,
                stream,
                event_type=event_type,
                payload=payload,
                correlation_id=correlation_id,
                saga_id=saga_id or "",
                request_id=request_id,
                reply_stream=inbox.name,
                only_end=on_progress is None,
                supersedes=supersedes,
                effect=effect,
            )
            ids = {"correlation_id": correlation_id, "request_id": request_id}
            with spans.Receiving(session.server, inbox.name, ids) as receiving:
                if not is_new:
                    mail.put(None)  # it may have ended already
                try:
                    reply = await wait_until_terminal(
                        mail,
                        lambda: self.outcome(request_id),
                        request_id=request_id,
                        timeout=timeout,
                        on_stage=receiving.stage,
                        on_progress=on_progress,
                    )
                except ReplyTimeout as silence:
                    raise await named(session.connection, self._prefix, silence) from None
            return completed_or_raise(reply)
        finally:
            alarm.cancel()
            inbox.wait_no_more(request_id, mail)
            inbox.release_slot()

    async def follow(
        self, request_id: str, after: str | None = None
    ) -> AsyncIterator[dict[str, Any]]:
        """Every stage of a request, from the first that is kept, until the terminal one.

        Anyone may follow, at any time while the record is kept, also before the command. Stages
        are kept from the first that follows or the first progress on; of those before there is
        the last `start`.

        Args:
            request_id: The request.
            after: The `entry_id` of the last stage seen, to go on behind it.

        Yields:
            Each stage as a dict of its fields, with its `entry_id`.
        """
        record = self.key(f"request:{check_name('request_id', request_id)}")
        trace = spans.trace_of()
        session = self.session()
        stages = follow_stages(
            session.connection,
            record,
            after,
            max_bytes=self.max_payload,
            keep=lambda: session.functions.follow(record, trace),
        )
        async for stage in stages:
            yield stage

    async def cancel(self, request_id: str) -> str:
        """Cancel a request. The answer is durable, as the cancel itself is.

        Returns:
            `cancelled`: it had not begun, or has not come yet, and never will begin.
            `cancelling`: it runs, and its handler is told; wait for the end to know it.
            `completed`, `failed`: it had ended so before.

        Raises:
            InvalidMessage: That is no request id.
            ServerUnavailable: The server did not answer.
        """
        check_name("request_id", request_id)
        answer = await self.session().functions.cancel(
            self.key(f"request:{request_id}"),
            retention_ms=round(self.retention_s * 1000),
            wakeup_prefix=self.key("listener:"),
            trace=spans.trace_of(),
        )
        return answer.word

    async def outcome(self, request_id: str) -> dict[str, Any] | None:
        """The terminal reply in a request's record, None while there is none."""
        stored = await self.session().connection.call(
            "HMGET", self.key(f"request:{request_id}"), *REPLY_FIELDS
        )
        return decode_record(stored)
