"""The actions of an operator: a page that names what will be done, and the form that does it.

Each is the same as a verb of the command, and may be repeated.
"""

import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlencode

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from sagastream._codec.payload import decode_payload
from sagastream._codec.validation import check_name
from sagastream.bus import Bus
from sagastream.errors import SagaError
from sagastream.flow_control import pause, resume
from sagastream.inspection import RequestDetails, resolve_request
from sagastream.redelivery import (
    CannotRetry,
    drop_dead_letter,
    find_dead_letter,
    retry_dead_letter,
    retry_request,
    why_not_retried,
)
from sagastream.saga import signal_saga
from sagastream.saga.administration import compensate_saga, resolve_saga, resume_saga
from sagastream.saga.state import Journal
from sagastream.saga.walk import open_waits
from sagastream.web.forms import (
    FORM_COOKIE,
    Confirm,
    Confirmation,
    Do,
    FormTokens,
    read_form,
)
from sagastream.web.rendering import Renderer
from sagastream.web.schedule_actions import ScheduleActions

_DAY_S = 86_400
_MAX_REASON = 500
_MAX_PAYLOAD = 10_000


@dataclass(frozen=True, slots=True)
class Actions:
    """The actions, by their address.

    Args:
        bus: The server.
        render: Renders the templates.
        tokens: The tokens of the forms.
    """

    bus: Bus
    render: Renderer
    tokens: FormTokens

    def by_path(self) -> dict[str, tuple[Confirm, Do]]:
        """How each action is confirmed and done; the latter returns the address to show next."""
        return {
            "/request/cancel": (self._confirm_cancel, self._cancel),
            "/request/retry": (self._confirm_retry, self._retry),
            "/saga/resume": (self._confirm_resume, self._resume),
            "/saga/signal": (self._confirm_signal, self._signal),
            "/saga/compensate": (self._confirm_compensate, self._compensate),
            "/dead/retry": (self._confirm_retry_letter, self._retry_letter),
            "/dead/drop": (self._confirm_drop, self._drop),
            "/stream/pause": (self._confirm_pause, self._pause),
            "/stream/resume": (self._confirm_unpause, self._unpause),
            **ScheduleActions(self.bus).by_path(),
        }

    async def ask(self, request: Request, confirm: Confirm) -> Response:
        """Show the page that asks."""
        cookie = request.cookies.get(FORM_COOKIE) or secrets.token_hex(16)
        confirmation = await confirm(request.query_params)
        page = self.render.page(
            request,
            "confirm",
            here=confirmation.here,
            ask=confirmation,
            action=request.url.path,
            form_token=self.tokens.of(cookie),
            max_reason=_MAX_REASON,
            max_payload=_MAX_PAYLOAD,
        )
        page.set_cookie(
            FORM_COOKIE,
            cookie,
            max_age=_DAY_S,
            httponly=True,
            samesite="strict",
            secure=request.url.scheme == "https",
        )
        return page

    async def do(self, request: Request, do: Do) -> Response:
        """Do what a form confirms, then show it."""
        form = await read_form(request)
        self.tokens.check(request, form)
        return RedirectResponse(f"{request.scope.get('root_path', '')}{await do(form)}", 303)

    async def _request(self, given: Mapping[str, str]) -> RequestDetails:
        return await resolve_request(self.bus, given.get("id", ""))

    async def _confirm_cancel(self, given: Mapping[str, str]) -> Confirmation:
        found = await self._request(given)
        text = "It has not begun, and never will begin. Who waits for it is told so."
        if found.status == "running":
            text = "It runs: its handler is asked to stop. Who waits for it is told so at its end."
        elif found.has_ended:
            text = f"It is {found.status}: there is nothing left to cancel."
        if found.saga_id and not found.has_ended:
            text += f" Its saga {found.saga_id} then undoes its steps."
        return _of_request("Cancel", found, text)

    async def _cancel(self, given: Mapping[str, str]) -> str:
        found = await self._request(given)
        return _shown("/request", found.request_id, await self.bus.cancel(found.request_id))

    async def _confirm_retry(self, given: Mapping[str, str]) -> Confirmation:
        found = await self._request(given)
        if why := why_not_retried(found):
            raise CannotRetry(why)
        text = (
            "Its command is emitted again, as a new request. This one stays ended. If its handler "
            "has had an effect, that happens again."
        )
        return _of_request("Retry", found, text)

    async def _retry(self, given: Mapping[str, str]) -> str:
        new_id = await retry_request(self.bus, await self._request(given))
        return _shown("/request", new_id, "retried")

    async def _confirm_resume(self, given: Mapping[str, str]) -> Confirmation:
        journal = await resolve_saga(self.bus, given.get("id", ""))
        _require_resumable(journal)
        text = "A runner of this saga continues it now. What has been done is not done again."
        if journal.status == "stuck":
            text = (
                "The compensation that is stuck gets new attempts. Fix the cause that its error "
                "names before."
            )
        return _of_saga("Resume", journal, text)

    async def _resume(self, given: Mapping[str, str]) -> str:
        journal = await resolve_saga(self.bus, given.get("id", ""))
        _require_resumable(journal)
        await resume_saga(self.bus, journal)
        return _shown("/saga", journal.saga_id, "resumed")

    async def _confirm_signal(self, given: Mapping[str, str]) -> Confirmation:
        journal = await resolve_saga(self.bus, given.get("id", ""))
        name = _waiting_for(journal, given)
        text = f"The saga waits for {name}, and goes on with what you send. It can be sent once."
        fields = {"id": journal.saga_id, "name": name}
        title = f"Send {name} to the saga {journal.saga_id}"
        back = f"/saga?{urlencode({'id': journal.saga_id})}"
        return Confirmation(title, text, back, fields, "sagas", asks_payload=True)

    async def _signal(self, given: Mapping[str, str]) -> str:
        journal = await resolve_saga(self.bus, given.get("id", ""))
        name = _waiting_for(journal, given)
        payload = decode_payload(given.get("payload", "").strip() or "{}", max_bytes=_MAX_PAYLOAD)
        await signal_saga(self.bus, journal.saga_id, name, payload)
        return _shown("/saga", journal.saga_id, "signalled")

    async def _confirm_compensate(self, given: Mapping[str, str]) -> Confirmation:
        journal = await resolve_saga(self.bus, given.get("id", ""))
        _require_running(journal)
        steps = dict.fromkeys(
            e.step
            for e in reversed(journal.entries)
            if e.direction == "forward" and e.kind == "request"
        )
        undone = ", then ".join(steps)
        text = "No step has begun, so nothing is undone."
        if undone:
            text = (
                f"A runner of this saga stops it and undoes these steps, as far as they have a "
                f"compensation: {undone}. It never goes forward again."
            )
        return _of_saga("Compensate", journal, text, asks_reason=True)

    async def _compensate(self, given: Mapping[str, str]) -> str:
        journal = await resolve_saga(self.bus, given.get("id", ""))
        _require_running(journal)
        reason = given.get("reason", "").strip()[:_MAX_REASON] or "by an operator"
        await compensate_saga(self.bus, journal, reason)
        return _shown("/saga", journal.saga_id, "compensating")

    async def _confirm_retry_letter(self, given: Mapping[str, str]) -> Confirmation:
        text = (
            "Its command is emitted again, as a new request, and the letter is deleted. The old "
            "request stays failed."
        )
        return await self._of_letter("Retry", given, text)

    async def _retry_letter(self, given: Mapping[str, str]) -> str:
        letter = await find_dead_letter(self.bus, given.get("stream", ""), given.get("id", ""))
        new_id = await retry_dead_letter(self.bus, letter.stream, letter.letter_id)
        return _shown("/request", new_id, "retried")

    async def _confirm_drop(self, given: Mapping[str, str]) -> Confirmation:
        text = "It is deleted, with the command in it."
        return await self._of_letter("Drop", given, text)

    async def _drop(self, given: Mapping[str, str]) -> str:
        letter = await find_dead_letter(self.bus, given.get("stream", ""), given.get("id", ""))
        await drop_dead_letter(self.bus, letter)
        return f"/dead?{urlencode({'stream': letter.stream, 'done': 'dropped'})}"

    async def _confirm_pause(self, given: Mapping[str, str]) -> Confirmation:
        text = "None of its requests begins until it is resumed. What runs goes on to its end."
        return _of_target("Pause", given, text, asks_reason=True)

    async def _pause(self, given: Mapping[str, str]) -> str:
        stream, target = given.get("stream", ""), _target_of(given)
        reason = given.get("reason", "").strip()[:_MAX_REASON]
        await pause(self.bus, stream, **target, reason=reason)
        return f"/stream?{urlencode({'stream': stream, 'done': 'paused'})}"

    async def _confirm_unpause(self, given: Mapping[str, str]) -> Confirmation:
        text = "Its requests begin again, in the order in which they would have begun."
        return _of_target("Resume", given, text)

    async def _unpause(self, given: Mapping[str, str]) -> str:
        stream = given.get("stream", "")
        await resume(self.bus, stream, **_target_of(given))
        return f"/stream?{urlencode({'stream': stream, 'done': 'let-go'})}"

    async def _of_letter(self, verb: str, given: Mapping[str, str], text: str) -> Confirmation:
        letter = await find_dead_letter(self.bus, given.get("stream", ""), given.get("id", ""))
        fields = {"stream": letter.stream, "id": letter.letter_id}
        title = f"{verb} the dead letter {letter.letter_id} of {letter.stream}"
        return Confirmation(title, text, f"/dead/letter?{urlencode(fields)}", fields, "dead")


def _target_of(given: Mapping[str, str]) -> dict[str, str]:
    """What a form means: `*` and nothing are the whole stream, NAME=VALUE is a key."""
    target = given.get("target", "").strip()
    if target in {"", "*"}:
        return {}
    return {"key" if "=" in target else "event_type": target}


def _of_target(
    verb: str, given: Mapping[str, str], text: str, *, asks_reason: bool = False
) -> Confirmation:
    stream = check_name("stream", given.get("stream", ""))
    target = given.get("target", "").strip() or "*"
    what = f"the stream {stream}" if target == "*" else f"{target} of {stream}"
    back = f"/stream?{urlencode({'stream': stream})}"
    fields = {"stream": stream, "target": target}
    return Confirmation(f"{verb} {what}", text, back, fields, "overview", asks_reason)


def _require_resumable(journal: Journal) -> None:
    if journal.is_over and journal.status != "stuck":
        raise SagaError(f"saga {journal.saga_id} has {journal.status}: there is nothing to resume")


def _waiting_for(journal: Journal, given: Mapping[str, str]) -> str:
    """The wait that a form names.

    Raises:
        SagaError: The saga does not wait for it.
    """
    name = given.get("name", "")
    if name not in {entry.step for entry in open_waits(journal)}:
        raise SagaError(f"saga {journal.saga_id} does not wait for {name or 'an event'} now")
    return name


def _require_running(journal: Journal) -> None:
    if journal.status != "running":
        raise SagaError(
            f"saga {journal.saga_id} is {journal.status}; only a running one can be compensated"
        )


def _shown(path: str, of: str, done: str) -> str:
    return f"{path}?{urlencode({'id': of, 'done': done})}"


def _of_request(verb: str, found: RequestDetails, text: str) -> Confirmation:
    fields = {"id": found.request_id}
    back = f"/request?{urlencode(fields)}"
    return Confirmation(f"{verb} the request {found.request_id}", text, back, fields, "requests")


def _of_saga(verb: str, journal: Journal, text: str, *, asks_reason: bool = False) -> Confirmation:
    fields = {"id": journal.saga_id}
    title = f"{verb} the saga {journal.saga_id}"
    return Confirmation(title, text, f"/saga?{urlencode(fields)}", fields, "sagas", asks_reason)
