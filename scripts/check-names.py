#!/usr/bin/env python3
"""List names that the glossary replaces, and names of classes and modules that exist twice.

    .venv/bin/python scripts/check-names.py

Reads the last table of docs/explanation/glossary.md. Looks at the modules, classes, functions,
fields and metrics of `src` and `app`, by their syntax trees. Fails if it finds one.
"""

import ast
import re
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
GLOSSARY = ROOT / "docs" / "explanation" / "glossary.md"
FOLDERS = {
    "everywhere": ("src", "app"),
    "library": ("src",),
    "application": ("app",),
    "exploration": ("app/exploration",),
}
# Names that are right where they are, by file.
ALLOWED: set[tuple[str, str]] = set()
# A metric or an attribute of a span.
_METRIC = re.compile(r"(sagastream|mission)(\.[a-z_]+)+")
# Modules that every package may have, and the owner's names that exist in both projects.
COMMON_MODULES = {"__init__", "__main__", "main"}
# `sagastream.sync.Bus` has the methods of `sagastream.Bus`; `_redis/sync.py` blocks below it.
BLOCKING_FORMS = {"Bus", "sync"}
# The messages of a standard have its names, in each version of it; they are used as `v3.Order`.
STANDARDS = ("app/robots/vda5050/v2", "app/robots/vda5050/v3")


def replaced() -> dict[str, set[str]]:
    """The names that must not be used, by the folder that the rule is for."""
    table = GLOSSARY.read_text(encoding="utf-8").rpartition("| not | but | where |")[2]
    names: dict[str, set[str]] = defaultdict(set)
    for row in table.splitlines():
        cells = [cell.strip() for cell in row.split("|")]
        if len(cells) > len(("", "not", "but", "where")) and "`" in cells[1]:
            for folder in FOLDERS[cells[3]]:
                names[folder].update(re.findall(r"`(\w+)`", cells[1]))
    return names


def names_of(path: Path) -> Iterator[tuple[int, str]]:
    """The line and name of each class, function, field and metric of a module, and its own."""
    yield 1, path.stem
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield node.lineno, node.name
        if isinstance(node, ast.ClassDef):
            for inner in node.body:
                if isinstance(inner, ast.AnnAssign) and isinstance(inner.target, ast.Name):
                    yield inner.lineno, inner.target.id
        if isinstance(node, ast.arg):
            yield node.lineno, node.arg
        if (
            isinstance(node, ast.Attribute)
            and isinstance(node.ctx, ast.Store)
            and isinstance(node.value, ast.Name)
            and node.value.id == "self"
        ):
            yield node.lineno, node.attr
        if (
            isinstance(node, ast.Constant)
            and isinstance(node.value, str)
            and _METRIC.fullmatch(node.value)
        ):
            yield from ((node.lineno, word) for word in re.split(r"[._]", node.value))


def main() -> int:
    """Print what is wrong."""
    wrong = []
    classes: dict[str, list[str]] = defaultdict(list)
    modules: dict[str, list[str]] = defaultdict(list)
    rules = replaced()
    for path in sorted(path for part in ("src", "app") for path in (ROOT / part).rglob("*.py")):
        where = str(path.relative_to(ROOT))
        names = set().union(*(rules[folder] for folder in rules if where.startswith(f"{folder}/")))
        if path.stem not in COMMON_MODULES:
            modules[path.stem].append(where)
        for line, name in names_of(path):
            bare = name.strip("_")
            if bare in names and (where, bare) not in ALLOWED:
                wrong.append(f"{where}:{line}: {name}: the glossary has another name")
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if where.startswith(STANDARDS):
                continue
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                classes[node.name].append(where)
    for kind, found in (("class", classes), ("module", modules)):
        wrong += [
            f"{kind} {name} exists {len(places)} times: {', '.join(places)}"
            for name, places in sorted(found.items())
            if len(places) > 1 and name not in BLOCKING_FORMS
        ]
    print("\n".join(wrong))
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
