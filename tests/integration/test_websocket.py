"""WebSockets: they pass, they survive a switch until the drain gives up, and the receipt counts them."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
from aftermath import Followed
from harness import Make, eventually, ways
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

APP = f"""command = ["python3", "/srv/app.py"]
volumes = ["{Path(__file__).parents[1] / "websocket_app.py"}:/srv/app.py:ro"]
stop_timeout = "2s"
"""


def said(socket: ClientConnection, words: str = "hello") -> str:
    """What comes back."""
    socket.send(words)
    return str(socket.recv(timeout=10))


@pytest.mark.parametrize(("image", "switch"), ways(3))
def test_an_open_websocket_survives_the_switch_until_the_drain_gives_up_and_is_counted(
    make_service: Make, image: str, switch: str
) -> None:
    service = make_service(image=image, switch=switch, app=APP, extra='[retire]\ndrain_timeout = "4s"')
    service.deploy("v1")
    address = service.url.replace("http:", "ws:") + "/"
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(connect(address, open_timeout=10, proxy=None)) for _ in range(3)]
        assert [said(each) for each in sockets] == ["v1 hello"] * 3

        deploying = Followed(service, "deploy", "v2")
        eventually(lambda: service.get().text == "version 2\n", "v2 answers")
        assert [said(each) for each in sockets] == ["v1 hello"] * 3, "what is open stays with the old release"
        with connect(address, open_timeout=10, proxy=None) as new:
            assert said(new) == "v2 hello"
            deploying.until("switch", "done")  # by then those that are open have been counted
            sockets[0].close()
            ran = deploying.end()
            assert ran.code == 0, ran.text
            assert said(new) == "v2 hello", "those of the new release live on"
        for each in sockets[1:]:
            with pytest.raises(ConnectionClosed):
                said(each)
    receipt = deploying.receipt()
    assert receipt["websockets"] == {"open": 3, "closed": 2}
    assert receipt["requests"]["failed"] == 0
    assert "3 WebSockets were open at the switch, 2 were closed" in service.ok("receipt").out
