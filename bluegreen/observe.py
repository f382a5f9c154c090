"""What is true now, asked of the engine and the running proxy. Nothing else decides anything."""

from __future__ import annotations

from bluegreen.model import Observed
from bluegreen.proxies import Proxy
from bluegreen.runtimes import Runtime


def observe(runtime: Runtime, proxy: Proxy, reference: str = "", published: str = "") -> Observed:
    """What stands in each colour, what the proxy serves, and the image `reference` if the engine has it.

    `published` is the digest under which the registry has it.
    """
    serving = proxy.observe()  # first: which of several hosts count is decided by what their proxies serve
    return Observed(
        slots=runtime.slots(),
        proxy=serving,
        image=runtime.image(reference) if reference else None,
        published=published,
        begun=runtime.begun(),
        hosts=runtime.hosts,
    )
