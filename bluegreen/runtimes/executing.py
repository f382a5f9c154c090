"""Commands run in containers, of which everything is heard that they say.

The SDK's `exec_start` and `exec_run` read from the bare socket, which lacks what came in one piece with the answer's
head: the whole of a short output, now and then.
"""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Callable, Sequence
from typing import Any


def execute_in(api: Any, container: str, command: Sequence[str], hear: Callable[[int, bytes], None]) -> int | None:
    """The command has run there, and `hear` was called with each piece of its output and the stream that it came on.

    Gives the exit status, or None if the engine has lost sight of it. Raises APIError, and what the connection raises
    when the answer breaks off.
    """
    run = api.exec_create(container, list(command))["Id"]
    url, how = api._url("/exec/{0}/start", run), {"Detach": False, "Tty": False}
    response = api._post_json(url, data=how, stream=True, timeout=None)
    api._raise_for_status(response)
    with contextlib.closing(response):
        while len(head := response.raw.read(8)) == 8:
            stream, length = struct.unpack(">BxxxL", head)
            hear(stream, response.raw.read(length))
    code: int | None = api.exec_inspect(run)["ExitCode"]
    return code


def said_in(container: Any, command: Sequence[str]) -> str:
    """What a short command says in a container of the SDK's, on either stream."""
    pieces: list[bytes] = []
    execute_in(container.client.api, container.id, command, lambda _, piece: pieces.append(piece))
    return b"".join(pieces).decode(errors="replace")
