"""Render the pages: templates, and how times, durations and payloads read.

Everything that comes from the server is escaped, and characters that would steer a terminal or
reorder a line are shown as escapes.
"""

import json
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from jinja2 import DictLoader, Environment, StrictUndefined
from markupsafe import Markup
from starlette.requests import Request
from starlette.responses import Response

from sagastream.message import error_text, printable
from sagastream.web.error_pages import headers_of

_FOLDER = Path(__file__).parent


def _templates_of(folder: Path) -> dict[str, str]:
    """The templates of a folder; read at once, as nothing may block the event loop later."""
    return {path.name: path.read_text(encoding="utf-8") for path in folder.glob("*.html")}


_TEMPLATES = _templates_of(_FOLDER / "templates")
_STATIC = {
    "/style.css": ("text/css", (_FOLDER / "static" / "style.css").read_bytes()),
    "/icon.svg": ("image/svg+xml", (_FOLDER / "static" / "icon.svg").read_bytes()),
}
STATIC_PATHS = frozenset(_STATIC)
_MAX_TEXT = 20_000
_MAX_LINE = 300
_MINUTE_S, _HOUR_S, _DAY_S = 60, 3600, 86_400
_MARKS = {
    "pending": "○",
    "intended": "○",
    "waiting": "○",
    "skipped": "⊘",
    "running": "▶",
    "compensating": "↩",
    "completed": "✓",
    "compensated": "↩",
    "failed": "✗",
    "cancelled": "⊘",
    "stuck": "⚠",
    "unreadable": "?",
    "retried": "↻",
    "active": "▶",
    "paused": "‖",
    "ended": "✓",
}


def _finalized(value: Any) -> Any:
    if isinstance(value, str) and not isinstance(value, Markup):
        return printable(value)
    return value


def time_text(seconds: float | None) -> str:
    """A time in seconds since the Unix epoch as ISO 8601 in UTC, to the millisecond."""
    if not seconds:
        return "-"
    try:
        moment = datetime.fromtimestamp(seconds, UTC)
    except (ValueError, OverflowError, OSError):
        return "-"
    return moment.strftime("%Y-%m-%d %H:%M:%S.") + f"{moment.microsecond // 1000:03d}Z"


def duration_text(seconds: float | None) -> str:
    """A duration in a unit that people read."""
    if seconds is None:
        return "-"
    if seconds < 1:
        return f"{max(0.0, seconds) * 1000:.0f} ms"
    if seconds < _MINUTE_S:
        return f"{seconds:.1f} s"
    if seconds < _HOUR_S:
        return f"{seconds // _MINUTE_S:.0f} min {seconds % _MINUTE_S:.0f} s"
    if seconds < _DAY_S:
        return f"{seconds // _HOUR_S:.0f} h {seconds % _HOUR_S // _MINUTE_S:.0f} min"
    return f"{seconds // _DAY_S:.0f} d {seconds % _DAY_S // _HOUR_S:.0f} h"


def json_text(value: Any) -> str:
    """A value as indented JSON, cut if it is very long; text as it is."""
    text = value if isinstance(value, str) else json.dumps(value, indent=2, ensure_ascii=False)
    if len(text) > _MAX_TEXT:
        return f"{text[:_MAX_TEXT]}\n… {len(text) - _MAX_TEXT} more characters are not shown"
    return text


def line_text(value: str) -> str:
    """A text in one line, cut if it is long."""
    text = " ".join(value.split())
    return text if len(text) <= _MAX_LINE else f"{text[: _MAX_LINE - 1]}…"


def fraction_of(progress: Mapping[str, Any]) -> float | None:
    """The fraction of a progress from 0 to 1; None if it has none."""
    fraction = progress.get("fraction")
    if isinstance(fraction, bool) or not isinstance(fraction, int | float):
        return None
    return min(1.0, max(0.0, float(fraction)))


def mark_of(status: str) -> str:
    """The symbol of a status, so that it does not depend on colour."""
    return _MARKS.get(status, "·")


class Renderer:
    """Renders the templates of this package, and those of an application that uses them.

    Args:
        folder: The templates of an application. One with the name of a template of this package
            replaces it: with a `base.html`, the page of an error looks like the application.
        filters: Filters of its templates.
        facts: What every template knows, such as the address of the server.
    """

    def __init__(
        self,
        folder: Path | None = None,
        *,
        filters: Mapping[str, Callable[..., str]] | None = None,
        **facts: Any,
    ) -> None:
        templates = _TEMPLATES | (_templates_of(folder) if folder else {})
        self._environment = Environment(
            loader=DictLoader(templates),
            autoescape=True,
            undefined=StrictUndefined,
            finalize=_finalized,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._environment.filters |= {
            "time": time_text,
            "duration": duration_text,
            "json": json_text,
            "line": line_text,
            "error": error_text,
            "fraction": fraction_of,
            "mark": mark_of,
        }
        self._environment.filters |= filters or {}
        self._environment.globals |= facts
        for name in templates:
            self._environment.get_template(name)

    def page(
        self, request: Request, name: str, /, *, code: int = 200, here: str = "", **values: Any
    ) -> Response:
        """Render a page.

        Args:
            request: The request that it answers; all addresses are below its root path.
            name: The template, without its ending.
            code: The HTTP status.
            here: The section of the page in the navigation.
            values: The values of the template.
        """
        root = request.scope.get("root_path", "")
        template = self._environment.get_template(f"{name}.html")
        text = template.render(here=here, root=root, **values)
        return Response(text, code, media_type="text/html")

    def error(
        self,
        request: Request,
        status: int,
        *,
        title: str,
        text: str,
        hint: str = "",
        here: str = "",
    ) -> Response:
        """Render the page of an error, with the headers that belong to its status.

        Args:
            request: The request that it answers.
            status: The HTTP status.
            title: Its heading.
            text: What happened.
            hint: What to do next.
            here: The section of the page in the navigation.
        """
        page = self.page(
            request, "error", code=status, here=here, title=title, text=text, hint=hint
        )
        page.headers.update(headers_of(status))
        return page


def static_files() -> dict[str, Response]:
    """The answers for the style sheet and the icon, by path."""
    return {path: Response(body, media_type=kind) for path, (kind, body) in _STATIC.items()}
