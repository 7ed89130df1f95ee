"""The soak, short: so that it goes on working, and finds what it is for."""

import asyncio

import pytest

from lmstudio_async.models.lifecycle import Instance, Lease, Lifecycle
from lmstudio_async.models.load import LoadRequest
from tests.soak.soak import Plan, SoakReport, soak

pytestmark = pytest.mark.engine


def run(plan: Plan) -> SoakReport:
    return asyncio.run(soak(plan), debug=True)


def test_nothing_leaks_or_hangs_when_workers_die_and_connections_break() -> None:
    report = run(Plan(seed=1, seconds=5, tasks=20, kill_every=2, cut_every=2))
    assert report.leaks == []
    assert report.journal.hangs == []
    assert report.journal.bugs == []
    assert report.journal.faults["worker killed"]
    assert report.journal.faults["connection cut"]
    assert report.journal.calls["predict", "result"]


def test_a_scope_that_forgets_to_unload_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    async def forget(self: Lifecycle, instance: Instance) -> None:
        self.forget(instance)

    monkeypatch.setattr(Lifecycle, "unload", forget)
    report = run(Plan(seed=1, seconds=0.3, tasks=2, settle=0))
    assert any(leak.startswith("loaded: ") for leak in report.leaks)
    assert any(leak.startswith("a worker: ") for leak in report.leaks)


def test_a_load_that_never_ends_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    async def wait_for_ever(self: Lifecycle, request: LoadRequest, on_progress: object) -> Lease:
        await asyncio.Future()
        raise AssertionError

    monkeypatch.setattr(Lifecycle, "acquire", wait_for_ever)
    report = run(Plan(seed=1, seconds=0.3, tasks=2, hang=0.5))
    assert any("wait_for_ever" in hang for hang in report.journal.hangs)


def test_an_error_without_a_type_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    async def break_down(self: Lease) -> None:
        raise KeyError("a lease")

    monkeypatch.setattr(Lease, "release", break_down)
    report = run(Plan(seed=1, seconds=0.3, tasks=2, settle=0))
    assert any("KeyError" in bug for bug in report.journal.bugs)
