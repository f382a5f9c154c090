"""The report of real runs, opened in a real browser as a person does."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from browser import LOOKS, WIDTHS, Browser, chromium, pictures
from harness import Make


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


def look(browser: Browser, page: Path, name: str, screenshots: Path) -> None:
    """On a phone and on a desktop, in light and dark, the page asks for nothing and nothing is wrong with it."""
    for device, scheme in LOOKS:
        browser.open(page.as_uri(), width=WIDTHS[device], scheme=scheme)
        assert not browser.overflows(), (device, scheme)
        browser.screenshot(screenshots / f"{name}-{device}-{scheme}.png")
        browser.run("document.querySelectorAll('details').forEach(each => each.open = true)")
        assert not browser.overflows(), (device, scheme)
        assert browser.findings() == [], (device, scheme)
        assert browser.complaints == []
        assert browser.requests == [page.as_uri()]


def test_a_deploy_can_be_looked_at(make_service: Make, browser: Browser, tmp_path: Path) -> None:
    service = make_service(bake=2)
    service.deploy("v1")
    page = tmp_path / "report.html"
    receipt = service.deploy("v2", "--report", str(page))
    look(browser, page, "deploy", pictures(tmp_path))

    assert browser.title == f"{service.name}: deploy v1 → v2, done"
    total = receipt["requests"]["total"]
    for words in (
        "Deploy v1 → v2",
        f"v2 is live. None of the witness's {total} requests failed.",
        "The hand-over",
        "Latency before, during and after",
        "v2 answered 3 times in a row",
        f"removed {service.name}-blue-1",
        receipt["digest"],
        receipt["who"],
        service.url,
    ):
        assert words in browser.text, words
    drawn = browser.run(
        "return ['blue', 'green', 'failed'].map(colour =>"
        " [...document.querySelectorAll('#handover ~ svg .fill-' + colour)].map(bar => bar.getBoundingClientRect().x))"
    )
    old, new, failed = drawn
    assert max(old) < max(new)
    assert min(old) < min(new), "v1 on the left, v2 on the right"
    assert failed == []
    assert browser.run("return document.querySelectorAll('.steps li').length") == len(receipt["steps"])


def test_a_deploy_that_was_undone_says_why_on_its_page(make_service: Make, browser: Browser, tmp_path: Path) -> None:
    service = make_service(image="haproxy:3.2")
    service.deploy("v1")
    settings = service.directory / "bluegreen.toml"
    settings.write_text(settings.read_text().replace("seconds = 0.5", "seconds = 60"))
    page = tmp_path / "report.html"
    assert service.run("deploy", "v4-dies", "--report", str(page)).code == 1
    look(browser, page, "undone", pictures(tmp_path))
    for words in ("Undone", "It was undone: v1 still serves.", "undo switch", "BROKEN=dies: ending", "back to v1"):
        assert words in browser.text, words


def test_a_page_that_is_bad_is_found_to_be_so(browser: Browser, tmp_path: Path) -> None:
    page = tmp_path / "bad.html"
    page.write_text(
        "<!DOCTYPE html><title>bad</title><div style='width: 900px; color: #ccc'>pale</div>"
        "<img src='http://127.0.0.1:9/x.png'><script>console.error('oh')</script>"
    )
    browser.open(page.as_uri(), width=375)
    assert browser.requests == [page.as_uri(), "http://127.0.0.1:9/x.png"]
    assert any("oh" in words for words in browser.complaints)
    assert any("contrast" in words for words in browser.findings())
    assert browser.overflows()
