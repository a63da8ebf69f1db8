"""Run the `python` blocks of one page in one namespace, as in an interactive session.

A block may `await`, as in `python -m asyncio`. The argument is the name of the page, standard
input a JSON list of [line, code], and standard output a JSON list with the output of each block.
The traceback of a block that fails has the line in the page.
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
    output = io.StringIO()
    lines = "\n" * line + code
    compiled = compile(lines, page, "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    with contextlib.redirect_stdout(output):
        coroutine = types.FunctionType(compiled, names)()
        if inspect.iscoroutine(coroutine):
            runner.run(coroutine)
    return output.getvalue()


def main() -> None:
    """Run `python -m tests.docs_runner PAGE`."""
    page = sys.argv[1]
    module = types.ModuleType("page")
    sys.modules["page"] = module
    with asyncio.Runner() as runner:
        outputs = [
            _run(runner, page, line, code, module.__dict__) for line, code in json.load(sys.stdin)
        ]
    json.dump(outputs, sys.stdout)


if __name__ == "__main__":
    main()
