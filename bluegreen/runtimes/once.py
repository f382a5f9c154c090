"""A look around on an engine: a container that prints something, and is gone."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any

from docker.errors import APIError

from bluegreen.runtimes.confined import confined

LABEL = "bluegreen.once"


def output(client: Any, image: str, command: Sequence[str], *, of: str, **options: Any) -> bytes:
    """What a command of the image prints. Its container is gone, and so are those of `of` that killed runs left."""
    for left in client.containers.list(all=True, filters={"label": f"{LABEL}={of}"}, ignore_removed=True):
        if left.status != "running":
            with contextlib.suppress(APIError):  # it is ending by itself
                left.remove(v=True)
    options = {**confined(), **options, "labels": {LABEL: of}, "remove": True, "stdout": True, "stderr": True}
    raw: bytes = client.containers.run(image, list(command), entrypoint=[], **options)
    return raw
