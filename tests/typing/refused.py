"""What type checkers must refuse: each comment is an error that is expected, or the check fails."""

from sagastream import Bus


async def use(bus: Bus) -> None:
    """Payloads that are not JSON objects."""
    await bus.emit_command("a:b", event_type="a:b", payload=[1])  # type: ignore[arg-type]
    await bus.request_and_reply("a:b", "a:b", 7)  # type: ignore[call-overload]
    number: int = await bus.request_and_reply("a:b", "a:b", {})  # type: ignore[assignment]
    del number
