"""`lmstudio`, through its asynchronous client."""

import asyncio
import json

import lmstudio

from benchmarks.programs.meter import Meter, arguments, private_bytes, prompt
from benchmarks.replay_frames import EMBEDDING_KEY, LLM_KEY

options = arguments()
meter = Meter()


async def stream() -> None:
    """The fragments of one stream, or of several at once."""
    async with lmstudio.AsyncClient(options.address) as client:
        model = await client.llm.model(LLM_KEY)
        request = prompt(options)
        pieces: list[str] = []
        to_open = options.streams
        opened = asyncio.Event()

        async def read() -> None:
            nonlocal to_open
            async with await model.respond_stream(request) as predicted:
                to_open -= 1
                if not to_open:
                    opened.set()
                async for fragment in predicted:
                    pieces.append(fragment.content)
                    if len(pieces) == options.count:
                        meter.stop()

        async with asyncio.TaskGroup() as group:
            for _ in range(options.streams):
                group.create_task(read())
            await opened.wait()
            meter.start()
            await model.tokenize("go")
    meter.report(options.count)


async def calls() -> None:
    """Calls, one after another."""
    async with lmstudio.AsyncClient(options.address) as client:
        model = await client.llm.model(LLM_KEY)
        await model.tokenize("Hello")
        meter.start()
        for _ in range(options.count):
            await model.tokenize("Hello world, I am a test.")
        meter.stop()
    meter.report(options.count)


async def embed() -> None:
    """Embeddings, one after another."""
    async with lmstudio.AsyncClient(options.address) as client:
        model = await client.embedding.model(EMBEDDING_KEY)
        await model.embed("Hello")
        meter.start()
        for _ in range(options.count):
            await model.embed("Hello world, I am a test.")
        meter.stop()
    meter.report(options.count)


async def connect() -> None:
    """Find the server, connect, make one call, close."""
    await _session()
    meter.start()
    for _ in range(options.count):
        await _session()
    meter.stop()
    meter.report(options.count)


async def _session() -> None:
    async with lmstudio.AsyncClient() as client:
        await client.llm.list_loaded()


async def memory() -> None:
    """An idle client that has made a call, then one with so many open streams."""
    async with lmstudio.AsyncClient(options.address) as client:
        model = await client.llm.model(LLM_KEY)
        idle = private_bytes()
        request = prompt(options)
        to_open = options.streams
        opened = asyncio.Event()

        async def read() -> None:
            nonlocal to_open
            async with await model.respond_stream(request) as predicted:
                to_open -= 1
                if not to_open:
                    opened.set()
                async for _ in predicted:
                    pass

        async with asyncio.TaskGroup() as group:
            for _ in range(options.streams):
                group.create_task(read())
            await opened.wait()
            await model.tokenize("Hello")
            per_stream = (private_bytes() - idle) / options.streams
            await model.tokenize("go")
    print(json.dumps({"idle_bytes": idle, "stream_bytes": per_stream}))


if __name__ == "__main__":
    workloads = {
        "stream": stream,
        "calls": calls,
        "embed": embed,
        "connect": connect,
        "memory": memory,
    }
    asyncio.run(workloads[options.workload]())
