"""The receipts of a service's latest runs, kept with it on its host, for people: nothing is ever decided by them.

They lie in a volume of the service's own, which is reached through a container that is never started: so nothing runs
between two commands, and every machine that reaches the engine sees the same.
"""

from __future__ import annotations

import contextlib
import gzip
import io
import json
import re
import tarfile
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from docker.errors import APIError, ImageNotFound, NotFound

from bluegreen import archive
from bluegreen.errors import Failed
from bluegreen.words import plain

KEPT = 100
"""How many runs are kept; the next takes the place of the oldest."""

SIZE_LIMIT = 64 << 10
"""Bytes of one receipt as it lies there; a larger one goes without what is long in it."""

TEXT_LIMIT = 4 << 20
"""Characters of a receipt that is read back."""

VOLUME_LIMIT = KEPT * (SIZE_LIMIT + 2048)
"""Bytes that are read back of the volume, whatever else somebody has put there."""

ROOT = "/history"
_FILE = re.compile(r"[0-9]{2}\.json\.gz")
_RUN = re.compile(r"[0-9A-Za-z._-]{1,64}")


@dataclass(frozen=True)
class Kept:
    """What is kept of one run, in a file of this name: its receipt, or None if that is damaged."""

    file: str
    receipt: dict[str, Any] | None

    @property
    def run(self) -> str:
        return str(self.receipt["run"]) if self.receipt else ""


class History:
    """The history of one service on one engine. What is read back of it is not trusted."""

    def __init__(self, client: Any, service: str, image: str) -> None:
        self._client = client
        self._service = service
        self._image = image
        self._name = f"bluegreen-history-{service}"

    def keep(self, receipt: Mapping[str, Any]) -> None:
        """The run's receipt is kept, in the place of the oldest if there are many. For the holder of the lock."""
        container = self._find() or self._make()
        file = _free_place(_read(container))
        container.put_archive(ROOT, archive.pack({file: pack(receipt)}, mode=0o600))

    def runs(self) -> list[Kept]:
        """What is kept, the latest run first and what is damaged last."""
        container = self._find()
        found = _read(container) if container else []
        return sorted(found, key=lambda kept: kept.run, reverse=True)

    def remove(self) -> list[str]:
        """Nothing is kept any more. Says what is gone."""
        with contextlib.suppress(NotFound):
            container = self._client.containers.get(self._name)
            if not self._owns(container.labels):
                return []
            container.remove(force=True)
        with contextlib.suppress(NotFound):
            volume = self._client.volumes.get(self._name)
            if self._owns(volume.attrs["Labels"]):
                volume.remove()
                return [f"volume {self._name}"]
        return []

    def _find(self) -> Any | None:
        """What the volume is reached through; None if there is no volume."""
        with contextlib.suppress(NotFound):
            container = self._client.containers.get(self._name)
            if not self._owns(container.labels):
                raise Failed(
                    f"the container {self._name} is not the history's", hint=f"docker rename {self._name} NEW_NAME"
                )
            return container
        with contextlib.suppress(NotFound):
            self._client.volumes.get(self._name)
            return self._make()
        return None

    def _owns(self, labels: Mapping[str, str] | None) -> bool:
        return (labels or {}).get("bluegreen.history") == self._service

    def _make(self) -> Any:
        labels = {"bluegreen.history": self._service}
        self._client.volumes.create(self._name, labels=labels)
        try:
            return self._client.containers.create(
                self._image,
                ["true"],
                name=self._name,
                labels=labels,
                network_mode="none",
                volumes={self._name: {"bind": ROOT, "mode": "rw"}},
            )
        except ImageNotFound as error:
            raise Failed(
                f"the history is reached by way of {self._image}, which is not here", hint=f"docker pull {self._image}"
            ) from error
        except APIError as error:
            if error.status_code != 409:  # another command has just made it
                raise
            return self._client.containers.get(self._name)


def pack(receipt: Mapping[str, Any]) -> bytes:
    """The receipt as it is kept: without its series, and with short words for its steps, if it is too large else."""
    shorter = {**receipt, "series": None}
    short = {
        **shorter,
        "reason": str(receipt["reason"])[:2000],
        **{key: [str(words)[:200] for words in receipt[key][:20]] for key in ("leftover", "warnings")},
        "requests": {**receipt["requests"], "failures": receipt["requests"]["failures"][:20]},
        "steps": [{**step, "detail": str(step["detail"])[:200]} for step in receipt["steps"][:100]],
    }
    packed = b""
    for each in (receipt, shorter, short):
        packed = gzip.compress(json.dumps(each, ensure_ascii=False).encode(errors="replace"), mtime=0)
        if len(packed) <= SIZE_LIMIT:
            break
    return packed


def unpack(data: bytes) -> dict[str, Any] | None:
    """The receipt that `pack` was given, without anything that a terminal would act on; None for anything else."""
    try:
        unzip = zlib.decompressobj(zlib.MAX_WBITS | 16)
        text = unzip.decompress(data, TEXT_LIMIT)
        if not unzip.eof:  # half of it, or a bomb
            return None
        receipt = _plain(json.loads(text))
    except (ValueError, RecursionError, zlib.error):
        return None
    known = isinstance(receipt, dict) and isinstance(receipt.get("run"), str) and _RUN.fullmatch(receipt["run"])
    return receipt if known else None


def summary(receipt: Mapping[str, Any]) -> dict[str, Any]:
    """The run in a line. Raises KeyError, TypeError or ValueError if it is not quite a receipt."""
    requests = receipt["requests"]
    return {
        **{key: receipt[key] for key in SUMMARY},
        "seconds": None if receipt["seconds"] is None else float(receipt["seconds"]),
        "requests": int(requests["total"]),
        "failed": int(requests["failed"]),
    }


SUMMARY = ("run", "action", "from", "to", "result", "reason", "started", "seconds", "who")


def line(kept: Kept) -> dict[str, Any]:
    """What a list of runs shows of one; nothing but that it is damaged, if it is."""
    try:
        return {**summary(kept.receipt or {}), "damaged": False}
    except (KeyError, OverflowError, TypeError, ValueError):
        nothing = {**dict.fromkeys(SUMMARY), "requests": 0, "failed": 0}
        return {**nothing, "run": kept.run or kept.file, "damaged": True}


def _plain(value: Any) -> Any:
    if isinstance(value, str):
        return plain(value)
    if isinstance(value, list):
        return [_plain(each) for each in value]
    if isinstance(value, dict):
        return {plain(key): _plain(each) for key, each in value.items()}
    return value


def _free_place(found: list[Kept]) -> str:
    """The file for the next run: a free one, else a damaged one, else that of the oldest run."""
    taken = {kept.file for kept in found}
    free = next((file for number in range(KEPT) if (file := f"{number:02}.json.gz") not in taken), None)
    return free or min(found, key=lambda kept: kept.run).file


def _read(container: Any) -> list[Kept]:
    """What lies in the volume, as far as it can be read."""
    pieces, _ = container.get_archive(ROOT)
    raw = bytearray()
    with contextlib.closing(pieces):
        for piece in pieces:
            raw += piece
            if len(raw) > VOLUME_LIMIT:
                break
    return list(_entries(bytes(raw)))


def _entries(raw: bytes) -> Iterator[Kept]:
    with contextlib.suppress(tarfile.TarError, EOFError), tarfile.open(fileobj=io.BytesIO(raw)) as tar:
        for entry in tar:
            file = entry.name.rpartition("/")[2]
            if _FILE.fullmatch(file):
                content = tar.extractfile(entry) if entry.isfile() and entry.size <= SIZE_LIMIT else None
                yield Kept(file, unpack(content.read()) if content else None)
