"""What is read out of what programs say."""

from __future__ import annotations

import re


def version(words: str) -> str:
    """The first version in what a program says of itself."""
    found = re.search(r"\d+(?:\.\d+)+", words)
    return found[0] if found else "unknown"


def requests_a_second(words: str) -> float:
    """What wrk has counted. Raises RuntimeError if it tells of errors."""
    found = re.search(r"^Requests/sec:\s*([0-9.]+)", words, re.MULTILINE)
    if not found or "Non-2xx" in words or "Socket errors" in words:
        raise RuntimeError(f"wrk says: {words}")
    return float(found[1])
