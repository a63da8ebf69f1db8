"""`sagastream serve` as a program, and its page in a browser."""

import asyncio
import contextlib
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, expect, sync_playwright

from sagastream import Bus, Command, Progress, RetryPolicy, multi_stage_reply
from sagastream.flow_control import pause
from sagastream.inspection import read_request
from sagastream.saga import Compensation, Saga, SagaRunner, Step
from sagastream.testing import EmbeddedServer, child_options
from tests.integration.proxies import JOBS, Front, Proxy
from tests.integration.served import BROWSER_OPTIONS, Watched
from tests.listeners import listening
from tests.plain_client import add_entry
from tests.polling import eventually

_CHROMIUM = shutil.which("chromium")
STREAM = "shop:commands"
LETTER = "1764000000000-0"
HOSTILE = "<script>document.title='owned'</script>"

pytestmark = [
    pytest.mark.blocking,
    pytest.mark.skipif(
        _CHROMIUM is None, reason="no chromium: apt-get install chromium fonts-dejavu-core"
    ),
]


@multi_stage_reply(stream=STREAM, event_type="shop:reserve")
async def reserve(command: Command, progress: Progress) -> dict[str, Any]:
    """Reserve what was ordered."""
    await progress(0.5, {"note": HOSTILE})
    return {"reserved": command.payload.get("count", 1)}


@multi_stage_reply(stream=STREAM, event_type="shop:charge")
async def charge(_command: Command, _progress: Progress) -> None:
    """Fail."""
    raise ValueError(f"the card was declined {HOSTILE}")


@multi_stage_reply(stream=STREAM, event_type="shop:refund")
async def refund(_command: Command, _progress: Progress) -> None:
    """Fail."""
    raise OSError("the printer is off")


@multi_stage_reply(
    stream=STREAM,
    event_type="shop:flaky",
    retry=RetryPolicy(attempts=3, first_delay_s=3600.0, max_delay_s=3600.0),
)
async def flaky(_command: Command, _progress: Progress) -> None:
    """Fail; the next attempt is far away."""
    raise OSError("the card reader is off")


@multi_stage_reply(stream=STREAM, event_type="shop:pack")
async def pack(_command: Command, progress: Progress) -> None:
    """Wait for a cancel."""
    await progress(0.25, {"note": "a quarter"})
    await asyncio.Event().wait()


UNDO = Compensation("shop:refund", lambda _given, _results: {})
ORDER = Saga(
    "order",
    (
        Step("reserve", STREAM, "shop:reserve", lambda given, _results: given, UNDO),
        Step("charge", STREAM, "shop:charge", lambda given, _results: given, UNDO, retries=1),
    ),
)
PACK = Saga(
    "pack",
    (Step("pack", STREAM, "shop:pack", lambda given, _results: given, timeout=3600.0),),
)
# A request that no handler begins, for each way to the page: a test cancels it.
WAITING: dict[Front, str] = {"direct": "order-9", "nginx": "order-10"}
HANDLERS = [reserve, charge, refund, flaky, pack]


async def _serve_shop(url: str, ready: threading.Event, stop: threading.Event) -> None:
    """Put everything that a page shows on a server, and keep a listener there until the end."""
    async with Bus(url) as bus, listening(bus, HANDLERS):
        ask = bus.emit_command
        for request_id, event_type in (("order-7", "charge"), ("order-8", "reserve")):
            await ask(STREAM, event_type=f"shop:{event_type}", payload={}, request_id=request_id)
            await eventually(
                lambda request_id=request_id: bus.outcome(request_id),  # type: ignore[misc]
                within_s=10,
                why="it has ended",
            )
        for request_id in WAITING.values():
            await ask("slow:commands", event_type="slow:wait", payload={}, request_id=request_id)
        await ask(STREAM, event_type="shop:flaky", payload={}, request_id="flaky-1")
        letter = {"event_type": "shop:order", "payload": '{"count":1}', "request_id": "order-5"}
        reason = {"dead_reason": f"HandlerLost: gone {HOSTILE}", "dead_entry_id": "1-1"}
        await add_entry(bus, f"{STREAM}:dead", letter | reason, entry_id=LETTER)
        runner = SagaRunner(bus, ORDER, max_attempts=2, retry_s=0.01)
        await runner.run(await runner.start({"count": 2, "note": HOSTILE}, saga_id="trip-1"))
        packing = SagaRunner(bus, PACK)
        driving = asyncio.create_task(packing.run(await packing.start({}, saga_id="trip-2")))

        async def is_running() -> bool:
            entries = (await packing.journal("trip-2")).entries
            found = await read_request(bus, entries[0].request_id) if entries else None
            return bool(found and found.progress)

        await eventually(is_running, within_s=10, why="a saga runs")
        await pause(bus, STREAM, key="customer_id=7", reason=f"unpaid bills {HOSTILE}")
        ready.set()
        await asyncio.to_thread(stop.wait)
        driving.cancel()
        with suppress(asyncio.CancelledError):
            await driving


@pytest.fixture(scope="module")
def shop() -> Iterator[str]:
    """The URL of a server with requests, sagas and a listener."""
    ready, stop = threading.Event(), threading.Event()
    with EmbeddedServer() as server, ThreadPoolExecutor(1) as threads:
        serving = threads.submit(asyncio.run, _serve_shop(server.url, ready, stop))
        serving.add_done_callback(lambda _: ready.set())
        ready.wait()
        if serving.done():
            serving.result()
        yield server.url
        stop.set()
        serving.result()


class ServedPage:
    """`sagastream serve` as a child process.

    Args:
        url: The server.
        options: Options of the verb.
    """

    def __init__(self, url: str, *options: str) -> None:
        self.process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "sagastream.cli",
                "--url",
                url,
                "serve",
                "--port",
                "0",
                *options,
            ],
            stdin=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            **child_options(),
        )
        assert self.process.stderr is not None
        line = self.process.stderr.readline()
        found = re.fullmatch(r"(http://\S+)/ is ready; Ctrl-C ends it\n", line)
        assert found is not None, line
        self.url = found[1]

    def stop(self, number: signal.Signals) -> tuple[int, str]:
        """Stop it; returns its exit code, and what it has written since."""
        self.process.send_signal(number)
        _, text = self.process.communicate(timeout=20)
        return self.process.returncode, text


@pytest.fixture(scope="module")
def served(shop: str, front: Front) -> Iterator[str]:
    """The address of the page."""
    behind = ("--root-path", JOBS, "--proxy", "127.0.0.1", "--allow-host", "localhost")
    page = ServedPage(shop, *(behind if front == "nginx" else ()))
    with contextlib.ExitStack() as stack:
        url = page.url
        if front == "nginx":
            port = int(url.rpartition(":")[2])
            url = stack.enter_context(Proxy(front, jobs=port)).url + JOBS
        yield url
    assert page.stop(signal.SIGTERM) == (0, "")


@pytest.fixture(scope="module")
def browser(served: str) -> Iterator[Browser]:
    """A browser."""
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=_CHROMIUM, args=BROWSER_OPTIONS)
        yield chromium
        chromium.close()


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """A page; the test fails at its end if it had errors."""
    context = browser.new_context(viewport={"width": 1440, "height": 900})
    made = Watched(context.new_page())
    yield made.page
    context.close()
    assert made.errors == []


PATHS = (
    "/",
    f"/stream?stream={STREAM}",
    f"/stream/pause?stream={STREAM}&target=shop:order",
    "/requests",
    "/requests?status=failed&id=nothing",
    "/request?id=order-7",
    "/request?id=flaky-1",
    "/request/cancel?id=order-9",
    "/sagas",
    "/saga?id=trip-1",
    "/saga?id=trip-2",
    "/saga/compensate?id=trip-2",
    "/dead",
    f"/dead/letter?stream={STREAM}&id={LETTER}",
    "/schedules",
    "/listeners",
)


@pytest.mark.parametrize("width", [360, 1440])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_pages_are_accessible(
    served: str, page: Page, width: int, scheme: Any, tmp_path: Path
) -> None:
    """axe-core finds no fault, nothing is wider than the window, and no hostile script runs."""
    page.emulate_media(color_scheme=scheme)
    page.set_viewport_size({"width": width, "height": 900})
    for number, path in enumerate(PATHS):
        answer = page.goto(f"{served}{path}")
        assert answer is not None
        assert answer.status == 200, path
        found = Axe().run(page)
        assert found.violations_count == 0, f"{path}: {found.generate_report()}"
        assert page.evaluate("() => document.documentElement.scrollWidth") <= width, path
        assert page.title().endswith("· sagastream")
        page.screenshot(path=tmp_path / f"{number:02d}-{width}-{scheme}.png", full_page=True)


@pytest.mark.proxied
def test_a_request_is_cancelled_by_keyboard(served: str, page: Page, front: Front) -> None:
    """From the link to the confirmation and back, without a mouse."""
    waiting = WAITING[front]
    page.goto(f"{served}/request?id={waiting}")
    page.get_by_role("link", name="Cancel…").focus()
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", level=1)).to_have_text(f"Cancel the request {waiting}?")
    page.get_by_role("button", name=f"Cancel the request {waiting}").focus()
    page.keyboard.press("Enter")
    expect(page.get_by_role("status")).to_contain_text("it had not begun")
    expect(page.locator("h1 .badge")).to_contain_text("cancelled")


def test_the_page_works_without_javascript(served: str, browser: Browser) -> None:
    """A filter, a saga, and resuming it."""
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(f"{served}/sagas")
    page.get_by_label("Status").select_option("stuck")
    page.get_by_role("button", name="Show").click()
    page.get_by_role("link", name="trip-1").click()
    expect(page.locator(".lane")).to_contain_text("the printer is off")
    page.get_by_role("link", name="Resume…").click()
    page.get_by_role("button", name="Resume the saga trip-1").click()
    expect(page.get_by_role("status")).to_contain_text("Resumed")
    context.close()


def test_the_program_answers_a_head_and_refuses_other_names(served: str) -> None:
    """A HEAD has no body; a foreign name is 421."""
    head = httpx.head(f"{served}/requests")
    assert (head.status_code, head.content) == (200, b"")
    assert httpx.get(f"{served}/", headers={"host": "evil.test"}).status_code == 421


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_program_ends_at_a_signal(shop: str, number: signal.Signals, tmp_path: Path) -> None:
    """With 0 and without a word; with a token it serves every address."""
    path = tmp_path / "token"
    path.write_text("2Yb1kq8sTn0vRz5wXc3dLm7p")
    started = ServedPage(shop, "--host", "0.0.0.0", "--token-file", str(path))  # noqa: S104
    port = started.url.rpartition(":")[2]
    assert httpx.get(f"http://127.0.0.1:{port}/").status_code == 401
    assert started.stop(number) == (0, "")
