"""A client that a cookie ties to a replica: it stays there, and moves at the switch without losing a request."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator

import httpx
import pytest
from harness import FULL, HAPROXY, MODES, Make, TestService, eventually

COOKIE = '[proxy.haproxy.cookie]\nname = "SERVERID"'


class StickyClient:
    """Asks one request after the other with the cookies it was given, never again after a failure."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.answers: list[tuple[str, str]] = []
        """The release and the replica that each answer is from."""
        self.failures: list[str] = []

    def __enter__(self) -> StickyClient:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def goes_on(self, answers: int = 20) -> None:
        """It has got so many more answers."""
        wanted = len(self.answers) + answers
        eventually(lambda: len(self.answers) >= wanted or bool(self.failures), f"{answers} more answers")

    def _run(self) -> None:
        with httpx.Client(timeout=30, trust_env=False) as client:
            while not self._ended.wait(0.01):
                try:
                    answer = client.get(f"{self._url}/version")
                    answer.raise_for_status()
                except httpx.HTTPError as error:
                    self.failures.append(repr(error))
                else:
                    self.answers.append((answer.headers["X-Release"], answer.headers["X-Replica"]))


def replicas(service: TestService, asked: int = 12) -> Iterator[str]:
    """Who answers clients that have no cookie."""
    return (service.get().headers["X-Replica"] for _ in range(asked))


@pytest.mark.parametrize(
    ("haproxy", "switch"), list(itertools.product(HAPROXY, MODES)) if FULL else [("haproxy:2.6", "live")]
)
def test_a_sticky_client_stays_until_the_switch_and_moves_then_without_a_failure(
    make_service: Make, haproxy: str, switch: str
) -> None:
    service = make_service(image=haproxy, switch=switch, app="replicas = 2", proxy=COOKIE)
    service.deploy("v1")
    assert len(set(replicas(service))) == 2, "without a cookie, both replicas are met"

    with StickyClient(service.url) as client:
        client.goes_on()
        assert len(set(client.answers)) == 1, "nothing is switched, and it stays where it is"
        service.deploy("v2")
        switched = len(client.answers)
        client.goes_on()
        back = len(client.answers)
        service.rollback()
        rolled_back = len(client.answers)
        client.goes_on()

    assert client.failures == []
    before, after, again = client.answers[0], client.answers[switched + 1 : back], client.answers[rolled_back + 1 :]
    assert before[0] == "v1"
    assert {release for release, _ in after} == {"v2"}
    assert len(set(after)) == 1, "it is tied to a replica of the new release"
    assert {release for release, _ in again} == {"v1"}
    releases = [release for release, _ in client.answers]
    changes = sum(one != other for one, other in itertools.pairwise(releases))
    assert changes == 2, "it does not go to and fro between releases"


def test_the_cookie_names_the_colour_and_the_replica(make_service: Make) -> None:
    service = make_service(
        image="haproxy:3.2",
        app="replicas = 2",
        proxy=f'[proxy.haproxy.server]\ncookie_prefix = "portal_"\n{COOKIE}',
    )
    service.deploy("v1")
    met = {service.get().cookies["SERVERID"] for _ in range(6)}
    assert met == {"portal_blue1", "portal_blue2"}
    strange = service.get(cookies={"SERVERID": "portal_green9"})
    assert strange.status_code == 200
    assert strange.cookies["SERVERID"] in met, "a value that nobody has is replaced"
