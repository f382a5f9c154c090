"""Nothing is in flight to the old colour any more: counted, not guessed."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from bluegreen.model import Endpoint
from bluegreen.proxies import Proxy

TELL = 1.0
"""Seconds between two words on how many are left."""


def drain(
    proxy: Proxy, endpoints: Sequence[Endpoint], *, timeout: float, progress: Callable[[str], None] = lambda words: None
) -> int:
    """How many connections were still at work on the endpoints after `timeout` seconds; 0 as soon as none is."""
    deadline = time.monotonic() + timeout
    told = time.monotonic()
    while (count := proxy.in_flight(endpoints)) and time.monotonic() < deadline:
        if time.monotonic() - told > TELL:
            progress(f"{count} in flight")
            told = time.monotonic()
        time.sleep(0.1)
    return count
