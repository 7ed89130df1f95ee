"""docs/performance.md."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.report import (
    HEADINGS,
    SIDES_HEADINGS,
    Line,
    Results,
    machine,
    markdown_table,
    sides,
)
from benchmarks.rows import Row
from benchmarks.scaling_plot import draw

PAGE = """\
# Performance

Written by `make bench` on {machine}, in {rounds} rounds. One row alone:
`make bench ARGS="--row stream-asyncio"`.

Each row compares programs that do the same work. Each program runs in a process of its own, the
sides of a row take turns, and each ratio is taken within a round; the table has its median and its
smallest and largest value. What counts is CPU time (user and system) of the client's process, or
wall-clock time where a row does not say CPU.

{ratios}

{titles}
{missed}
## What the sides took

{sides}

The last column is the share of a core that the server took meanwhile.

## 1 to 10,000 streams

![CPU per fragment against streams](performance-scaling.png)

The band reaches from the fastest to the slowest round.

## Method

- **The floor** is the least that can do the work in Python, in one loop without any of the rest.
  On asyncio: a bare aiohttp WebSocket, and msgspec, which takes each frame into its types in one
  decoding. On trio: the Sans-I/O protocol of `websockets` over a trio stream, and msgspec.
- **The server** of all rows but `engine-…` is a program of its own that only sends frames encoded
  ahead of time. It is not the bound: {capacity}
- **Fragments per wake-up.** What a fragment costs depends on how many come at once: the operating
  system takes far longer to wake a process than any client takes to decode a frame. The server
  therefore writes 8 fragments at a time and then pauses for 250 µs (`stream-asyncio`), one at a
  time (`stream-asyncio-single`), or as many as the client takes (`stream-asyncio-burst`). The goals
  are for the first. The more come at once, the less the waking weighs.
- **At once**: the fragments of several streams take turns on one socket, and each stream is read
  by a task of its own.
- **Discovery**: both clients look for the server on its well-known ports. Their modules are
  imported by then.
- **Memory** is what the process shares with no other; an open stream includes the task that waits
  for it.
- **`engine-…`**: the [embedded server](embedded-server.md), through this client, against the HTTP
  server of llama.cpp itself, with the same model, settings and threads.
- `lmstudio` is version 1.5.0, through its asynchronous client; `@lmstudio/sdk` is version 2.0.0 on
  Node, shown for comparison.
"""


# Where a goal may be missed, and what the profiles say.
REASONS = {
    "streams-200": (
        "Fragments of one stream come eight at a time and wake their reader once; those of 200 "
        "streams wake a task each. asyncio alone takes 0.9 to 1.3 µs for that (a future, a handle, "
        "a turn of the task), and the goal leaves 1.4 µs for all of it."
    ),
    "embeddings": (
        "The floor itself is about 4.2 times cheaper than `lmstudio` here: of its 70 µs, msgspec "
        "takes 49 to read 768 floats, and aiohttp the rest. The client adds 5 to 15 % to it."
    ),
    "engine-stream": (
        "The engine's two threads use both cores. What the embedded server and the client take for "
        "each token, 0.27 ms and 0.16 ms of 5.9, they take from them; the bare server needs one "
        "program less, and no WebSocket."
    ),
}


def _missed(ratios: Sequence[Line]) -> str:
    names = {line.row.name for line in ratios if line.verdict == "FAIL"}
    told = [f"- `{name}`: {reason}" for name, reason in REASONS.items() if name in names]
    return "\n## Goals that were missed\n\n" + "\n".join(told) + "\n" if told else ""


def write(
    folder: Path,
    rows: Sequence[Row],
    results: Mapping[str, Results],
    ratios: Sequence[Line],
    capacity: str,
    rounds: int,
) -> None:
    for row in rows:
        if row.curve:
            draw(row, results[row.name], folder / "performance-scaling.png")
    cells = [line for row in rows for line in sides(row, results[row.name])]
    page = PAGE.format(
        machine=machine(),
        rounds=rounds,
        ratios=markdown_table(HEADINGS, [line.cells() for line in ratios]),
        titles="\n".join(f"- `{row.name}`: {row.title}" for row in rows),
        sides=markdown_table(SIDES_HEADINGS, cells),
        missed=_missed(ratios),
        capacity=capacity[0].lower() + capacity[1:],
    )
    (folder / "performance.md").write_text(page)
