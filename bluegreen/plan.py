"""What a run will do, worked out from what was observed, with no input or output.

The plan that is printed is the one that runs.
"""

from __future__ import annotations

from dataclasses import replace

from bluegreen.errors import Failed
from bluegreen.model import Colour, Observed, Plan, PlannedStep, Release, Slot
from bluegreen.settings import Settings
from bluegreen.steps import DEPLOY, ROLLBACK, SCALE, Recipe, is_standby

REMEMBERED = 12
"""How many releases back the live containers remember: more than `retire.keep`, so that older ones are pruned."""


def plan_deploy(settings: Settings, observed: Observed, name: str, *, build: bool = False) -> Plan:
    """The plan that takes the release live; without steps when it is live already."""
    if build:
        observed = replace(observed, image=None, published="")
    image = observed.image
    digest = observed.published or (image.digest if image else "")
    release = Release(name, digest, settings.hash, settings.rollback_floor)
    live = observed.live
    draft = _draft("deploy", settings, observed, release, settings.reference(release))
    whole = live is not None and live.running == live.wanted == settings.app.replicas * len(observed.hosts)
    if live and release.digest and live.release == release and whole and not observed.secrets_changed:
        unknown = "; whether its secrets have changed is not known here" if observed.secrets_changed is None else ""
        return replace(draft, reason=f"{name} is live already{unknown}")
    before = (live.release, *live.before) if live else ()
    return _with_steps(replace(draft, before=_remembered(before)), DEPLOY, settings, observed)


def plan_rollback(settings: Settings, observed: Observed, name: str | None = None) -> Plan:
    """The plan that takes the previous release live again, or the one named.

    Raises Failed when there is none, when it lies behind a floor, or when neither its containers nor its image are
    there any more.
    """
    live = observed.live
    if live is None:
        raise Failed(f"{settings.service} serves nothing, so there is nothing to roll back", hint="bluegreen deploy")
    if name == live.release.name:
        return replace(
            _draft("rollback", settings, observed, live.release, live.image), reason=f"{name} is live already"
        )
    target = rollback_target(observed, name)
    if target is None:
        raise Failed(f"{live.release} has no release before it", hint="name one: bluegreen rollback RELEASE")
    floor = floor_above(observed, target)
    if floor:
        raise Failed(
            f"{target} can't come back: {beyond(floor)}; {live.release} still serves",
            hint=f"deploy a release that mends it; or, if {target} can live with the data: bluegreen deploy {target}",
        )
    if not target.digest and not observed.image and not observed.published:
        raise Failed(
            f"{settings.service} has no release {target}: {live.release} still serves", hint="bluegreen status"
        )
    found = observed.image.digest if observed.image else observed.published
    target = replace(target, digest=target.digest or found)
    if not is_standby(observed, target) and found != target.digest:
        where = "neither here nor in the registry" if settings.registry.server else "not here"
        raise Failed(
            f"{target} can't come back: it has no containers any more, and its image ({target.digest[:19]})"
            f" is {where}; {live.release} still serves",
            hint=f"bluegreen deploy {target} builds it again",
        )
    known = [each.is_same(target) for each in live.before]
    before = live.before[known.index(True) + 1 :] if True in known else (live.release, *live.before)
    release = replace(target, settings_hash=settings.hash)
    # An image from before there was a registry is known by its id alone; no tag, which may be moved, decides.
    by_id = observed.image is not None and observed.image.reference == target.digest
    image = target.digest if by_id else settings.content(target.digest)
    draft = _draft("rollback", settings, observed, release, image)
    return _with_steps(replace(draft, before=_remembered(before)), ROLLBACK, settings, observed)


def plan_scale(settings: Settings, observed: Observed) -> Plan:
    """The plan that has what is live run in the size of the settings, in the other colour; without steps if it does."""
    live = observed.live
    if live is None:
        raise Failed(f"{settings.service} serves nothing, so there is nothing to scale", hint="bluegreen deploy")
    release = replace(live.release, settings_hash=settings.hash)
    image = settings.content(release.digest) if release.digest else live.image
    draft = replace(_draft("scale", settings, observed, release, image), before=live.before)
    if live.running == live.wanted == settings.app.replicas * len(observed.hosts):
        return replace(draft, reason=f"{live.release} has {live.wanted} replicas already")
    sizes = f"replicas {live.wanted} → {settings.app.replicas * len(observed.hosts)}"
    return _with_steps(replace(draft, reason=sizes), SCALE, settings, observed)


def after_recovery(observed: Observed) -> Observed:
    """What will be true once the unfinished run has been ended: the colour from before it is live, its own is gone.

    Or its own stays live, if that alone runs whole.
    """
    if not observed.half_made:
        return replace(observed, begun=())
    record, idle = observed.proxy.record, observed.idle
    slots = dict(observed.slots)
    proxy = observed.proxy
    if record and goes_forward(observed):
        proxy = replace(proxy, record=replace(record, committed=True))
    elif record and not record.committed:
        slots = {colour: slot for colour, slot in slots.items() if slot.run != record.run}
        settled = replace(record, number=record.number + 1, committed=True, undone=True)
        proxy = replace(proxy, colour=record.from_colour, record=settled)
    elif idle:
        del slots[idle.colour]
    return replace(observed, slots=slots, proxy=proxy, begun=())


def goes_forward(observed: Observed) -> bool:
    """Whether the next run will have to finish the unfinished one, as there is nothing whole to go back to."""
    record = observed.proxy.record
    if record is None or record.committed or observed.proxy.colour is not record.to_colour:
        return False
    old, new = (observed.slots.get(colour) if colour else None for colour in (record.from_colour, record.to_colour))
    if new is None or new.running == new.wanted:
        return new is not None and (old is None or old.running < len(old.replicas))
    return record.from_colour is not None and (old is None or not (new.running or old.running))


def leftover(settings: Settings, observed: Observed) -> Slot | None:
    """What a run that ended after its commit should have removed, or scaled to none, and did not.

    That is what the last switch came from. Anything else may serve at another address, by another proxy.
    """
    idle, record = observed.idle, observed.proxy.record
    if observed.unfinished or not (idle and record) or record.from_colour is not idle.colour:
        return None
    if settings.retire.old == "standby" and not (settings.scales_standby and idle.running and idle.follows):
        return None
    return idle


def first(settings: Settings, observed: Observed) -> str:
    """What the next deploy or rollback will do before anything else, in words; empty if it need not."""
    settled, live = after_recovery(observed), observed.live
    if observed.unfinished and not observed.half_made:
        return f"keep {live.release if live else 'all'} as it is, for the run had changed nothing yet"
    if observed.unfinished and settled.live is None:
        return "remove what it had started"
    if observed.unfinished and settled.live:
        if goes_forward(observed):
            return f"commit {settled.live.release}, as nothing whole is there to go back to"
        went = "go back to" if live and live.colour is not settled.live.colour else "keep"
        return f"{went} {settled.live.release} and remove what the run had started"
    left = leftover(settings, observed)
    if left is None or live is None:
        return ""
    verb, rest = ("scale", " to none") if settings.scales_standby else ("remove", "")
    return f"drain and {verb} {left.release} ({left.colour}){rest}, which {live.release} replaced"


def next_run(settings: Settings, observed: Observed) -> str:
    """The same as a sentence on who will do it."""
    words = first(settings, observed)
    who = "deploy or rollback" if observed.unfinished else "deploy"
    return f"the next {who} will {words}" if words else ""


def rollback_target(observed: Observed, name: str | None = None) -> Release | None:
    """The release that a rollback would bring back. One that is named need not be known; it has no digest then."""
    live = observed.live
    if live is None:
        return None
    if name is None:
        return live.before[0] if live.before else None
    known = [each for each in live.before if each.name == name]
    if observed.standby and observed.standby.release.name == name:
        known.insert(0, observed.standby.release)
    return known[0] if known else Release(name)


def floor_above(observed: Observed, target: Release) -> Release | None:
    """The release that can't be rolled back past and that a rollback to the target would; None if there is none.

    A target that nobody remembers lies before every floor, unless it is the standby and came after what is live.
    """
    live, standby = observed.live, observed.standby
    if live is None:
        return None
    if standby and standby.release.is_same(target) and any(each.is_same(live.release) for each in standby.before):
        return None
    for each in (live.release, *live.before):
        if each.is_same(target):
            return None
        if each.floor:
            return each
    return None


def beyond(floor: Release) -> str:
    """Why nothing goes back past the floor."""
    return f"{floor} was deployed as one that can't be rolled back past (rollback_floor)"


def _remembered(releases: tuple[Release, ...]) -> tuple[Release, ...]:
    """The latest of them, and the floor behind them, however far back."""
    floor = next((each for each in releases[REMEMBERED:] if each.floor), None)
    return (*releases[:REMEMBERED], *([floor] if floor else []))


def _draft(action: str, settings: Settings, observed: Observed, release: Release, image: str) -> Plan:
    live, record = observed.live, observed.proxy.record
    # Without a proxy at this address nothing is known to be live, yet what was committed may serve at another one.
    committed = {colour: slot.number for colour, slot in observed.slots.items() if slot.kept}
    free = min(Colour, key=lambda colour: committed.get(colour, -1))
    return Plan(
        action=action,
        release=release,
        # What a person removed has left its colour in use: nothing may start there before it is probed.
        colour=observed.proxy.colour.other if observed.proxy.colour else free,
        image=image,
        from_colour=live.colour if live else None,
        from_release=live.release if live else None,
        before=(),
        number=(record.number if record else 0) + 1,
    )


def _with_steps(draft: Plan, recipe: Recipe, settings: Settings, observed: Observed) -> Plan:
    words = [(step.name, step.describe(draft, settings, observed)) for part in recipe for step in part]
    return replace(draft, steps=tuple(PlannedStep(name, detail) for name, detail in words if detail))


def with_recovery(plan: Plan, words: str) -> Plan:
    """The plan with the step that comes first when something of an earlier run has to be put right."""
    step = PlannedStep("recover", words)
    return replace(plan, steps=(step, *plan.steps))
