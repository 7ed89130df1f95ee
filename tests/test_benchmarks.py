"""The programs that `make bench` runs do their work."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.report import lines, sides
from benchmarks.rows import ROWS, Goal, Row

ROOT = Path(__file__).parent.parent
WORK = [
    ("floor_asyncio", "stream", "--batch", "8"),
    ("floor_asyncio", "calls"),
    ("floor_asyncio", "embed"),
    ("floor_trio", "stream", "--batch", "8"),
    ("floor_trio", "calls"),
    ("ours", "stream", "--batch", "8", "--streams", "4"),
    ("ours", "stream", "--loop", "uvloop"),
    ("ours", "stream", "--loop", "trio"),
    ("ours", "calls"),
    ("ours", "embed"),
    ("ours", "memory", "--streams", "4"),
    ("official", "stream", "--batch", "8", "--streams", "4"),
    ("official", "calls"),
    ("official", "embed"),
    ("official", "memory", "--streams", "4"),
    ("counter", "stream"),
]


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with subprocess.Popen(
        [sys.executable, "-m", "benchmarks.replay_server"],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as server:
        assert server.stdout is not None
        yield f"127.0.0.1:{server.stdout.readline().strip()}"


@pytest.mark.parametrize("work", WORK, ids=" ".join)
def test_every_program_comes_to_its_figures(address: str, work: tuple[str, ...]) -> None:
    program, *arguments = [*work, "--address", address, "--count", "100"]
    done = subprocess.run(
        [sys.executable, "-m", f"benchmarks.programs.{program}", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout)
    # A hundred items may take less memory than there was to spare.
    assert all(
        value > 0 for name, value in figures.items() if name not in ("waits", "stream_bytes")
    )


def test_ratios_are_taken_round_by_round_and_held_against_their_goals() -> None:
    goals = [
        Goal("cpu_us", "b", "a", at_most=2.5),
        Goal("cpu_us", "a", "b", at_least=0.6),
        Goal("cpu_us", "b", at_most=60),
    ]
    row = Row("row", "", {"a": [], "b": []}, {"cpu_us": "µs CPU"}, goals)
    results = {
        "a": {"cpu_us": [10.0, 20.0, 30.0]},
        "b": {"cpu_us": [20.0, 60.0, 60.0]},
    }
    found = [(line.median, line.low, line.high, line.verdict) for line in lines(row, results)]
    assert found == [
        (2.0, 2.0, 3.0, "pass"),
        (0.5, 1 / 3, 0.5, "FAIL"),
        (60.0, 20.0, 60.0, "pass"),
    ]
    assert [cells[2] for cells in sides(row, results)] == ["20 µs CPU", "60 µs CPU"]


def test_goals_speak_of_sides_and_figures_that_their_rows_have() -> None:
    for row in ROWS:
        for goal in row.goals:
            assert goal.metric in row.shows
            assert {goal.over, goal.under or goal.over} <= set(row.sides)
    assert len({row.name for row in ROWS}) == len(ROWS)
