"""[probe], [bake], [witness] and [retire]: what a run waits for and watches, and what becomes of the old release."""

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, ValidationInfo, field_validator

from bluegreen.settings.values import Authority, Duration, Table, UrlPath, between, printable
from bluegreen.words import shown

PLACEHOLDER = re.compile(r"\{(release|number)\}")


def _body(value: str) -> str:
    if not value.strip() or not printable(value, also="\t\r\n"):
        raise ValueError("must hold text without control characters; leave it out if any 2xx answer will do")
    if re.search(r"[{}]", PLACEHOLDER.sub("", value)):
        raise ValueError(f"{shown(value)} may hold {{release}} and {{number}}, and no other braces")
    return value


class ProbeTable(Table):
    """When a release counts as ready: consecutive right answers from every replica."""

    kind: Literal["http", "tcp"] | None = Field(
        default=None,
        description="What a right answer is: that of the app over http, or that its port accepts a connection (tcp)."
        " Default: http, and tcp where proxy.mode is tcp.",
    )
    path: UrlPath = Field(default="/version", description="The path that is asked for.")
    body: Annotated[str, AfterValidator(_body)] | None = Field(
        default=None,
        description="The whole answer, but for white space around it: {release} is the release's name (v2),"
        " {number} the same without a leading v (2). Default: any 2xx answer will do.",
    )
    interval: Annotated[Duration, between("10ms", "1m")] = Field(default=0.2, description="The time between two tries.")
    successes: int = Field(default=3, ge=1, le=100, description="How many right answers in a row are needed.")
    timeout: Annotated[Duration, between("100ms", "1h")] = Field(
        default=60.0, validate_default=True, description="How long a release may take to become ready."
    )
    host: Authority | None = Field(
        default=None, description="The Host header of the probe. Default: the address that is asked."
    )

    @field_validator("timeout")
    @classmethod
    def _long_enough(cls, value: float, info: ValidationInfo) -> float:
        if "interval" in info.data and "successes" in info.data:
            needed = (info.data["successes"] - 1) * info.data["interval"]
            if value <= needed:
                raise ValueError(
                    f"{value:g}s is too short: {info.data['successes']} tries that lie"
                    f" {info.data['interval']:g}s apart take {needed:g}s at least"
                )
        return value


class RetireTable(Table):
    """What becomes of the old release."""

    old: Literal["remove", "standby"] = Field(
        default="remove",
        description="Remove its containers, or keep them running for an instant rollback (standby); in a swarm see also"
        " swarm.standby_replicas.",
    )
    drain_timeout: Annotated[Duration, between("1s", "1h")] = Field(
        default=30.0, description="How long requests in flight to the old release are waited for."
    )
    keep: int = Field(
        default=5, ge=1, le=10, description="How many releases before the live one keep their images for a rollback."
    )


class BakeTable(Table):
    """The time between the switch and the commit in which the witness can take the switch back."""

    seconds: Annotated[Duration, between("0s", "1h")] = Field(default=5.0, description="How long; 0 for not at all.")
    max_error_ratio: float | None = Field(
        default=None,
        ge=0,
        le=1,
        allow_inf_nan=False,
        description="The share of users' requests that the new release may answer with an error (a status of 500 or"
        " more); above it, and above 1.5 times the old release's, the switch is taken back. Default: not compared.",
    )
    max_p99_ms: float | None = Field(
        default=None,
        ge=1,
        le=300_000,
        allow_inf_nan=False,
        description="The same for the p99 of the witness's requests, in milliseconds. Default: not compared.",
    )

    @field_validator("max_error_ratio", "max_p99_ms")
    @classmethod
    def _in_some_time(cls, value: float | None, info: ValidationInfo) -> float | None:
        if value is not None and info.data.get("seconds") == 0:
            raise ValueError("needs bake.seconds above 0: there is no time to compare in")
        return value

    @property
    def compares(self) -> bool:
        """Whether the new release is compared with the old one."""
        return self.max_error_ratio is not None or self.max_p99_ms is not None


class WitnessTable(Table):
    """The requests, never retried, that watch the public address during a run."""

    rate: int = Field(default=20, ge=1, le=1000, description="Requests a second.")
    connections: int = Field(default=2, ge=1, le=50, description="How many connections are kept alive.")
    timeout: Annotated[Duration, between("100ms", "5m")] = Field(
        default=10.0, description="How long an answer may take before it counts as failed."
    )
