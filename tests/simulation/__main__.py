"""python -m tests.simulation: run random programs, or replay one."""

import argparse
import sys

from tests.simulation.seeds import LOOPS, Failure, run_seed, run_seeds


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--seeds", type=int, default=1000, help="how many seeds to run")
    parser.add_argument("--first", type=int, default=0, help="the first of them")
    parser.add_argument("--seed", type=int, help="replay this one and show its log")
    parser.add_argument("--loop", choices=LOOPS, help="on this event loop only")
    arguments = parser.parse_args()
    loops = LOOPS if arguments.loop is None else (arguments.loop,)
    if arguments.seed is not None:
        runs = [(loop, run_seed(arguments.seed, loop)) for loop in loops]
        for loop, run in runs:
            print(Failure(arguments.seed, loop, run.violations, run.log.lines))
        return int(any(run.violations for _, run in runs))
    report = run_seeds(range(arguments.first, arguments.first + arguments.seeds), loops)
    for failure in report.failures[:3]:
        print(failure)
    if report.failures:
        print("failing seeds:", *(f"{each.seed}/{each.loop}" for each in report.failures))
    print(report)
    return int(bool(report.failures))


if __name__ == "__main__":
    sys.exit(main())
