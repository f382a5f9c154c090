"""Who is told of a run that is over. None of them changes how it ended, or keeps it from ending for long."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping

from bluegreen.errors import BluegreenError

PATIENCE = 5.0
"""Seconds that all of them together may take."""


def tell_all(listeners: Mapping[str, Callable[[], object]], say: Callable[[str, str], None]) -> None:
    """Each listener was called, all at once. One that failed, or that is still at it, is said by its name and why."""
    calls = [_Call(name, listener) for name, listener in listeners.items()]
    deadline = time.monotonic() + PATIENCE
    for call in calls:
        call.join(max(0.0, deadline - time.monotonic()))
        if call.is_alive():
            say(call.name, f"not told of this run: no answer within {PATIENCE:g} s")
        elif call.why:
            say(call.name, f"not told of this run: {call.why}")


class _Call(threading.Thread):
    """A call that the end of the program does not wait for."""

    def __init__(self, name: str, work: Callable[[], object]) -> None:
        super().__init__(name=name, daemon=True)
        self._work = work
        self.why = ""
        self.start()

    def run(self) -> None:
        try:
            self._work()
        except Exception as error:
            words = error.message if isinstance(error, BluegreenError) else f"{type(error).__name__}: {error}"
            self.why = " ".join(words.split())[:300]
