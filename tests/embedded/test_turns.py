"""Who works on a model at the same time."""

import anyio
import pytest
from anyio.abc import TaskGroup

from lmstudio_async.embedded.instances import Turns

pytestmark = pytest.mark.asyncio


class Line:
    """Those who ask for a turn, and who has one."""

    def __init__(self, turns: Turns, tasks: TaskGroup) -> None:
        self._turns = turns
        self._tasks = tasks
        self._ends: dict[str, anyio.Event] = {}
        self.at_work: list[str] = []

    async def ask(self, name: str, tokens: int) -> None:
        self._ends[name] = anyio.Event()

        async def work() -> None:
            async with self._turns.one(tokens):
                self.at_work.append(name)
                await self._ends[name].wait()
                self.at_work.remove(name)

        self._tasks.start_soon(work)
        await anyio.wait_all_tasks_blocked()

    async def end(self, name: str) -> None:
        self._ends[name].set()
        await anyio.wait_all_tasks_blocked()


async def test_as_many_as_there_are_slots() -> None:
    async with anyio.create_task_group() as tasks:
        line = Line(Turns(slots=2, context_length=10), tasks)
        for name in "abc":
            await line.ask(name, 0)
        assert line.at_work == ["a", "b"]
        await line.end("a")
        assert line.at_work == ["b", "c"]
        tasks.cancel_scope.cancel()


async def test_those_at_work_fit_into_the_context_together() -> None:
    async with anyio.create_task_group() as tasks:
        line = Line(Turns(slots=8, context_length=10), tasks)
        await line.ask("a", 6)
        await line.ask("b", 5)
        await line.ask("c", 1)
        assert line.at_work == ["a"]  # c would fit, but b would wait for ever behind such as c
        await line.end("a")
        assert line.at_work == ["b", "c"]
        tasks.cancel_scope.cancel()


async def test_what_may_be_longer_than_the_context_has_it_alone() -> None:
    async with anyio.create_task_group() as tasks:
        line = Line(Turns(slots=8, context_length=10), tasks)
        await line.ask("a", 1)
        await line.ask("b", 11)
        await line.ask("c", 1)
        assert line.at_work == ["a"]
        await line.end("a")
        assert line.at_work == ["b"]
        await line.end("b")
        assert line.at_work == ["c"]
        tasks.cancel_scope.cancel()


async def test_who_gives_up_in_line_holds_nobody_up() -> None:
    async with anyio.create_task_group() as tasks:
        turns = Turns(slots=1, context_length=10)
        line = Line(turns, tasks)
        await line.ask("a", 1)
        with anyio.move_on_after(0):
            async with turns.one(1):
                raise AssertionError("there is one slot only")
        await line.ask("b", 1)
        await line.end("a")
        assert line.at_work == ["b"]
        tasks.cancel_scope.cancel()
