"""[hooks]: commands of the user's, each at a moment of a run."""

from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field, WithJsonSchema

from bluegreen.settings.values import LIST, Duration, Table, between, distinct


def _command(value: object) -> tuple[str, ...]:
    """The words of a command; those of a string are for the shell to find. Raises ValueError for anything else."""
    words = ("sh", "-c", value) if isinstance(value, str) else tuple(value) if isinstance(value, list | tuple) else ()
    if not words or not all(isinstance(word, str) and "\0" not in word for word in words):
        raise ValueError('must be a list such as ["./migrate.sh", "--now"], or a string for the shell')
    if not words[0].strip() or (isinstance(value, str) and not value.strip()):
        raise ValueError("must name a program")
    return words


def _some(values: tuple[str, ...]) -> tuple[str, ...]:
    if not values:
        raise ValueError("must not be empty; leave the hook out if it is never to run")
    return values


class HookTable(Table):
    """A command of yours that a run calls at one of its moments."""

    command: Annotated[
        tuple[str, ...],
        BeforeValidator(_command),
        WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}, "minItems": 1}]}),
    ] = Field(description="The command: a list is run as it is, a string by sh -c.")
    timeout: Annotated[Duration, between("1s", "24h")] = Field(
        default=60.0, description="How long it may take before it is ended, which counts as failed."
    )

    @property
    def words(self) -> str:
        """The command as a person would type it."""
        import shlex  # only a run with hooks needs it

        return self.command[2] if self.command[:2] == ("sh", "-c") else shlex.join(self.command)


class LocalHookTable(HookTable):
    """A hook of a moment that has no image to run in."""

    run: Literal["here"] = Field(default="here", description="On the machine that runs bluegreen; there is no image.")


class PlacedHookTable(HookTable):
    """A hook that runs here or in a container of the release."""

    run: Literal["here", "image"] = Field(
        default="here",
        description="On the machine that runs bluegreen (here), or in a container of the release, with the app's"
        " settings (image).",
    )
    on: Annotated[tuple[Literal["deploy", "rollback"], ...], LIST, AfterValidator(distinct), AfterValidator(_some)] = (
        Field(default=("deploy",), description="Which runs call it: deploy, rollback, or both.")
    )


class HooksTable(Table):
    """Commands of yours that a run calls; one that fails before the commit undoes the run."""

    pre_build: LocalHookTable | None = Field(default=None, description="Before an image is built.")
    pre_deploy: PlacedHookTable | None = Field(
        default=None, description="When the image is there and nothing of the release runs yet: for migrations."
    )
    post_switch: PlacedHookTable | None = Field(
        default=None, description="When the release has the traffic and can still be taken back: for smoke tests."
    )
    post_deploy: PlacedHookTable | None = Field(
        default=None, description="When all is done; one that fails is told, and takes nothing back."
    )
    on_failure: LocalHookTable | None = Field(default=None, description="When a run has failed and been undone.")

    def of(self, name: str, action: str) -> LocalHookTable | PlacedHookTable | None:
        """The hook of this name, if a run of this action calls one."""
        hook: LocalHookTable | PlacedHookTable | None = getattr(self, name)
        return None if isinstance(hook, PlacedHookTable) and action not in hook.on else hook
