"""The checks of words, names, sizes and invariants fail when they should."""

import subprocess
import sys
from pathlib import Path

import pytest

from app.config import ROOT
from tests.scripts import load_script


def _check_words(text: str, folder: Path) -> subprocess.CompletedProcess[str]:
    page = folder / "page.md"
    page.write_text(text)
    return subprocess.run(
        ["scripts/check-words.sh", str(page)],
        cwd=ROOT,
        env={"PATH": "/usr/bin:/bin", "VENV": sys.prefix},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize(
    "sentence",
    ["Whoever asks gets an answer.", "It tells of each stage.", "A socket of its own."],
)
def test_a_turn_of_phrase_is_found(sentence: str, tmp_path: Path) -> None:
    """The check fails, and names the line and a better phrase."""
    checked = _check_words(f"A plain sentence.\n{sentence}\n", tmp_path)
    assert checked.returncode != 0
    assert "page.md:2:" in checked.stdout
    assert "==>" in checked.stdout


def test_plain_sentences_pass(tmp_path: Path) -> None:
    """What the list does not name is no fault."""
    checked = _check_words("The listener renews the lease. There is none.\n", tmp_path)
    assert (checked.returncode, checked.stdout) == (0, "")


@pytest.mark.parametrize(
    ("code", "name"),
    [
        ("class Wire:\n    pass\n", "Wire"),
        ("def look_after(saga):\n    pass\n", "look_after"),
        ("class Options:\n    patience_s: float\n", "patience_s"),
        ("class Keeper:\n    def __init__(self):\n        self.told = 1\n", "told"),
        ('COUNTER = "sagastream.nudge.count"\n', "nudge"),
    ],
)
def test_a_name_that_the_glossary_replaces_is_found(code: str, name: str, tmp_path: Path) -> None:
    """Classes, functions, fields, attributes and metrics are looked at."""
    check = load_script("check-names")
    module = tmp_path / "module.py"
    module.write_text(code)
    names = {found.strip("_") for _, found in check.names_of(module)}
    assert name in names & check.replaced()["src"]


def test_an_invariant_without_a_test_fails_the_check(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """When the last marker of an invariant is removed, the check names it."""
    check = load_script("check-invariants")
    numbers = sorted(set(check.INVARIANTS) - check.NOT_BUILT)
    marked = "".join(f"@pytest.mark.invariant({n})\ndef test_{n}(): ...\n" for n in numbers)
    tests = tmp_path / "tests"
    tests.mkdir()
    page = tmp_path / "invariants.md"
    page.write_text(f"{check.BEGIN}{check.END}")
    monkeypatch.setattr(check, "ROOT", tmp_path)
    monkeypatch.setattr(check, "PAGE", page)
    monkeypatch.setattr(sys, "argv", ["check-invariants.py"])

    (tests / "test_all.py").write_text(marked)
    assert check.main() == 0
    assert "`test_all.py::test_9`" in page.read_text()

    (tests / "test_all.py").write_text(marked.replace("@pytest.mark.invariant(9)\n", ""))
    assert check.main() == 1
    assert "[9]" in capsys.readouterr().err
