"""What is said alike of the app's containers and of the proxy's: who runs it, and where its output goes."""

from typing import Annotated

from pydantic import Field

from bluegreen.settings.values import Table, Value, matching

LOG_OPTIONS = {"max-size": "10m", "max-file": "3"}
"""What keeps the log of a container from filling the disk, for the drivers that write one there."""

_USER = r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,31}"
User = Annotated[str, matching(rf"{_USER}(?::{_USER})?", "a user")]


class LoggingTable(Table):
    """Where the engine puts what is written to the outputs."""

    driver: Annotated[str, matching(r"[a-z0-9][a-z0-9_./:-]{0,127}", "a logging driver")] = Field(
        default="json-file", description="The engine's logging driver."
    )
    options: dict[Annotated[str, matching(r"[a-z0-9][a-z0-9_.-]{0,63}", "an option's name")], Value] = Field(
        default_factory=dict,
        description="The driver's options. Default: for json-file and local, max-size 10m and max-file 3; for fluentd,"
        " fluentd-async true, as nothing starts without a fluentd else.",
    )

    @property
    def wanted(self) -> dict[str, str]:
        """The options that the engine is given."""
        defaults = {"json-file": LOG_OPTIONS, "local": LOG_OPTIONS, "fluentd": {"fluentd-async": "true"}}
        return {**defaults.get(self.driver, {}), **self.options}
