"""python -m tests.soak: simulated seeds, the fuzz tests at length, the real engine; one table."""

import argparse
import asyncio
import random
import re
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor

from tests.simulation.seeds import run_seeds
from tests.soak.report import Part, print_outcomes, print_table
from tests.soak.soak import Plan, soak
from tests.soak.usage import Usage

_PARTS = ("simulation", "fuzz", "engine")
_SEEDS_AT_ONCE = 250


def simulate(seeds: int) -> Part:
    """The client against an in-memory server, in virtual time."""
    part = Part("simulation")
    chunks = [
        range(first, min(first + _SEEDS_AT_ONCE, seeds))
        for first in range(0, seeds, _SEEDS_AT_ONCE)
    ]
    with ProcessPoolExecutor(2) as processes:
        for report in processes.map(run_seeds, chunks):
            part.runs += report.runs
            part.calls += report.calls
            part.faults += report.injected
            part.leaks += report.leaks
            part.hangs += report.hangs
            part.found += map(str, report.failures)
    return part


def fuzz() -> Part:
    """Hostile input to both ends."""
    pytest = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "--hypothesis-profile=soak", "tests/fuzz"],
        capture_output=True,
        text=True,
        check=False,
    )
    passed = re.search(r"(\d+) passed", pytest.stdout)
    part = Part("fuzz tests", runs=int(passed[1]) if passed else 0)
    if pytest.returncode != 0:
        part.found.append(pytest.stdout + pytest.stderr)
    return part


def use_engine(plan: Plan) -> tuple[Part, Sequence[Usage]]:
    """The client and the embedded server with a real model."""
    report = asyncio.run(soak(plan))
    journal = report.journal
    print_outcomes(journal)
    part = Part(
        "real engine",
        runs=1,
        calls=journal.calls.total(),
        faults=journal.faults,
        leaks=len(report.leaks),
        hangs=len(journal.hangs),
        found=report.leaks + journal.hangs + journal.bugs,
    )
    return part, report.usages


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("--only", choices=_PARTS, help="this part alone")
    parser.add_argument("--seeds", type=int, default=10_000, help="simulated; on each event loop")
    parser.add_argument("--seconds", type=float, default=120, help="time on the real engine")
    parser.add_argument("--tasks", type=int, default=200, help="tasks on the real engine")
    parser.add_argument("--seed", type=int, default=random.randrange(10**6), help="for the engine")
    arguments = parser.parse_args()
    chosen = _PARTS if arguments.only is None else (arguments.only,)

    parts: list[Part] = []
    usages: Sequence[Usage] = ()
    if "simulation" in chosen:
        print(f"Simulation: seeds 0 to {arguments.seeds - 1}", flush=True)
        parts.append(simulate(arguments.seeds))
    if "fuzz" in chosen:
        print("Fuzz tests", flush=True)
        parts.append(fuzz())
    if "engine" in chosen:
        plan = Plan(arguments.seed, arguments.seconds, arguments.tasks)
        print(
            f"Real engine: {plan.tasks} tasks, {plan.seconds:g} s, --seed {plan.seed}", flush=True
        )
        part, usages = use_engine(plan)
        parts.append(part)
    for found in (found for part in parts for found in part.found):
        print(found, file=sys.stderr)
    print_table(parts, usages)
    return int(any(part.found for part in parts))


if __name__ == "__main__":
    sys.exit(main())
