"""What a container is given and gives back as a tar."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator
from typing import Any

from bluegreen import archive


class Engine:
    """What the engine answers for a container's path: a tar in pieces, of any kind of entry."""

    def __init__(self, entries: list[tuple[tarfile.TarInfo, bytes]]) -> None:
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w") as tar:
            for entry, content in entries:
                entry.size = len(content)
                tar.addfile(entry, io.BytesIO(content))
        self._tar = buffer.getvalue()

    def get_archive(self, path: str) -> tuple[Iterator[bytes], dict[str, Any]]:
        return (self._tar[start : start + 700] for start in range(0, len(self._tar), 700)), {"name": path}


def entries(packed: bytes) -> list[tarfile.TarInfo]:
    with tarfile.open(fileobj=io.BytesIO(packed)) as tar:
        return tar.getmembers()


def test_files_have_the_mode_and_owner_and_stand_behind_their_directories() -> None:
    packed = archive.pack({"b/c/x": b"1", "a": b"", "b/c/y": b"22", "only/": b""}, mode=0o400, owner=1000)
    found = [(entry.name, entry.isdir(), entry.size, entry.mode, entry.uid) for entry in entries(packed)]
    assert found == [
        ("b/c", True, 0, 0o755, 0),
        ("only", True, 0, 0o755, 0),
        ("b/c/x", False, 1, 0o400, 1000),
        ("a", False, 0, 0o400, 1000),
        ("b/c/y", False, 2, 0o400, 1000),
    ]


def test_what_is_packed_is_read_again_and_nothing_but_files() -> None:
    directory, link, file = (tarfile.TarInfo(name) for name in ("etc", "etc/link", "etc/passwd"))
    directory.type, link.type, link.linkname = tarfile.DIRTYPE, tarfile.SYMTYPE, "/etc/shadow"
    content = b"\0\xff" * 2000
    assert archive.read(Engine([(directory, b""), (link, b""), (file, content)]), "/etc") == {"etc/passwd": content}
