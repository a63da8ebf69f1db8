"""Describe the machine of the measurements, without its name."""

import os
import platform
from importlib.metadata import version
from pathlib import Path

from performance_server import Valkey


def machine() -> dict[str, str]:
    """Return processor, kernel, and the versions of Python and the server."""
    models = [
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    ]
    with Valkey() as server:
        about = server.client().info("server")
    return {
        "cpu": models[0] if models else platform.machine(),
        "cores": str(os.cpu_count()),
        "kernel": f"{platform.system()} {platform.release().partition('-')[0]}",
        "python": platform.python_version(),
        "server": f"Valkey {about.get('valkey_version') or about['redis_version']}",
        "redis-py": f"{version('redis')} with hiredis {version('hiredis')}",
    }
