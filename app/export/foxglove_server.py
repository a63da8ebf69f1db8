"""Missions live in Foxglove: the channels of a recording, over its WebSocket protocol.

A client that connects late gets the last message of each channel that it subscribes to. A client
that is slow loses the oldest messages of its bounded queue; it slows neither another client
nor the reading, and a mission does not know that anybody watches it.
"""

import threading
from collections.abc import Iterable

import foxglove
from foxglove.websocket import ChannelView, Client, ServerListener

from app.export.ros_messages import RosMessage, definition_of

_HOST = "127.0.0.1"
_QUEUED = 1024  # messages per client
_LARGE_BYTES = 1024 * 1024
_KEPT_BYTES = 256 * 1024 * 1024  # of the last large messages


class FoxgloveServer(ServerListener):
    """Serves the channels of one mission at a time, to clients on this machine.

    Args:
        port: Where to listen; 0 for any free port.

    Attributes:
        port: Where it listens.

    Raises:
        OSError: The port is taken.
    """

    def __init__(self, port: int) -> None:
        self._context = foxglove.Context()
        self._channels: dict[str, foxglove.Channel] = {}
        self._last: dict[str, RosMessage] = {}
        self._large_bytes = 0
        self._lock = threading.Lock()
        try:
            self._server = foxglove.start_server(
                name="mission control",
                host=_HOST,
                port=port,
                context=self._context,
                server_listener=self,
                message_backlog_size=_QUEUED,
            )
        except (OSError, RuntimeError, ValueError) as error:
            raise OSError(f"cannot listen on {_HOST}:{port}: {error}") from error
        self.port = self._server.port

    def publish(self, messages: Iterable[RosMessage]) -> None:
        """Send messages to all clients that have subscribed to their channels; never waits."""
        for message in messages:
            with self._lock:
                channel = self._channel(message)
                self._keep(message)
            channel.log(message.data, log_time=message.time_ns)

    def begin_mission(self) -> None:
        """Drop the channels of the mission that was shown."""
        with self._lock:
            channels, self._channels = self._channels, {}
            self._last.clear()
            self._large_bytes = 0
        for channel in channels.values():
            channel.close()
        self._server.clear_session()

    def stop(self) -> None:
        """Disconnect all clients."""
        self._server.stop()

    def on_subscribe(self, client: Client, channel: ChannelView) -> None:
        """Send the last message of a channel to a new subscriber."""
        with self._lock:
            last, known = self._last.get(channel.topic), self._channels.get(channel.topic)
        if last and known and known.id() == channel.id:
            known.log(last.data, log_time=last.time_ns, sink_id=client.id)

    def _channel(self, message: RosMessage) -> foxglove.Channel:
        if message.topic not in self._channels:
            schema = foxglove.Schema(
                name=message.schema,
                encoding="ros2msg",
                data=definition_of(message.schema).encode(),
            )
            self._channels[message.topic] = foxglove.Channel(
                message.topic, schema=schema, message_encoding="cdr", context=self._context
            )
        return self._channels[message.topic]

    def _keep(self, message: RosMessage) -> None:
        """Keep the last message of a channel, unless large ones use too much memory."""
        before = self._last.pop(message.topic, None)
        if before and len(before.data) > _LARGE_BYTES:
            self._large_bytes -= len(before.data)
        if len(message.data) > _LARGE_BYTES:
            if self._large_bytes + len(message.data) > _KEPT_BYTES:
                return
            self._large_bytes += len(message.data)
        self._last[message.topic] = message
