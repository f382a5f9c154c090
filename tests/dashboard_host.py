"""A host in memory whose service a dashboard can look at."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fakes import FakeLock, FakeProxy, FakeRuntime, World

from bluegreen.dashboard import Dashboard
from bluegreen.history import Kept
from bluegreen.service import Options, Service
from bluegreen.settings import Settings, load

FILE = """
service = "shop"
[app]
port = 9000
[probe]
body = "version {number}"
interval = "10ms"
timeout = "1s"
[bake]
seconds = 0
"""


class Unlocked(Service):
    """Whose lock is free."""

    def lock(self) -> Any:
        return FakeLock()


class Remembered:
    """A history that keeps receipts in memory."""

    def __init__(self) -> None:
        self.receipts: list[Any] = []
        self.read = 0

    def keep(self, receipt: Any) -> None:
        self.receipts.append(receipt)

    def runs(self) -> list[Kept]:
        self.read += 1
        return [Kept(f"{number:02}.json.gz", receipt) for number, receipt in enumerate(reversed(self.receipts))]


class Host:
    """A host in memory, on which the service of a settings file is opened."""

    def __init__(self, config: Path) -> None:
        self.world = World().has("v1", "v2", "v3")
        self.world.add_image("nginx:stable", "sha256:proxy")
        self.history = Remembered()
        self.config = config
        self.trouble: Exception | None = None
        self.opened = 0
        config.write_text(FILE)

    @contextmanager
    def open(self, settings: Settings) -> Iterator[Service]:
        self.opened += 1
        if self.trouble:
            raise self.trouble
        service = Unlocked(settings, None, FakeRuntime(self.world, settings), FakeProxy(self.world, settings))
        service.history = self.history  # type: ignore[assignment]
        yield service

    def deploy(self, release: str) -> None:
        with self.open(load(self.config)) as service:
            service.deploy(release, Options(witness=False), lambda event: None)

    def dashboard(self, **options: Any) -> Dashboard:
        return Dashboard(self.config, opened=self.open, **options)
