"""A hook of mkdocs: the page `changelog.md` is CHANGELOG.md, with links that work in the guide."""

from pathlib import Path
from typing import Any

_CHANGELOG = Path(__file__).resolve().parent.parent / "CHANGELOG.md"


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Return the text of a page."""
    if page.file.src_uri != "changelog.md":
        return markdown
    return _CHANGELOG.read_text(encoding="utf-8").replace("](docs/", "](")
