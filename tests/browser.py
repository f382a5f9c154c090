"""A page in a real, headless Chromium: what it says and fetches, what it looks like, and what axe-core finds in it."""

from __future__ import annotations

import base64
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from harness import FULL, REPOSITORY
from selenium import webdriver
from selenium.webdriver.chrome.service import Service

AXE = REPOSITORY / ".lab/browser/node_modules/axe-core/axe.min.js"
WIDTHS = {"phone": 375, "desktop": 1200}
EVERY_LOOK = [(device, scheme) for device in WIDTHS for scheme in ("light", "dark")]
LOOKS = EVERY_LOOK if FULL or os.environ.get("BLUEGREEN_SCREENSHOTS") else [("phone", "light"), ("desktop", "dark")]
"""The devices and colour schemes that a page is looked at on."""
SERIOUS = ("serious", "critical")


class Browser:
    """One tab. Everything that it has asked for and complained about since the last `open` is remembered."""

    def __init__(self, driver: webdriver.Chrome) -> None:
        self._driver = driver
        self._width = 0
        self.requests: list[str] = []
        self.complaints: list[str] = []

    def open(self, url: str, *, width: int = 1200, scheme: str = "light") -> None:
        """The page is loaded, seen on a screen of this width by somebody who prefers the scheme."""
        self._width = width
        command = self._driver.execute_cdp_cmd
        metrics = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 600}
        command("Emulation.setDeviceMetricsOverride", metrics)
        command("Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": scheme}]})
        self._listen()
        self.requests.clear()
        self.complaints.clear()
        self._driver.get(url)
        self._listen()

    @property
    def title(self) -> str:
        return self._driver.title

    @property
    def text(self) -> str:
        """What can be read on the page as it is shown now, spaces and line ends as one space."""
        return " ".join(self.run("return document.body.innerText").split())

    def run(self, script: str, *arguments: Any) -> Any:
        """What the script returns, run in the page."""
        found = self._driver.execute_script(script, *arguments)
        self._listen()
        return found

    def overflows(self) -> bool:
        """Whether the page is wider than its screen, so that a reader has to move it sideways."""
        width = self.run("return document.documentElement.scrollWidth")
        assert isinstance(width, int)
        return width > self._width

    def findings(self) -> list[str]:
        """What axe-core finds serious or critical, each with the elements that it is about."""
        self.run(AXE.read_text(encoding="utf-8"))
        violations = self._driver.execute_async_script(
            "const done = arguments[0]; axe.run().then(found => done(found.violations), error => done(String(error)))"
        )
        assert isinstance(violations, list), violations
        return [
            f"{each['impact']}: {each['help']}: {[node['html'] for node in each['nodes']]}"
            for each in violations
            if each["impact"] in SERIOUS
        ]

    def screenshot(self, file: Path) -> None:
        """The whole page, as it is shown now, is in the file."""
        shot = self._driver.execute_cdp_cmd("Page.captureScreenshot", {"captureBeyondViewport": True})
        file.write_bytes(base64.b64decode(shot["data"]))

    def _listen(self) -> None:
        for entry in self._driver.get_log("performance"):
            event = json.loads(entry["message"])["message"]
            if event["method"] == "Network.requestWillBeSent":
                self.requests.append(event["params"]["request"]["url"])
        self.complaints += [entry["message"] for entry in self._driver.get_log("browser")]


@contextmanager
def chromium() -> Iterator[Browser]:
    """A Chromium that ends with the block."""
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or shutil.which("google-chrome") or "/usr/bin/chromium"
    # As root, which CI often is, Chromium has no sandbox; /dev/shm is small in a container.
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--hide-scrollbars"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver") or "/usr/bin/chromedriver"))
    try:
        yield Browser(driver)
    finally:
        driver.quit()


def pictures(fallback: Path) -> Path:
    """The directory for screenshots, which is there."""
    directory = Path(os.environ.get("BLUEGREEN_SCREENSHOTS") or fallback)
    directory.mkdir(parents=True, exist_ok=True)
    return directory
