"""What is measured of a client. Ours and the official one have the same names for all of it."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import anyio

from benchmarks.programs.meter import Memory, Meter, arguments, prompt
from benchmarks.replay_frames import EMBEDDING_KEY, LLM_KEY

_TEXT = "Hello world, I am a test."

options = arguments()
meter = Memory(options) if options.workload == "memory" else Meter(options)


async def stream(client_class: Any) -> None:
    """The fragments of one stream, or of several at once."""
    async with client_class(options.address) as client:
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


async def calls(client_class: Any) -> None:
    async with client_class(options.address) as client:
        model = await client.llm.model(LLM_KEY)
        await _one_after_another(lambda: model.tokenize(_TEXT))


async def embed(client_class: Any) -> None:
    async with client_class(options.address) as client:
        model = await client.embedding.model(EMBEDDING_KEY)
        await _one_after_another(lambda: model.embed(_TEXT))


async def connect(client_class: Any) -> None:
    """Find the server, connect, make one call, close."""

    async def session() -> None:
        async with client_class() as client:
            await client.llm.list_loaded()

    await _one_after_another(session)


async def _one_after_another(act: Callable[[], Awaitable[object]]) -> None:
    await act()
    meter.start()
    for _ in range(options.count):
        await act()
    meter.stop()


def measure(client_class: Any) -> None:
    workloads = {
        "stream": stream,
        "calls": calls,
        "embed": embed,
        "connect": connect,
        "memory": stream,
    }
    workload = workloads[options.workload]
    if options.loop == "trio":
        anyio.run(workload, client_class, backend="trio")
    else:
        uvloop = {"use_uvloop": options.loop == "uvloop"}
        anyio.run(workload, client_class, backend_options=uvloop)
    meter.report()
