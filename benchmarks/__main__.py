"""Measure the client: `make bench`, or `make bench ARGS="--row calls --row embeddings"`.

A run of all rows writes docs/performance.md and what belongs to it. Exits with 1 if a goal is
missed.
"""

import argparse
import json
import os
import statistics
import sys

from benchmarks import performance_page
from benchmarks.report import (
    HEADINGS,
    SIDES_HEADINGS,
    Line,
    Results,
    lines,
    machine,
    plain_table,
    sides,
)
from benchmarks.rows import ROWS
from benchmarks.runner import ROOT, Bench, bench

DOCS = ROOT / "docs"


def main() -> int:
    by_name = {row.name: row for row in ROWS}
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--row", action="append", choices=by_name, help="only this one; repeatable")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    chosen = [by_name[name] for name in options.row or by_name]
    print(f"{machine()}; load {os.getloadavg()[0]:.1f}\n")
    results: dict[str, Results] = {}
    all_lines: list[Line] = []
    with bench() as running:
        capacity = _capacity(running)
        print(capacity)
        for row in chosen:
            print(f"measuring {row.name}", file=sys.stderr)
            results[row.name] = running.run(row, options.rounds)
            all_lines += lines(row, results[row.name])
    measured = [cells for row in chosen for cells in sides(row, results[row.name])]
    print(f"\n{plain_table(SIDES_HEADINGS, measured)}")
    print(f"\n{plain_table(HEADINGS, [line.cells() for line in all_lines])}")
    print(f"\nMedians of {options.rounds} rounds. One row alone: make bench ARGS='--row NAME'")
    if not options.row:
        (DOCS / "performance.json").write_text(json.dumps(results, indent=1) + "\n")
        performance_page.write(DOCS, chosen, results, all_lines, capacity, options.rounds)
    return 1 if any(line.verdict == "FAIL" for line in all_lines) else 0


def _capacity(running: Bench) -> str:
    command = [
        *(sys.executable, "-m", "benchmarks.programs.counter", "stream"),
        *("--address", "{address}", "--count", "1000000"),
    ]
    rates = [running.measure(command)["frames_per_s"] for _ in range(3)]
    return (
        "The replay server sends a reader that only counts "
        f"{statistics.median(rates) / 1e6:.1f} million fragments a second."
    )


if __name__ == "__main__":
    sys.exit(main())
