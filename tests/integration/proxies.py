"""The real nginx and Caddy, with the files of the how-to, in front of pages: TLS, and a path for each."""

import re
import shutil
import socket
import ssl
import subprocess
import tempfile
from functools import cache
from pathlib import Path
from typing import Literal, Self

from app.config import ROOT
from sagastream.testing import child_options
from tests.collector import free_port
from tests.polling import eventually_sync

Front = Literal["direct", "nginx"]
"""How a test reaches a page: at its own address, or through nginx."""

MISSIONS, JOBS = "/missions", "/jobs"
_HOW_TO = ROOT / "docs" / "howto" / "proxies.md"


@cache
def certificate() -> Path:
    """A folder with a key, and a certificate for localhost; other users can enter it, as nginx must."""
    made = Path(_kept().name)
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"),
            *("-keyout", made / "key.pem", "-out", made / "cert.pem"),
            *("-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"),
        ],
        check=True,
        capture_output=True,
    )
    return made


@cache
def _kept() -> "tempfile.TemporaryDirectory[str]":
    """A folder that is removed at the end of this process."""
    return tempfile.TemporaryDirectory(prefix="certificate-")


def trust() -> ssl.SSLContext:
    """What trusts the certificate."""
    return ssl.create_default_context(cafile=str(certificate() / "cert.pem"))


class Proxy:
    """A proxy in front of both pages, as a child process.

    Args:
        name: `nginx` or `caddy`.
        missions: The port of `mission serve`, below `/missions`.
        jobs: The port of `sagastream serve`, below `/jobs`.
    """

    def __init__(self, name: str, *, missions: int = 1, jobs: int = 1) -> None:
        self._port = free_port()
        self._made = tempfile.TemporaryDirectory(prefix=f"{name}-")
        folder = Path(self._made.name)
        command = _PROXIES[name](folder, self._port, missions, jobs)
        self._log = folder / "log"
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, **child_options()
            )

    @property
    def url(self) -> str:
        """Its base URL."""
        return f"https://localhost:{self._port}"

    def __enter__(self) -> Self:
        try:
            eventually_sync(
                lambda: self._process.poll() is not None or self._accepts(),
                within_s=30,
                why="the proxy answers",
            )
            assert self._process.poll() is None, self._log.read_text()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Stop it."""
        self._process.terminate()
        self._process.wait()
        self._made.cleanup()

    def _accepts(self) -> bool:
        try:
            with (
                socket.create_connection(("127.0.0.1", self._port), timeout=5) as plain,
                trust().wrap_socket(plain, server_hostname="localhost"),
            ):
                return True
        except OSError:
            return False


def _block(heading: str) -> str:
    """The configuration below a heading of the how-to."""
    section = _HOW_TO.read_text(encoding="utf-8").partition(f"\n## {heading}\n")[2]
    found = re.search(r"```plain\n(.*?)\n```", section, re.DOTALL)
    assert found is not None
    return found[1]


def _replaced(text: str, *pairs: tuple[str, str]) -> str:
    for old, new in pairs:
        assert old in text, f"the how-to no longer has {old}"
        text = text.replace(old, new)
    return text


def _nginx(folder: Path, port: int, missions: int, jobs: int) -> list[str]:
    server = _replaced(
        _block("nginx"),
        ("listen 443 ssl", f"listen 127.0.0.1:{port} ssl"),
        ("robots.example;", "localhost;"),
        ("/etc/ssl/robots.example.pem", str(certificate() / "cert.pem")),
        ("/etc/ssl/robots.example.key", str(certificate() / "key.pem")),
        ("127.0.0.1:8080", f"127.0.0.1:{missions}"),
        ("127.0.0.1:8400", f"127.0.0.1:{jobs}"),
    )
    paths = "".join(
        f"    {name}_temp_path {folder}/{name};\n"
        for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    main = f"daemon off;\nmaster_process off;\npid {folder}/pid;\nerror_log stderr warn;\nevents {{}}\n"
    text = f"{main}http {{\n    access_log off;\n{paths}{server}\n}}\n"
    (folder / "nginx.conf").write_text(text)
    return ["nginx", "-p", str(folder), "-c", str(folder / "nginx.conf"), "-e", "stderr"]


def _caddy(folder: Path, port: int, missions: int, jobs: int) -> list[str]:
    tls = f"tls {certificate()}/cert.pem {certificate()}/key.pem"
    site = _replaced(
        _block("Caddy"),
        ("robots.example {", f"localhost:{port} {{\n    {tls}"),
        ("127.0.0.1:8080", f"127.0.0.1:{missions}"),
        ("127.0.0.1:8400", f"127.0.0.1:{jobs}"),
    )
    text = (
        f"{{\n    admin off\n    auto_https disable_redirects\n    skip_install_trust\n}}\n{site}\n"
    )
    (folder / "Caddyfile").write_text(text)
    return ["caddy", "run", "--adapter", "caddyfile", "--config", str(folder / "Caddyfile")]


_PROXIES = {"nginx": _nginx, "caddy": _caddy}
PROXIES = tuple(sorted(_PROXIES))


def is_there(name: str) -> bool:
    """Whether this machine has a proxy, and what makes its certificate."""
    return all(shutil.which(each) for each in (name, "openssl"))
