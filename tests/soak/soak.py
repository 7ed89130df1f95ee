"""Many tasks use the embedded server through one client while things go wrong at random.

In rounds: at the end of each all programs have ended, and nothing may be left of what they did.
The first is the warm-up; what is in use at its end is the measure for the others.
"""

import asyncio
import random
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import psutil

import lmstudio_async as lms
from lmstudio_async.embedded import EmbeddedServer
from tests.soak.faults import cut_connections, kill_workers
from tests.soak.journal import Journal, where
from tests.soak.relay import Relay
from tests.soak.server import logged_server
from tests.soak.usage import Usage, growth, measure
from tests.soak.workload import Workload

_ROUNDS = 3


@dataclass(frozen=True)
class Plan:
    """How long, with how many tasks; times are in seconds.

    kill_every, cut_every: between two faults of a kind, on average.
    hang: more than any program takes, also one that waits for all others.
    settle: for what cancelled tasks leave to the background, which is bounded by 30 s itself.
    """

    seed: int
    seconds: float = 120.0
    tasks: int = 200
    kill_every: float = 3.0
    cut_every: float = 5.0
    hang: float = 120.0
    settle: float = 35.0


@dataclass
class SoakReport:
    plan: Plan
    journal: Journal = field(default_factory=Journal)
    usages: list[Usage] = field(default_factory=list)
    leaks: list[str] = field(default_factory=list)


async def soak(plan: Plan) -> SoakReport:
    report = SoakReport(plan)
    journal = report.journal
    descriptors = psutil.Process().num_fds()
    with journal.taking_logged_errors():
        async with (
            logged_server(journal.bugs) as server,
            Relay(server.api_host).listening() as relay,
            lms.Client(relay.address) as client,
        ):
            workload = Workload(client, journal)
            for number in range(_ROUNDS):
                async with _faults(plan, number, journal, server, relay):
                    await _round(plan, number, workload, journal)
                if journal.hangs:
                    break
                report.leaks += await _left_behind(client, server, plan.settle)
                report.usages.append(measure(server))
    for usage in report.usages[1:]:
        report.leaks += growth(report.usages[0], usage)
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    report.leaks += [f"after closing, a task: {where(task)}" for task in tasks]
    if (left := psutil.Process().num_fds() - descriptors) > 0:
        report.leaks.append(f"after closing, descriptors: {left}")
    return report


@asynccontextmanager
async def _faults(
    plan: Plan, number: int, journal: Journal, server: EmbeddedServer, relay: Relay
) -> AsyncIterator[None]:
    """Things go wrong for the time of the block."""
    rng = random.Random(f"{plan.seed}/{number}/faults")
    async with asyncio.TaskGroup() as group:
        tasks = [
            group.create_task(kill_workers(server, journal, rng, plan.kill_every)),
            group.create_task(cut_connections(relay, journal, rng, plan.cut_every)),
        ]
        yield
        for task in tasks:
            task.cancel()


async def _round(plan: Plan, number: int, workload: Workload, journal: Journal) -> None:
    until = time.monotonic() + plan.seconds / _ROUNDS
    rngs = [random.Random(f"{plan.seed}/{number}/{task}") for task in range(plan.tasks)]
    pending = {asyncio.create_task(workload.run(rng, until)) for rng in rngs}
    try:
        while pending and not journal.hangs:
            done, pending = await asyncio.wait(pending, timeout=1)
            for task in done:
                await task
            journal.look_for_hangs(plan.hang)
    finally:
        for task in pending:
            task.cancel()
        if pending:  # those who do not end for a cancellation either are told of, not waited for
            await asyncio.wait(pending, timeout=plan.hang)


async def _left_behind(client: lms.Client, server: EmbeddedServer, settle: float) -> list[str]:
    give_up = time.monotonic() + settle
    while True:
        left = [f"loaded: {model.identifier}" for model in await client.list_loaded_models()]
        left += [f"a worker: process {pid}" for pid in server.pids[1:]]
        if not left or time.monotonic() > give_up:
            return left
        await asyncio.sleep(0.1)  # the server tells nobody that a process has ended
