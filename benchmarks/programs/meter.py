"""What every program measures, and how it says so."""

import argparse
import gc
import json
import resource
import time
from typing import Any

import psutil


class Meter:
    """CPU time (user and system), wall-clock time and waits of this process, for each item."""

    def __init__(self, options: Any) -> None:
        self._items = options.count

    def idle(self) -> None:
        """The client is connected and idle."""

    def start(self) -> None:
        gc.collect()
        self._waits = resource.getrusage(resource.RUSAGE_SELF).ru_nvcsw
        self._wall = time.perf_counter()
        self._cpu = time.process_time()

    def stop(self) -> None:
        self._cpu = time.process_time() - self._cpu
        self._wall = time.perf_counter() - self._wall
        self._waits = resource.getrusage(resource.RUSAGE_SELF).ru_nvcsw - self._waits

    def report(self) -> None:
        figures = {
            "cpu_us": self._cpu / self._items * 1e6,
            "wall_us": self._wall / self._items * 1e6,
            "wall_s": self._wall,
            "waits": self._waits / self._items,
        }
        print(json.dumps(figures))


class Memory:
    """Memory that this process shares with no other: of the idle client, and of each stream."""

    def __init__(self, options: Any) -> None:
        self._streams = options.streams

    def idle(self) -> None:
        self._idle = _private_bytes()

    def start(self) -> None:
        self._stream = (_private_bytes() - self._idle) / self._streams

    def stop(self) -> None:
        pass

    def report(self) -> None:
        print(json.dumps({"idle_bytes": self._idle, "stream_bytes": self._stream}))


def _private_bytes() -> int:
    gc.collect()
    return int(psutil.Process().memory_full_info().uss)


def arguments() -> Any:
    parser = argparse.ArgumentParser()
    parser.add_argument("workload")
    parser.add_argument("--address", required=True)
    parser.add_argument("--loop", default="asyncio", choices=["asyncio", "uvloop", "trio"])
    parser.add_argument("--count", type=int, default=20_000, help="fragments in all, or calls")
    parser.add_argument("--streams", type=int, default=1)
    parser.add_argument("--batch", type=int, default=0, help="fragments at a time, 0: all")
    parser.add_argument("--interval-us", type=int, default=250, help="between two batches")
    options = parser.parse_args()
    options.count -= options.count % options.streams
    return options


def prompt(options: Any) -> str:
    """What tells the replay server how to stream."""
    return json.dumps(
        {
            "fragments": options.count // options.streams,
            "batch": options.batch,
            "interval_us": options.interval_us,
        }
    )
