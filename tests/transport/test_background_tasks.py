"""Tasks that belong to a client, and shielding from cancellation, on each event loop."""

import asyncio
import logging
import threading
from typing import Any

import anyio
import pytest
import trio

from lmstudio_async.errors import LMStudioRuntimeError
from lmstudio_async.transport import BackgroundTasks, current_backend

pytestmark = pytest.mark.anyio


@pytest.fixture
async def tasks(anyio_backend: Any) -> BackgroundTasks:
    return current_backend().background_tasks()


async def wait_for_ever() -> None:
    await anyio.sleep_forever()


async def crash() -> None:
    raise ZeroDivisionError("a bug")


def test_there_is_no_backend_outside_an_event_loop() -> None:
    with pytest.raises(LMStudioRuntimeError, match="needs a running event loop"):
        current_backend()


async def test_an_event_loop_has_one_token() -> None:
    assert current_backend().loop_token() is current_backend().loop_token()


async def test_a_task_runs_with_its_arguments(tasks: BackgroundTasks) -> None:
    got: list[object] = []
    done = anyio.Event()

    async def take(*args: object) -> None:
        got.extend(args)
        done.set()

    tasks.spawn(take, 1, "two")
    await done.wait()
    assert got == [1, "two"]
    await tasks.aclose()


async def test_closing_cancels_the_tasks_and_waits_for_their_clean_up(
    tasks: BackgroundTasks,
) -> None:
    events: list[str] = []

    async def run(name: str) -> None:
        try:
            await anyio.sleep_forever()
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.lowlevel.checkpoint()
            events.append(name)

    tasks.spawn(run, "a")
    tasks.spawn(run, "b")
    await anyio.wait_all_tasks_blocked()
    await tasks.aclose()
    assert sorted(events) == ["a", "b"]


async def test_closing_without_tasks_is_quick(tasks: BackgroundTasks) -> None:
    await tasks.aclose()
    await tasks.aclose()


async def test_closing_waits_for_tasks_that_tasks_start_while_they_end(
    tasks: BackgroundTasks,
) -> None:
    ended: list[str] = []

    async def child() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            ended.append("child")

    async def parent() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            tasks.spawn(child)
            with anyio.CancelScope(shield=True):
                await anyio.lowlevel.checkpoint()

    tasks.spawn(parent)
    await anyio.wait_all_tasks_blocked()
    await tasks.aclose()
    assert ended == ["child"]


async def test_a_crash_is_logged_at_once_and_raised_on_closing(
    tasks: BackgroundTasks, caplog: pytest.LogCaptureFixture
) -> None:
    tasks.spawn(wait_for_ever)
    tasks.spawn(crash)
    with anyio.fail_after(5):
        while not caplog.records:
            await anyio.lowlevel.checkpoint()
    (record,) = caplog.records
    assert record.levelno == logging.ERROR
    assert "background task crash crashed" in record.message
    assert "ZeroDivisionError: a bug" in caplog.text
    with pytest.raises(ExceptionGroup) as caught:
        await tasks.aclose()
    (error,) = caught.value.exceptions
    assert isinstance(error, ZeroDivisionError)


async def test_a_crash_while_closing_is_raised_too(tasks: BackgroundTasks) -> None:
    async def crash_at_the_end() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            raise ZeroDivisionError("a bug")

    tasks.spawn(crash_at_the_end)
    await anyio.wait_all_tasks_blocked()
    with pytest.raises(ExceptionGroup, match="background tasks crashed"):
        await tasks.aclose()


async def test_a_task_can_be_started_from_another_thread(tasks: BackgroundTasks) -> None:
    ran_in: list[int] = []
    done = anyio.Event()

    async def run(name: str) -> None:
        ran_in.append(threading.get_ident())
        done.set()

    await anyio.to_thread.run_sync(tasks.spawn_soon, run, "name")
    await done.wait()
    assert ran_in == [threading.get_ident()]
    await tasks.aclose()


@pytest.mark.parametrize("run", [asyncio.run, trio.run])
def test_starting_a_task_after_the_loop_has_ended_does_nothing(run: Any) -> None:
    async def make() -> BackgroundTasks:
        return current_backend().background_tasks()

    if run is trio.run:
        trio.run(make).spawn_soon(crash)
    else:
        asyncio.run(make()).spawn_soon(crash)


async def test_a_shielded_function_returns_or_raises() -> None:
    async def answer() -> int:
        await anyio.lowlevel.checkpoint()
        return 42

    backend = current_backend()
    assert await backend.run_shielded(answer) == 42
    with pytest.raises(ZeroDivisionError):
        await backend.run_shielded(crash)


class Shielded:
    """Something to be shielded, that ends when it is told to."""

    def __init__(self, error: Exception | None = None) -> None:
        self.started, self.go_on, self.finished = anyio.Event(), anyio.Event(), anyio.Event()
        self._error = error

    async def __call__(self) -> None:
        self.started.set()
        await self.go_on.wait()
        self.finished.set()
        if self._error is not None:
            raise self._error


async def test_a_cancel_scope_waits_for_what_is_shielded() -> None:
    shielded, after = Shielded(), []

    async def run() -> None:
        await current_backend().run_shielded(shielded)
        await anyio.lowlevel.checkpoint()
        after.append("went on")

    async with anyio.create_task_group() as group:
        group.start_soon(run)
        await shielded.started.wait()
        group.cancel_scope.cancel()
        with anyio.CancelScope(shield=True):
            await anyio.wait_all_tasks_blocked()
            assert not shielded.finished.is_set()
            shielded.go_on.set()
    assert shielded.finished.is_set()
    assert after == []


async def test_what_is_called_in_a_cancelled_scope_runs_all_the_same() -> None:
    ran = []

    async def run() -> None:
        await anyio.lowlevel.checkpoint()
        ran.append(True)

    with anyio.CancelScope() as scope:
        scope.cancel()
        await current_backend().run_shielded(run)
        await anyio.lowlevel.checkpoint()
    assert ran == [True]
    assert scope.cancelled_caught


def asyncio_only(anyio_backend_name: str) -> None:
    if anyio_backend_name != "asyncio":
        pytest.skip("asyncio's own ways to cancel")


@pytest.mark.parametrize("times", [1, 3])
async def test_cancelling_the_asyncio_task_comes_after_what_is_shielded(
    anyio_backend_name: str, times: int
) -> None:
    asyncio_only(anyio_backend_name)
    shielded = Shielded()
    task = asyncio.create_task(current_backend().run_shielded(shielded))
    await shielded.started.wait()
    for _ in range(times):
        task.cancel()
        await anyio.wait_all_tasks_blocked()
        assert not task.done()
    shielded.go_on.set()
    await asyncio.wait([task])
    assert task.cancelled()
    assert shielded.finished.is_set()


async def test_an_asyncio_time_out_comes_after_what_is_shielded(anyio_backend_name: str) -> None:
    asyncio_only(anyio_backend_name)
    shielded, loop = Shielded(), asyncio.get_running_loop()

    async def run() -> None:
        async with asyncio.timeout(0):
            await current_backend().run_shielded(shielded)

    task = loop.create_task(run())
    await shielded.started.wait()
    await anyio.wait_all_tasks_blocked()
    assert not task.done()
    shielded.go_on.set()
    await asyncio.wait([task])
    assert isinstance(task.exception(), TimeoutError)
    assert shielded.finished.is_set()


async def test_a_failure_behind_a_cancellation_is_logged(
    anyio_backend_name: str, caplog: pytest.LogCaptureFixture
) -> None:
    asyncio_only(anyio_backend_name)
    shielded = Shielded(ZeroDivisionError("a bug"))
    task = asyncio.create_task(current_backend().run_shielded(shielded))
    await shielded.started.wait()
    task.cancel()
    shielded.go_on.set()
    await asyncio.wait([task])
    assert task.cancelled()
    assert "ZeroDivisionError: a bug" in caplog.text


async def test_cancelling_everything_gets_through_the_shield(anyio_backend_name: str) -> None:
    asyncio_only(anyio_backend_name)
    shielded, others = Shielded(), asyncio.all_tasks()
    task = asyncio.create_task(current_backend().run_shielded(shielded))
    await shielded.started.wait()
    # As asyncio.run() does at its end.
    for each in asyncio.all_tasks() - others:
        each.cancel()
    await asyncio.wait([task])
    assert task.cancelled()
    assert not shielded.finished.is_set()


@pytest.mark.parametrize("run", [asyncio.run, trio.run])
def test_what_was_left_for_the_end_of_the_loop_runs_then(run: Any) -> None:
    events: list[str] = []

    async def at_end() -> None:
        await anyio.lowlevel.checkpoint()
        events.append("end of the loop")

    async def main() -> object:
        kept = current_backend().at_loop_end(at_end)
        await anyio.lowlevel.checkpoint()
        events.append("end of main")
        return kept

    _ = trio.run(main) if run is trio.run else asyncio.run(main())
    assert events == ["end of main", "end of the loop"]
