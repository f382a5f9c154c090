"""[swarm]: how Docker Swarm runs the replicas, with runtime = "swarm"."""

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from bluegreen.settings.hosts import Engines
from bluegreen.settings.values import LIST, Duration, Size, Table, Text, between, distinct, matching
from bluegreen.words import shown

_CONSTRAINT = re.compile(
    r"(?:node\.(?:id|hostname|role|ip|platform\.(?:os|arch)|labels\.[A-Za-z0-9_.-]+)|engine\.labels\.[A-Za-z0-9_.-]+)"
    r" ?(?:==|!=) ?[A-Za-z0-9_.:/+-]+"
)


def _constraint(value: str) -> str:
    if not _CONSTRAINT.fullmatch(value):
        raise ValueError(f'{shown(value)} is not a constraint such as "node.labels.zone == a"')
    return value


class SwarmTable(Table):
    """Where Swarm may run replicas, and what it reserves and hands out for each."""

    endpoint_mode: Literal["dnsrr", "vip"] = Field(
        default="dnsrr",
        description="What the name of a colour's service leads to inside its network: all its tasks (dnsrr), or one"
        " virtual address (vip). The proxies send to the tasks either way.",
    )
    constraints: Annotated[tuple[Annotated[str, AfterValidator(_constraint)], ...], LIST, AfterValidator(distinct)] = (
        Field(default=(), description='Nodes that may run replicas, such as "node.labels.zone == a".')
    )
    spread: Annotated[
        tuple[Annotated[str, matching(r"(?:node|engine)\.labels\.[A-Za-z0-9_.-]+", "a label of nodes")], ...],
        LIST,
        AfterValidator(distinct),
    ] = Field(default=(), description='Labels of nodes over whose values replicas are spread: "node.labels.zone".')
    max_per_node: int = Field(
        default=0, ge=0, le=100, description="How many replicas of a colour a node may run; 0 for no limit."
    )
    reserve_memory: Size | None = Field(default=None, description="The memory that is kept free for a replica.")
    reserve_cpus: float | None = Field(
        default=None, ge=0.01, le=1024, allow_inf_nan=False, description="The CPUs that are kept free for a replica."
    )
    restart_delay: Annotated[Duration, between("0s", "10m")] = Field(
        default=5.0, description="How long Swarm waits before it replaces a replica that has ended."
    )
    start_timeout: Annotated[Duration, between("1s", "1h")] = Field(
        default=120.0, description="How long all tasks of a colour may take to run, the pull of the image included."
    )
    standby_replicas: Literal["none", "all"] = Field(
        default="none",
        description="How many replicas of a standby (retire.old) run on: none, so that it takes no room until a"
        " rollback scales it up again, or all, for an instant rollback.",
    )
    managers: Engines = Field(
        default=(),
        description="Engines that are asked before those of `hosts`, as managers, and on which no proxy runs: each an"
        " address, or a table as in `hosts`.",
    )
    configs: dict[Annotated[str, matching(r"(?:/[A-Za-z0-9_.@+-]+)+", "a path such as /etc/app.toml")], Text] = Field(
        default_factory=dict,
        description="Files that every replica finds, by their path in it: each is read from a file beside this one.",
    )
