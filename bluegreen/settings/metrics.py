"""[metrics]: where the figures of every run go."""

from typing import Annotated

from pydantic import Field, ValidationInfo, field_validator

from bluegreen.settings.values import Table, Url, matching

_INFLUX_NAME = r"[A-Za-z0-9_](?:[A-Za-z0-9_. /@-]{0,62}[A-Za-z0-9_])?"


class MetricsTable(Table):
    """Where the figures of every run go."""

    influxdb: Url = Field(default="", validate_default=False, description="The address of an InfluxDB. Default: none.")
    database: Annotated[str, matching(_INFLUX_NAME, "the name of a database")] = Field(
        default="fluentdb", description="Its database (InfluxDB 1.x), which is made if it is not there."
    )
    user: Annotated[str, matching(_INFLUX_NAME, "the name of a user")] = Field(
        default="", validate_default=False, description="Its user, whose password is in BLUEGREEN_INFLUXDB_PASSWORD."
    )
    bucket: Annotated[str, matching(_INFLUX_NAME, "the name of a bucket")] = Field(
        default="",
        validate_default=False,
        description="A bucket (InfluxDB 2.x), whose token is in BLUEGREEN_INFLUXDB_TOKEN; database and user are then"
        " not used.",
    )
    org: Annotated[str, matching(_INFLUX_NAME, "the name of an organization")] = Field(
        default="", validate_default=False, description="The organization that the bucket is in."
    )
    textfile: Annotated[str, matching(r"[^\x00-\x1f]{1,1000}\.prom", 'a file whose name ends with ".prom"')] = Field(
        default="",
        validate_default=False,
        description="A file for the textfile collector of Prometheus's node exporter, on the machine that deploys.",
    )

    @field_validator("org")
    @classmethod
    def _of_a_bucket(cls, value: str, info: ValidationInfo) -> str:
        if value and not info.data.get("bucket", "x"):
            raise ValueError("goes with metrics.bucket only")
        return value
