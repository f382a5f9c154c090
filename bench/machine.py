"""The machine and the versions that figures belong to; no name of the machine."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ground import HAPROXY, NGINX, NGINX_OLD, REPOSITORY
from said import version


def machine(client: Any) -> dict[str, str]:
    """What RESULTS.md says of it."""
    cpu = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    memory = re.search(r"^MemTotal:\s*(\d+)", Path("/proc/meminfo").read_text(), re.MULTILINE)
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=REPOSITORY, text=True, capture_output=True
    ).stdout.strip()
    facts = {
        "date": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        "load average before": " ".join(f"{each:.2f}" for each in os.getloadavg()),
        "processor": f"{cpu[1] if cpu else platform.machine()}, {os.cpu_count()} cores",
        "memory": f"{int(memory[1]) / 1e6:.0f} GB" if memory else "unknown",
        "Linux": ".".join(platform.release().split(".")[:2]),
        "Docker": client.version()["Version"],
        "Python": platform.python_version(),
        "bluegreen": commit or "of no known commit",
    }
    for image, command in ((NGINX, "nginx -v"), (NGINX_OLD, "nginx -v"), (HAPROXY, "haproxy -v")):
        words = _said(client, image, command)
        facts[image] = version(words)
    facts["Caddy"] = version(_said(client, "bluegreen-lab/caddy", "caddy version"))
    facts["Docker Compose"] = version(_said(client, "bluegreen-lab/compose", "version", entrypoint=None))
    return facts


def _said(client: Any, image: str, command: str, **options: Any) -> str:
    labels = {"bluegreen.test": "bench"}
    said = client.containers.run(image, command, remove=True, labels=labels, stdout=True, stderr=True, **options)
    return str(said.decode(errors="replace"))
