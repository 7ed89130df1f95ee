"""The soak: seeds of the simulation, the fuzz tests at length, and the real engine; one table."""

import argparse
import asyncio
import random
import sys

from tests.soak.report import Part, print_outcomes, print_table
from tests.soak.soak import Plan, SoakReport, soak


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=120, help="time on the real engine")
    parser.add_argument("--tasks", type=int, default=200, help="tasks on the real engine")
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    arguments = parser.parse_args()
    plan = Plan(arguments.seed, arguments.seconds, arguments.tasks)
    print(f"The real engine: {plan.tasks} tasks, {plan.seconds:g} s, seed {plan.seed}", flush=True)
    report = asyncio.run(soak(plan))
    print_outcomes(report.journal)
    for found in (report.leaks, report.hangs, report.journal.bugs):
        for one in found:
            print(one, file=sys.stderr)
    parts = [_engine(report)]
    print()
    print_table(parts, report.usages)
    return 1 if any(part.leaks or part.hangs or part.bugs for part in parts) else 0


def _engine(report: SoakReport) -> Part:
    journal = report.journal
    return Part(
        "real engine",
        runs=1,
        calls=journal.calls.total(),
        faults=journal.faults,
        leaks=len(report.leaks),
        hangs=len(report.hangs),
        bugs=len(journal.bugs),
    )


if __name__ == "__main__":
    sys.exit(main())
