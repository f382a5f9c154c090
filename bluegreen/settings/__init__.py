"""bluegreen.toml as frozen, typed settings: every problem at once, each with its path.

Each module has the tables that its first line names. `values` has what they are made of, `whole` puts them
together, `file` reads them, and `problems` tells what is wrong. The tables' modules do without
`from __future__ import annotations`, with which pydantic evaluates each annotation from its text at every start.
"""

from bluegreen.names import check_release_name
from bluegreen.settings.app import SECRETS, AppTable, SecretTable
from bluegreen.settings.file import check, example, load, parse, schema
from bluegreen.settings.haproxy import HAProxyTable
from bluegreen.settings.hooks import HookTable
from bluegreen.settings.hosts import EngineTable
from bluegreen.settings.metrics import MetricsTable
from bluegreen.settings.notify import check_secret_url
from bluegreen.settings.proxy import ProxyTable
from bluegreen.settings.run import BakeTable
from bluegreen.settings.values import Size, Table
from bluegreen.settings.vip import VipTable
from bluegreen.settings.whole import Settings
from bluegreen.written import FILE

__all__ = [
    "FILE",
    "SECRETS",
    "AppTable",
    "BakeTable",
    "EngineTable",
    "HAProxyTable",
    "HookTable",
    "MetricsTable",
    "ProxyTable",
    "SecretTable",
    "Settings",
    "Size",
    "Table",
    "VipTable",
    "check",
    "check_release_name",
    "check_secret_url",
    "example",
    "load",
    "parse",
    "schema",
]
