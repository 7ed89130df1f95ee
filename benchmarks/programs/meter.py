"""What every program measures, and how it says so."""

import argparse
import gc
import json
import os
import resource
import time
from typing import Any


class Meter:
    """CPU time (user and system), wall-clock time and waits of this process, from `start` on."""

    def start(self) -> None:
        gc.collect()
        self._waits = resource.getrusage(resource.RUSAGE_SELF).ru_nvcsw
        self._wall = time.perf_counter()
        self._cpu = time.process_time()

    def stop(self) -> None:
        self._cpu = time.process_time() - self._cpu
        self._wall = time.perf_counter() - self._wall
        self._waits = resource.getrusage(resource.RUSAGE_SELF).ru_nvcsw - self._waits

    def report(self, items: int) -> None:
        print(
            json.dumps(
                {
                    "cpu_us": self._cpu / items * 1e6,
                    "wall_us": self._wall / items * 1e6,
                    "wall_s": self._wall,
                    "waits": self._waits / items,
                }
            )
        )


def private_bytes() -> int:
    """Memory that this process shares with no other."""
    import psutil

    gc.collect()
    return int(psutil.Process(os.getpid()).memory_full_info().uss)


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
