"""`make bench`: bluegreen and what people would use instead, measured in one run that writes RESULTS.md and its plots.

    python bench/run.py [--quick] [--only NAME,...] [--into DIRECTORY]

Exit status 1: a count that must be 0 is not. 2: a measurement failed.
"""

from __future__ import annotations

import argparse
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path

from figures import Section, failed
from ground import REPOSITORY, Ground, ground
from machine import machine
from plots import svg
from results import markdown

HERE = Path(__file__).parent
SLOW = ("remote", "replicas", "hosts")
"""What a quick run leaves out."""


def measurements() -> dict[str, Callable[[Ground], Section]]:
    """By name, in the order of RESULTS.md."""
    import hosts_one_to_six
    import runs
    import starts
    import steady
    import switches

    return {
        "switches": switches.under_load,
        "far": switches.far_clients,
        "flip": switches.by_hand,
        "starts": starts.start_up,
        "runs": runs.own_time,
        "ready": runs.seen_ready,
        "remote": runs.far_engine,
        "replicas": runs.replicas,
        "hosts": hosts_one_to_six.several_hosts,
        "steady": steady.throughput,
        "stream": steady.first_byte,
        "image": steady.image,
    }


def main() -> int:
    known = measurements()
    parser = argparse.ArgumentParser(description="Measure bluegreen and its peers.")
    parser.add_argument("--quick", action="store_true", help="fewer turns and fewer peers: within 4 minutes")
    parser.add_argument("--only", help=f"of {', '.join(known)} [default: all; with --quick not {', '.join(SLOW)}]")
    parser.add_argument(
        "--into", type=Path, help="where RESULTS.md and plots/ go [default: bench; with --quick: .lab/bench]"
    )
    given = parser.parse_args()
    into = given.into or (REPOSITORY / ".lab" / "bench" if given.quick else HERE)
    chosen = given.only.split(",") if given.only else [name for name in known if not (given.quick and name in SLOW)]
    if unknown := set(chosen) - set(known):
        parser.error(f"no such measurement: {', '.join(sorted(unknown))}")

    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that it leaves nothing behind
    began = time.monotonic()
    sections: list[Section] = []
    broken = []
    with ground(quick=given.quick) as place:
        facts = machine(place.client)
        for name in chosen:
            start = time.monotonic()
            print(f"{name} ...", flush=True)
            try:
                section = known[name](place)
            except Exception:
                traceback.print_exc()
                broken.append(name)
                continue
            sections.append(section)
            print(f"{name}: {time.monotonic() - start:.0f} s", flush=True)
    minutes = (time.monotonic() - began) / 60
    facts["took"] = f"{minutes:.0f} minutes"
    if broken:
        facts["not measured, as it failed"] = ", ".join(broken)

    how = "make bench-quick" if given.quick else "make bench"
    (into / "plots").mkdir(parents=True, exist_ok=True)
    (into / "RESULTS.md").write_text(markdown(sections, facts, how))
    for section in sections:
        for plot in section.plots:
            (into / "plots" / plot.file).write_text(svg(plot))
    for section in sections:
        for target in section.targets:
            mark = {True: "ok", False: "MISSED", None: "?"}[target.reached]
            print(f"{mark:7}{target.what}: {target.measured} (target: {target.wanted})")
    print(f"written: {into / 'RESULTS.md'}, after {minutes:.1f} minutes")
    wrong = failed(sections)
    for zero in wrong:
        print(f"NOT 0: {zero.what}: {zero.count}")
    return 2 if broken else 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
