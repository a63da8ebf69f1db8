"""The fenced blocks of the README and the guide: how each language is run or checked.

- `python` is run. With a title it is a file, and the whole page is followed: its files are
  written and its `sh` blocks run, in a temporary folder.
- `sh` on other pages: each command and each option must exist.
- `text` is the output of the block before it.
- `ini`, `json`, `toml` and `yaml` must parse; a server must start with `conf`.
- `plain` is not checked, except for its width. Other languages are faults.
"""

import configparser
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import tempfile
import tomllib
import venv
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer
import yaml
from markdown_it import MarkdownIt
from typer.exceptions import TyperException

from app.cli.main import app
from app.config import ROOT
from app.orchestrator import orchestrator_app
from sagastream.cli import main as sagastream_cli
from sagastream.testing import EmbeddedServer, bundled_binary

_TITLE = re.compile(r'title="([\w./-]+)"')
_MARK = "--- the end of a block: "
_TIMEOUT_S = 90
# What differs between runs: it matches any other value of its kind.
_VARYING = [
    (re.compile(r"[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}"), "<uuid>"),
    (re.compile(r"\b\d{13}-\d+\b"), "<entry>"),
    (re.compile(r"\b[0-9a-f]{32}\b"), "<trace>"),
    (re.compile(r"\b\d+\.\d+ ?s\b"), "<time>"),
]
_PROGRAMS = frozenset({"break", "curl", "export"})
_PYTEST_OPTIONS = frozenset({"-k", "--server-binary", "--long"})
_ASSIGNMENT = re.compile(r"\w+=.*")


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block.

    Attributes:
        page: The file, relative to the root of the repository.
        line: The line of its first content, from 0.
        language: The first word after the fence.
        title: The file that it is; '' if it is not a file.
        text: Its content.
    """

    page: str
    line: int
    language: str
    title: str
    text: str

    @property
    def location(self) -> str:
        """Its page and line, for messages."""
        return f"{self.page}:{self.line + 1}"


def pages() -> list[Path]:
    """Return the README and all pages of the guide."""
    return [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]


def blocks_of(text: str, page: str) -> list[Block]:
    """Return the blocks of a page in order."""
    found = []
    for token in MarkdownIt("commonmark").parse(text):
        if token.type in {"fence", "code_block"}:
            assert token.map is not None
            language = (token.info.split() or [""])[0]
            title = _TITLE.search(token.info)
            first = token.map[0] + (token.type == "fence")
            found.append(Block(page, first, language, title[1] if title else "", token.content))
    return found


def is_followed(blocks: Sequence[Block]) -> bool:
    """Return whether the reader of a page writes files: then the page is followed step by step."""
    return any(block.title for block in blocks)


def expected_output(blocks: Sequence[Block], number: int) -> str | None:
    """Return the `text` block after a block; None if there is none."""
    following = blocks[number + 1 : number + 2]
    return following[0].text if following and following[0].language == "text" else None


def differs(output: str, expected: str) -> bool:
    """Return whether an output is not the one of the page, in which `…` matches anything."""
    pattern = re.escape(_normal(expected)).replace("…", ".*")
    return re.fullmatch(pattern, _normal(output), re.DOTALL) is None


def _normal(text: str) -> str:
    for pattern, word in _VARYING:
        text = pattern.sub(word, text)
    return "\n".join(line.rstrip() for line in text.strip().splitlines())


# -- blocks that are run --------------------------------------------------------------


def run_python(blocks: Sequence[Block], url: str) -> Iterator[str]:
    """Run the `python` blocks of a page that are not files; yields what is wrong."""
    chosen = [i for i, b in enumerate(blocks) if b.language == "python" and not b.title]
    if not chosen:
        return
    with tempfile.TemporaryDirectory(prefix="page-") as folder:
        done = subprocess.run(
            [sys.executable, "-m", "tests.docs_runner", blocks[0].page],
            input=json.dumps([(blocks[i].line, blocks[i].text) for i in chosen]),
            env=_environment() | {"REDIS_URL": url},
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=_TIMEOUT_S,
            check=False,
        )
    if done.returncode:
        yield f"{blocks[0].page}: {done.stderr}"
        return
    for number, output in zip(chosen, json.loads(done.stdout), strict=True):
        yield from _compare(blocks, number, output)


def _compare(blocks: Sequence[Block], number: int, output: str) -> Iterator[str]:
    expected = expected_output(blocks, number) or ""
    if differs(output, expected):
        yield f"{blocks[number].location} printed\n{output}\nand not\n{expected}"


def _environment() -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name != "REDIS_URL"}
    return kept | {"PYTHONPATH": f"{ROOT / 'src'}:{ROOT}"}


def make_checkout(folder: Path) -> None:
    """Make what the reader has: a checkout after `scripts/setup.sh`.

    Its environment uses the packages of the tests; the page may run the script, which then has
    nothing to do.
    """
    folders = ("app", "docs", "maps", "scripts", "src")
    for name in (*folders, "mkdocs.yml", "pyproject.toml", "requirements.lock"):
        (folder / name).symlink_to(ROOT / name)
    venv.create(folder / ".venv", symlinks=True)
    (packages,) = (folder / ".venv" / "lib").glob("python*/site-packages")
    ours = [str(ROOT / "src"), str(ROOT), *(p for p in sys.path if p.endswith("site-packages"))]
    (packages / "this.pth").write_text("\n".join(ours))
    (folder / ".venv" / ".lock").write_bytes((ROOT / "requirements.lock").read_bytes())
    projects = [(ROOT / name).read_bytes() for name in ("pyproject.toml", "app/pyproject.toml")]
    (folder / ".venv" / ".projects").write_bytes(b"".join(projects))
    programs = {"mission": "app.cli", "sagastream": "sagastream.cli", "pytest": "pytest"}
    for name, module in programs.items():
        script = folder / ".venv" / "bin" / name
        script.write_text(f'#!/bin/sh\nexec "$(dirname "$0")/python" -m {module} "$@"\n')
        script.chmod(0o755)


def follow(blocks: Sequence[Block], folder: Path) -> Iterator[str]:
    """Write the files and run the commands of a page in a checkout; yields what is wrong."""
    steps = [i for i, b in enumerate(blocks) if b.title or b.language == "sh"]
    script = "".join(_step(number, blocks[number]) for number in steps)
    kept = {name: os.environ[name] for name in ("PATH", "LANG", "TMPDIR") if name in os.environ}
    bash = subprocess.Popen(
        ["bash", "-u"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=kept | {"HOME": str(folder)},
        cwd=folder,
        text=True,
        start_new_session=True,
    )
    try:
        output, errors = bash.communicate(script, timeout=_TIMEOUT_S)
    finally:
        for leftover in _group(bash.pid):
            os.kill(leftover, signal.SIGKILL)
    parts = re.split(rf"^{_MARK}(\d+) (\d+)\n", output, flags=re.MULTILINE)
    ended = {int(n): (text, code) for text, n, code in zip(*[iter(parts)] * 3, strict=False)}
    for number in steps:
        if number not in ended:
            yield f"{blocks[number].location} was not reached\n{errors}"
            return
        text, code = ended[number]
        if code != "0":
            yield f"{blocks[number].location} ended with {code}\n{text}{errors}"
        if blocks[number].language == "sh":
            yield from _compare(blocks, number, text)


def _step(number: int, block: Block) -> str:
    end = f"\necho '{_MARK}{number}' $?\n"
    if not block.title:
        return block.text + end
    return f"cat > {block.title} <<'{_MARK}'\n{block.text}{_MARK}\n" + end.lstrip()


def _group(leader: int) -> list[int]:
    """Return the processes of the session that a page has not ended."""
    left = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[3]) == leader:
            left.append(int(path.parent.name))
    return left


# -- blocks that are checked ----------------------------------------------------------


def faults_of(blocks: Sequence[Block]) -> Iterator[str]:
    """Yield the faults of a page's blocks that are found without running them."""
    for number, block in enumerate(blocks):
        check = _CHECKS.get(block.language)
        if check is None:
            yield f"{block.location}: unknown language {block.language!r}"
        elif block.language == "text" and not (number and _prints(blocks[number - 1])):
            yield f"{block.location}: output without a block that prints it"
        elif not (block.language == "sh" and is_followed(blocks)):
            yield from (f"{block.location}: {fault}" for fault in check(block))


def _prints(block: Block) -> bool:
    return block.language in {"sh", "python"} and not block.title


def _faults_of_plain(block: Block) -> Iterator[str]:
    if any(len(line) > 120 or "\t" in line for line in block.text.splitlines()):
        yield "a line is longer than 120, or has a tab"


def _faults_of_text(_block: Block) -> Iterator[str]:
    yield from ()


def _parsed(parse: Callable[[str], object]) -> Callable[[Block], Iterator[str]]:
    def check(block: Block) -> Iterator[str]:
        try:
            parse(block.text)
        except (ValueError, SyntaxError, configparser.Error, yaml.YAMLError) as error:
            yield str(error)

    return check


def _faults_of_python(block: Block) -> Iterator[str]:
    if block.title:
        yield from _parsed(lambda text: compile(text, block.title, "exec"))(block)


def _faults_of_conf(block: Block) -> Iterator[str]:
    """Start a server with the configuration."""
    with tempfile.TemporaryDirectory(prefix="conf-") as folder:
        path = Path(folder) / "server.conf"
        path.write_text(block.text)
        try:
            with EmbeddedServer(binary=str(_server_with(path))):
                pass
        except RuntimeError as error:
            yield str(error)


def _server_with(path: Path) -> Path:
    """Write a server program that reads a configuration file before its options."""
    program = path.with_suffix(".sh")
    program.write_text(f'#!/bin/sh\nexec {bundled_binary()} {path} "$@"\n')
    program.chmod(0o755)
    return program


def _faults_of_sh(block: Block) -> Iterator[str]:
    checked = subprocess.run(
        ["bash", "-n"], input=block.text, capture_output=True, text=True, check=False
    )
    if checked.returncode:
        yield checked.stderr
        return
    for line in block.text.replace("\\\n", " ").splitlines():
        lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
        lexer.whitespace_split = True
        words: list[str] = []
        for word in [*lexer, ";"]:
            if set(word) <= set(";|&"):
                yield from _faults_of_command(words)
                words = []
            else:
                words.append(word)


def _faults_of_command(words: list[str]) -> Iterator[str]:
    words = [word for word in words if word not in {"do", "done", "then", "fi"}]
    while words and _ASSIGNMENT.fullmatch(words[0]):
        words = words[1:]
    if not words or words[0] in {"for", "until", "if"}:
        return
    name, arguments = words[0].removeprefix(".venv/bin/"), words[1:]
    if name == "docker":
        # In `docker compose … run --rm SERVICE ARGUMENT…` the service `mission` is the command.
        arguments = arguments[arguments.index("mission") :] if "mission" in arguments else []
        if arguments:
            yield from _faults_of_command(arguments)
    elif name in {"mission", "sagastream"}:
        yield from _KNOWN[name](arguments)
    elif name in {"python", "python3"}:
        yield from _faults_of_python_call(arguments)
    elif name == "celery":
        yield from () if "app.celery_app" in arguments else ("celery without --app app.celery_app",)
    elif name.startswith("scripts/"):
        yield from _faults_of_script(name, arguments)
    elif name not in _PROGRAMS:
        yield f"unknown command {name}"


def _faults_of_python_call(arguments: list[str]) -> Iterator[str]:
    if arguments[0] == "-m":
        path = ROOT / arguments[1].replace(".", "/")
        if not (path.with_suffix(".py").exists() or path.is_dir()):
            yield f"no module {arguments[1]}"
        elif arguments[1] == "app.orchestrator":
            yield from _typer_faults(typer.main.get_command(orchestrator_app), arguments[2:])
    elif not (ROOT / arguments[0]).exists():
        yield f"no file {arguments[0]}"


def _faults_of_script(name: str, arguments: list[str]) -> Iterator[str]:
    path = ROOT / name
    if not os.access(path, os.X_OK):
        yield f"no executable file {name}"
    elif name == "scripts/run-mission.sh":
        yield from _mission_faults(["run", *arguments])
    else:
        text = path.read_text()
        for option in arguments:
            passed_on = '"$@"' in text and option in _PYTEST_OPTIONS
            if option.startswith("-") and not passed_on and option not in text:
                yield f"{name} has no option {option}"


def _mission_faults(arguments: list[str]) -> Iterator[str]:
    verbs = typer.main.get_group(app).commands
    if arguments[:1] in (["--help"], ["--install-completion"]):
        return
    if not arguments or arguments[0] not in verbs:
        yield f"mission has no subcommand {shlex.join(arguments[:1])}"
    else:
        yield from _typer_faults(verbs[arguments[0]], arguments[1:])


def _typer_faults(command: Any, arguments: list[str]) -> Iterator[str]:
    try:
        command.make_context(command.name, list(arguments))
    except TyperException as error:
        yield f"{command.name}: {error}"


def _sagastream_faults(arguments: list[str]) -> Iterator[str]:
    try:
        sagastream_cli.make_parser().parse_args(arguments)
    except SystemExit as ended:
        if ended.code:
            yield f"sagastream does not take {shlex.join(arguments)}"


_KNOWN = {"mission": _mission_faults, "sagastream": _sagastream_faults}
_CHECKS: dict[str, Callable[[Block], Iterator[str]]] = {
    "conf": _faults_of_conf,
    "ini": _parsed(lambda text: configparser.ConfigParser().read_string(text)),
    "json": _parsed(json.loads),
    "plain": _faults_of_plain,
    "python": _faults_of_python,
    "sh": _faults_of_sh,
    "text": _faults_of_text,
    "toml": _parsed(tomllib.loads),
    "yaml": _parsed(yaml.safe_load),
}
