"""What is read out of what programs say."""

from __future__ import annotations

import re


def version(words: str) -> str:
    """The first version in what a program says of itself."""
    found = re.search(r"\d+(?:\.\d+)+", words)
    return found[0] if found else "unknown"


def requests_a_second(words: str) -> tuple[float, int]:
    """What wrk has counted, and how many it were in all. Raises RuntimeError if it tells of errors."""
    rate = re.search(r"^Requests/sec:\s*([0-9.]+)", words, re.MULTILINE)
    count = re.search(r"^\s*([0-9]+) requests in ", words, re.MULTILINE)
    if not rate or not count or "Non-2xx" in words or "Socket errors" in words:
        raise RuntimeError(f"wrk says: {words}")
    return float(rate[1]), int(count[1])
