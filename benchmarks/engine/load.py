"""Seconds to load the starter model and unload it: `embedded`, or `bare`: a process of its own."""

import argparse
import asyncio
import json
import statistics
import time

import lmstudio_async as lms
from benchmarks.engine.bare import SETTINGS, bare_server
from lmstudio_async.embedded import EmbeddedServer


async def embedded(count: int) -> list[float]:
    async with EmbeddedServer() as server, lms.Client(server.api_host) as client:
        await client.llm.list_loaded()
        times = []
        for _ in range(count):
            start = time.perf_counter()
            async with client.llm.load_new_instance("smollm2-135m-instruct"):
                pass
            times.append(time.perf_counter() - start)
        return times


async def bare(count: int) -> list[float]:
    times = []
    for _ in range(count):
        start = time.perf_counter()
        with bare_server(SETTINGS):
            pass
        times.append(time.perf_counter() - start)
    return times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("side", choices=["embedded", "bare"])
    parser.add_argument("--count", type=int, default=5)
    options = parser.parse_args()
    side = embedded if options.side == "embedded" else bare
    times = asyncio.run(side(options.count))
    print(json.dumps({"load_and_unload_s": statistics.median(times)}))


if __name__ == "__main__":
    main()
