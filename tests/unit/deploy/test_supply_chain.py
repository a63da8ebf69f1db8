"""What a release consists of: its bill of materials, and known vulnerabilities of its packages."""

import json
import os
import re
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from app.config import ROOT
from tests.scripts import load_script

pytestmark = pytest.mark.blocking

_LOCK = (ROOT / "requirements.lock").read_text()
_MADE = datetime(2026, 11, 1, tzinfo=UTC)


@pytest.fixture(scope="module")
def sbom() -> ModuleType:
    """The script that prints the bill of materials."""
    return load_script("sbom")


@pytest.fixture(scope="module")
def bill(sbom: ModuleType) -> dict[str, Any]:
    """The bill of materials of the lock file."""
    return dict(json.loads(sbom.bill(_LOCK, made=_MADE)))


def test_every_package_of_the_lock_file_is_in_the_bill(bill: dict[str, Any]) -> None:
    """With its version, and the hashes that the lock file allows."""
    locked = re.findall(r"^([A-Za-z0-9._-]+)(?:\[.*?\])?==(\S+)", _LOCK, re.MULTILINE)
    assert len(locked) > 100
    assert (bill["bomFormat"], bill["specVersion"]) == ("CycloneDX", "1.6")
    listed = {(each["name"], each["version"]): each for each in bill["components"]}
    assert len(listed) == len(bill["components"])
    assert listed.keys() == {(name.lower(), version) for name, version in locked}
    for (name, version), component in listed.items():
        assert component["purl"] == f"pkg:pypi/{name}@{version}"
        (files,) = component["externalReferences"]
        assert files["hashes"]
        assert all(each["content"] in _LOCK for each in files["hashes"])


def test_the_bill_says_what_is_needed_and_by_what(bill: dict[str, Any]) -> None:
    """What only development needs is excluded."""
    scopes = {each["name"]: each["scope"] for each in bill["components"]}
    assert {scopes[name] for name in ("redis", "celery", "numpy", "fastapi", "h11")} == {"required"}
    assert {scopes[name] for name in ("schemathesis", "mypy", "pip-audit")} == {"excluded"}
    needs = {each["ref"]: each.get("dependsOn", []) for each in bill["dependencies"]}
    assert any(ref.startswith("redis==") for ref in needs["sagastream"])
    (celery,) = (ref for ref in needs if ref.startswith("celery=="))
    assert any(ref.startswith("kombu==") for ref in needs[celery])
    licences = {each["name"]: each.get("licenses") for each in bill["components"]}
    assert licences["fastapi"]


def test_the_same_lock_file_has_the_same_bill(sbom: ModuleType, bill: dict[str, Any]) -> None:
    """Another one has another serial number."""
    assert json.loads(sbom.bill(_LOCK, made=_MADE)) == bill
    other = json.loads(sbom.bill(_LOCK + "\n", made=_MADE))
    assert other["serialNumber"] != bill["serialNumber"]


def test_a_package_without_a_hash_is_refused(sbom: ModuleType) -> None:
    """The lock file allows any file then."""
    with pytest.raises(ValueError, match="amqp has no hash"):
        list(sbom.packages("amqp==5.4.2\n    # via kombu\n"))


def _answer(*dependencies: dict[str, Any]) -> str:
    return json.dumps({"dependencies": dependencies, "fixes": []})


_WELL = {"name": "a", "version": "1", "vulns": []}
_BAD = {"name": "b", "version": "2", "vulns": [{"id": "PYSEC-1", "fix_versions": ["3"]}]}
_NO_FIX = {"name": "c", "version": "4", "vulns": [{"id": "PYSEC-2", "fix_versions": []}]}
_UNKNOWN = {"name": "d", "skip_reason": "Dependency not found on PyPI"}


@pytest.mark.parametrize(
    ("out", "code", "said"),
    [
        (_answer(_WELL), 0, "1 of 1 packages were checked"),
        (_answer(_WELL, _BAD), 1, "b 2: PYSEC-1, fixed in 3"),
        (_answer(_NO_FIX), 0, "c 4: PYSEC-2"),
        (_answer(_WELL, _UNKNOWN), 0, "not checked: d"),
        # pip-audit calls this one "No known vulnerabilities found".
        (_answer(_UNKNOWN), 0, "audit skipped, nothing was checked"),
        ("", 0, "audit skipped, nothing was checked: ConnectionError"),
        ("[]", 0, "audit skipped, nothing was checked"),
    ],
)
def test_an_audit_says_what_was_checked(out: str, code: int, said: str) -> None:
    """No data is no finding, and is not said to be well."""
    found, lines = load_script("audit").verdict(out, "Traceback\nConnectionError: no route")
    assert found == code
    assert said in "\n".join(lines)


def test_a_release_has_its_bill_and_hashes(tmp_path: Path) -> None:
    """Beside the wheel and the source archive; a folder with something in it is left alone."""
    out = tmp_path / "dist"
    command = [ROOT / "scripts" / "release.sh", out]
    env = os.environ | {"PYTHONWARNINGS": ""}
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    names = sorted(path.name for path in out.iterdir())
    assert [re.sub(r"\d+\.\d+\.\d+", "V", name) for name in names] == [
        *("SHA256SUMS", "sagastream-V-py3-none-any.whl", "sagastream-V.cdx.json"),
        "sagastream-V.tar.gz",
    ]
    checked = subprocess.run(
        ["sha256sum", "--check", "SHA256SUMS"], cwd=out, capture_output=True, check=False
    )
    assert checked.returncode == 0
    again = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert again.returncode == 1
    assert "is not empty" in again.stderr
