"""A cheap client of llama.cpp's own HTTP server, and that server's process."""

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import msgspec

from lmstudio_async.embedded import starter_model

# As the embedded server has them: a model alone is to be compared, not its settings.
SETTINGS = {"n_ctx": 4096, "n_parallel": 4, "kv_unified": True, "cache_ram_mib": 0, "ui": False}
ENVIRONMENT = {"GOMP_SPINCOUNT": "1000", **os.environ}


@contextmanager
def bare_server(settings: Mapping[str, Any]) -> Iterator[int]:
    """The server's port."""
    with subprocess.Popen(
        [
            *(sys.executable, "-m", "benchmarks.engine.bare_server"),
            *(str(starter_model()), json.dumps(settings)),
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=ENVIRONMENT,
    ) as process:
        assert process.stdout is not None
        address = process.stdout.readline().strip()
        if not address:
            raise RuntimeError("llama.cpp's server did not start")
        yield int(address.rpartition(":")[2])


async def post(port: int, path: str, body: Mapping[str, Any]) -> Any:
    async with _request(port, path, body) as answer:
        return msgspec.json.decode(await answer.read())


async def stream(port: int, path: str, body: Mapping[str, Any]) -> AsyncIterator[Any]:
    """The events of a streamed answer."""
    async with _request(port, path, {**body, "stream": True}) as answer:
        async for line in answer:
            if line.startswith(b"data: {"):
                yield msgspec.json.decode(line[len(b"data: ") :])


@asynccontextmanager
async def _request(
    port: int, path: str, body: Mapping[str, Any]
) -> AsyncIterator[asyncio.StreamReader]:
    answer, request = await asyncio.open_connection("127.0.0.1", port, limit=2**24)
    try:
        content = msgspec.json.encode(body)
        # HTTP 1.0, so that the answer does not come in chunks.
        head = f"POST {path} HTTP/1.0\r\nHost: localhost\r\nContent-Length: {len(content)}\r\n\r\n"
        request.write(head.encode() + content)
        status = await answer.readuntil(b"\r\n\r\n")
        if b" 200 " not in status.splitlines()[0]:
            raise RuntimeError(status.decode())
        yield answer
    finally:
        request.close()
