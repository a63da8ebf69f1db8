#!/usr/bin/env python3
"""Write the table of invariants and their tests into docs/explanation/invariants.md.

    .venv/bin/python scripts/check-invariants.py [--check]

A test holds an invariant when it has `@pytest.mark.invariant(number)`. Fails when an invariant
that is built has no test; with `--check` also when the table in the docs is not this one.
"""

import ast
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "explanation" / "invariants.md"
BEGIN, END = "<!-- table: scripts/check-invariants.py -->", "<!-- end of table -->"
INVARIANTS = {
    1: "A request's id is its identity",
    2: "The record is the source of truth",
    3: "Writes are fenced by the epoch",
    4: "No ack without a terminal reply or a dead letter",
    5: "Leases, not idle times",
    6: "Poison ends as one dead letter",
    7: "No live data are trimmed or expire",
    8: "Effects stay single by a declared policy",
    9: "Sagas move by compare-and-set and compensate in reverse",
    10: "Task messages may be lost, repeated or reordered",
    11: "Deadlines are in server time",
    12: "Everything recovers by itself",
    13: "A handler's failure stays in its request",
    14: "Malformed data hide nothing else",
}
# What is not built yet; the table says so. Those that are not built at all need no test.
OPEN = {
    14: "malformed entries on the page, declared limits for every read",
}
NOT_BUILT: set[int] = set()


def marked() -> Iterator[tuple[int, str]]:
    """Each invariant and a test that has its marker."""
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                continue
            for decorator in node.decorator_list:
                if (
                    isinstance(decorator, ast.Call)
                    and ast.unparse(decorator.func) == "pytest.mark.invariant"
                    and isinstance(decorator.args[0], ast.Constant)
                ):
                    number = decorator.args[0].value
                    assert isinstance(number, int)
                    yield number, f"{path.relative_to(ROOT / 'tests')}::{node.name}"


def table(tests: dict[int, list[str]]) -> str:
    """The table as Markdown."""
    rows = ["| | invariant | tests |", "|---|---|---|"]
    for number, title in INVARIANTS.items():
        held = "<br>".join(f"`{test}`" for test in tests[number])
        still = f"open: {OPEN[number]}" if number in OPEN else ""
        rows.append(f"| {number} | {title} | {'<br>'.join(filter(None, (held, still)))} |")
    return "\n".join(rows)


def main() -> int:
    """Write the table, or with `--check` compare it."""
    tests: dict[int, list[str]] = defaultdict(list)
    for number, test in marked():
        tests[number].append(test)
    unknown = set(tests) - set(INVARIANTS)
    if unknown:
        print(f"tests name invariants that do not exist: {sorted(unknown)}", file=sys.stderr)
        return 1
    missing = [number for number in INVARIANTS if not tests[number] and number not in NOT_BUILT]
    if missing:
        print(f"invariants without a test: {missing}", file=sys.stderr)
        return 1
    text = PAGE.read_text(encoding="utf-8")
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    written = f"{before}{BEGIN}\n\n{table(tests)}\n\n{END}{after}"
    if "--check" not in sys.argv[1:]:
        PAGE.write_text(written, encoding="utf-8")
    elif written != text:
        print(f"{PAGE.relative_to(ROOT)} is out of date: run {sys.argv[0]}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
