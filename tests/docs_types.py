"""Type-check the `python` blocks of the README and the guide, as `mypy --strict` sees them.

The blocks of a page that are not files become one async function, because a block may `await`.
The files of a page become a folder. What has no types, such as Django, may be used.
"""

import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from app.config import ROOT
from tests.docs_blocks import Block

_OPTIONS = """
[mypy]
strict = true
explicit_package_bases = true
namespace_packages = true
disable_error_code = import-untyped

[mypy-django.*,redis.*,app.*]
ignore_missing_imports = true
follow_imports = skip

[mypy-shop.management.*,shop.views,page_own_server]
disallow_subclassing_any = false
disallow_untyped_calls = false
"""


def type_faults(pages: Mapping[str, Sequence[Block]], folder: Path) -> list[str]:
    """Return the type errors of the blocks of pages, with page and line.

    Args:
        pages: The blocks by the name of the page.
        folder: Where the modules are written.
    """
    (folder / "mypy.ini").write_text(_OPTIONS)
    faults, free = [], {}
    for name, blocks in pages.items():
        chosen = [block for block in blocks if block.language == "python"]
        if any(not block.title for block in chosen):
            module = "page_" + re.sub(r"\W", "_", Path(name).stem)
            free[f"{module}.py"] = name
            (folder / f"{module}.py").write_text(_as_function(chosen))
        if files := [block for block in chosen if block.title]:
            faults += _check(_written(files, folder / "files" / Path(name).stem), folder, name)
    return faults + _check(folder, folder, "", free)


def _as_function(blocks: Sequence[Block]) -> str:
    """The blocks of a page, each on its line, in one async function."""
    lines = ["async def page() -> None:"]
    for block in blocks:
        if block.title:
            continue
        lines += ["    ..."] * (block.line - len(lines))
        lines += [f"    {line}" if line else "" for line in block.text.splitlines()]
    return "\n".join(lines) + "\n"


def _written(blocks: Sequence[Block], folder: Path) -> Path:
    for block in blocks:
        path = folder / block.title
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(block.text)
    return folder


def _check(
    place: Path, folder: Path, page: str, names: Mapping[str, str] | None = None
) -> list[str]:
    modules = sorted(str(path.relative_to(place)) for path in place.glob("*.py"))
    if names is None:
        modules = ["."]
    done = subprocess.run(
        [
            *(sys.executable, "-m", "mypy", "--config-file", str(folder / "mypy.ini")),
            *("--cache-dir", str(folder / "cache"), *modules),
        ],
        cwd=place,
        capture_output=True,
        text=True,
        check=False,
        env={"MYPYPATH": str(ROOT / "src"), "PATH": ""},
    )
    found = [line for line in done.stdout.splitlines() if ": error:" in line]
    if done.returncode and not found:
        found = [done.stdout + done.stderr]
    return [_located(line, page, names or {}) for line in found]


def _located(line: str, page: str, names: Mapping[str, str]) -> str:
    module, _, rest = line.partition(":")
    return f"{names.get(module, f'{page} {module}')}:{rest}"
