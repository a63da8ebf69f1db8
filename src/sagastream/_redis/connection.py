"""What one process and event loop sends to the server, with retries.

A command that was sent by `call` or `post` is sent again after a lost connection, so it must be
idempotent: its answer is the same when it is repeated.
"""

import asyncio
import contextlib
import logging
import math
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, TypeVar

import redis

from sagastream._redis.deadline import Deadline
from sagastream._redis.node import Node
from sagastream._redis.nodes import Servers
from sagastream._redis.protocol import ConnectionLost, Receive, pack, settle
from sagastream._redis.retrying import (
    backoff_delays,
    end_tasks,
    is_refusal,
    is_replica_now,
    is_temporary,
)
from sagastream._telemetry.spans import retried
from sagastream.errors import (
    NotReplicated,
    SagastreamError,
    ServerError,
    ServerRefused,
    ServerUnavailable,
    ServerUnsuitable,
    UnknownLayout,
)

logger = logging.getLogger(__name__)

BLOCK_MS = 2000
_CLOSE_TIMEOUT_S = 2.0
_FUNCTION = "FCALL"
# How redis-py converts answers, such as that of INFO into a mapping.
_ANSWERS_AS_THEY_ARE = frozenset({_FUNCTION, "FCALL_RO"})
_CALLBACKS: dict[str, Callable[[Any], Any]] = redis.Redis(protocol=2).response_callbacks

T = TypeVar("T")


class Connection:
    """Sends the commands of one process and event loop.

    Args:
        servers: Where to send them.
        library: The source of the function library, loaded where it is missing.
        call_timeout_s: How long a call waits for a server that does not answer, in seconds.
        barrier: A hash that is written to where replicas have to confirm what came before.

    Attributes:
        address: The server, without user and password.
        lost_at: When the server was last seen to be away, by the monotonic clock.
    """

    def __init__(
        self,
        servers: Servers,
        *,
        library: str,
        call_timeout_s: float,
        barrier: str,
    ) -> None:
        self._servers = servers
        self.address = servers.address
        self._library = library
        self.call_timeout_s = call_timeout_s
        self._barrier = barrier
        self._loop = asyncio.get_running_loop()
        self._nodes = servers.nodes()
        self._node = self._nodes.first()
        self._retries: set[asyncio.Task[Any]] = set()
        self._loss: BaseException | None = None
        self.lost_at = -math.inf

    async def call(
        self, *args: Any, deadline: Deadline | None = None, node: Node | None = None
    ) -> Any:
        """Send an idempotent command, and wait for its answer.

        Args:
            args: The command.
            deadline: When to end; None for `call_timeout_s` from now.
            node: Send it once, to this node; None for the one that has our keys.

        Raises:
            ServerUnavailable: No answer in time.
            NotReplicated: Replicas have not confirmed in time what a function wrote.
            ServerRefused: The server took no writes in that time.
            ServerUnsuitable: The server refuses this client or has no functions.
            ServerError: The server refused the command.
        """
        deadline = deadline or Deadline(self.call_timeout_s)
        answer = await self.within(
            deadline, node.call(*args) if node else self._call(args, deadline)
        )
        if args[0] in _ANSWERS_AS_THEY_ARE:
            return answer
        convert = _CALLBACKS.get(args[0]) or _CALLBACKS.get(" ".join(map(str, args[:2])))
        return convert(answer) if convert else answer

    async def within(self, deadline: Deadline, answer: Awaitable[T]) -> T:
        """Wait for an answer until a deadline.

        Raises:
            ServerUnavailable: No answer in time.
            ServerRefused: The server took no writes in that time.
        """
        try:
            async with deadline.timeout():
                return await answer
        except TimeoutError:
            raise self.timed_out(deadline) from deadline.error

    def timed_out(self, deadline: Deadline) -> ServerUnavailable | ServerRefused:
        """The error of a call whose deadline has passed."""
        reason = f"timed out after {deadline.seconds:g} s"
        if isinstance(deadline.error, ServerError):
            return ServerRefused(self.address, f"{deadline.error}; {reason}")
        if deadline.error is not None:
            return ServerUnavailable(self.address, f"{_reason(deadline.error)}; {reason}")
        return ServerUnavailable(self.address, reason)

    async def _call(self, args: tuple[Any, ...], deadline: Deadline) -> Any:
        node = self._node
        try:
            answer = await self._send(args)
        except (OSError, ServerError, NotReplicated) as error:
            answer = await self._retry(args, error, deadline, _note_retry, node)
        if self._loss:
            self.note_return()
        return answer

    def post(
        self,
        args: tuple[Any, ...],
        receive: Receive,
        *,
        on_retry: Callable[[BaseException], bool],
    ) -> None:
        """Send an idempotent command, and do not wait. It is sent again while a caller waits.

        Args:
            args: The command.
            receive: Called with its answer, or with the error that `call` would raise.
            on_retry: Called with the error before each retry; returns whether a caller still
                waits.
        """
        received = partial(self._received, args, receive, on_retry, self._node)
        self._node.push(self._packed(args, received))

    def _received(
        self,
        args: tuple[Any, ...],
        receive: Receive,
        on_retry: Callable[[BaseException], bool],
        node: Node,
        answer: Any,
    ) -> None:
        if isinstance(answer, Exception):
            retry = asyncio.create_task(
                self._retry(args, answer, Deadline(math.inf), on_retry, node)
            )
            self._retries.add(retry)
            retry.add_done_callback(partial(self._retried, receive))
            return
        if self._loss:
            self.note_return()
        receive(answer)

    def _retried(self, receive: Receive, retry: "asyncio.Task[Any]") -> None:
        self._retries.discard(retry)
        if retry.cancelled():
            receive(ServerUnavailable(self.address, "the bus was closed"))
        elif error := retry.exception():
            receive(error)
        else:
            self.note_return()
            receive(retry.result())

    async def _retry(
        self,
        args: tuple[Any, ...],
        error: BaseException,
        deadline: Deadline,
        on_retry: Callable[[BaseException], bool],
        node: Node,
    ) -> Any:
        has_moved = False
        replication = self._servers.replication
        confirm_until = time.monotonic() + (replication.within_s if replication else 0.0)
        for delay in backoff_delays():
            if isinstance(error, UnknownLayout):
                raise error
            if is_refusal(error):
                raise ServerUnsuitable(f"{self.address} refuses this client: {error}") from error
            if isinstance(error, NotReplicated):
                if time.monotonic() > confirm_until and not on_retry(error):
                    raise error
            elif not isinstance(error, ServerError) or is_temporary(error):
                if self._follow(error) and not has_moved:
                    has_moved = True  # if the next node sends it on, they do not agree yet
                else:
                    self._leave(node, error)
                    self.note_loss(error)
                    deadline.note(error)
                    if not on_retry(error):
                        raise ServerUnavailable(self.address, _reason(error)) from error
                    await asyncio.sleep(delay)
            elif "Function not found" in error.message:
                await self.load_functions(deadline=deadline)
            else:
                raise error
            node = self._node
            try:
                return await self._send(args)
            except (OSError, ServerError, NotReplicated) as another:
                error = another
        raise AssertionError("backoff_delays never ends")

    def _follow(self, error: BaseException) -> bool:
        """Go to the node that has our keys now, if the error names it."""
        if not (isinstance(error, ServerError) and error.code == "MOVED"):
            return False
        self._node = self._nodes.moved_to(self._node, error)
        return True

    def _leave(self, node: Node, error: BaseException) -> None:
        """Leave a node that does not answer or is a replica now; ask another one of the cluster.

        A name is resolved again for each new socket: the next one may lead to the new primary.
        """
        if isinstance(error, ServerError):
            if is_replica_now(error):
                node.drop(ConnectionLost(error.message))
        elif self._node is node:
            self._node = self._nodes.after(node)

    async def primaries(self) -> list[Node]:
        """The nodes of a cluster that take writes; the one node if there is no cluster."""
        try:
            return self._nodes.primaries_of(self._node, await self.call("CLUSTER", "SLOTS"))
        except ServerError:
            return [self._node]

    async def load_functions(
        self, *, deadline: Deadline | None = None, node: Node | None = None
    ) -> None:
        """Load the function library if the server does not have it.

        Args:
            deadline: When to end; None for `call_timeout_s` from now.
            node: The node that gets it; None for the one that has our keys.

        Raises:
            ServerUnavailable: No answer in time.
            ServerRefused: The server took no writes in that time.
            ServerUnsuitable: The server has no functions.
        """
        try:
            await self.call("FUNCTION", "LOAD", self._library, deadline=deadline, node=node)
        except ServerError as error:
            if "already exists" in str(error):
                return
            if error.code == "NOPERM":
                raise ServerUnsuitable(
                    f"{self.address} does not have the functions of this release, and this user may "
                    "not load them; an administrator must run once: sagastream install"
                ) from error
            raise ServerUnsuitable(
                f"{self.address} cannot load the function library ({error}); "
                "it needs Redis 7.0, Valkey 7.2 or later",
            ) from error

    async def block(self, *args: Any, reader: object = None) -> Any:
        """Send a blocking read on another socket; it is not repeated.

        `reader` identifies the read for `unblock`.

        Raises:
            ServerUnavailable: The connection was lost, or the server cannot serve it now.
            ServerError: The server refused the command.
        """
        node = self._node
        try:
            try:
                answer = await node.reads.read(args, reader)
            except ServerError as error:
                if not self._follow(error):
                    raise
                node = self._node
                answer = await node.reads.read(args, reader)
        except OSError as error:
            self._leave(node, error)
            raise ServerUnavailable(self.address, _reason(error)) from error
        except ServerError as error:
            if is_temporary(error) or is_refusal(error):
                self._follow(error)
                self._leave(node, error)
                self.note_loss(error)
                raise ServerUnavailable(self.address, error.message) from error
            raise
        if self._loss:
            self.note_return()
        return answer

    async def unblock(self, reader: object, *, deadline: Deadline) -> None:
        """Let the read of a reader answer now, with what it has; a server that is away is left.

        Unlike a cancelled read, it loses no entry that the server has sent already.
        """
        for node in self._nodes.all():
            for client_id in node.reads.client_ids(reader):
                with contextlib.suppress(SagastreamError, OSError):
                    await self.within(deadline, node.call("CLIENT", "UNBLOCK", client_id))

    def note_loss(self, error: BaseException) -> None:
        """Log the loss of the server, once."""
        if isinstance(error, NotReplicated):
            return  # the server is there
        self.lost_at = time.monotonic()
        if not self._loss:
            reason = error.reason if isinstance(error, ServerUnavailable | ServerRefused) else ""
            logger.warning("lost %s: %s", self.address, reason or _reason(error))
        self._loss = error

    def note_return(self) -> None:
        """Log the return of the server, once."""
        if self._loss:
            self._loss = None
            logger.warning("%s is back", self.address)

    @property
    def generation(self) -> tuple[int, int]:
        """Which connection commands go to; another one may lead to a server that has less."""
        return id(self._node), self._node.generation

    async def confirm(self, *, deadline: Deadline) -> None:
        """Wait until replicas have what the server has answered until now.

        It is not repeated: after a lost connection the next server may have less than this one.

        Raises:
            NotReplicated: Replicas have not confirmed it in time.
            ServerUnavailable: The connection was lost, or no answer in time.
        """
        future: asyncio.Future[None] = self._loop.create_future()
        node = self._node
        node.confirm(self._barrier, partial(settle, future))
        try:
            await self.within(deadline, future)
        except (OSError, ServerError) as error:
            if isinstance(error, ServerUnavailable):
                raise
            self._follow(error)
            self._leave(node, error)
            raise ServerUnavailable(self.address, _reason(error)) from error

    async def close(self) -> None:
        """Send what is queued, then close the sockets; wait for a server at most 2 s."""
        await end_tasks(*self._retries)
        await self._node.drain(min(self.call_timeout_s, _CLOSE_TIMEOUT_S))
        await self._servers.leave(self._nodes)
        await end_tasks(*self._retries)  # those that began because the sockets were closed

    def _send(self, args: tuple[Any, ...]) -> "asyncio.Future[Any]":
        future: asyncio.Future[Any] = self._loop.create_future()
        self._node.add(self._packed(args, partial(settle, future)))
        return future

    def _packed(self, args: tuple[Any, ...], receive: Receive) -> tuple[bytes, Receive]:
        if self._servers.replication and args[0] == _FUNCTION:
            receive = partial(self._confirm_answer, self._node, receive)
        return pack(args), receive

    def _confirm_answer(self, node: Node, receive: Receive, answer: Any) -> None:
        """Hold a function's answer until replicas have what it wrote."""
        if isinstance(answer, Exception):
            receive(answer)
        else:
            node.confirm(self._barrier, lambda error: receive(error or answer))


def _reason(error: BaseException) -> str:
    return str(error) or repr(error)


def _note_retry(error: BaseException) -> bool:
    retried(error)
    return not isinstance(error, NotReplicated)
