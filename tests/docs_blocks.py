"""The fenced blocks of the README and the guide: what they are, and how each is run or checked.

A `python` block runs; with a title it is a file, and its page is followed: files are written and
`sh` blocks run in a folder of their own. On other pages each command of a `sh` block must be
there, with its options. A `text` block is what the block before it prints. `ini`, `json`, `toml`
and `yaml` must parse, a server must start with `conf`, and `plain` is for people alone. There is no other.
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
_PATIENCE_S = 90
# What differs from run to run, and stands for any other of its kind.
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
        page: The file, from the repository's root.
        line: Of its first line of content, from 0.
        language: The first word behind the fence.
        title: The file that it is, '' if none.
        text: What stands in it.
    """

    page: str
    line: int
    language: str
    title: str
    text: str

    @property
    def place(self) -> str:
        """Where it is, for messages."""
        return f"{self.page}:{self.line + 1}"


def pages() -> list[Path]:
    """The README, and every page of the guide."""
    return [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]


def blocks_of(text: str, page: str) -> list[Block]:
    """The blocks of a page, in order."""
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
    """Whether a page has its reader write files, and so is followed step by step."""
    return any(block.title for block in blocks)


def expected(blocks: Sequence[Block], number: int) -> str | None:
    """What a block is said to print: the `text` block behind it; None if there is none."""
    behind = blocks[number + 1 : number + 2]
    return behind[0].text if behind and behind[0].language == "text" else None


def differs(said: str, wanted: str) -> bool:
    """Whether what was printed is something else than what the page has; `…` stands for anything."""
    pattern = re.escape(_normal(wanted)).replace("…", ".*")
    return re.fullmatch(pattern, _normal(said), re.DOTALL) is None


def _normal(text: str) -> str:
    for pattern, word in _VARYING:
        text = pattern.sub(word, text)
    return "\n".join(line.rstrip() for line in text.strip().splitlines())


# -- what runs ------------------------------------------------------------------------


def run_python(blocks: Sequence[Block], url: str) -> Iterator[str]:
    """Run a page's `python` blocks that are no files; yields what is wrong."""
    chosen = [i for i, b in enumerate(blocks) if b.language == "python" and not b.title]
    if not chosen:
        return
    with tempfile.TemporaryDirectory(prefix="page-") as folder:
        ran = subprocess.run(
            [sys.executable, "-m", "tests.docs_runner", blocks[0].page],
            input=json.dumps([(blocks[i].line, blocks[i].text) for i in chosen]),
            env=_environment() | {"REDIS_URL": url},
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=_PATIENCE_S,
            check=False,
        )
    if ran.returncode:
        yield f"{blocks[0].page}: {ran.stderr}"
        return
    for number, said in zip(chosen, json.loads(ran.stdout), strict=True):
        yield from _compared(blocks, number, said)


def _compared(blocks: Sequence[Block], number: int, said: str) -> Iterator[str]:
    wanted = expected(blocks, number) or ""
    if differs(said, wanted):
        yield f"{blocks[number].place} printed\n{said}\nand not\n{wanted}"


def _environment() -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name != "REDIS_URL"}
    return kept | {"PYTHONPATH": f"{ROOT / 'src'}:{ROOT}"}


def make_checkout(place: Path) -> None:
    """What the reader has: a checkout whose environment `scripts/setup.sh` has made before.

    It is the one that the tests run in; the script itself is run, and finds nothing to do.
    """
    folders = ("app", "docs", "maps", "scripts", "src")
    for name in (*folders, "mkdocs.yml", "pyproject.toml", "requirements.lock"):
        (place / name).symlink_to(ROOT / name)
    venv.create(place / ".venv", symlinks=True)
    (packages,) = (place / ".venv" / "lib").glob("python*/site-packages")
    ours = [str(ROOT / "src"), str(ROOT), *(p for p in sys.path if p.endswith("site-packages"))]
    (packages / "this.pth").write_text("\n".join(ours))
    (place / ".venv" / ".lock").write_bytes((ROOT / "requirements.lock").read_bytes())
    projects = [(ROOT / name).read_bytes() for name in ("pyproject.toml", "app/pyproject.toml")]
    (place / ".venv" / ".projects").write_bytes(b"".join(projects))
    for name, module in (("sagastream", "sagastream.cli"), ("pytest", "pytest")):
        script = place / ".venv" / "bin" / name
        script.write_text(f'#!/bin/sh\nexec "$(dirname "$0")/python" -m {module} "$@"\n')
        script.chmod(0o755)


def follow(blocks: Sequence[Block], place: Path) -> Iterator[str]:
    """Do what a page says in a checkout: write its files, run its commands; yields what is wrong."""
    steps = [i for i, b in enumerate(blocks) if b.title or b.language == "sh"]
    script = "".join(_step(number, blocks[number]) for number in steps)
    kept = {name: os.environ[name] for name in ("PATH", "LANG", "TMPDIR") if name in os.environ}
    bash = subprocess.Popen(
        ["bash", "-u"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=kept | {"HOME": str(place)},
        cwd=place,
        text=True,
        start_new_session=True,
    )
    try:
        said, complained = bash.communicate(script, timeout=_PATIENCE_S)
    finally:
        for leftover in _group(bash.pid):
            os.kill(leftover, signal.SIGKILL)
    parts = re.split(rf"^{_MARK}(\d+) (\d+)\n", said, flags=re.MULTILINE)
    ended = {int(n): (text, code) for text, n, code in zip(*[iter(parts)] * 3, strict=False)}
    for number in steps:
        if number not in ended:
            yield f"{blocks[number].place} was not reached\n{complained}"
            return
        text, code = ended[number]
        if code != "0":
            yield f"{blocks[number].place} ended with {code}\n{text}{complained}"
        if blocks[number].language == "sh":
            yield from _compared(blocks, number, text)


def _step(number: int, block: Block) -> str:
    end = f"\necho '{_MARK}{number}' $?\n"
    if not block.title:
        return block.text + end
    return f"cat > {block.title} <<'{_MARK}'\n{block.text}{_MARK}\n" + end.lstrip()


def _group(leader: int) -> list[int]:
    """The processes that a page left behind in its session."""
    left = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[3]) == leader:
            left.append(int(path.parent.name))
    return left


# -- what is checked ------------------------------------------------------------------


def faults_of(blocks: Sequence[Block]) -> Iterator[str]:
    """What can be said of a page's blocks without running them."""
    for number, block in enumerate(blocks):
        check = _CHECKS.get(block.language)
        if check is None:
            yield f"{block.place}: nobody knows how to check {block.language!r}"
        elif block.language == "text" and not (number and _prints(blocks[number - 1])):
            yield f"{block.place}: this is the output of nothing"
        elif not (block.language == "sh" and is_followed(blocks)):
            yield from (f"{block.place}: {fault}" for fault in check(block))


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
    """A server must start with it."""
    with tempfile.TemporaryDirectory(prefix="conf-") as folder:
        path = Path(folder) / "server.conf"
        path.write_text(block.text)
        try:
            with EmbeddedServer(binary=str(_configured(path))):
                pass
        except RuntimeError as error:
            yield str(error)


def _configured(path: Path) -> Path:
    """A server program that reads a configuration before its options."""
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
        # `docker compose … run --rm SERVICE ARGUMENT…`: the service `mission` is the command.
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
        yield f"nobody knows the command {name}"


def _faults_of_python_call(arguments: list[str]) -> Iterator[str]:
    if arguments[0] == "-m":
        path = ROOT / arguments[1].replace(".", "/")
        if not (path.with_suffix(".py").exists() or path.is_dir()):
            yield f"there is no module {arguments[1]}"
        elif arguments[1] == "app.orchestrator":
            yield from _typer_faults(typer.main.get_command(orchestrator_app), arguments[2:])
    elif not (ROOT / arguments[0]).exists():
        yield f"there is no {arguments[0]}"


def _faults_of_script(name: str, arguments: list[str]) -> Iterator[str]:
    path = ROOT / name
    if not os.access(path, os.X_OK):
        yield f"there is no {name}"
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
        yield f"mission has no verb {shlex.join(arguments[:1])}"
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
