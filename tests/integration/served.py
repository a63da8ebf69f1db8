"""The web server as a child process, and its pages in a browser."""

import subprocess
import sys
from collections.abc import Mapping
from typing import Self

import httpx
import numpy as np
import numpy.typing as npt
from playwright.sync_api import ConsoleMessage, Page

from app.config import ROOT
from app.exploration.grid import FREE, OCCUPIED, UNKNOWN, Grid
from sagastream.testing import child_options
from tests.collector import free_port
from tests.integration.proxies import MISSIONS, Front, Proxy
from tests.polling import eventually_sync

# The certificate of a proxy is of these tests.
BROWSER_OPTIONS = ["--no-sandbox", "--ignore-certificate-errors"]
_COLOURS = {UNKNOWN: (0xD6, 0xDA, 0xDE), FREE: (0xFF, 0xFF, 0xFF), OCCUPIED: (0x2D, 0x32, 0x3C)}
_CELLS = """() => {
  const floor = document.getElementById("floor"), told = document.getElementById("map").dataset;
  const [scale, left, top] = [told.scale, told.left, told.top].map(Number);
  const [rows, cols] = [told.rows, told.cols].map(Number);
  const {data, width, height} = floor.getContext("2d").getImageData(0, 0, floor.width, floor.height);
  const seen = [];
  for (let row = 0; row < rows; row += 1) for (let col = 0; col < cols; col += 1) {
    const x = Math.floor(left + (col + 0.5) * scale), y = Math.floor(top + (rows - row - 0.5) * scale);
    if (x < 0 || y < 0 || x >= width || y >= height) continue;
    const i = (y * width + x) * 4;
    seen.push([row, col, data[i], data[i + 1], data[i + 2]]);
  }
  return seen;
}"""


class Served:
    """`mission serve` as a child process.

    Args:
        env: The environment.
        front: How tests reach it.
        settings: Additional settings.
    """

    def __init__(self, env: Mapping[str, str], front: Front = "direct", **settings: str) -> None:
        self.port = free_port()
        self._proxy: Proxy | None = None
        if front == "nginx":
            self._proxy = Proxy(front, missions=self.port)
            proxied = {"WEB_PROXIES": "127.0.0.1", "WEB_HOSTS": "localhost,127.0.0.1"}
            settings = proxied | {"WEB_ROOT_PATH": MISSIONS} | settings
        self._env = dict(env) | {"WEB_PORT": str(self.port)} | settings
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Its base URL, at which tests reach it."""
        return f"{self._proxy.url}{MISSIONS}" if self._proxy else f"http://127.0.0.1:{self.port}"

    def link(self, href: str | None) -> str:
        """The URL of a link on one of its pages."""
        return str(httpx.URL(self.url).join(href or ""))

    @property
    def pid(self) -> int:
        """Its process id."""
        assert self._process is not None
        return self._process.pid

    def __enter__(self) -> Self:
        try:
            if self._proxy:
                self._proxy.__enter__()
            self.start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        if self._process:
            self.kill()
        if self._proxy:
            self._proxy.stop()

    def start(self) -> None:
        """Start it and wait until it responds."""
        self._process = process = subprocess.Popen(
            [sys.executable, "-m", "app.cli", "serve"],
            cwd=ROOT,
            env=self._env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            **child_options(),
        )
        eventually_sync(
            lambda: process.poll() is not None or self._answers(),
            within_s=60,
            why="the web server responds, or has ended",
        )
        assert process.poll() is None

    def kill(self) -> None:
        """Send SIGKILL."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def _answers(self) -> bool:
        try:
            return httpx.get(f"http://127.0.0.1:{self.port}/healthz", timeout=1).is_success
        except httpx.HTTPError:
            return False


class Watched:
    """A page in a browser that records its errors.

    Args:
        page: The page.
    """

    def __init__(self, page: Page) -> None:
        self.page = page
        self.errors: list[str] = []
        page.on("console", self._take)
        page.on("pageerror", lambda error: self.errors.append(str(error)))

    def _take(self, message: ConsoleMessage) -> None:
        if message.type in {"error", "warning"}:
            self.errors.append(message.text)

    def shown(self, shape: tuple[int, int]) -> Grid:
        """Read the cells from the map's canvas, at the centre of each; UNKNOWN where none is drawn."""
        grid = np.full(shape, UNKNOWN, np.int8)
        values = {colour: value for value, colour in _COLOURS.items()}
        for row, col, *colour in self.page.evaluate(_CELLS):
            grid[row, col] = values[tuple(colour)]
        return grid

    def in_sight(self, shape: tuple[int, int]) -> npt.NDArray[np.bool_]:
        """Which cells are on the map's canvas."""
        found = np.zeros(shape, np.bool_)
        for row, col, *_ in self.page.evaluate(_CELLS):
            found[row, col] = True
        return found

    def frames(self) -> tuple[int, int]:
        """Return the index of the drawn frame and the number of frames."""
        told = self.page.locator("#map")
        at, of = (told.get_attribute(f"data-{name}") for name in ("frame", "frames"))
        return (int(at or 0), int(of or 0))
