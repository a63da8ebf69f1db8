"""The peers: environment, exact pins and script of each, and what it does not promise."""

import os
import subprocess
import sys
import venv
from dataclasses import dataclass
from pathlib import Path

SCRIPTS = Path(__file__).parent / "contestants"
ROOT = Path(__file__).parent.parent
_HIREDIS = "hiredis==3.5.0"


@dataclass(frozen=True, slots=True)
class Peer:
    """A way to request work and wait for the answer.

    Attributes:
        name: Its name in the figures.
        script: Its module in `contestants/`.
        pins: Packages of its environment; none for this project's environment.
        flags: Additional arguments.
        server: `valkey` or `nats`.
        does: What is measured, in a few words.
        lacks: What it does not promise.
    """

    name: str
    script: str
    pins: tuple[str, ...] = ()
    flags: tuple[str, ...] = ()
    server: str = "valkey"
    does: str = ""
    lacks: str = ""

    @property
    def python(self) -> Path:
        """Path of the interpreter in its environment."""
        return _cache() / self.name / "bin" / "python" if self.pins else Path(sys.executable)

    def command(self, role: str, url: str) -> list[str]:
        """Return the command that starts it in a role."""
        return [str(self.python), str(SCRIPTS / f"{self.script}.py"), role, url, *self.flags]

    def make_environment(self) -> None:
        """Create its environment with its pins, unless it is there."""
        marker = _cache() / self.name / ".pins"
        wanted = "\n".join(self.pins)
        if not self.pins or (marker.exists() and marker.read_text() == wanted):
            return
        sys.stderr.write(f"setting up {self.name} (once)\n")
        venv.create(marker.parent, with_pip=True, clear=True)
        quiet = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([str(self.python), *quiet, *self.pins], check=True, stdout=sys.stderr)
        marker.write_text(wanted)


def _cache() -> Path:
    # Not a setting of the application, but the standard variable for caches.
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "sagastream-benchmarks"


SAGASTREAM = Peer(
    "sagastream",
    "peer_sagastream",
    does="`request_and_reply`: record, fence, lease, start and completed stage, stored result",
    lacks="",
)
NAIVE = Peer(
    "naive",
    "peer_naive",
    does="redis-py: XADD, XREADGROUP, XADD + XACK in a pipeline, XREAD",
    lacks="no record, stage, fence, lease or deadline; a dead worker's commands stay pending, a "
    "dead requester's replies stay unread",
)
COALESCED = Peer(
    "naive-coalesced",
    "peer_naive",
    flags=("--coalesced",),
    does="the same; all writes of a tick of the loop in one pipeline",
    lacks="as naive",
)
PEERS = (
    SAGASTREAM,
    NAIVE,
    COALESCED,
    Peer(
        "faststream",
        "peer_faststream",
        ("faststream[redis]==0.7.8", _HIREDIS),
        does="`broker.request` on a stream with a group",
        lacks="the reply is Pub/Sub: lost with the requester or its connection; no stages, no "
        "lease renewed while working, a stale worker's answer is not refused",
    ),
    Peer(
        "taskiq",
        "peer_taskiq",
        ("taskiq==0.13.0", "taskiq-redis==1.2.4", _HIREDIS),
        does="stream broker, result backend, polled every 0.5 ms (its default is 200 ms)",
        lacks="the waiter polls; work of more than ten minutes is delivered twice; progress is "
        "one key, overwritten; no fence",
    ),
    Peer(
        "arq",
        "peer_arq",
        ("arq==0.28.0", _HIREDIS),
        does="worker and waiter poll every 1 ms (the default is 500 ms)",
        lacks="both poll; a crashed worker's job waits for its timeout; no progress, no fence",
    ),
    Peer(
        "docket",
        "peer_docket",
        ("pydocket==0.27.0", _HIREDIS),
        does="`add`, `get_result`; the most similar in its promises",
        lacks="progress is not kept; the generation that refuses stale attempts does not grow when "
        "a command is claimed again",
    ),
    Peer(
        "celery",
        "peer_celery",
        ("celery[redis]==5.7.0", _HIREDIS),
        does="`delay().get()`, late acks, solo pool",
        lacks="tasks of a lost worker come back after an hour by default; no fence, progress is "
        "one key, overwritten",
    ),
    Peer(
        "jetstream",
        "peer_nats",
        ("nats-py==2.16.0",),
        server="nats",
        does="NATS: a command stored by JetStream in memory, a plain reply",
        lacks="the reply is not kept: lost with the requester; no result is stored, no stages, no "
        "fence on a late worker",
    ),
)
