"""A connection to an MQTT broker that comes back by itself.

Messages of QoS 0 that are published while there is no connection are lost, as the standard
expects: who needs an answer sends again.
"""

import asyncio
import contextlib
import logging
import random
import socket
import ssl
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

import aiomqtt

from app.config import Settings
from app.vda5050_settings import BrokerAddress
from sagastream import SagastreamError

logger = logging.getLogger(__name__)

OnMessage = Callable[[str, bytes], None]
"""Called with the topic and the payload of each message."""

# Says each attempt to connect as an error; this module says it once.
_client_logger = logging.getLogger(f"{__name__}.client")
_client_logger.setLevel(logging.CRITICAL)

_FIRST_DELAY_S, _LAST_DELAY_S = 0.1, 5.0
_MAX_QUEUED = 1000
_CALL_TIMEOUT_S = 5.0


class BadBroker(SagastreamError, ValueError):
    """The settings of the broker cannot be used; names the variable."""


@dataclass(frozen=True, slots=True)
class LastWill:
    """What the broker publishes, retained, when a client is gone without saying so."""

    topic: str
    payload: bytes


class BrokerClient:
    """A client of a broker: connects, subscribes, and starts again when the connection is lost.

    Args:
        settings: Names the broker.
        identifier: The client's id; the broker ends an older connection with the same id.
        topics: What to subscribe to, with QoS 1: the broker then queues what a slow client has
            not read yet.
        on_message: Called with each message.
        on_connect: Awaited after each connect and subscribe.
        will: What the broker publishes when the connection is lost.

    Raises:
        BadBroker: No broker is set, or a certificate cannot be read.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        identifier: str,
        topics: Sequence[str],
        on_message: OnMessage,
        on_connect: Callable[[], Awaitable[None]] | None = None,
        will: LastWill | None = None,
    ) -> None:
        if settings.vda5050_broker is None:
            raise BadBroker("VDA5050_BROKER_URL: not set; it names the MQTT broker of the robots")
        self.address: BrokerAddress = settings.vda5050_broker
        self._keepalive_s = settings.vda5050_keepalive_s
        self._tls = _tls_context(settings) if self.address.tls else None
        self._identifier, self._topics = identifier, tuple(topics)
        self._on_message, self._on_connect = on_message, on_connect
        self._will = will
        self._client: aiomqtt.Client | None = None
        self._lost = False

    @property
    def connected(self) -> bool:
        """Whether there is a connection."""
        return self._client is not None

    async def run(self) -> None:
        """Stay connected until cancelled."""
        delay_s = _FIRST_DELAY_S
        while True:
            client = self._new_client()
            try:
                async with client:
                    for topic in self._topics:
                        await client.subscribe(topic, qos=1)
                    _raise_if_cancelled()
                    self._client, delay_s = client, _FIRST_DELAY_S
                    self._report(lost=False)
                    if self._on_connect:
                        await self._on_connect()
                    async for message in client.messages:
                        if isinstance(message.payload, bytes | bytearray):
                            self._pass_on(str(message.topic), bytes(message.payload))
            except (aiomqtt.MqttError, OSError) as error:
                self._client = None
                self._report(lost=True, why=str(error))
            finally:
                self._client = None
                _read_error(client)
            _raise_if_cancelled()  # a disconnection that failed may have replaced it, too
            await asyncio.sleep(delay_s * random.uniform(0.5, 1.0))  # noqa: S311 - jitter
            delay_s = min(2 * delay_s, _LAST_DELAY_S)

    async def listen_once(self, seconds: float, enough: Callable[[], bool]) -> None:
        """Connect once, pass on what comes within some seconds or until it is enough, and leave.

        Raises:
            MqttError: The broker refuses or ends the connection.
            OSError: It cannot be reached.
        """
        client = self._new_client()
        try:
            async with client:
                for topic in self._topics:
                    await client.subscribe(topic, qos=1)
                _raise_if_cancelled()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(seconds):
                        async for message in client.messages:
                            if isinstance(message.payload, bytes | bytearray):
                                self._pass_on(str(message.topic), bytes(message.payload))
                            if enough():
                                break
        finally:
            _read_error(client)

    def _pass_on(self, topic: str, payload: bytes) -> None:
        """Pass a message on; what it raises ends neither the connection nor what comes next."""
        try:
            self._on_message(topic, payload)
        except Exception:
            logger.exception("cannot take a message of %s", topic)

    async def publish(
        self, topic: str, payload: bytes, *, qos: int = 0, retain: bool = False
    ) -> bool:
        """Publish a message; return False if there is no connection."""
        client = self._client
        if client is None:
            return False
        before = _cancellations()
        try:
            await client.publish(topic, payload, qos=qos, retain=retain)
        except aiomqtt.MqttError:
            return False
        _raise_if_cancelled(before)
        return True

    def _new_client(self) -> aiomqtt.Client:
        will = None
        if self._will:
            will = aiomqtt.Will(self._will.topic, self._will.payload, qos=1, retain=True)
        return aiomqtt.Client(
            self.address.host,
            self.address.port,
            username=self.address.username or None,
            password=self.address.password or None,
            identifier=self._identifier,
            keepalive=self._keepalive_s,
            tls_context=self._tls,
            will=will,
            timeout=_CALL_TIMEOUT_S,
            max_queued_incoming_messages=_MAX_QUEUED,
            logger=_client_logger,
            # Else small messages wait for the acknowledgement of those before, 40 ms.
            socket_options=[(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)],
        )

    def _report(self, *, lost: bool, why: str = "") -> None:
        """Log once that the connection is lost, and once that it is back."""
        if lost and not self._lost:
            logger.warning("no connection to the broker %r: %.200s", self.address, why)
        elif self._lost and not lost:
            logger.warning("connected to the broker %r again", self.address)
        self._lost = lost


def _cancellations() -> int:
    task = asyncio.current_task()
    return task.cancelling() if task else 0


def _raise_if_cancelled(before: int = 0) -> None:
    """Raise a cancellation that came during a call of aiomqtt.

    It uses `asyncio.wait_for`, which swallows a cancellation that comes together with its result
    before Python 3.12.

    Args:
        before: How often the task was cancelled before the call.
    """
    if _cancellations() > before:
        raise asyncio.CancelledError


def _read_error(client: aiomqtt.Client) -> None:
    """Read why a connection was lost, so that asyncio does not log that it was never read."""
    lost = client._disconnected  # noqa: SLF001 - there is no other way to it
    if lost.done() and not lost.cancelled():
        lost.exception()


def _tls_context(settings: Settings) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=settings.vda5050_ca_file)
    except (OSError, ssl.SSLError) as error:
        raise BadBroker(f"VDA5050_CA_FILE: {settings.vda5050_ca_file}: {error}") from None
    if settings.vda5050_cert_file and settings.vda5050_key_file:
        try:
            context.load_cert_chain(settings.vda5050_cert_file, settings.vda5050_key_file)
        except (OSError, ssl.SSLError) as error:
            raise BadBroker(
                f"VDA5050_CERT_FILE, VDA5050_KEY_FILE: {settings.vda5050_cert_file}: {error}"
            ) from None
    return context
