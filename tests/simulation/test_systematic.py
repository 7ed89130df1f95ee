"""Small programs, cancelled at every await and cut off at every frame."""

from collections.abc import Awaitable, Callable
from typing import Literal

import anyio
import pytest

import lmstudio_async as lms
from tests.simulation.cancellation import CancelAt
from tests.simulation.clock import LoopName
from tests.simulation.faults import Calm, CutAt, Fate
from tests.simulation.program import Ledger
from tests.simulation.seeds import LOOPS
from tests.simulation.world import Run, World, live

Program = Callable[[lms.Client, Ledger], Awaitable[None]]


async def share(client: lms.Client, ledger: Ledger) -> None:
    async with ledger.scope("share", client.llm.model("llm-a")) as model:
        await model.count_tokens("some words")


async def own(client: lms.Client, ledger: Ledger) -> None:
    async with ledger.scope("own", client.llm.load_new_instance("llm-a", "mine")) as model:
        await model.count_tokens("some words")


async def nest(client: lms.Client, ledger: Ledger) -> None:
    async with (
        ledger.scope("1", client.llm.model("llm-a")),
        ledger.scope("2", client.embedding.load_new_instance("embed-a", "mine")),
        ledger.scope("3", client.llm.model("llm-a")),
    ):
        pass


async def keep(client: lms.Client, ledger: Ledger) -> None:
    model = await client.llm.model("llm-a")
    ledger.kept.add(model.instance_reference)
    ledger.unprotected.add(model.instance_reference)
    await model.unload()
    ledger.kept.discard(model.instance_reference)


async def stream(client: lms.Client, ledger: Ledger) -> None:
    async with ledger.scope("stream", client.llm.model("llm-a")) as model:
        async for _ in model.respond_stream("endless"):
            break


async def again(client: lms.Client, ledger: Ledger) -> None:
    for name in ("first", "second"):
        async with ledger.scope(name, client.llm.model("llm-a")):
            pass


async def together(client: lms.Client, ledger: Ledger) -> None:
    async def one() -> None:
        async with ledger.scope("one", client.llm.model("llm-a")):
            await anyio.sleep(0.01)

    async with anyio.create_task_group() as group:
        group.start_soon(one)
        await one()


PROGRAMS = [share, own, nest, keep, stream, again, together]


class Finishing(Calm):
    """A server that finishes loads although they were cancelled."""

    def finishes_load(self, after: Literal["cancel", "loss"]) -> bool:
        return True


def run(loop: LoopName, program: Program, faults: Calm, cancel: CancelAt) -> Run:
    """Run a program and use the client again afterwards; then nothing may be left."""

    async def main(world: World) -> None:
        async with world.client() as (client, ledger):

            async def attempt() -> None:
                await ledger.attempt("program", lambda: _flat(program(client, ledger)), 300)

            await cancel.run(attempt)
            world.faults.end()
            await ledger.attempt("afterwards", lambda: share(client, ledger), 300)

    return live(World(faults), main, loop)


async def _flat(program: Awaitable[None]) -> None:
    """A task group wraps what is raised in it."""
    try:
        await program
    except ExceptionGroup as group:
        if isinstance(group, lms.LMStudioError):
            raise
        raise group.exceptions[0] from None


def check(run: Run, what: object) -> None:
    assert not run.violations, f"{what}:\n{run.log}\n{run.violations}"


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("program", PROGRAMS)
def test_cancelled_at_every_await(loop: LoopName, program: Program) -> None:
    count = CancelAt(0)
    check(run(loop, program, Calm(), count), "undisturbed")
    assert count.awaits > 5
    hows: list[Literal["scope", "task"]] = ["scope"] if loop == "trio" else ["scope", "task"]
    for number in range(1, count.awaits + 1):
        for how in hows:
            for faults in (Calm(), Finishing()):
                cancel = CancelAt(number, how)
                outcome = run(loop, program, faults, cancel)
                check(outcome, f"cancelled ({how}) at await {number}, {type(faults).__name__}")
                assert cancel.struck
                assert outcome.endings["cancelled"] + outcome.endings["done"] == 3


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("program", PROGRAMS)
@pytest.mark.parametrize("fate", [Fate.CUT_BEFORE, Fate.CUT_AFTER, Fate.SILENCE])
def test_cut_off_at_every_frame(loop: LoopName, program: Program, fate: Fate) -> None:
    count = CutAt(0, fate)
    check(run(loop, program, count, CancelAt(0)), "undisturbed")
    assert count.frames > 10
    for number in range(1, count.frames + 1):
        for loads_go_on in (False, True):
            faults = CutAt(number, fate, loads_go_on=loads_go_on)
            what = f"{fate.name} at frame {number}, loads go on: {loads_go_on}"
            check(run(loop, program, faults, CancelAt(0)), what)
            assert faults.injected
