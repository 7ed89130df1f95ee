"""A whole program: start, import, connect, make one call."""

import asyncio
import sys

import lmstudio


async def main() -> None:
    async with lmstudio.AsyncClient(sys.argv[1]) as client:
        await client.llm.list_loaded()


asyncio.run(main())
