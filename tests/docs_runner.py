"""Runs the `python` blocks of one page in one namespace, as a reader types them in one after another.

A block may `await`, as in `python -m asyncio`. Standard input is a JSON list of [line, code], the
first argument the page's name; standard output a JSON list of what each block printed. The
traceback of a block that fails names its line in the page.
"""

import ast
import asyncio
import contextlib
import inspect
import io
import json
import sys
import types
from typing import Any


def _run(runner: asyncio.Runner, page: str, line: int, code: str, names: dict[str, Any]) -> str:
    said = io.StringIO()
    lines = "\n" * line + code
    compiled = compile(lines, page, "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    with contextlib.redirect_stdout(said):
        coroutine = types.FunctionType(compiled, names)()
        if inspect.iscoroutine(coroutine):
            runner.run(coroutine)
    return said.getvalue()


def main() -> None:
    """Entry point of `python -m tests.docs_runner PAGE`."""
    page = sys.argv[1]
    module = types.ModuleType("page")
    sys.modules["page"] = module
    with asyncio.Runner() as runner:
        said = [
            _run(runner, page, line, code, module.__dict__) for line, code in json.load(sys.stdin)
        ]
    json.dump(said, sys.stdout)


if __name__ == "__main__":
    main()
