"""A whole program: start, import, connect, make one call."""

import asyncio
import sys

import lmstudio_async as lms


async def main() -> None:
    async with lms.Client(sys.argv[1]) as client:
        await client.llm.list_loaded()


asyncio.run(main())
