"""What can go wrong, each with the exit code and the words that a person needs."""

from __future__ import annotations

from typing import Any


class BluegreenError(Exception):
    """Ends the command: `message` says what is wrong and what is true now, `hint` what to do next."""

    exit_code = 1

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.receipt: dict[str, Any] | None = None
        """The receipt of the run that this error ended, if it had begun."""


class Failed(BluegreenError):
    """A step failed; what it and the steps before it made has been, or is about to be, undone."""

    exit_code = 1


class HostLost(Failed):
    """One of several hosts does not answer any more; what is done from now on is done without it."""


class UsageError(BluegreenError):
    """The command line can't be meant as it stands."""

    exit_code = 2


class SettingsError(BluegreenError):
    """The settings file is missing, broken, or asks for what can't be."""

    exit_code = 3


class Locked(BluegreenError):
    """Another run holds this service's lock."""

    exit_code = 4


class NeedsPerson(BluegreenError):
    """Something could not be put back; nothing more is done without a person."""

    exit_code = 5


class Unexpected(BluegreenError):
    """An error that nobody foresaw: its cause, with where it came from, goes into a log file for a person to read."""

    exit_code = 5

    def __init__(self, cause: BaseException) -> None:
        words = " ".join(f"{type(cause).__name__}: {cause}".split())
        super().__init__(f"unexpected: {words if len(words) <= 300 else words[:299] + '…'}", hint="bluegreen status")
        self.__cause__ = cause


class Interrupted(BluegreenError):
    """Ctrl-C or SIGTERM arrived before the commit, and the run was undone."""

    exit_code = 130
