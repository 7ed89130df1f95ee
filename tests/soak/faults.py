"""What goes wrong from outside during a soak, at random moments."""

import asyncio
import os
import random
import signal
from contextlib import suppress

from lmstudio_async.embedded import EmbeddedServer
from tests.soak.journal import Journal
from tests.soak.relay import Relay


async def kill_workers(
    server: EmbeddedServer, journal: Journal, rng: random.Random, every: float
) -> None:
    """End a model's process the hard way, loading or loaded."""
    while True:
        await asyncio.sleep(every * rng.uniform(0.5, 1.5))
        if workers := server.pids[1:]:
            with suppress(ProcessLookupError):
                os.kill(rng.choice(workers), signal.SIGKILL)
                journal.faults["worker killed"] += 1


async def cut_connections(relay: Relay, journal: Journal, rng: random.Random, every: float) -> None:
    while True:
        await asyncio.sleep(every * rng.uniform(0.5, 1.5))
        journal.faults["connection cut"] += relay.cut(rng)
