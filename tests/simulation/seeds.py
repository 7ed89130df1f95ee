"""Random runs by the thousand."""

import math
import random
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import anyio

from tests.contract import ContractChecker
from tests.simulation.clock import HangError, LoopName
from tests.simulation.faults import Storm
from tests.simulation.program import CLOSE_BOUND, Actor
from tests.simulation.world import Run, World, live

LOOPS: Sequence[LoopName] = ("asyncio", "trio")


@dataclass
class Failure:
    """A run that broke an invariant."""

    seed: int
    loop: LoopName
    violations: list[str]
    log: list[str]

    def __str__(self) -> str:
        lines = self.log if len(self.log) <= 200 else ["…", *self.log[-200:]]
        return "\n".join(
            [
                *lines,
                f"seed {self.seed} on {self.loop}:",
                *(f"  {violation}" for violation in self.violations),
                f"  python -m tests.simulation --seed {self.seed} --loop {self.loop}",
            ]
        )


@dataclass
class SimulationReport:
    """What came of many runs."""

    runs: int = 0
    operations: int = 0
    calls: int = 0
    injected: Counter[str] = field(default_factory=Counter)
    leaks: int = 0
    hangs: int = 0
    failures: list[Failure] = field(default_factory=list)
    seconds: float = 0.0

    def add(self, seed: int, loop: LoopName, run: Run) -> None:
        self.runs += 1
        self.operations += run.endings.total()
        self.calls += run.calls
        self.injected += run.injected
        self.leaks += any("left loaded" in violation for violation in run.violations)
        self.hangs += any("hangs" in violation for violation in run.violations)
        if run.violations:
            self.failures.append(Failure(seed, loop, run.violations, run.log.lines))

    def __str__(self) -> str:
        faults = [f"  {number:>9,} {kind}" for kind, number in sorted(self.injected.items())]
        return "\n".join(
            [
                f"{self.runs:,} runs in {self.seconds:.0f} s",
                f"{self.operations:,} operations, {self.calls:,} calls and channels",
                f"{sum(self.injected.values()):,} faults injected:",
                *faults,
                f"{self.leaks} runs with leaks, {self.hangs} with hangs, "
                f"{len(self.failures)} with any violation",
            ]
        )


def run_seed(seed: int, loop: LoopName, contract: ContractChecker | None = None) -> Run:
    """One random run."""
    random.seed(seed)  # the client's own jitter

    async def program(world: World) -> None:
        await _random_program(world, seed, loop)

    world = World(Storm(seed), contract)
    try:
        return live(world, program, loop, seed)
    except HangError as error:
        return Run(world.log, [f"hangs: {error}"], world.faults.injected, Counter(), 0)


def run_seeds(seeds: range, loops: Sequence[LoopName] = LOOPS) -> SimulationReport:
    """Random runs of these seeds on these event loops."""
    report = SimulationReport()
    started = time.perf_counter()
    for seed in seeds:
        for loop in loops:
            report.add(seed, loop, run_seed(seed, loop))
    report.seconds = time.perf_counter() - started
    return report


async def _random_program(world: World, seed: int, loop: LoopName) -> None:
    draw = random.Random(f"{seed} program")

    async def use_client(name: str) -> None:
        async with world.client() as (client, ledger):
            with anyio.move_on_after(draw.choice((math.inf, math.inf, math.inf, 1.0, 5.0))):
                async with anyio.create_task_group() as group:
                    for number in range(draw.randint(1, 6)):
                        actor = Actor(
                            f"{name}{number}",
                            client,
                            ledger,
                            world.faults.injected,
                            seed=seed,
                            native=loop == "asyncio",
                        )
                        group.start_soon(actor.run)
                    if draw.random() < 0.1:
                        await anyio.sleep(draw.uniform(0, 3))
                        ledger.closes()
                        await ledger.attempt("early close", client.aclose, CLOSE_BOUND)

    async with anyio.create_task_group() as group:
        group.start_soon(use_client, "a")
        if draw.random() < 0.2:
            group.start_soon(use_client, "b")
