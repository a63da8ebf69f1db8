"""The guide: its blocks run, its reference is complete, and it loads nothing from elsewhere."""

import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from types import ModuleType

import pytest

import sagastream.saga.runner
from app.config import ROOT, Settings
from sagastream._codec import entries, payload, validation
from sagastream.message import STAGES
from sagastream.testing import EmbeddedServer
from tests.docs_blocks import (
    Block,
    blocks_of,
    differs,
    faults_of,
    follow,
    is_followed,
    make_checkout,
    pages,
    run_python,
)
from tests.docs_types import type_faults
from tests.scripts import load_script

pytestmark = pytest.mark.blocking

PAGES = {
    name: blocks_of(path.read_text(), name)
    for path in pages()
    for name in [str(path.relative_to(ROOT))]
}
FOLLOWED = [name for name, blocks in PAGES.items() if is_followed(blocks)]
RUN = [
    name
    for name, blocks in PAGES.items()
    if any(block.language == "python" and not block.title for block in blocks)
]


@pytest.fixture(scope="module")
def reference() -> ModuleType:
    """The script that writes the reference pages."""
    return load_script("reference")


def _page(text: str) -> list[Block]:
    return blocks_of(text, "page.md")


@pytest.mark.parametrize("name", PAGES)
def test_blocks_pass_the_checks_of_their_language(name: str) -> None:
    """Each block has a known language; its commands exist and its files parse."""
    assert list(faults_of(PAGES[name])) == []


@pytest.mark.parametrize("name", RUN)
def test_python_of_pages_runs(name: str, own_server: EmbeddedServer) -> None:
    """The code of a page runs as it is, and prints the output on the page."""
    assert list(run_python(PAGES[name], own_server.url)) == []


def test_python_of_pages_passes_a_strict_type_check(tmp_path: Path) -> None:
    """A reader copies blocks into a project that is checked by mypy."""
    ours = {name: blocks for name, blocks in PAGES.items() if "robot-driver" not in name}
    assert type_faults(ours, tmp_path) == []


def test_a_type_error_is_found(tmp_path: Path) -> None:
    """With its page and line, in a block and in a file."""
    blocks = _page('```python\nx: int = await f()\n```\n```python title="a.py"\nx: int = ""\n```')
    first, second = type_faults({"page.md": blocks}, tmp_path)
    assert "page.md a.py:1: error" in first
    assert "page.md:2: error" in second


@pytest.mark.parametrize("name", FOLLOWED)
def test_pages_can_be_followed(name: str, tmp_path: Path) -> None:
    """The files and commands of a page give the output on the page."""
    needs_broker = any("mosquitto -c" in block.text for block in PAGES[name])
    if needs_broker and not shutil.which("mosquitto"):
        pytest.skip("mosquitto is not installed: apt-get install mosquitto")
    make_checkout(tmp_path)
    assert list(follow(PAGES[name], tmp_path)) == []


def test_the_tutorial_is_followed() -> None:
    """The tutorial has files, commands and outputs, which the test above checks."""
    assert "docs/tutorial.md" in FOLLOWED
    assert {"python", "sh", "text"} <= {block.language for block in PAGES["docs/tutorial.md"]}


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("```ruby\nputs 1\n```", "'ruby'"),
        ("```\nnothing\n```", "''"),
        ("    indented\n", "''"),
        ("```text\nof nothing\n```", "output without a block"),
        ("```json\n{,}\n```", "property name"),
        ("```yaml\na: b: c\n```", "mapping values"),
        ("```toml\na = \n```", "Invalid value"),
        ("```conf\nmaxmemory-polcy noeviction\n```", "maxmemory-polcy"),
        ("```sh\nif true\n```", "syntax error"),
        ("```sh\nmissoin run\n```", "missoin"),
        ("```sh\nmission strat --area office\n```", "strat"),
        ("```sh\nREDIS_URL=x mission start --aera office\n```", "aera"),
        ("```sh\nsagastream dead lsit work:commands\n```", "lsit"),
        ("```sh\nscripts/tests.sh\n```", "scripts/tests.sh"),
        ("```sh\nscripts/setup.sh --fast\n```", "--fast"),
        ("```sh\npython -m app.robot_proces r\n```", "app.robot_proces"),
        ("```sh\ndocker compose run --rm mission strat\n```", "strat"),
        ('```python title="x.py"\ndef\n```', "invalid syntax"),
    ],
)
def test_a_bad_block_is_found(text: str, fault: str) -> None:
    """Unknown languages, commands, options and names are faults, and files that do not parse."""
    (found,) = faults_of(_page(text))
    assert fault in found


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("```python\nprint(1)\n```\n```text\n2\n```", "page.md:2 printed\n1"),
        ("```python\nprint(1)\n```", "page.md:2 printed\n1"),
        ("```python\na = 1\n```\n```python\nb = a\nraise KeyError(b)\n```", '"page.md", line 6'),
    ],
)
def test_bad_python_is_found(text: str, fault: str) -> None:
    """Another output, a missing output, and an error with its line in the page are faults."""
    (found,) = run_python(_page(text), "unix:///nowhere")
    assert fault in found


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("```sh\npython a.py\n```\n```text\n2\n```", "printed\n1"),
        ("```sh\npython b.py\n```", "ended with 2"),
        ("```sh\nexit 3\n```\n```sh\ntrue\n```", "was not reached"),
    ],
)
def test_a_page_that_cannot_be_followed_is_found(text: str, fault: str, tmp_path: Path) -> None:
    """Another output, a command that fails, and one that ends the shell are faults."""
    make_checkout(tmp_path)
    page = _page('```python title="a.py"\nprint(1)\n```\n' + text)
    assert any(fault in found for found in follow(page, tmp_path))


@pytest.mark.parametrize(
    ("output", "expected", "is_other"),
    [
        ("done 1763942400000-0 in 0.12 s", "done 1763942400999-7 in 3.4 s", False),
        ("done 1", "done 2", True),
        ("a\nb\nc", "a\n…\nc", False),
        ("a\nb", "a", True),
    ],
)
def test_only_times_ids_and_ellipses_may_differ(output: str, expected: str, is_other: bool) -> None:
    """Times, ids and the text at `…` match any other; all else must be equal."""
    assert differs(output, expected) is is_other


class _Sources(HTMLParser):
    """Finds what a browser would load from other servers."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = {"src", "srcset", "data"} | ({"href"} if tag == "link" else set())
        values = [value or "" for name, value in attrs if name in names]
        self.found += [value for value in values if value.startswith(("http:", "https:", "//"))]


def test_the_guide_is_built_and_loads_nothing_from_other_servers(tmp_path: Path) -> None:
    """The strict build finds no broken link and no page outside the navigation."""
    make_checkout(tmp_path)
    built = subprocess.run(
        ["scripts/docs.sh"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert built.returncode == 0, built.stderr
    site = tmp_path / "site"
    sources = _Sources()
    for path in site.rglob("*.html"):
        sources.feed(path.read_text())
    assert (site / "tutorial.html").exists()
    assert sources.found == []
    styles = [path.read_text() for path in site.rglob("*.css")]
    assert not any("url(http" in style or "url(//" in style for style in styles)


def test_the_reference_is_what_the_script_writes(reference: ModuleType, tmp_path: Path) -> None:
    """The generated pages are up to date, and an edited page is reported."""
    folder = ROOT / "docs" / "reference"
    assert reference.drift(folder) == []
    for name in reference.written():
        (tmp_path / name).write_text((folder / name).read_text().replace("`", "'"))
    assert reference.drift(tmp_path) == sorted(reference.written())


def test_every_public_name_is_in_the_reference() -> None:
    """Each public name of the library is on one of the reference pages, by topic."""
    pages = sorted((ROOT / "docs" / "reference" / "api").glob("*.md"))
    text = "".join(page.read_text() for page in pages)
    assert len(pages) > 4
    described = {line.rpartition(".")[2] for line in re.findall(r"^::: (\S+)$", text, re.MULTILINE)}
    public = {*sagastream.__all__, *sagastream.saga.__all__, "EmbeddedServer", "running"}
    assert public - described == set()


def test_the_page_of_the_entry_is_complete() -> None:
    """It has each field of commands and replies, each stage, and the current limits."""
    text = (ROOT / "docs" / "reference" / "entry.md").read_text()
    words = set(re.findall(r"`(\w+)`", text))
    assert entries._COMMAND_FIELDS | {"status", "epoch"} <= words
    assert words >= STAGES
    limits = (payload.MAX_PAYLOAD_BYTES, payload.MAX_DEPTH, validation.MAX_NAME_LENGTH)
    for limit in (*limits, payload.MAX_INT_BITS):
        assert re.search(rf"\b{limit:,}\b", text), limit


def test_the_reference_is_complete(reference: ModuleType) -> None:
    """It has the variable of each setting and the name of each subcommand."""
    written = reference.written()
    for name in Settings.model_fields:
        assert f"`{name.upper()}`" in written["configuration.md"]
    for verb in ("run", "serve", "doctor", "dead list", "dead retry"):
        assert f" {verb}`" in written["cli.md"]
