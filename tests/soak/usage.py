"""Memory and descriptors of the two processes while nothing is going on."""

import gc
import sys
from dataclasses import dataclass, fields

import psutil

from lmstudio_async.embedded import EmbeddedServer


@dataclass(frozen=True)
class Usage:
    """`client_blocks`: pieces of memory that the interpreter has handed out."""

    client_bytes: int
    client_blocks: int
    client_descriptors: int
    server_bytes: int
    server_descriptors: int


# Growth that is no leak. Descriptors: none. Blocks: timers that are cancelled and not due yet, 600
# blocks were seen; one object for each of a soak's 5,000 calls would show. Bytes: allocators keep
# what a burst has needed, and how high that was is chance: 1 to 2 MB were seen.
ALLOWANCE = Usage(
    client_bytes=4_000_000,
    client_blocks=2_500,
    client_descriptors=0,
    server_bytes=4_000_000,
    server_descriptors=0,
)


def measure(server: EmbeddedServer) -> Usage:
    gc.collect()
    client, remote = psutil.Process(), psutil.Process(server.pids[0])
    return Usage(
        client_bytes=client.memory_info().rss,
        client_blocks=sys.getallocatedblocks(),
        client_descriptors=client.num_fds(),
        server_bytes=remote.memory_info().rss,
        server_descriptors=remote.num_fds(),
    )


def growth(before: Usage, after: Usage) -> list[str]:
    """What has grown beyond its allowance."""
    grown = []
    for field in fields(Usage):
        old, new, allowed = (getattr(one, field.name) for one in (before, after, ALLOWANCE))
        if new - old > allowed:
            grown.append(f"{field.name}: {old:,} before, {new:,} after")
    return grown
