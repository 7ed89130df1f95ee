"""Random programs against a model in plain Python of what must be loaded.

On asyncio only: its event loop can be stopped between two rules, and trio's cannot.
"""

import asyncio
from collections.abc import Coroutine
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any, TypeVar

import anyio
import pytest
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)

from lmstudio_async.models.lifecycle import Lifecycle
from tests.simulation.cancellation import CancelAt
from tests.simulation.clock import VirtualTimeLoop
from tests.simulation.faults import KEYS, NAMES, Calm
from tests.simulation.invariants import check_server
from tests.simulation.world import World

T = TypeVar("T")

models = st.sampled_from([(namespace, key) for namespace in KEYS for key in KEYS[namespace]])
names = st.sampled_from([None, *NAMES])


@dataclass(eq=False)
class Loaded:
    """An instance that must be loaded. `unloads`: whether the end of its last scope unloads it."""

    namespace: str
    key: str
    identifier: str
    reference: str
    unloads: bool
    exclusive: bool = False
    scopes: int = 0


@dataclass(eq=False)
class Held:
    """A scope that was entered, and its instance."""

    scope: Any
    model: Any
    instance: Loaded
    owner: bool


class Client(RuleBasedStateMachine):
    scopes = Bundle("scopes")
    handles = Bundle("handles")

    @initialize()
    def start(self) -> None:
        self.loaded: list[Loaded] = []
        self.loop = VirtualTimeLoop()
        self.world = World(Calm())
        self.stack = AsyncExitStack()
        self.timeline = self.loop.create_task(self.world.timeline.run())
        self.client, self.ledger = self.run(self.stack.enter_async_context(self.world.client()))

    @rule(target=scopes, model=models)
    def share(self, model: tuple[str, str]) -> Held:
        return self.enter(*model)

    @rule(target=scopes, model=models, name=names)
    def own(self, model: tuple[str, str], name: str | None) -> Held:
        namespace, key = model
        taken = name in [each.identifier for each in self.loaded]
        scope = self.namespace(namespace).load_new_instance(key, None if taken else name)
        handle = self.run(scope.__aenter__())
        instance = self.new(namespace, key, handle, exclusive=True)
        return Held(scope, handle, instance, owner=True)

    @rule(scope=consumes(scopes))
    def leave(self, scope: Held) -> None:
        self.run(scope.scope.__aexit__(None, None, None))
        instance = scope.instance
        instance.scopes -= 1
        decides = scope.owner or (not instance.exclusive and not instance.scopes)
        if decides and instance.unloads:
            self.gone(instance)

    @rule(target=handles, model=models)
    def keep(self, model: tuple[str, str]) -> Held:
        namespace, key = model
        expected = self.find(namespace, key)
        handle = self.run(self.awaited(self.namespace(namespace).model(key)))
        instance = expected or self.new(namespace, key, handle)
        assert handle.instance_reference == instance.reference
        instance.unloads = False
        return Held(None, handle, instance, owner=False)

    @rule(scope=st.one_of(scopes, handles))
    def unload_by_hand(self, scope: Held) -> None:
        self.ledger.unprotected.add(scope.instance.reference)
        self.run(scope.model.unload())
        self.gone(scope.instance)

    @rule(target=scopes, model=models)
    def share_at_once(self, model: tuple[str, str]) -> Held:
        """Two tasks ask for one model; one of them gives up at once."""
        namespace, key = model

        async def give_up() -> None:
            async with self.namespace(namespace).model(key):
                pass

        other = self.loop.create_task(give_up())
        held = self.enter(namespace, key)
        self.run(asyncio.wait([other]))
        return held

    @rule(model=models, await_number=st.integers(1, 8))
    def cancel_a_load(self, model: tuple[str, str], await_number: int) -> None:
        namespace, key = model

        async def load() -> None:
            async with self.namespace(namespace).load_new_instance(key):
                await anyio.sleep(1)

        self.run(CancelAt(await_number, "task").run(load))

    @rule(model=models)
    def load_by_others(self, model: tuple[str, str]) -> None:
        namespace, key = model
        if self.run(self.now(lambda: self.world.server.load_for_stranger(namespace, key))):
            reference = self.world.server.loaded[key].info.instance_reference
            self.loaded.append(Loaded(namespace, key, key, reference, unloads=False))

    @rule(pick=st.integers(0, 9))
    def evict(self, pick: int) -> None:
        if self.loaded:
            instance = self.loaded[pick % len(self.loaded)]
            self.run(self.now(lambda: self.world.server.evict(instance.identifier)))
            self.gone(instance)

    @rule()
    def restart_the_server(self) -> None:
        self.run(self.now(self.world.server.restart))
        self.loaded.clear()

    @rule()
    def lose_the_connections(self) -> None:
        def cut() -> None:
            for socket in list(self.world.network.open):
                socket.cut()

        self.run(self.now(cut))

    @invariant()
    def exactly_what_must_be_loaded_is_loaded(self) -> None:
        server = self.world.server
        actual = [each.info.instance_reference for each in server.loaded.values()]
        assert actual == [each.reference for each in self.loaded]

    def teardown(self) -> None:
        """Close the client; scopes may still be open."""
        self.run(self.now(self.ledger.closes))
        self.run(self.stack.aclose())
        kept = {each.reference for each in self.loaded if not each.unloads}
        left = {each.info.instance_reference for each in self.world.server.loaded.values()}
        assert left == kept
        self.ledger.kept |= kept
        assert [*self.world.violations, *check_server(self.world)] == []
        self.timeline.cancel()
        self.run(asyncio.wait([self.timeline]))
        assert not asyncio.all_tasks(self.loop)
        self.loop.close()

    # What rules have in common

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Do something, and let the world come to rest."""

        async def until_idle() -> T:
            result = await work
            await anyio.sleep(2)
            return result

        return self.loop.run_until_complete(until_idle())

    async def awaited(self, scope: Any) -> Any:
        return await scope

    async def now(self, action: Any) -> Any:
        return action()

    def namespace(self, name: str) -> Any:
        return getattr(self.client, name)

    def enter(self, namespace: str, key: str) -> Held:
        expected = self.find(namespace, key)
        scope = self.namespace(namespace).model(key)
        handle = self.run(scope.__aenter__())
        instance = expected or self.new(namespace, key, handle)
        assert handle.instance_reference == instance.reference
        if expected is not None:
            instance.scopes += 1
        return Held(scope, handle, instance, owner=False)

    def find(self, namespace: str, key: str) -> Loaded | None:
        """The instance that the server gives to who asks for a model."""
        for each in self.loaded:
            if each.namespace == namespace and each.key == key:
                return each
        return None

    def new(self, namespace: str, key: str, handle: Any, *, exclusive: bool = False) -> Loaded:
        assert handle.instance_reference not in [each.reference for each in self.loaded]
        identifier, reference = handle.identifier, handle.instance_reference
        instance = Loaded(namespace, key, identifier, reference, True, exclusive, scopes=1)
        self.loaded.append(instance)
        return instance

    def gone(self, instance: Loaded) -> None:
        instance.unloads = False
        if instance in self.loaded:
            self.loaded.remove(instance)


_SETTINGS = settings(
    max_examples=150, stateful_step_count=25, deadline=None, derandomize=True, database=None
)


def test_what_must_be_loaded_is_loaded_and_nothing_else() -> None:
    run_state_machine_as_test(Client, settings=_SETTINGS)


def test_a_scope_that_unloads_what_others_hold_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def lease(self: Any, info: Any, instance: Any, *, owner: bool) -> Any:
        return original(self, info, instance, owner=True)

    original: Any = Lifecycle.lease
    monkeypatch.setattr(Lifecycle, "lease", lease)
    with pytest.raises(AssertionError):
        run_state_machine_as_test(Client, settings=settings(_SETTINGS, phases=[Phase.generate]))
