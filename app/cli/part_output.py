"""What several processes write, in one terminal: each line after the coloured name of its part."""

import json
import subprocess
import sys
import threading
from pathlib import Path

from rich.console import Console
from rich.text import Text

from app.cli.base import printable

_COLOURS = ("cyan", "green", "magenta", "yellow", "blue", "bright_red")
_WIDTH = 10
# What Celery writes at its start.
_BANNER = (" ", "-", "*")


class PartOutput:
    """Prints lines of parts to standard error."""

    def __init__(self) -> None:
        self._console = Console(file=sys.stderr, soft_wrap=True, highlight=False)
        self._colours: dict[str, str] = {}
        self._lock = threading.Lock()

    def say(self, part: str, line: str) -> None:
        """Print a line of a part."""
        with self._lock:
            colour = self._colours.setdefault(part, _COLOURS[len(self._colours) % len(_COLOURS)])
            self._console.print(Text(f"{part:<{_WIDTH}} ", colour) + Text(printable(line)))

    def follow(self, part: str, process: "subprocess.Popen[bytes]", log: Path) -> None:
        """Print what a process writes until it ends, and keep it in a file."""
        threading.Thread(target=self._copy, args=(part, process, log), daemon=True).start()

    def _copy(self, part: str, process: "subprocess.Popen[bytes]", log: Path) -> None:
        assert process.stdout is not None
        with process.stdout, log.open("wb", buffering=0) as file:
            for line in process.stdout:
                file.write(line)
                if shown := readable(line.decode(errors="replace").rstrip()):
                    self.say(part, shown)


def readable(line: str) -> str:
    """A line of a log for people; '' if it is one of the many that say nothing of a mission."""
    try:
        fields = json.loads(line)
    except ValueError:
        fields = None
    if not isinstance(fields, dict) or "event" not in fields:
        return "" if line.startswith(_BANNER) else line
    level, kind = fields.get("level", "info"), str(fields.get("event_type", ""))
    is_quiet = str(fields.get("logger", "")).startswith("uvicorn") or kind.startswith("robot:")
    if level in {"info", "debug"} and is_quiet:
        return ""
    told = [str(fields["event"]) if level == "info" else f"{level.upper()} {fields['event']}", kind]
    told += [f"{name} {fields[name]}" for name in ("saga_id", "error") if fields.get(name)]
    told += [str(fields["exception"])] if fields.get("exception") else []
    return "  ".join(filter(None, told))
