"""The main job for real: v1 live, v2 over it under load, back to v1, and a broken v3 that is refused."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, os.fspath(ROOT / "tests"))

from load import Load  # noqa: E402  (the load program of the tests, which counts every outcome and never retries)

URL = "http://127.0.0.1:8080"
BETWEEN = 800
"""Requests between two steps, so that each release is seen at work."""


def bluegreen(*arguments: str, expect: int = 0) -> None:
    print(f"\n$ bluegreen {' '.join(arguments)}", flush=True)
    code = subprocess.run([sys.executable, "-m", "bluegreen", *arguments], cwd=ROOT, check=False).returncode
    if code != expect:
        sys.exit(f"the demo failed: exit code {code}, not {expect}")


def main() -> None:
    receipts = Path(tempfile.mkdtemp(prefix="bluegreen-demo-"))
    print("# v3 is built to end 3 seconds after it became ready", flush=True)
    build = ["docker", "build", "-q", "-t", "hippo_flask:v3", "--build-arg", "RELEASE=v3"]
    subprocess.run([*build, "--build-arg", "BROKEN=dies", os.fspath(ROOT / "app")], check=True)

    bluegreen("deploy", "v1")
    print("\n# from here on clients send requests and count: keep-alive, fresh, slow and streaming ones, some POST")
    with Load(URL, keepalive=20, fresh=4, slow=4, stream=2) as load:
        seen = load.wait_for_requests(BETWEEN).total
        for arguments, expect in (
            (["deploy", "v2"], 0),
            (["rollback"], 0),
            (["deploy", "v3"], 1),
        ):
            bluegreen(*arguments, "--receipt", os.fspath(receipts / f"{arguments[-1]}.json"), expect=expect)
            seen = load.wait_for_requests(seen + BETWEEN).total
        result = load.stop()

    bluegreen("status")
    print("\n# what the clients counted")
    print(result.explain())
    witnesses = [json.loads(file.read_text()) for file in receipts.glob("*.json")]
    failed = result.failed + sum(receipt["requests"]["failed"] for receipt in witnesses)
    print(f"\nthe receipts: {receipts}")
    print("look at it:   curl http://127.0.0.1:8080/version; .venv/bin/bluegreen watch; .venv/bin/bluegreen status")
    print("remove it:    make demo-down")
    if failed:
        sys.exit(f"the demo failed: {failed} requests failed")


if __name__ == "__main__":
    main()
