"""Random programs on random servers; and that the simulation finds what is planted."""

from collections.abc import Callable
from typing import Any

import pytest

from lmstudio_async import connection as connection_module
from lmstudio_async.client import _Session
from lmstudio_async.connection import Connection
from lmstudio_async.exchanges import Call
from lmstudio_async.models.lifecycle import Instance, Lifecycle
from lmstudio_async.models.prediction import PredictionStream
from lmstudio_async.multiplexer import Multiplexer
from tests.contract import ContractChecker
from tests.simulation.clock import LoopName
from tests.simulation.seeds import LOOPS, run_seed, run_seeds


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("first", range(0, 300, 50))
def test_nothing_leaks_and_nothing_hangs(first: int, loop: LoopName) -> None:
    report = run_seeds(range(first, first + 50), [loop])
    assert not report.failures, "\n\n".join(map(str, report.failures[:3]))
    assert report.operations > 50
    assert report.injected.total() > 50


@pytest.mark.parametrize("loop", LOOPS)
def test_every_frame_fits_the_contract(loop: LoopName) -> None:
    contract = ContractChecker()
    for seed in range(5):
        run_seed(seed, loop, contract)
    # A packet that arrives twice is acknowledged twice.
    assert [each for each in contract.violations if "acknowledgement" not in each] == []


@pytest.mark.parametrize("loop", LOOPS)
def test_a_seed_always_gives_the_same_run(loop: LoopName) -> None:
    for seed in range(20):
        assert run_seed(seed, loop).log.lines == run_seed(seed, loop).log.lines


# Planted bugs. The simulation must report each, in one of a few seeds.


def _release_without_unloading(patch: pytest.MonkeyPatch) -> None:
    async def unload(self: Lifecycle, instance: Instance) -> None:
        self.forget(instance)

    patch.setattr(Lifecycle, "unload", unload)


def _never_end_a_call(patch: pytest.MonkeyPatch) -> None:
    def finish(self: Call, *outcome: Any) -> None:
        if self.endpoint != "listLoaded":
            original(self, *outcome)

    original: Any = Call.finish
    patch.setattr(Call, "finish", finish)


def _go_in_circles(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(connection_module, "KEEP_ALIVE_INTERVAL", 0.0)


def _go_on_generating(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(PredictionStream, "abandon", lambda self: None)


def _use_ids_twice(patch: pytest.MonkeyPatch) -> None:
    def call(self: Any, *request: Any) -> Any:
        self._last_id //= 2
        return original(self, *request)

    original: Any = Multiplexer.call
    patch.setattr(Multiplexer, "call", call)


def _unload_without_looking(patch: pytest.MonkeyPatch) -> None:
    async def find_and_unload(self: Any, kind: Any, info: Any) -> None:
        await self.unload_identifier(kind, info.identifier)

    patch.setattr(Lifecycle, "_find_and_unload", find_and_unload)


def _unload_what_others_hold(patch: pytest.MonkeyPatch) -> None:
    def lease(self: Any, info: Any, instance: Any, *, owner: bool) -> Any:
        return original(self, info, instance, owner=True)

    original: Any = Lifecycle.lease
    patch.setattr(Lifecycle, "lease", lease)


def _raise_something_untyped(patch: pytest.MonkeyPatch) -> None:
    def lost(self: Connection) -> Exception:
        return KeyError("connection")

    patch.setattr(Connection, "_lost", lost)


def _forget_to_end_the_tasks(patch: pytest.MonkeyPatch) -> None:
    async def close(self: Any) -> list[Any]:
        return await self.lifecycle.aclose()  # type: ignore[no-any-return]

    patch.setattr(_Session, "_close", close)


def _forget_the_cancelled_load(patch: pytest.MonkeyPatch) -> None:
    def unload_in_background(self: Lifecycle, instance: Instance) -> None:
        self.forget(instance)
        instance.unloaded.set()

    patch.setattr(Lifecycle, "unload_in_background", unload_in_background)


def _forget_the_lost_load(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Lifecycle, "recover", lambda self, request, identifier: None)


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize(
    ("plant", "found"),
    [
        (_release_without_unloading, "left loaded"),
        (_forget_the_cancelled_load, "left loaded"),
        (_forget_the_lost_load, "left loaded"),
        (_never_end_a_call, "the program hangs"),
        (_go_in_circles, "runs in circles"),
        (_go_on_generating, "predictions still run"),
        (_use_ids_twice, "is used again"),
        (_unload_without_looking, "of another client was unloaded"),
        (_unload_what_others_hold, "scopes held it"),
        (_raise_something_untyped, "ended in KeyError"),
        (_forget_to_end_the_tasks, "tasks left"),
    ],
)
def test_planted_bugs_are_found(
    monkeypatch: pytest.MonkeyPatch,
    plant: Callable[[pytest.MonkeyPatch], None],
    found: str,
    loop: LoopName,
) -> None:
    plant(monkeypatch)
    assert any(
        found in violation for seed in range(300) for violation in run_seed(seed, loop).violations
    )
