"""Entry point of `sagastream`, the command for operators and for running handlers.

Results go to standard output, everything else to standard error. A wrong input gets one line and
an exit code, which `sagastream --help` lists.
"""

import argparse
import asyncio
import contextlib
import logging
import os
import sys
from collections.abc import Iterator
from typing import Any

from sagastream.cli.output import print_answer, print_error
from sagastream.cli.parser import WITHOUT_CHECK, make_parser
from sagastream.cli.serving import WrongUrl, make_bus
from sagastream.errors import SagastreamError
from sagastream.inspection import AmbiguousId

__all__ = ["main", "make_parser"]

_ERROR, _USAGE, _INTERRUPTED, _PIPE_CLOSED = 1, 2, 130, 141
_CALL_TIMEOUT_S = 5.0


async def _answer(options: argparse.Namespace) -> Any:
    async with make_bus(options, call_timeout_s=_CALL_TIMEOUT_S) as bus:
        if options.call not in WITHOUT_CHECK:
            await bus.ping()
        return await options.call(bus, options)


def main(arguments: list[str] | None = None) -> int:
    """Run a command; returns the exit code."""
    options = make_parser().parse_args(arguments)
    try:
        if options.call is None:
            code: int = options.run(options)
            return code
        with _silent_logs():
            answer = asyncio.run(_answer(options))
        print_answer(answer, options.output, options.as_text)
        sys.stdout.flush()
    except BrokenPipeError:
        # The interpreter flushes standard output at its end, and would report the pipe again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _PIPE_CLOSED
    except KeyboardInterrupt:
        return _INTERRUPTED
    except (WrongUrl, AmbiguousId) as error:
        print_error(str(error))
        return _USAGE
    except SagastreamError as error:
        print_error(str(error))
        return _ERROR
    return _has_problem(answer) if options.example in _CHECKS else 0


@contextlib.contextmanager
def _silent_logs() -> Iterator[None]:
    """A verb says itself what is wrong; a log line before it would only hide that."""
    logger = logging.getLogger("sagastream")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)


# The examples of verbs whose rows have a verdict.
_CHECKS = frozenset({"sagastream doctor -o jsonl", "sagastream saga check"})


def _has_problem(checks: list[dict[str, Any]]) -> int:
    return _ERROR if any(check["verdict"] == "problem" for check in checks) else 0
