"""What is measured, and what it has to come to."""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

# `{address}` and `{node_modules}` are filled in when the command is run.
Command: TypeAlias = Sequence[str]


@dataclass(frozen=True)
class Goal:
    """Of `metric`, how `over` compares with `under`, or what `over` is where `under` is None."""

    metric: str
    over: str
    under: str | None = None
    at_most: float | None = None
    at_least: float | None = None

    def met(self, value: float) -> bool:
        return (self.at_most is None or value <= self.at_most) and (
            self.at_least is None or value >= self.at_least
        )


@dataclass(frozen=True)
class Row:
    """Programs to be compared. `shows` are the metrics worth a look, with their units."""

    name: str
    title: str
    sides: Mapping[str, Command]
    shows: Mapping[str, str]
    goals: Sequence[Goal] = field(default_factory=list)
    # The sides by number of streams, where the row is a curve.
    curve: Mapping[str, Mapping[int, str]] = field(default_factory=dict)


OURS, FLOOR, OFFICIAL, JAVASCRIPT = "lmstudio_async", "floor", "lmstudio", "@lmstudio/sdk"
EMBEDDED, BARE = "embedded server", "llama.cpp"
CPU = {"cpu_us": "µs CPU"}
STREAMS = (1, 10, 100, 1_000, 10_000)


def _python(program: str, *arguments: str) -> list[str]:
    return [sys.executable, "-m", f"benchmarks.programs.{program}", *arguments]


def _program(program: str, workload: str, *arguments: str) -> list[str]:
    return _python(program, workload, "--address", "{address}", *arguments)


def _node(workload: str, count: int, batch: int = 0) -> list[str]:
    program = "benchmarks/programs/official.mjs"
    return ["node", program, "{node_modules}", workload, "{address}", str(count), str(batch)]


def _stream(title: str, name: str, count: int, batch: int, goals: Sequence[Goal]) -> Row:
    arguments = ("stream", "--count", str(count), "--batch", str(batch))
    return Row(
        name,
        title,
        {
            FLOOR: _program("floor_asyncio", *arguments),
            OURS: _program("ours", *arguments),
            OFFICIAL: _program("official", *arguments),
            JAVASCRIPT: _node("stream", count, batch),
        },
        CPU,
        goals,
    )


def _calls(title: str, name: str, workload: str, floor: float, official: float) -> Row:
    arguments = (workload, "--count", "2000")
    return Row(
        name,
        title,
        {
            FLOOR: _program("floor_asyncio", *arguments),
            OURS: _program("ours", *arguments),
            OFFICIAL: _program("official", *arguments),
            JAVASCRIPT: _node(workload, 2000),
        },
        CPU,
        _against(floor, official),
    )


def _against(floor: float, official: float) -> list[Goal]:
    return [
        Goal("cpu_us", OURS, FLOOR, at_most=floor),
        Goal("cpu_us", OFFICIAL, OURS, at_least=official),
    ]


def _many(title: str, name: str, batch: int, at_most: float | None) -> Row:
    load = ("stream", "--batch", str(batch))
    return Row(
        name,
        title,
        {
            "1 stream": _program("ours", *load),
            "200 streams": _program("ours", *load, "--streams", "200"),
        },
        CPU,
        [] if at_most is None else [Goal("cpu_us", "200 streams", "1 stream", at_most=at_most)],
    )


def _scaling() -> Row:
    sides: dict[str, Command] = {}
    curve: dict[str, dict[int, str]] = {OURS: {}, OFFICIAL: {}}
    for streams in STREAMS:
        # At least five of each: the first wakes a stream that has never run.
        count = max(20_000, 5 * streams)
        load = ("stream", "--streams", str(streams), "--count", str(count), "--batch", "8")
        for client, program in ((OURS, "ours"), (OFFICIAL, "official")):
            side = curve[client][streams] = f"{client}, {streams:,}"
            sides[side] = _program(program, *load)
    first, last = curve[OURS][1], curve[OURS][STREAMS[-1]]
    goals = [Goal("cpu_us", last, first, at_most=1.5)]
    return Row("scaling", "1 to 10,000 streams at once", sides, CPU, goals, curve)


def _engine(
    title: str,
    name: str,
    program: Sequence[str],
    metric: str,
    unit: str,
    *,
    at_most: float | None = None,
    at_least: float | None = None,
) -> Row:
    """The embedded server against the engine that it runs, on a real model."""
    python = [sys.executable, "-m", f"benchmarks.engine.{program[0]}"]
    return Row(
        name,
        title,
        {
            BARE: [*python, "bare", *program[1:]],
            EMBEDDED: [*python, "embedded", *program[1:]],
        },
        {metric: unit},
        [Goal(metric, EMBEDDED, BARE, at_most=at_most, at_least=at_least)]
        if at_most or at_least
        else [],
    )


ROWS = [
    _stream("one stream, 8 fragments per wake-up", "stream-asyncio", 20_000, 8, _against(1.35, 6)),
    _stream("one stream, 1 fragment per wake-up", "stream-asyncio-single", 4_000, 1, []),
    _stream("one stream, as fast as it goes", "stream-asyncio-burst", 100_000, 0, []),
    Row(
        "stream-trio",
        "trio: one stream, 8 fragments per wake-up",
        {
            FLOOR: _program("floor_trio", "stream", "--batch", "8"),
            OURS: _program("ours", "stream", "--batch", "8", "--loop", "trio"),
        },
        CPU,
        [Goal("cpu_us", OURS, FLOOR, at_most=1.6)],
    ),
    _many("200 streams at once, 8 fragments per wake-up", "streams-200", 8, 1.25),
    _many("200 streams at once, as fast as it goes", "streams-200-burst", 0, None),
    _scaling(),
    _calls("calls, one after another", "calls", "calls", 1.6, 3.5),
    _calls("embeddings of 768 floats", "embeddings", "embed", 1.3, 4.5),
    Row(
        "connect",
        "discovery, connect, one call",
        {
            OURS: _program("ours", "connect", "--count", "5"),
            OFFICIAL: _program("official", "connect", "--count", "5"),
        },
        {"wall_us": "µs", "cpu_us": "µs CPU"},
        [Goal("wall_us", OFFICIAL, OURS, at_least=5)],
    ),
    Row(
        "process",
        "the whole process: start, import, connect, one call",
        {
            OURS: _python("process_ours", "{address}"),
            OFFICIAL: _python("process_official", "{address}"),
        },
        {"process_wall_s": "s", "process_cpu_s": "s CPU"},
        [Goal("process_wall_s", OFFICIAL, OURS, at_least=1.5)],
    ),
    Row(
        "import",
        "import",
        {
            OURS: _python("imports", "lmstudio_async"),
            f"{OURS}.Client": _python("imports", "lmstudio_async:Client"),
            OFFICIAL: _python("imports", "lmstudio"),
        },
        {"wall_us": "µs"},
        [Goal("wall_us", OFFICIAL, OURS, at_least=4)],
    ),
    Row(
        "memory",
        "memory of an idle client, and of each of 1,000 open streams",
        {
            OURS: _program("ours", "memory", "--streams", "1000"),
            OFFICIAL: _program("official", "memory", "--streams", "1000"),
        },
        {"idle_bytes": "bytes idle", "stream_bytes": "bytes a stream"},
        [
            Goal("idle_bytes", OURS, OFFICIAL, at_most=1),
            Goal("stream_bytes", OURS, OFFICIAL, at_most=1),
            Goal("stream_bytes", OURS, at_most=8 * 1024),
        ],
    ),
    _engine(
        "40 texts in one `embed`, on the starter model",
        "engine-embeddings",
        ["embed", "--count", "40"],
        "texts_per_s",
        "texts/s",
    ),
    _engine(
        "one stream, on the starter model",
        "engine-stream",
        ["generate", "--repeat", "4"],
        "tokens_per_s",
        "tokens/s",
        at_least=0.95,
    ),
    _engine(
        "4 streams at once, on the starter model",
        "engine-streams-4",
        ["generate", "--streams", "4", "--tokens", "48", "--repeat", "3"],
        "tokens_per_s",
        "tokens/s",
        at_least=0.95,
    ),
    _engine(
        "load and unload, against the engine's own process",
        "engine-load",
        ["load", "--count", "3"],
        "load_and_unload_s",
        "s",
        at_most=1.2,
    ),
]
