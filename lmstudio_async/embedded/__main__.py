"""The process that `EmbeddedServer` starts.

The first line of standard input is the configuration as JSON; the end of standard input ends the
server, be it asked to end or its parent be dead. One line of JSON on standard output says where it
listens, or what went wrong.
"""

import asyncio
import logging
import os
import sys
import threading

import msgspec

from lmstudio_async.embedded.launcher import Started
from lmstudio_async.embedded.server import ServerConfig, run_server


async def _serve(config: ServerConfig) -> None:
    async with run_server(config) as server:
        _report(Started(address=server.address))
        await _end_of_stdin()


async def _end_of_stdin() -> None:
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()

    def read() -> None:
        # Past Python's buffer, whose lock this thread would hold at the interpreter's shutdown.
        while os.read(0, 1024):
            pass
        loop.call_soon_threadsafe(ended.set)

    # A daemon, since nothing can wake it up: the process may also end for another reason.
    threading.Thread(target=read, daemon=True).start()
    await ended.wait()


def _report(started: Started) -> None:
    sys.stdout.write(msgspec.json.encode(started).decode() + "\n")
    sys.stdout.flush()


def main() -> None:
    logging.basicConfig(format="%(asctime)s %(name)s %(levelname)s %(message)s")
    config = msgspec.json.decode(sys.stdin.buffer.readline(), type=ServerConfig)
    try:
        asyncio.run(_serve(config))
    except (OSError, ValueError) as error:
        _report(Started(error=str(error)))
        sys.exit(1)


if __name__ == "__main__":
    main()
