"""An MCAP file of ROS 2 messages, which appears complete or not at all."""

import os
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

from mcap.writer import Writer

from app.export.ros_messages import RosMessage, definition_of

_MODE = 0o644


class McapFile:
    """Writes messages to a temporary file beside `path`, which replaces it at the end.

    Use it as a context manager: what leaves it by an error leaves no file.

    Args:
        path: The file.
        about: Text that is stored with the messages, by name.

    Raises:
        OSError: The folder is missing, full or not writable.
    """

    def __init__(self, path: Path, about: Mapping[str, str]) -> None:
        self._path = path
        self._about = dict(about)
        self._schemas: dict[str, int] = {}
        self._channels: dict[str, int] = {}
        self._count = 0

    def __enter__(self) -> Self:
        handle, name = tempfile.mkstemp(prefix=f".{self._path.name}.", dir=self._path.parent)
        self._draft = Path(name)
        self._file = os.fdopen(handle, "wb")
        self._writer = Writer(self._file)
        self._writer.start(profile="ros2", library="mission-control")
        self._writer.add_metadata("mission", self._about)
        return self

    def add(self, messages: Iterable[RosMessage]) -> None:
        """Write messages.

        Raises:
            OSError: The disk is full.
        """
        for message in messages:
            self._writer.add_message(
                channel_id=self._channel(message.topic, message.schema),
                log_time=message.time_ns,
                publish_time=message.time_ns,
                data=message.data,
                sequence=self._count,
            )
            self._count += 1

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            with self._file:
                if kind is None:
                    self._writer.finish()  # type: ignore[no-untyped-call]
                    self._file.flush()
                    os.fsync(self._file.fileno())
                    os.fchmod(self._file.fileno(), _MODE)
            if kind is None:
                self._draft.replace(self._path)
        finally:
            self._draft.unlink(missing_ok=True)

    def _channel(self, topic: str, schema: str) -> int:
        if topic not in self._channels:
            if schema not in self._schemas:
                self._schemas[schema] = self._writer.register_schema(
                    name=schema, encoding="ros2msg", data=definition_of(schema).encode()
                )
            channel = self._writer.register_channel(
                topic=topic, message_encoding="cdr", schema_id=self._schemas[schema]
            )
            self._channels[topic] = channel
        return self._channels[topic]
