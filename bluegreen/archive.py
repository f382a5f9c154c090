"""Files as a container takes and gives them: packed into a tar."""

from __future__ import annotations

import io
import tarfile
import time
from collections.abc import Mapping
from typing import Any


def pack(files: Mapping[str, bytes], *, mode: int, owner: int = 0) -> bytes:
    """A tar of `files` by their paths, each with this mode and owner, behind the directories that they stand in.

    Those are open to all. A path that ends in a slash is a directory alone.
    """
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for directory in sorted({path.rpartition("/")[0] for path in files if "/" in path}):
            entry = tarfile.TarInfo(directory)
            entry.type, entry.mode = tarfile.DIRTYPE, 0o755
            tar.addfile(entry)
        for path, content in files.items():
            if not path.endswith("/"):
                entry = tarfile.TarInfo(path)
                entry.size, entry.mode, entry.uid, entry.mtime = len(content), mode, owner, int(time.time())
                tar.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


def read(container: Any, path: str) -> dict[str, bytes]:
    """The content of the files at this path of a container, running or not, by their paths.

    The paths begin with the last name of `path`. Raises NotFound if there is no such path.
    """
    pieces, _ = container.get_archive(path)
    with tarfile.open(fileobj=io.BytesIO(b"".join(pieces))) as tar:
        found = ((entry.name, tar.extractfile(entry)) for entry in tar if entry.isfile())
        return {name: file.read() for name, file in found if file}
