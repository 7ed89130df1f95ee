"""Tables and figures of what was measured."""

import platform
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.rows import Goal, Row
from benchmarks.runner import Metrics

Results = Mapping[str, Metrics]


@dataclass(frozen=True)
class Line:
    """A ratio (or, where a goal compares with nothing, a value) with its spread over the rounds."""

    row: Row
    what: str
    median: float
    low: float
    high: float
    goal: Goal | None

    @property
    def verdict(self) -> str:
        if self.goal is None:
            return ""
        return "pass" if self.goal.met(self.median) else "FAIL"

    @property
    def bound(self) -> str:
        if self.goal is None:
            return ""
        if self.goal.at_most is not None:
            return f"<= {self.goal.at_most:g}"
        return f">= {self.goal.at_least:g}"

    def cells(self) -> list[str]:
        return [
            self.row.name,
            self.what,
            _figure(self.median),
            f"{_figure(self.low)} to {_figure(self.high)}",
            self.bound,
            self.verdict,
        ]


HEADINGS = ["row", "ratio", "median", "spread", "goal", ""]


def lines(row: Row, results: Results) -> list[Line]:
    """A line for each goal; without goals, how each side compares with the first."""
    if row.goals:
        return [_line(row, results, goal, goal) for goal in row.goals]
    first, *others = results
    metric = next(iter(row.shows))
    return [_line(row, results, Goal(metric, other, first), None) for other in others]


def _line(row: Row, results: Results, compared: Goal, goal: Goal | None) -> Line:
    over = results[compared.over][compared.metric]
    what = f"{row.shows[compared.metric]}: {compared.over}"
    if compared.under is None:
        values = over
    else:
        under = results[compared.under][compared.metric]
        # Round by round: what disturbs a round disturbs both.
        values = [a / b for a, b in zip(over, under, strict=True)]
        what += f" / {compared.under}"
    return Line(row, what, statistics.median(values), min(values), max(values), goal)


def sides(row: Row, results: Results) -> list[list[str]]:
    """The medians of each side, and the share of a core that the server took."""
    return [
        [
            row.name,
            side,
            ", ".join(
                f"{_figure(statistics.median(metrics[metric]))} {unit}"
                for metric, unit in row.shows.items()
            ),
            f"{statistics.median(metrics['server_share']):.0%}" if "wall_s" in metrics else "",
        ]
        for side, metrics in results.items()
    ]


SIDES_HEADINGS = ["row", "side", "median", "server's CPU"]


def plain_table(headings: Sequence[str], cells: Iterable[Sequence[str]]) -> str:
    rows = [headings, *cells]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)


def markdown_table(headings: Sequence[str], cells: Iterable[Sequence[str]]) -> str:
    rule = ["---"] * len(headings)
    return "\n".join(f"| {' | '.join(row)} |" for row in [headings, rule, *cells])


def machine() -> str:
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                model = line.partition(":")[2].strip()
    import psutil

    python = f"{platform.python_implementation()} {platform.python_version()}"
    return f"{model}, {psutil.cpu_count()} cores, {platform.system()}, {python}"


def _figure(value: float) -> str:
    if value >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}" if value < 100 else f"{value:.0f}"
