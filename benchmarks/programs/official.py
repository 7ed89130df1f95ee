"""`lmstudio`, through its asynchronous client."""

import asyncio

import lmstudio

from benchmarks.programs.meter import Memory, Meter, arguments, prompt
from benchmarks.replay_frames import EMBEDDING_KEY, LLM_KEY

options = arguments()
meter = Memory(options) if options.workload == "memory" else Meter(options)


async def stream() -> None:
    """The fragments of one stream, or of several at once."""
    async with lmstudio.AsyncClient(options.address) as client:
        model = await client.llm.model(LLM_KEY)
        meter.idle()
        request = prompt(options)
        pieces: list[str] = []
        to_open = options.streams

        async def read() -> None:
            nonlocal to_open
            async with await model.respond_stream(request) as predicted:
                to_open -= 1
                if not to_open:
                    await model.tokenize("Hello")  # all answers up to now have come
                    meter.start()
                    await model.tokenize("go")
                async for fragment in predicted:
                    pieces.append(fragment.content)
                    if len(pieces) == options.count:
                        meter.stop()

        if options.streams == 1:
            await read()
        else:
            async with asyncio.TaskGroup() as group:
                for _ in range(options.streams):
                    group.create_task(read())
    meter.report()


async def calls() -> None:
    """Calls, one after another."""
    async with lmstudio.AsyncClient(options.address) as client:
        model = await client.llm.model(LLM_KEY)
        await model.tokenize("Hello")
        meter.start()
        for _ in range(options.count):
            await model.tokenize("Hello world, I am a test.")
        meter.stop()
    meter.report()


async def embed() -> None:
    """Embeddings, one after another."""
    async with lmstudio.AsyncClient(options.address) as client:
        model = await client.embedding.model(EMBEDDING_KEY)
        await model.embed("Hello")
        meter.start()
        for _ in range(options.count):
            await model.embed("Hello world, I am a test.")
        meter.stop()
    meter.report()


async def connect() -> None:
    """Find the server, connect, make one call, close."""
    await _session()
    meter.start()
    for _ in range(options.count):
        await _session()
    meter.stop()
    meter.report()


async def _session() -> None:
    async with lmstudio.AsyncClient() as client:
        await client.llm.list_loaded()


if __name__ == "__main__":
    workloads = {
        "stream": stream,
        "calls": calls,
        "embed": embed,
        "connect": connect,
        "memory": stream,
    }
    asyncio.run(workloads[options.workload]())
