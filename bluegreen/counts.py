"""What the witness has counted so far, told while a run goes on."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from bluegreen.model import Event
from bluegreen.witness import Witness

EVERY = 0.25
"""Seconds between two events."""


@contextmanager
def counts_told(witness: Witness | None, host: str, tell: Callable[[Event], None]) -> Iterator[None]:
    """Inside, `tell` gets the witness's counts every quarter of a second, once it has any; None has none."""
    if witness is None:
        yield
        return
    over = threading.Event()

    def repeat() -> None:
        while not over.wait(EVERY):
            counts = witness.counts()
            if counts["total"]:
                tell(Event("witness", "counts", host, data=counts))

    thread = threading.Thread(target=repeat, name="counts", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
