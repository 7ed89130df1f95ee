"""What the simulation has found, each as a program of its own."""

from collections.abc import Awaitable, Callable, Iterator
from typing import Any, Literal

import anyio
import pytest

import lmstudio_async as lms
from tests.simulation.clock import LoopName
from tests.simulation.faults import Calm, CutAt, Fate
from tests.simulation.program import Ledger
from tests.simulation.seeds import LOOPS
from tests.simulation.server import Server
from tests.simulation.world import World, live

pytestmark = pytest.mark.parametrize("loop", LOOPS)


class Slow(Calm):
    """A server of a given pace that may finish a load although it was cancelled or cut off."""

    def __init__(self, step: float, *, finishes: bool) -> None:
        super().__init__()
        self.step = step
        self.finishes = finishes
        self.delay = 0.001

    def latency(self) -> float:
        return self.delay

    def work(self) -> float:
        return self.step

    def finishes_load(self, after: Literal["cancel", "loss"]) -> bool:
        return self.finishes

    def connection(self) -> Literal["accepted", "refused", "unanswered"]:
        return "unanswered" if self.injected["silence"] else "accepted"


def run(
    loop: LoopName, faults: Calm, program: Callable[[World], Awaitable[None]], seed: int = 0
) -> None:
    outcome = live(World(faults), program, loop, seed)
    assert not outcome.violations, f"{outcome.log}\n{outcome.violations}"


async def hold(ledger: Ledger, scope: Any, seconds: float = 0.0) -> None:
    """Hold a model in a scope for some seconds."""

    async def operation() -> None:
        async with ledger.scope("scope", scope):
            await anyio.sleep(seconds)

    await ledger.attempt("hold", operation, 300)


async def lose(world: World, ledger: Ledger, scope: Any, after: float) -> None:
    """Have the connection of a load cut after some seconds."""
    async with anyio.create_task_group() as group:
        group.start_soon(hold, ledger, scope)
        await anyio.sleep(after)
        world.network.open[-1].cut()


def test_l10_closing_looks_once_more_for_what_a_lost_load_has_left(loop: LoopName) -> None:
    async def program(world: World) -> None:
        async with world.client() as (client, ledger):
            await lose(world, ledger, client.llm.model("llm-a"), 2.0)
            await anyio.sleep(5.6)
            assert list(world.server.loaded) == ["llm-a"]  # 0.1 s ago
            ledger.closes()
            await client.aclose()
            assert world.server.loaded == {}

    run(loop, Slow(2.5, finishes=True), program)


def test_l10_a_lost_load_is_looked_for_although_the_next_one_is_cancelled(loop: LoopName) -> None:
    async def program(world: World) -> None:
        async with world.client() as (client, ledger):
            await lose(world, ledger, client.llm.model("llm-a"), 2.0)
            with anyio.move_on_after(0.5):
                await hold(ledger, client.llm.model("llm-a"))

    run(loop, Slow(2.5, finishes=True), program)


def test_l10_the_search_for_a_lost_load_spares_what_was_loaded_since(loop: LoopName) -> None:
    async def program(world: World) -> None:
        async with world.client() as (client, ledger):
            await lose(world, ledger, client.llm.load_new_instance("llm-a", "mine"), 0.1)
            await anyio.sleep(0.5)
            await hold(ledger, client.llm.load_new_instance("llm-a", "mine"), 20)
            assert ledger.endings["done"] == 1

    run(loop, Slow(0.2, finishes=False), program)


def test_l10_loads_of_one_identifier_are_looked_for_in_each_namespace(loop: LoopName) -> None:
    faults = Slow(0.5, finishes=False)

    async def program(world: World) -> None:
        async with world.client() as (client, ledger):
            await lose(world, ledger, client.embedding.load_new_instance("embed-a", "mine"), 0.1)
            await anyio.sleep(1.0)
            faults.finishes = True
            await lose(world, ledger, client.llm.load_new_instance("llm-a", "mine"), 0.1)

    run(loop, faults, program)


def test_l10_a_cancelled_load_that_is_lost_is_looked_for(loop: LoopName) -> None:
    faults = Slow(2.0, finishes=True)
    faults.delay = 0.5

    async def program(world: World) -> None:
        async with world.client() as (client, ledger):
            # The server gets the request after 2 s, and its first word comes after 2.5 s.
            with anyio.move_on_after(2.2):
                await hold(ledger, client.llm.model("llm-a"))
            await anyio.sleep(0.4)
            world.network.open[-1].cut()

    run(loop, faults, program)


def test_l7_a_cancelled_load_of_a_known_instance_is_not_looked_for_by_name(loop: LoopName) -> None:
    class Thief(CutAt):
        """Others take the place of each instance as soon as it is loaded."""

        def script(self, server: Server) -> Iterator[float]:
            for _ in range(200):
                yield 0.0007
                if server.evict("llm-a"):
                    server.load_for_stranger("llm", "llm-a")

    async def program(world: World) -> None:
        async with world.client() as (client, ledger):
            with anyio.move_on_after(0.02):
                await hold(ledger, client.llm.model("llm-a"))

    for number in range(1, 16):
        run(loop, Thief(number, Fate.CUT_AFTER, loads_go_on=True), program)


def test_l12_closing_reports_what_it_could_not_wait_for(loop: LoopName) -> None:
    faults = Slow(15.0, finishes=True)

    async def program(world: World) -> None:
        def silence() -> None:
            faults.injected["silence"] += 1
            for socket in world.network.open:
                socket.silent = True

        async with world.client() as (client, ledger):
            async with anyio.create_task_group() as group:
                group.start_soon(hold, ledger, client.llm.model("llm-a"))
                await anyio.sleep(1.0)
                # The load ends after 45 s, and from then on the server is silent.
                world.timeline.after(44.005, silence)
                ledger.closes()
                with pytest.raises(lms.LMStudioUnloadError, match="left loaded") as caught:
                    await client.aclose()
                assert "'llm-a'" in str(caught.value.exceptions[0])
                ledger.reported += 1

    run(loop, faults, program)


def test_l2_an_instance_that_a_cancelled_load_gives_up_is_not_handed_out(loop: LoopName) -> None:
    async def program(world: World) -> None:
        faults = world.faults
        assert isinstance(faults, Slow)
        async with world.client() as (client, ledger):
            with anyio.move_on_after(0.5):
                await hold(ledger, client.llm.load_new_instance("llm-a", "mine"))
            # The server tells of its success at the same moment as of the instance being there.
            await anyio.sleep(0.3)
            faults.delay = 1.0
            await anyio.sleep(0.2)
            faults.delay = 0.001
            await hold(ledger, client.llm.model("llm-a"), 5)

    for seed in range(20):
        run(loop, Slow(0.3, finishes=True), program, seed)


def test_l7_an_unload_by_hand_spares_what_was_loaded_by_that_name_since(loop: LoopName) -> None:
    faults = Slow(0.01, finishes=True)

    async def program(world: World) -> None:
        async with world.client() as (client, ledger):
            model = await client.llm.model("llm-a")
            async with anyio.create_task_group() as group:
                group.start_soon(model.unload)
                await anyio.sleep(0.0005)
                faults.delay = 3.0  # of the answer to the question whether it is there
                await anyio.sleep(0.5)
                faults.delay = 0.001
                world.server.evict("llm-a")
                await hold(ledger, client.llm.model("llm-a"), 5.0)
            assert world.server.loaded == {}

    run(loop, faults, program)
