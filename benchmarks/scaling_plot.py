"""The curve of streams against cost per fragment."""

import statistics
from pathlib import Path

from benchmarks.report import Results
from benchmarks.rows import Row


def draw(row: Row, results: Results, path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    for client, sides in row.curve.items():
        streams = sorted(sides)
        costs = [results[sides[number]]["cpu_us"] for number in streams]
        medians = [statistics.median(values) for values in costs]
        (drawn,) = axes.plot(streams, medians, marker="o", label=client)
        lows, highs = [min(values) for values in costs], [max(values) for values in costs]
        axes.fill_between(streams, lows, highs, color=drawn.get_color(), alpha=0.2)
    axes.set_xscale("log")
    axes.set_xticks(ticks := sorted(next(iter(row.curve.values()))), [f"{n:,}" for n in ticks])
    axes.set_ylim(bottom=0)
    axes.set_xlabel("streams at once")
    axes.set_ylabel("CPU per fragment, µs")
    axes.grid(visible=True, alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=120)
