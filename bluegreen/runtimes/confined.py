"""What a container may do at most: no more than it needs, unless the settings loosen it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from bluegreen.settings import AppTable

NOBODY = "65532:65532"
"""Who runs what would otherwise be root: a number that no image gives to anybody, as others use it for this too."""


def confined(
    *,
    user: str | None = None,
    read_only: bool = True,
    tmpfs: Mapping[str, str] | None = None,
    cap_add: Sequence[str] = (),
    no_new_privileges: bool = True,
    pids_limit: int | None = None,
) -> dict[str, Any]:
    """The keywords of a container that has no capability but these, and can't get one."""
    return {
        "user": user,
        "read_only": read_only,
        "tmpfs": dict(tmpfs or {}),
        "cap_drop": ["ALL"],
        "cap_add": list(cap_add),
        "security_opt": ["no-new-privileges"] if no_new_privileges else [],
        "pids_limit": pids_limit,
    }


def unprivileged(client: Any, image: str, wanted: str | None) -> str:
    """Who runs this image: the user that is wanted, else the image's own unless that is root, else NOBODY.

    Raises docker.errors.ImageNotFound.
    """
    if wanted:
        return wanted
    own: str = (client.api.inspect_image(image).get("Config") or {}).get("User") or ""
    return NOBODY if is_root(own) else own


def is_root(user: str) -> bool:
    """Whether this `user` or `user:group` is root; nobody named is root, too."""
    name = user.partition(":")[0]
    return name in ("", "root") or (name.isdecimal() and int(name) == 0)


def loosened_by(words: str, app: AppTable) -> str:
    """The setting to look at when an app ends with such words; empty if they don't tell of what it may not do."""
    said = words.lower()
    if app.read_only and ("read-only file system" in said or "erofs" in said):
        return (
            "name what it writes in app.tmpfs, or in app.volumes if it is to be kept, or set app.read_only = false:"
            " its root file system is read-only"
        )
    if "permission denied" in said or "eacces" in said or "operation not permitted" in said or "eperm" in said:
        if app.user and is_root(app.user):
            return "give back what it needs with app.cap_add, such as CHOWN: its root has no capabilities"
        return (
            'give its user what it needs, or set app.user, such as "root", and app.cap_add: it has no capabilities, and'
            f" runs as {app.user or f'the user of its image, or {NOBODY} instead of root'}"
        )
    starved = ("resource temporarily unavailable", "can't start new thread", "unable to create native thread")
    if app.pids_limit and any(each in said for each in starved):
        return f"raise app.pids_limit: it may have {app.pids_limit} processes and threads"
    return ""
