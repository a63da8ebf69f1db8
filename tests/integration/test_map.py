"""The map of a mission in a browser, on recorded missions: zoom, pan, layers, robots."""

import itertools
import re
import shutil
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, CDPSession, Page, expect, sync_playwright

from app.exploration.driver import Pose
from app.exploration.grid import UNKNOWN, GridFrame
from app.exploration.map_files import load_map
from app.missions.frames import Frame, FrameEncoder, RobotView
from sagastream.testing import EmbeddedServer
from tests.integration.conftest import environment
from tests.integration.proxies import Front
from tests.integration.recorded_missions import (
    FRAMES,
    LONG,
    RECORDINGS,
    TEAM,
    put_long,
    put_recording,
    put_team,
)
from tests.integration.served import BROWSER_OPTIONS, Served, Watched
from tests.plain_client import connect
from tests.polling import eventually_sync

_CHROMIUM = shutil.which("chromium")
_DRAWN_MS = 5000
# The frames of the recording of an earlier commit.
_RECORDED_FRAMES = 3

pytestmark = pytest.mark.skipif(
    _CHROMIUM is None, reason="no chromium: apt-get install chromium fonts-dejavu-core"
)


@pytest.fixture(scope="module")
def served(front: Front) -> Iterator[tuple[str, str]]:
    """The address of the pages, and the id of a mission that was recorded on `v1-rooms`."""
    with EmbeddedServer() as server:
        with connect(server.url) as client:
            recorded = put_recording(client)
            put_team(client)
            put_long(client, [piece for _, piece in _long_recording()[0]])
        with Served(environment(REDIS_URL=server.url), front) as pages:
            yield pages.url, recorded


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """A browser."""
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=_CHROMIUM, args=BROWSER_OPTIONS)
        yield chromium
        chromium.close()


@pytest.fixture
def shown(browser: Browser, served: tuple[str, str]) -> Iterator[Watched]:
    """The page of the recorded mission, with its last frame; it has no errors."""
    yield from _shown(browser, served[0], served[1])


@pytest.fixture
def team(browser: Browser, served: tuple[str, str]) -> Iterator[Watched]:
    """The page of a mission with 64 robots."""
    yield from _shown(browser, served[0], TEAM)


def _shown(browser: Browser, url: str, saga_id: str) -> Iterator[Watched]:
    context = browser.new_context(viewport={"width": 1440, "height": 900}, has_touch=True)
    watched = Watched(context.new_page())
    watched.page.goto(f"{url}/missions/{saga_id}")
    expect(watched.page.locator("#map")).to_have_attribute("data-frames", re.compile("[1-9]"))
    watched.page.wait_for_function("() => document.querySelector('#pointed') !== null")

    def is_last() -> bool:
        index, count = watched.frames()
        return count == (FRAMES if saga_id == TEAM else _RECORDED_FRAMES) and index == count - 1

    eventually_sync(
        is_last,
        within_s=20,
        why="the last frame of the recording is drawn",
        meanwhile=lambda: watched.page.wait_for_timeout(50),
    )
    _settle(watched.page)
    yield watched
    context.close()
    assert [error for error in watched.errors if not error.startswith("Canvas2D")] == []


def _settle(page: Page) -> None:
    """Wait until two drawings in a row are alike."""
    before: list[Any] = []

    def is_still() -> bool:
        before.append(page.evaluate("() => ({...document.getElementById('map').dataset})"))
        page.evaluate(
            "() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))"
        )
        return len(before) > 1 and before[-1] == before[-2]

    eventually_sync(is_still, within_s=10, why="the map stands still")


def _view(page: Page) -> tuple[float, float, float]:
    """Device pixels per cell, and where the grid begins."""
    _settle(page)
    told = page.evaluate("() => ({...document.getElementById('map').dataset})")
    return float(told["scale"]), float(told["left"]), float(told["top"])


def _check_pixels(watched: Watched, least: int) -> None:
    """Every cell that is in sight has the colour of the recorded map."""
    grid = load_map(RECORDINGS / "v1-rooms.yaml").grid
    drawn = watched.shown((grid.shape[0], grid.shape[1]))
    in_sight = watched.in_sight((grid.shape[0], grid.shape[1]))
    assert np.count_nonzero(in_sight) >= least
    assert np.array_equal(drawn[in_sight], grid[in_sight])
    assert np.any(grid[in_sight] != UNKNOWN)


def _middle(page: Page) -> tuple[float, float]:
    page.evaluate("() => document.getElementById('map').scrollIntoView({block: 'center'})")
    box = page.locator("#floor").bounding_box()
    assert box is not None
    return box["x"] + box["width"] / 2, box["y"] + box["height"] / 2


def test_the_wheel_zooms_at_the_pointer_and_a_drag_moves(shown: Watched) -> None:
    """The cell under the pointer stays there; each cell in sight has its colour."""
    page = shown.page
    _check_pixels(shown, 1000)
    (scale, left, top), (x, y) = _view(page), _middle(page)
    box = page.locator("#floor").bounding_box()
    assert box is not None
    at = (x + 60 - box["x"], y - 40 - box["y"])
    page.mouse.move(x + 60, y - 40)
    page.mouse.wheel(0, -500)
    closer, left2, top2 = _view(page)
    assert closer == pytest.approx(scale * np.exp(0.75), rel=0.01)
    assert (at[0] - left2) / closer == pytest.approx((at[0] - left) / scale, abs=1 / scale)
    assert (at[1] - top2) / closer == pytest.approx((at[1] - top) / scale, abs=1 / scale)
    _check_pixels(shown, 200)
    page.mouse.down()
    page.mouse.move(x + 10, y - 10, steps=4)
    page.mouse.up()
    same, left3, top3 = _view(page)
    assert same == closer
    assert (left3 - left2, top3 - top2) == pytest.approx((-50, 30), abs=8)
    _check_pixels(shown, 200)
    page.mouse.wheel(0, 500)
    page.get_by_role("button", name="Fit").click()
    assert _view(page) == (scale, left, top)


def test_the_keyboard_zooms_moves_and_fits(shown: Watched) -> None:
    """Also with the buttons; the centre is then what is pointed at."""
    page = shown.page
    fitted = _view(page)
    page.locator("#map").focus()
    page.keyboard.press("+")
    page.keyboard.press("+")
    closer = _view(page)
    assert closer[0] == pytest.approx(fitted[0] * 1.25**2)
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("ArrowUp")
    moved = _view(page)
    assert moved[1] > closer[1]
    assert moved[2] > closer[2]
    expect(page.locator("#pointed")).to_contain_text(re.compile(r"x .* m, y .* m · \w+"))
    expect(page.locator("#crosshair")).to_be_visible()
    _check_pixels(shown, 200)
    page.keyboard.press("-")
    assert _view(page)[0] == pytest.approx(fitted[0] * 1.25)
    page.keyboard.press("Home")
    assert _view(page) == fitted
    page.get_by_role("button", name="Zoom in").click()
    page.get_by_role("button", name="Zoom in").click()
    page.get_by_role("button", name="Zoom out").click()
    assert _view(page)[0] == pytest.approx(fitted[0] * 1.25)
    page.locator("#map").focus()
    page.keyboard.press("0")
    assert _view(page) == fitted
    page.keyboard.press("f")
    expect(page.get_by_role("button", name="Full screen")).to_have_attribute("aria-pressed", "true")
    page.keyboard.press("f")
    expect(page.get_by_role("button", name="Full screen")).to_have_attribute(
        "aria-pressed", "false"
    )


def test_two_fingers_zoom_and_one_moves(shown: Watched) -> None:
    """By touch: a pinch, a drag, and a tap, which names the cell."""
    page = shown.page
    touch = page.context.new_cdp_session(page)
    scale, (x, y) = _view(page)[0], _middle(page)
    _touch(touch, "touchStart", (x - 40, y), (x + 40, y))
    for spread in (60, 80, 100):
        _touch(touch, "touchMove", (x - spread, y), (x + spread, y))
    _touch(touch, "touchEnd")
    closer, left2, top2 = _view(page)
    assert closer == pytest.approx(scale * 2.5, rel=0.02)
    _check_pixels(shown, 200)
    _touch(touch, "touchStart", (x, y))
    for step in (10, 30, 50):
        _touch(touch, "touchMove", (x - step, y + step / 2))
    _touch(touch, "touchEnd")
    same, left3, top3 = _view(page)
    assert same == closer
    assert (left3 - left2, top3 - top2) == pytest.approx((-50, 25), abs=12)
    _check_pixels(shown, 200)
    page.touchscreen.tap(x, y)
    expect(page.locator("#pointed")).to_contain_text(re.compile("free|wall|unknown"))


def _touch(session: CDPSession, kind: str, *points: tuple[float, float]) -> None:
    touches = [{"x": x, "y": y, "id": number} for number, (x, y) in enumerate(points)]
    session.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": touches})


def test_the_pointer_names_the_cell(shown: Watched) -> None:
    """Its coordinates in metres, and whether it is free, a wall or unknown, as in the map's file."""
    page = shown.page
    floor = load_map(RECORDINGS / "v1-rooms.yaml")
    scale, left, top = _view(page)
    box = page.locator("#floor").bounding_box()
    assert box is not None
    names = {-1: "unknown", 0: "free", 100: "wall"}
    for value, name in names.items():
        row, col = (int(each[len(each) // 2]) for each in np.nonzero(floor.grid == value))
        x = box["x"] + left + (col + 0.5) * scale
        y = box["y"] + top + (floor.grid.shape[0] - row - 0.5) * scale
        if not (box["x"] < x < box["x"] + box["width"] and box["y"] < y < box["y"] + box["height"]):
            continue
        page.mouse.move(x, y)
        expect(page.locator("#pointed")).to_contain_text(f"· {name}")
        told = page.locator("#pointed").inner_text()
        found = re.match(r"x (-?[0-9.]+) m, y (-?[0-9.]+) m", told)
        assert found is not None
        near = 2 * floor.frame.resolution
        assert float(found[1]) == pytest.approx(floor.frame.centre(row, col)[0], abs=near)
        assert float(found[2]) == pytest.approx(floor.frame.centre(row, col)[1], abs=near)


def test_the_scale_bar_is_as_long_as_it_says(shown: Watched) -> None:
    """At three zooms."""
    page = shown.page
    resolution = load_map(RECORDINGS / "v1-rooms.yaml").frame.resolution
    for _ in range(3):
        scale, _, _ = _view(page)
        bar = page.locator("#scale-bar")
        found = re.fullmatch(r"([0-9.]+) (m|cm)", bar.inner_text())
        assert found is not None
        metres = float(found[1]) / (100 if found[2] == "cm" else 1)
        box = bar.bounding_box()
        assert box is not None
        assert box["width"] == pytest.approx(metres * scale / resolution, abs=3)
        page.get_by_role("button", name="Zoom in").click()
        page.get_by_role("button", name="Zoom in").click()


def test_each_of_64_robots_has_its_own_look(team: Watched) -> None:
    """Number, shape and colour in the list; a robot that is followed is at the centre."""
    page = team.page
    looks = page.evaluate(
        """() => [...document.querySelectorAll("#team tbody th")].map((cell) => {
          const outline = cell.querySelector("polygon");
          return [outline.getAttribute("points"), outline.getAttribute("fill")].join(" ");
        })"""
    )
    assert len(looks) == len(set(looks)) == 64
    page.get_by_role("button", name="Follow robot-10").click()
    expect(page.locator("#follow")).to_have_value("robot-10")
    _settle(page)
    page.mouse.move(*_middle(page))
    expect(page.locator("#pointed")).to_contain_text("robot-10")
    page.get_by_label("Mission time").press("Home")
    eventually_sync(lambda: team.frames()[0] == 0, within_s=5, why="the first frame is drawn")
    expect(page.locator("#pointed")).to_contain_text("robot-10")


def _show_second(page: Page, second: float) -> None:
    page.get_by_label("Mission time").evaluate(
        "(slider, s) => { slider.value = s; slider.dispatchEvent(new Event('input')); }", second
    )


def test_the_figures_are_those_of_the_shown_frame(team: Watched) -> None:
    """Of the end, and of an earlier frame: what is left is an estimate with its limits."""
    page = team.page
    figures = page.locator(".strip")
    expect(figures).to_contain_text("✓ completed")
    expect(page.locator("#figure-alive")).to_have_text("63 of 64")
    expect(page.locator("#figure-remaining")).to_have_text("nothing")
    expect(page.locator("#figure-distance")).to_have_text("1472 m")
    whole = page.locator("#figure-known").inner_text()
    _show_second(page, 100)
    expect(page.locator("#figure-simulated")).to_have_text("1 min 40 s")
    expect(page.locator("#figure-known")).not_to_have_text(whole)
    about = re.compile(r"about \S+ \S+ \(.* to .*\), some 120 m²")
    expect(page.locator("#figure-remaining")).to_have_text(about)
    _show_second(page, 0)
    expect(page.locator("#figure-remaining")).to_have_text("not known yet")


def test_the_end_has_coverage_and_accuracy(shown: Watched) -> None:
    """As the last step measured them, rounded down."""
    expect(shown.page.locator("#status")).to_contain_text("Coverage")
    expect(shown.page.locator("#status")).to_contain_text("99.9 %")
    expect(shown.page.locator("#figure-frontiers")).to_have_text("0")


def test_the_timeline_has_all_requests_and_moves_the_map(shown: Watched) -> None:
    """Steps in their order, a link for each request, stages; a click shows the map at that time."""
    page = shown.page
    rows = page.locator("#timeline .axis-row:has(svg.track) .axis-name")
    expect(rows).to_have_text(
        [
            *("allocate_resources", "plan_route", "perform_exploration", "integrate_maps"),
            re.compile("known area, up to [1-9][0-9]* m²"),
        ]
    )
    bars = page.locator("#timeline a")
    expect(bars).to_have_count(4)
    assert "completed" in (bars.nth(2).get_attribute("aria-label") or "")
    assert "/operator/request?id=" in (bars.nth(2).get_attribute("href") or "")
    assert page.locator("#timeline .stage").count() >= 8
    assert shown.frames()[0] == 2
    track = page.locator("#timeline .axis-row").nth(3).locator("svg")
    track.click(position={"x": 3, "y": 9})
    eventually_sync(lambda: shown.frames()[0] == 0, within_s=5, why="the first frame is drawn")
    cursor = page.locator("#timeline .cursor").first
    expect(cursor).to_have_attribute("x1", re.compile("[0-9.]+%"))


def test_entries_are_in_words_and_filtered(shown: Watched) -> None:
    """With the raw entry behind each; the filter finds what is shown."""
    page = shown.page
    page.get_by_label("Filter").fill("driven")
    rows = page.locator("#log tbody tr:visible")
    expect(rows).to_have_count(3)
    expect(rows.first).to_contain_text("2 robots, 28 m driven, after 31 s simulated")
    rows.first.locator("summary").click()
    expect(rows.first.locator("pre")).to_contain_text('"distances_m"')
    page.get_by_label("Filter").fill("nothing like this")
    expect(rows).to_have_count(0)
    link = page.get_by_role("link", name="Download all, as JSON lines")
    with page.expect_download() as started:
        link.click()
    assert started.value.suggested_filename.endswith(".jsonl")


def test_layers_are_switched(team: Watched) -> None:
    """Each box changes what is drawn, and back."""
    page = team.page
    page.locator(".layers summary").click()
    drawn = """() => ["coverage", "trails", "recent", "scans"].map((id) => {
      const canvas = document.getElementById(id), data = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
      let sum = 0;
      for (let i = 3; i < data.length; i += 4) sum += data[i];
      return sum;
    })"""
    _show_second(page, 100)
    eventually_sync(lambda: team.frames()[0] == 10, within_s=5, why="frame 10 is drawn")
    for label, canvas in (
        ("coverage by robot", 0),
        ("paths driven", 1),
        ("◇ frontiers", 2),
        ("◎ goals", 2),
        ("planned paths", 2),
        ("fields of view", 3),
    ):
        _settle(page)
        before = page.evaluate(drawn)
        box = page.get_by_label(label)
        box.click()
        _settle(page)
        switched = page.evaluate(drawn)
        assert switched[canvas] != before[canvas], label
        box.click()
        _settle(page)
        assert page.evaluate(drawn) == before, label


def test_the_map_does_not_jump_as_it_grows(team: Watched) -> None:
    """A known area that grows 200 times moves the view some 20 times; a replay does not move it."""
    page = team.page
    last = _view(page)
    views = set()
    for second in range(0, 240, 10):
        _show_second(page, second)
        views.add(_view(page))
    assert views == {last}
    scales = page.evaluate(
        """async () => {
          const { Camera } = await import(`${document.documentElement.dataset.root}/static/camera.js`), camera = new Camera(), found = [];
          camera.resize(1000, 600);
          for (let size = 1; size <= 100; size += 0.5) {
            camera.show({ x0: -size, y0: -size / 2, x1: size, y1: size }, { x0: -500, y0: -500, x1: 500, y1: 500 });
            found.push([camera.scale, camera.toX(-size) >= 0 && camera.toX(size) <= 1000 && camera.toY(size) >= 0]);
          }
          return found;
        }"""
    )
    assert all(in_sight for _, in_sight in scales)
    assert 5 <= len({scale for scale, _ in scales}) <= 20


@pytest.mark.parametrize(("scheme", "width"), [("light", 1440), ("dark", 360)])
def test_a_map_of_64_robots_is_accessible(team: Watched, scheme: Any, width: int) -> None:
    """With its layers open: axe-core finds no fault, and nothing is wider than the window."""
    page = team.page
    page.emulate_media(color_scheme=scheme)
    page.set_viewport_size({"width": width, "height": 800})
    page.locator(".layers summary").click()
    _settle(page)
    found = Axe().run(page)
    assert found.violations_count == 0, found.generate_report()
    assert page.evaluate("() => document.documentElement.scrollWidth") <= width


_LONG = 700
_KEEP = """async ([pieces, live, limit]) => {
  const { FrameDecoder } = await import(`${document.documentElement.dataset.root}/static/frame_decoder.js`), decoder = new FrameDecoder(limit);
  window.decoder = decoder;
  let most = 0;
  for (const [id, piece] of pieces) {
    decoder.decode(piece, 0, id);
    await decoder.thin();
    if (live) await decoder.show(decoder.frames.length - 1);
    most = Math.max(most, decoder.bytes);
  }
  return { most, bytes: decoder.bytes, every: decoder.every, numbers: decoder.frames.map(({ number }) => number) };
}"""
_SHOW = """async (indices) => {
  const { decoder } = window, found = [];
  for (const index of indices) {
    await decoder.show(index);
    const { number, robots } = decoder.frames[index];
    found.push([number, [...decoder.cells], robots.map(({ path }) => path)]);
  }
  return found;
}"""
_PUT_BACK = """([number, pieces]) => {
  const { decoder } = window, frame = decoder.frames.find((one) => one.number === number);
  const entries = pieces.map(([entryId, piece]) => ({ piece, ms: 0, entryId }));
  return [decoder.putBack(frame, entries), decoder.frames.map((one) => one.number)];
}"""


def _long_recording() -> tuple[list[tuple[str, dict[str, Any]]], list[list[int]]]:
    """The pieces of a recording with their entry ids, and the cells of each frame."""
    encoder, generator = FrameEncoder(GridFrame(30, 40, 0.1)), np.random.default_rng(4)
    cells = np.full((30, 40), UNKNOWN, np.int8)
    pieces: list[tuple[str, dict[str, Any]]] = []
    shown: list[list[int]] = []
    for number in range(_LONG):
        row, col = int(generator.integers(28)), int(generator.integers(38))
        cells = cells.copy()
        cells[row : row + 2, col : col + 2] = generator.choice([0, 100], (2, 2))
        robots = tuple(
            RobotView(
                f"robot-{slot}",
                Pose(0.1 * number, slot, 0.0),
                0.0,
                path=[(0.1 * n, float(n % 2)) for n in range(number + 1)],
                # A robot joins the map: another map may be shown from there on.
                apart=slot == 1 and number < _LONG // 3,
            )
            for slot in range(2)
        )
        for piece in encoder.encode(Frame(float(number), 0.5, robots, (), cells)):
            pieces.append((f"{1000 + number}-{len(pieces)}", piece))
        shown.append(cells.ravel().tolist())
    return pieces, shown


@pytest.mark.parametrize("live", [True, False])
def test_a_page_keeps_a_bounded_part_of_a_recording(shown: Watched, live: bool) -> None:
    """The newest frames and some of those before, each as it was; what is between is put back."""
    page = shown.page
    pieces, cells = _long_recording()
    limit = 150_000
    kept = page.evaluate(_KEEP, [pieces, live, limit])
    numbers = kept["numbers"]
    assert kept["most"] <= limit * 1.1
    assert numbers[0] == 0
    assert numbers[-64:] == list(range(_LONG - 64, _LONG))
    assert len(numbers) < _LONG / 3
    assert kept["every"] > 1
    order = [*range(len(numbers) - 1, -1, -7), *range(len(numbers)), 5, 3, len(numbers) - 64]
    found = page.evaluate(_SHOW, order)
    assert [number for number, *_ in found] == [numbers[index] for index in order]
    for number, drawn, _ in found:
        assert drawn == cells[number], number
    # The paths of what was left out are those of the next frame: none has a gap, but where a robot joined.
    in_order = found[-len(numbers) - 3 : -3]
    gaps = [
        after
        for (before, _, driven), (after, _, following) in itertools.pairwise(in_order)
        if driven[0][-1] != following[0][0] and not before < _LONG // 3 <= after
    ]
    assert gaps == []
    first = numbers[5]
    after, until = (
        max(n for n, (entry_id, _) in enumerate(pieces) if entry_id.startswith(f"{1000 + number}-"))
        for number in (first, numbers[6])
    )
    done, with_them = page.evaluate(_PUT_BACK, [first, pieces[after + 1 : until + 1]])
    assert done
    assert with_them == sorted({*numbers, *range(first, numbers[6])})
    for number, drawn, _ in page.evaluate(_SHOW, [8, 6, *range(5, 12), 40, 7]):
        assert drawn == cells[number], number
    # And left out again.
    less = page.evaluate(
        "() => { window.decoder.leaveBetween(); return window.decoder.frames.map((one) => one.number); }"
    )
    assert less == numbers
    for number, drawn, _ in page.evaluate(_SHOW, [7, 6, 20]):
        assert drawn == cells[number], number


_LOAD = """async ([saga, last]) => {
  const { FrameDecoder } = await import(`${document.documentElement.dataset.root}/static/frame_decoder.js`);
  const { LeftOutFrames } = await import(`${document.documentElement.dataset.root}/static/left_out_frames.js`);
  const decoder = new FrameDecoder(150_000), loader = new LeftOutFrames(decoder, saga);
  for (let after = "0-0"; after !== last;) {
    const entries = await (await fetch(`${document.documentElement.dataset.root}/api/missions/${saga}/frames?after=${after}&until=${last}`)).json();
    for (const { entry_id: id, payload } of entries) decoder.decode(payload, Number(id.split("-")[0]), id);
    after = entries.at(-1).entry_id;
    await decoder.thin();
  }
  Object.assign(window, { decoder, loader });
  loader.show(true);
  return [decoder.frames.map(({ number }) => number), document.getElementById("left-out").textContent];
}"""
_STOP_AT = """async ([second, speed]) => {
  const { decoder, loader } = window;
  loader.at(second, speed);
  loader.at(second, speed);
  const asked = performance.getEntriesByType("resource").filter(({ name }) => name.includes("/frames?")).length;
  await new Promise((done) => { setTimeout(done, 300); });
  loader.at(second, speed);
  return [asked, decoder.frames.map(({ number }) => number)];
}"""


def test_what_is_left_out_is_loaded_where_an_operator_stops(shown: Watched) -> None:
    """Between the two moments that are kept around it, and only there; a fast replay loads nothing."""
    page = shown.page
    pieces, cells = _long_recording()
    first = page.evaluate(
        "async (saga) => (await (await fetch(`${document.documentElement.dataset.root}/api/missions/${saga}/frames?after=0-0&until=9999999999999-0`)).json())[0].entry_id",
        LONG,
    )
    last = f"{int(first.split('-')[0]) + len(pieces) - 1}-0"
    numbers, text = page.evaluate(_LOAD, [LONG, last])
    gap = numbers[3] - numbers[2]
    assert gap > 2
    assert f"one moment in {gap}" in text
    second = numbers[2] + 0.5
    assert page.evaluate(_STOP_AT, [second, 1000])[1] == numbers
    _, then = page.evaluate(_STOP_AT, [second, 0])
    assert then == sorted({*numbers, *range(numbers[2], numbers[3])})
    (found,) = page.evaluate(_SHOW, [4])
    assert found[0] == numbers[2] + 2
    assert found[1] == cells[numbers[2] + 2]
    _, then = page.evaluate(_STOP_AT, [numbers[4] + 0.5, 0])
    assert then == sorted({*numbers, *range(numbers[4], numbers[5])})


def test_progress_does_not_drive_out_what_comes_once(shown: Watched) -> None:
    """Of a long step the newest entries are on the page, with all that came before and after it."""
    page = shown.page
    rows = page.evaluate(
        """async () => {
          const { Entries } = await import(`${document.documentElement.dataset.root}/static/entries.js`);
          const body = document.getElementById("log").tBodies[0];
          body.replaceChildren();
          const entries = new Entries("m");
          entries.add("stage", { entry_id: "1-0", status: "start" });
          for (let n = 2; n < 1000; n += 1) entries.add("stage", { entry_id: `${n}-0`, status: "progress" });
          entries.add("stage", { entry_id: "1000-0", status: "completed" });
          return [...body.rows].map((row) => row.cells[2].textContent);
        }"""
    )
    assert rows == ["completed", *["progress"] * 100, "start"]
    expect(page.locator("#more")).to_contain_text("the download has all")


def test_a_long_recording_is_shown_while_it_is_loaded(shown: Watched) -> None:
    """The page draws what it has, in slices of time, and says how much that is."""
    pieces, cells = _long_recording()
    steps, number, drawn, text = shown.page.evaluate(
        """async (pieces) => {
          const root = document.documentElement.dataset.root;
          const { FrameDecoder } = await import(`${root}/static/frame_decoder.js`);
          const { LeftOutFrames } = await import(`${root}/static/left_out_frames.js`);
          const decoder = new FrameDecoder(150_000), loader = new LeftOutFrames(decoder, "m"), steps = [];
          for (const [id, piece] of pieces) decoder.decode(piece, 0, id);
          let found = null;
          while (!(await decoder.thin(0.5))) {
            const index = decoder.lastThinned;
            await decoder.show(index);
            loader.show(false);
            steps.push(decoder.frames[index].number);
            found = [decoder.frames[index].number, [...decoder.cells], document.getElementById("left-out").textContent];
          }
          return [steps, ...found];
        }""",
        pieces,
    )
    assert len(set(steps)) > 3
    assert steps[-1] > steps[0]
    assert drawn == cells[number]
    assert re.fullmatch(r"Loading the recording: [1-9]\d? %\.", text)


def test_the_trails_of_a_long_mission_stay_bounded(shown: Watched) -> None:
    """Beyond a number of points they are collected anew from the frames that are kept."""
    drawn, driven, ends = shown.page.evaluate(
        """async () => {
          const root = document.documentElement.dataset.root;
          const { FrameDecoder } = await import(`${root}/static/frame_decoder.js`);
          const { MapView } = await import(`${root}/static/map.js`);
          const points = new WeakMap(), stroked = [];
          for (const name of ["moveTo", "lineTo"]) {
            const add = Path2D.prototype[name];
            Path2D.prototype[name] = function (...at) { points.set(this, (points.get(this) ?? 0) + 1); add.apply(this, at); };
          }
          const view = new MapView(document.getElementById("map")), decoder = new FrameDecoder(500_000);
          const trails = view.canvases.trails, stroke = trails.stroke;
          trails.stroke = (path) => { stroked.push(points.get(path)); stroke.call(trails, path); };
          const names = [...Array(8).keys()].map((slot) => `robot-${slot}`);
          const at = (step, slot) => [1 + (step % 100) / 50, slot / 4 + Math.sin(step)];
          const grid = { rows: 40, cols: 40, resolution: 0.1, origin_x: 0, origin_y: 0 };
          let driven = 0;
          for (let n = 0; n < 1500; n += 1) {
            const paths = Object.fromEntries(names.map((name, slot) => [name, [...Array(11).keys()].map((i) => at(10 * n + i, slot))]));
            const robots = names.map((name, slot) => ({ name, pose: [...at(10 * n + 10, slot), 0], driven_m: n, goal: null, lost: "", apart: false }));
            driven += 11 * names.length;
            decoder.decode({ ...(n ? {} : { grid }), simulated_s: n, fraction: 0.5, frontiers: [], robots, paths }, n, `${n}-0`);
            await decoder.thin();
            const index = decoder.frames.length - 1;
            if (index !== decoder.at) view.cells(decoder, await decoder.show(index));
            view.draw({ frames: decoder.frames, index, clock: n, robots, moving: false });
          }
          stroked.length = 0;
          view.changed = true;
          view.draw({ frames: decoder.frames, index: decoder.frames.length - 1, clock: 1500, robots: decoder.frames.at(-1).robots, moving: false });
          return [stroked.reduce((sum, count) => sum + count, 0), driven, stroked.length];
        }"""
    )
    assert ends == 8
    assert driven > 130_000
    assert drawn < 60_000


_MOVING = """async () => {
  const root = document.documentElement.dataset.root;
  const { FrameDecoder } = await import(`${root}/static/frame_decoder.js`);
  const { MapView } = await import(`${root}/static/map.js`);
  const view = new MapView(document.getElementById("map")), decoder = new FrameDecoder(500_000);
  const grid = { rows: 40, cols: 40, resolution: 0.1, origin_x: 0, origin_y: 0 };
  const robotsAt = (x) => [0, 1, 2].map((slot) => ({
    name: `robot-${slot}`, pose: [x + slot / 2, 1 + slot, x], driven_m: x, goal: null, lost: "", apart: false }));
  decoder.decode({ grid, simulated_s: 0, fraction: 0.5, frontiers: [[1, 2]], robots: robotsAt(0), paths: {} }, 0, "0-0");
  view.cells(decoder, await decoder.show(0));
  view.camera.centre(2, 2);
  view.camera.scale = 80;
  const draw = (x) => view.draw({ frames: decoder.frames, index: 0, clock: 0, robots: robotsAt(x), moving: false });
  const shown = () => {
    const { canvas } = document.getElementById("drawing").getContext("2d");
    return [...canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data];
  };
  const differ = (one, other) => one.reduce((count, value, i) => count + (value !== other[i]), 0);
  const now = performance.now;
  performance.now = () => 0;  // fields of view are drawn as time passes: here nothing but robots is drawn anew
  draw(0);
  const before = shown();
  for (let step = 1; step <= 15; step += 1) draw(step / 10);
  const moved = shown();
  view.changed = true;
  draw(1.5);
  performance.now = now;
  return [differ(before, moved), differ(moved, shown())];
}"""


def test_robots_that_move_leave_nothing_behind(shown: Watched) -> None:
    """Only their places are drawn anew, and then all is as if the whole map were."""
    moved, left = shown.page.evaluate(_MOVING)
    assert moved > 2000
    assert left == 0


_GAPS = """
window.asked = [];
window.gaps = (count) => {
  const times = window.asked.slice(-count - 1);
  return times.slice(1).map((time, i) => time - times[i]);
};
"""
_SLOW_FRAMES = """
window.requestAnimationFrame = (draw) => {
  window.asked.push(performance.now());
  return setTimeout(() => draw(performance.now()), 100);
};
"""


def test_a_page_whose_frames_come_slowly_draws_less_often(
    browser: Browser, served: tuple[str, str]
) -> None:
    """It leaves the processors to the mission, until an operator looks closely or plays a recording."""
    context = browser.new_context()
    context.add_init_script(_GAPS + _SLOW_FRAMES)
    page = context.new_page()
    page.goto(f"{served[0]}/missions/{served[1]}")

    def wait_for(seen: str) -> None:
        page.wait_for_function(seen, timeout=30_000, polling=100)

    rests = "() => asked.length > 5 && gaps(4).every((gap) => gap >= 450)"
    wait_for(rests)
    page.keyboard.press("Shift")
    wait_for("() => gaps(4).every((gap) => gap < 450)")
    wait_for(rests)
    page.locator("#speed").select_option(index=0)
    page.get_by_role("button", name="Play").click()
    wait_for("() => gaps(40).every((gap) => gap < 450)")
    context.close()


_COUNTED_FRAMES = """
const ask = window.requestAnimationFrame.bind(window);
window.requestAnimationFrame = (draw) => { window.asked.push(performance.now()); return ask(draw); };
"""


def test_pages_on_the_machine_that_serves_them_share_its_processors(
    browser: Browser, served: tuple[str, str]
) -> None:
    """Ten draw about every two seconds each; one that an operator uses draws each frame."""
    context = browser.new_context()
    context.add_init_script(_GAPS + _COUNTED_FRAMES)
    context.route("**/api/time", lambda route: route.fulfill(json={"now": 1e9, "pages_here": 10}))
    page = context.new_page()
    page.goto(f"{served[0]}/missions/{served[1]}")

    def wait_for(seen: str) -> None:
        page.wait_for_function(seen, timeout=30_000, polling=100)

    shares = "() => asked.length > 3 && gaps(2).every((gap) => gap >= 1900)"
    wait_for(shares)
    page.keyboard.press("Shift")
    wait_for("() => gaps(4).every((gap) => gap < 1900)")
    wait_for(shares)
    context.close()


@pytest.mark.parametrize(("status", "least_ms"), [(200, 95), (503, 240)])
def test_a_page_draws_seldom_where_nothing_moves_or_nothing_is_known(
    browser: Browser, served: tuple[str, str], status: int, least_ms: int
) -> None:
    """An ended mission draws ten times a second; a page that the server has told nothing, four times."""
    context = browser.new_context()
    context.add_init_script(_GAPS + _COUNTED_FRAMES)
    told = {"now": 1e9, "pages_here": 1} if status == 200 else {}
    context.route("**/api/time", lambda route: route.fulfill(status=status, json=told))
    page = context.new_page()
    page.goto(f"{served[0]}/missions/{served[1]}")

    rests = f"() => asked.length > 12 && gaps(8).every((gap) => gap >= {least_ms})"
    page.wait_for_function(rests, timeout=30_000, polling=100)
    context.close()
