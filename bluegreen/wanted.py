"""What a command is planned from: what is true now, with the image that the release it wants is to be started from."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from bluegreen import plan as planning
from bluegreen.errors import BluegreenError
from bluegreen.model import Image, Observed, Release
from bluegreen.observe import observe
from bluegreen.steps import is_standby

if TYPE_CHECKING:
    from bluegreen.service import Service


def for_deploy(service: Service, name: str, *, build: bool, preview: bool = False) -> Observed:
    """With the image of the release: what the registry has under its tag, or the engine, unless it is built anyway."""
    settings = service.settings
    reference = settings.reference(Release(name))
    published = service.registry.digest(reference) if service.registry and not build else ""
    wanted = settings.content(published) if published else reference
    observed = observe(service.runtime, service.proxy, wanted, published)
    return replace(observed, secrets_changed=_secrets_changed(service, observed, preview=preview))


def for_scale(service: Service) -> Observed:
    """With the image of what is live."""
    observed = observe(service.runtime, service.proxy)
    live = planning.after_recovery(observed).live
    return _with_image_of(service, observed, live.release) if live else observed


def for_rollback(service: Service, name: str | None) -> Observed:
    """With the image of the release to go back to, unless it runs as the standby."""
    observed = observe(service.runtime, service.proxy)
    settled = planning.after_recovery(observed)
    target = planning.rollback_target(settled, name)
    if target is None or is_standby(settled, target):
        return observed
    return _with_image_of(service, observed, target)


def with_lacking(service: Service, observed: Observed) -> Observed:
    """With which of several hosts have not got the image."""
    if observed.image is None:
        return observed
    return replace(observed, lacking=service.runtime.lacking(observed.image.reference))


def kept(service: Service, release: Release) -> Image | None:
    """The image that the engine has of a release that ran: also of one from before there was a registry."""
    runtime, settings = service.runtime, service.settings
    if not release.digest:
        return runtime.image(settings.reference(release))
    image = runtime.image(settings.content(release.digest)) or runtime.image(release.digest)
    return replace(image, digest=release.digest) if image else None


def published(service: Service, release: Release) -> str:
    """The digest under which the registry has what the engine has not; empty if it has not either."""
    if service.registry is None or kept(service, release):
        return ""
    settings = service.settings
    reference = settings.content(release.digest) if release.digest else settings.reference(release)
    return service.registry.digest(reference)


def _with_image_of(service: Service, observed: Observed, release: Release) -> Observed:
    return replace(observed, image=kept(service, release), published=published(service, release))


def _secrets_changed(service: Service, observed: Observed, *, preview: bool) -> bool | None:
    """Whether what is live has not the app's secrets as they are now. Where those can't be had, a preview does
    without: None. Raises SettingsError otherwise."""
    if not service.settings.app.secrets:
        return False
    live = planning.after_recovery(observed).live
    try:
        service.secrets()
        return live is not None and not service.runtime.has_secrets(live.colour)
    except BluegreenError:
        if preview:
            return None
        raise
