"""`sagastream request`: list, show, cancel and retry requests."""

import argparse
import json
from dataclasses import asdict
from typing import Any

from sagastream._codec.validation import new_id
from sagastream.bus import Bus
from sagastream.cli.output import fields, percent, print_hint, table
from sagastream.errors import InvalidMessage
from sagastream.inspection import RequestDetails, find_requests, resolve_request
from sagastream.message import TERMINAL_STAGES, error_text
from sagastream.redelivery import retry_request

STATUSES = ("pending", "running", *sorted(TERMINAL_STAGES))
_COLUMNS = ("request_id", "status", "event_type", "attempt", "time", "progress", "error")


async def list_requests(bus: Bus, options: argparse.Namespace) -> list[dict[str, Any]]:
    """A page of requests, the newest first."""

    def fits(request: RequestDetails) -> bool:
        return (
            options.status in {None, request.status}
            and options.event_type in {None, request.event_type}
            and request.saga_id.startswith(options.saga)
            and request.correlation_id.startswith(options.correlation)
        )

    page = await find_requests(bus, limit=options.limit, after=options.after, fits=fits)
    if page.after:
        print_hint(f"there may be more: add --after {page.after}")
    found = sorted(page.requests, key=lambda each: each.time_s, reverse=True)
    return [row_of(request) for request in found]


async def show_request(bus: Bus, options: argparse.Namespace) -> dict[str, Any]:
    """Everything that is known of a request, and its stages if it is followed."""
    request = await resolve_request(bus, options.id)
    return row_of(request) | {"stages": await _stages(bus, request.request_id)}


async def cancel_request(bus: Bus, options: argparse.Namespace) -> dict[str, Any]:
    """Cancel a request, durably."""
    request = await resolve_request(bus, options.id)
    return {
        "request_id": request.request_id,
        "status": await bus.cancel(request.request_id),
    }


async def retry(bus: Bus, options: argparse.Namespace) -> dict[str, Any]:
    """Emit the command of a request that has failed again, as a new request; two calls emit it once.

    Raises:
        CannotRetry: It has not failed, belongs to a saga, or its command is no longer kept.
    """
    request = await resolve_request(bus, options.id)
    new_id = await retry_request(bus, request)
    return {"request_id": new_id, "retried": request.request_id}


def row_of(request: RequestDetails) -> dict[str, Any]:
    """A request as a JSON object."""
    row = asdict(request)
    row["time"], row["due"] = row.pop("time_s"), row.pop("due_time_s") or None
    row["error"] = ""
    if request.status in {"failed", "unreadable"}:
        row["error"] = error_text(request.result)
    return row


def text_of_list(rows: list[dict[str, Any]]) -> str:
    """The table."""
    shown = [row | {"progress": percent(row["progress"])} for row in rows]
    return table(shown, _COLUMNS)


def text_of(row: dict[str, Any]) -> str:
    """One request."""
    if "stages" not in row:
        return str(row["request_id"]) if "retried" in row else str(row["status"])
    result = dict(row["result"])
    traceback = result.pop("traceback", "")
    return fields(row | {"result": result}) + (f"\n\n{traceback}" if traceback else "")


async def _stages(bus: Bus, request_id: str) -> list[dict[str, Any]]:
    stages: list[dict[str, Any]] = []
    for entry in reversed(await bus.last_entries(f"request:{request_id}:stages", 1000)):
        try:
            stage = entry.reply(max_bytes=bus.max_payload)
        except InvalidMessage as error:
            stages.append({"status": "unreadable", "message": str(error)})
            continue
        stages.append({name: stage.get(name) for name in ("status", "payload", "timestamp")})
    return stages


async def send_request(bus: Bus, options: argparse.Namespace) -> dict[str, Any]:
    """Emit a command, and wait for its completed reply; its stages go to standard error."""
    request_id = options.id or new_id()

    def report(stage: dict[str, Any]) -> None:
        payload = json.dumps(stage["payload"]) if stage["status"] == "progress" else ""
        print_hint(f"{request_id} {stage['status']} {payload}".rstrip())

    return await bus.request_and_reply(
        options.stream,
        options.event_type,
        options.payload,
        options.timeout,
        on_progress=report,
        request_id=request_id,
    )


def text_of_result(reply: dict[str, Any]) -> str:
    """Its payload."""
    return json.dumps(reply["payload"], ensure_ascii=False)
