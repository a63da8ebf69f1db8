#!/usr/bin/env python3
"""Look for known vulnerabilities of the packages in requirements.lock.

    .venv/bin/python scripts/audit.py

Exit code 1 if a package has one that has a fix. Where the data cannot be had, as without a network
or behind an index that has none, it says so and exits with 0: nothing was checked then.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

LOCK = Path(__file__).resolve().parent.parent / "requirements.lock"
_TIMEOUT_S = 300


def audit(lock: Path) -> tuple[str, str]:
    """Run pip-audit on a lock file; return what it prints, and its errors."""
    command = [
        *(sys.executable, "-m", "pip_audit", "--requirement", str(lock), "--disable-pip"),
        *("--require-hashes", "--format", "json", "--progress-spinner", "off"),
    ]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=_TIMEOUT_S
        )
    except subprocess.TimeoutExpired:
        return "", f"no answer within {_TIMEOUT_S} s"
    return done.stdout, done.stderr


def verdict(out: str, error: str) -> tuple[int, list[str]]:
    """Return the exit code, and what to print, for what pip-audit has printed."""
    try:
        checked: list[dict[str, Any]] = json.loads(out)["dependencies"]
    except (ValueError, KeyError, TypeError):
        last = (error.strip().splitlines() or ["it printed nothing"])[-1]
        return 0, [f"audit skipped, nothing was checked: {last[:300]}"]
    skipped = [each["name"] for each in checked if "skip_reason" in each]
    known = len(checked) - len(skipped)
    if not known:
        return 0, ["audit skipped, nothing was checked: the index has no data of any package"]
    lines = [
        f"{each['name']} {each['version']}: {found['id']}"
        + (f", fixed in {', '.join(found['fix_versions'])}" if found["fix_versions"] else "")
        for each in checked
        for found in each.get("vulns", ())
    ]
    is_fixable = any(found["fix_versions"] for each in checked for found in each.get("vulns", ()))
    if skipped:
        lines.append(f"not checked: {', '.join(skipped)}")
    return int(is_fixable), [*lines, f"{known} of {len(checked)} packages were checked"]


def main() -> int:
    """Print what is known."""
    code, lines = verdict(*audit(LOCK))
    print("\n".join(lines))
    return code


if __name__ == "__main__":
    sys.exit(main())
