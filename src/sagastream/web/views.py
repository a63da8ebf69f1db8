"""The pages that show something; they change nothing."""

from dataclasses import dataclass
from typing import Any, get_args
from urllib.parse import urlencode

from starlette.requests import Request
from starlette.responses import Response

from sagastream.bus import Bus
from sagastream.errors import InvalidMessage, SagastreamError
from sagastream.flow_control import pauses, queues
from sagastream.inspection import (
    RequestDetails,
    find_requests,
    listeners,
    read_request,
    resolve_request,
    scan,
)
from sagastream.message import TERMINAL_STAGES
from sagastream.redelivery import find_dead_letter, why_not_retried
from sagastream.saga.administration import find_sagas, resolve_saga
from sagastream.saga.outcome import outcome_of
from sagastream.saga.state import Journal, SagaStatus
from sagastream.schedules import find_schedules, overdue
from sagastream.status import DeadLetter, dead_letters, request_status, stream_status
from sagastream.web.rendering import Renderer, json_text
from sagastream.web.request_history import attempts_of, read_stages
from sagastream.web.saga_axis import axis_of
from sagastream.web.stream_overview import saga_counts, stream_rows

_PER_PAGE = 50
# How long a list searches for what its filter asks for, in seconds. Then it shows what it has.
_SEARCH_S = 0.2
_LETTERS = 50
_REQUEST_STATUSES = ("pending", "running", *sorted(TERMINAL_STAGES), "unreadable")
_SAGA_STATUSES: tuple[str, ...] = get_args(SagaStatus)
# What an action has done, by the word in the address; a text in the address could be anything.
_NOTICES = {
    "cancelled": "Cancelled: it had not begun, and never will.",
    "cancelling": "Its handler is asked to stop. Reload the page to see its end.",
    "completed": "Not cancelled: it had already completed.",
    "failed": "Not cancelled: it had already failed.",
    "retried": "Emitted again, as this new request.",
    "resumed": "Resumed: a runner of this saga continues it.",
    "signalled": "It is sent: a runner of this saga goes on with it.",
    "compensating": "Its compensation has started: a runner of this saga undoes its steps.",
    "dropped": "The dead letter is deleted.",
    "paused": "Paused: what runs goes on, and nothing else begins.",
    "let-go": "Resumed: what waited for this begins again.",
    "schedule-paused": "Paused: no listener fires it.",
    "schedule-resumed": "Resumed: it is fired from its next due time on.",
    "schedule-dropped": "The schedule is deleted.",
    "run": "Emitted now; the due times of its schedule stay.",
}


@dataclass(frozen=True, slots=True)
class Views:
    """The pages that show something.

    Args:
        bus: The server.
        group: The consumer group of the listeners.
        render: Renders the templates.
    """

    bus: Bus
    group: str
    render: Renderer

    async def overview(self, request: Request) -> Response:
        """Streams, and how many sagas are in each state."""
        live = await listeners(self.bus, group=self.group)
        return self.render.page(
            request,
            "overview",
            here="overview",
            streams=await stream_rows(self.bus, live, group=self.group),
            sagas=await saga_counts(self.bus),
            listener_count=len(live),
        )

    async def stream(self, request: Request) -> Response:
        """What of one stream waits, and what is paused."""
        name = request.query_params.get("stream", "")
        status = await stream_status(self.bus, name, group=self.group)
        return self.render.page(
            request,
            "stream",
            here="overview",
            stream=name,
            event_types=status.event_types,
            queues=await queues(self.bus, name),
            pauses=await pauses(self.bus, name),
            notice=_notice(request),
        )

    async def requests(self, request: Request) -> Response:
        """Requests that fit a filter, a page at a time."""
        names = ("status", "stream", "event_type", "id", "saga", "correlation")
        given = {name: request.query_params.get(name, "").strip() for name in names}
        _require("status", given["status"], _REQUEST_STATUSES)

        def fits(found: RequestDetails) -> bool:
            return (
                given["status"] in {"", found.status}
                and given["stream"] in {"", found.stream}
                and given["event_type"] in {"", found.event_type}
                and found.saga_id.startswith(given["saga"])
                and found.correlation_id.startswith(given["correlation"])
            )

        after = request.query_params.get("after", "")
        page = await find_requests(
            self.bus,
            limit=_PER_PAGE,
            after=after,
            prefix=given["id"],
            within_s=_SEARCH_S,
            fits=fits,
        )
        rows = list(page.requests)
        if given["id"] and not after and given["id"] not in {row.request_id for row in rows}:
            # A whole id needs no search.
            rows += [row for row in await self._exact(given["id"]) if fits(row)]
        return self.render.page(
            request,
            "requests",
            here="requests",
            rows=sorted(rows, key=lambda each: each.time_s, reverse=True),
            given=given,
            statuses=_REQUEST_STATUSES,
            is_filtered=any(given.values()),
            is_first=not after,
            is_complete=page.is_complete,
            next_page=_address("/requests", given, page.after),
        )

    async def _exact(self, request_id: str) -> list[RequestDetails]:
        try:
            found = await read_request(self.bus, request_id)
        except InvalidMessage:
            return []  # the beginning of an id may be anything
        return [found] if found else []

    async def request(self, request: Request) -> Response:
        """One request: its attempts and stages, its lease, its end."""
        found = await resolve_request(self.bus, request.query_params.get("id", ""))
        stages = await read_stages(self.bus, found)
        lease = await request_status(self.bus, found.request_id)
        result = dict(found.result)
        traceback = json_text(result.pop("traceback", "")) if found.status == "failed" else ""
        added_ms = found.entry_id.partition("-")[0]
        return self.render.page(
            request,
            "request",
            here="requests",
            request=found,
            attempts=attempts_of(found, stages),
            lease_s=lease.lease_s if lease and found.status == "running" else None,
            due_s=lease.due_s if lease else None,
            added_s=int(added_ms) / 1000 if added_ms.isdecimal() else 0.0,
            result=result,
            traceback=traceback,
            why_not_retried=why_not_retried(found),
            notice=_notice(request),
        )

    async def sagas(self, request: Request) -> Response:
        """Sagas in a state, a page at a time: stuck ones first."""
        names = ("status", "name")
        given = {name: request.query_params.get(name, "").strip() for name in names}
        _require("status", given["status"], _SAGA_STATUSES)
        after = request.query_params.get("after", "0")
        if not (after.isascii() and after.isdecimal() and len(after) <= 15):  # noqa: PLR2004
            raise InvalidMessage("after", f"{after[:40]!r} is not from a page before")
        page = await find_sagas(
            self.bus,
            name=given["name"],
            statuses=frozenset({given["status"]} if given["status"] else ()),
            limit=_PER_PAGE,
            after=int(after),
            within_s=_SEARCH_S,
        )
        return self.render.page(
            request,
            "sagas",
            here="sagas",
            rows=[(journal, _last_step(journal)) for journal in page.journals],
            given=given,
            statuses=_SAGA_STATUSES,
            is_first=after == "0",
            is_complete=page.is_complete,
            next_page=_address("/sagas", given, str(page.after) if page.after else ""),
        )

    async def saga(self, request: Request) -> Response:
        """One saga: its requests on a time axis, its compensations in their lane."""
        journal = await resolve_saga(self.bus, request.query_params.get("id", ""))
        return self.render.page(
            request,
            "saga",
            here="sagas",
            journal=journal,
            axis=await axis_of(self.bus, journal),
            trace_id=outcome_of(journal).trace_id,
            notice=_notice(request),
        )

    async def dead(self, request: Request) -> Response:
        """Dead letters, the newest first, by stream."""
        stream = request.query_params.get("stream", "")
        before = request.query_params.get("before", "")
        names = [stream]
        if not stream:
            found = {name async for name in scan(self.bus, "*:dead", "stream")}
            names = sorted(name.removesuffix(":dead") for name in found)
        lists: list[tuple[str, list[DeadLetter], str, str]] = []
        for name in names:
            try:
                letters = await dead_letters(self.bus, name, newest=_LETTERS + 1, before=before)
            except SagastreamError as error:
                if stream:
                    raise
                lists.append((name, [], "", str(error)))
                continue
            more = letters[_LETTERS - 1].letter_id if len(letters) > _LETTERS else ""
            shown = letters[:_LETTERS]
            lists.append((name, shown, _address("/dead", {"stream": name}, more, "before"), ""))
        return self.render.page(request, "dead", here="dead", lists=lists, notice=_notice(request))

    async def letter(self, request: Request) -> Response:
        """One dead letter with all fields."""
        letter = await self.letter_of(request.query_params)
        return self.render.page(request, "letter", here="dead", letter=letter)

    async def letter_of(self, given: Any) -> DeadLetter:
        """The dead letter that `stream` and `id` name."""
        return await find_dead_letter(self.bus, given.get("stream", ""), given.get("id", ""))

    async def schedules(self, request: Request) -> Response:
        """The schedules: when each is due, and how its last request ended."""
        found = await find_schedules(self.bus)
        late = await overdue(self.bus, found)
        return self.render.page(
            request,
            "schedules",
            here="schedules",
            schedules=found,
            late={each.name for each in late},
            notice=_notice(request),
        )

    async def listeners(self, request: Request) -> Response:
        """The live listeners."""
        live = await listeners(self.bus, group=self.group)
        return self.render.page(request, "listeners", here="listeners", listeners=live)


def _require(field: str, value: str, allowed: tuple[str, ...]) -> None:
    if value and value not in allowed:
        raise InvalidMessage(field, f"{value[:40]!r} is not one of {', '.join(allowed)}")


def _address(path: str, given: dict[str, str], after: str, name: str = "after") -> str:
    """The address of the next page; '' if there is none."""
    if not after:
        return ""
    return (
        f"{path}?{urlencode({key: value for key, value in given.items() if value} | {name: after})}"
    )


def _notice(request: Request) -> str:
    return _NOTICES.get(request.query_params.get("done", ""), "")


def _last_step(journal: Journal) -> str:
    if not journal.entries:
        return "-"
    last = journal.entries[-1]
    return last.step if last.direction == "forward" else f"undo {last.step}"
