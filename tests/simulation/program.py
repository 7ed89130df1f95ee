"""Random programs: tasks that use a client as its users do."""

import math
import random
from collections import Counter
from collections.abc import Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import anyio

import lmstudio_async as lms
from tests.simulation.cancellation import CancelAt, time_out
from tests.simulation.faults import KEYS, NAMES
from tests.simulation.log import Log

# What one operation may take at most, in virtual seconds: two rounds of reconnecting (6 tries of up
# to 10 s each, and the pauses between them), and the longest bound, that of a load (120 s).
OPERATION_BOUND = 300.0

# Timeouts.close, and the goodbyes of the sockets.
CLOSE_BOUND = 60.0 + 10.0

Operation = Callable[[], Coroutine[Any, Any, None]]


class Ledger:
    """What the programs hold, and how their operations ended."""

    def __init__(self, client: str, log: Log) -> None:
        self.client = client
        self.log = log
        self.endings: Counter[str] = Counter()
        self.violations: list[str] = []
        # Scopes that hold an instance, by its reference.
        self.held: Counter[str] = Counter()
        # Instances that were awaited without a scope.
        self.kept: set[str] = set()
        # Instances that are unloaded by hand, or whose own scope decides, whoever else holds them.
        self.unprotected: set[str] = set()
        # When its client began to close.
        self.closed_at = math.inf
        # Instances of which somebody was told that they stayed loaded.
        self.reported = 0

    def closes(self) -> None:
        self.closed_at = min(self.closed_at, anyio.current_time())

    async def attempt(self, name: str, operation: Operation, bound: float) -> None:
        """One operation. It must end in time, in a result, a typed error or a cancellation."""
        started = anyio.current_time()
        ending = "cancelled"
        self.log(f"{name} …")
        try:
            await operation()
            ending = "done"
        except lms.LMStudioUnloadError as error:
            self.reported += len(error.exceptions)
            ending = type(error).__name__
        except lms.LMStudioError as error:
            ending = type(error).__name__
        except Exception as error:  # noqa: BLE001 - found a bug
            ending = "untyped error"
            self.violations.append(f"{name} ended in {error!r}")
        finally:
            took = anyio.current_time() - started
            self.endings[ending] += 1
            self.log(f"{name} {ending}")
            if took > bound:
                self.violations.append(f"{name} took {took:.0f} s")

    @asynccontextmanager
    async def scope(self, name: str, scope: Any, *, exclusive: bool = False) -> Any:
        """Enter a scope; in its block, the instance is held."""
        async with scope as model:
            reference = model.instance_reference
            self.log(f"{name} holds {reference}")
            self.held[reference] += 1
            if exclusive:
                self.unprotected.add(reference)
            try:
                yield model
            finally:
                self.held[reference] -= 1


class Actor:
    """One task of a program. It draws what it does as it goes."""

    def __init__(
        self,
        name: str,
        client: lms.Client,
        ledger: Ledger,
        injected: Counter[str],
        *,
        seed: int,
        native: bool,
    ) -> None:
        self._name = name
        self._client = client
        self._ledger = ledger
        self._random = random.Random(f"{seed} {name}")
        self._injected = injected
        self._handles: list[Any] = []
        # asyncio's own ways to cancel do not exist on trio.
        self._native = native and self._random.random() < 0.5

    async def run(self) -> None:
        for number in range(self._random.randint(1, 8)):
            await self._pause()
            await self._perform(f"{self._name}.{number}", 0)

    async def _pause(self) -> None:
        await anyio.sleep(self._random.choice((0.0, 0.0, 0.001, 0.02, 0.3, 2.0)))

    async def _perform(self, name: str, depth: int) -> None:
        """An operation, perhaps with a cancellation or a time-out around it."""
        kinds: list[Callable[[str, int], Coroutine[Any, Any, None]]] = [
            self._keep,
            self._use,
            self._use,
            self._unload,
            self._list,
        ]
        if depth < 3:
            kinds += [self._share, self._share, self._own, self._nest, self._any]
        kind = self._random.choice(kinds)
        label = f"{name} {kind.__name__[1:]}"
        pick = self._random.random()

        async def attempt() -> None:
            # Nested operations are bounded each for itself.
            bound = OPERATION_BOUND * (1 if depth == 3 else 12)
            await self._ledger.attempt(label, lambda: kind(name, depth), bound)

        if pick < 0.25:
            at = CancelAt(self._random.randint(1, 25), "task" if self._native else "scope")
            await at.run(attempt)
            self._injected[f"cancelled ({'task' if self._native else 'scope'})"] += at.struck
        elif pick < 0.4:
            seconds = self._random.choice((0.0, 0.005, 0.1, 1.0, 5.0))
            struck = await time_out(seconds, attempt, native=self._native)
            self._injected["timed out"] += struck
        else:
            await attempt()

    async def _body(self, name: str, depth: int, model: Any) -> None:
        self._handles.append(model)
        for number in range(self._random.randint(0, 3)):
            await self._pause()
            await self._perform(f"{name}.{number}", depth + 1)
        if self._random.random() < 0.1:
            raise _TheirError

    async def _share(self, name: str, depth: int) -> None:
        """A scope that shares its instance."""
        namespace, key = self._key()
        # Sometimes the name of an instance rather than the key of a model.
        asked = self._random.choice((key, key, key, *NAMES))
        async with self._scope(name, getattr(self._client, namespace).model(asked)) as model:
            await self._body(name, depth, model)

    async def _own(self, name: str, depth: int) -> None:
        """A scope with an instance of its own."""
        scope = self._new_instance()
        async with self._scope(name, scope, exclusive=True) as model:
            await self._body(name, depth, model)

    async def _nest(self, name: str, depth: int) -> None:
        """Several scopes in one statement."""
        async with (
            self._scope(name, self._client.llm.model("llm-a")) as first,
            self._scope(name, self._new_instance(), exclusive=True),
            self._scope(name, self._client.embedding.model("embed-a")),
        ):
            await self._body(name, depth, first)

    async def _any(self, name: str, depth: int) -> None:
        """A scope on whatever is loaded."""
        namespace, _ = self._key()
        async with getattr(self._client, namespace).model() as model:
            await self._body(name, depth, model)

    async def _keep(self, name: str, depth: int) -> None:
        """Await a model without a scope."""
        namespace, key = self._key()
        scope: Any = (
            self._new_instance()
            if self._random.random() < 0.3
            else getattr(self._client, namespace).model(key)
        )
        model = await scope
        self._ledger.kept.add(model.instance_reference)
        self._ledger.log(f"{name} keeps {model.instance_reference}")
        self._handles.append(model)

    async def _use(self, name: str, depth: int) -> None:
        """Use a model, of which nobody knows whether it is still loaded."""
        if not self._handles:
            return await self._list(name, depth)
        model = self._random.choice(self._handles)
        match self._random.randrange(5), model:
            case 0, _:
                await model.tokenize(["some words", "to be", "counted"])
            case 1, lms.LLM():
                await model.respond("Hello")
            case 2, lms.LLM():
                async for _ in model.respond_stream("endless"):
                    if self._random.random() < 0.4:
                        break
            case 3, lms.LLM():
                async with model.respond_stream("endless") as stream:
                    async for _ in stream:
                        if self._random.random() < 0.3:
                            await stream.cancel()
            case _, lms.EmbeddingModel():
                await model.embed("Hello")
            case _:
                await model.count_tokens("some words")

    async def _unload(self, name: str, depth: int) -> None:
        """Unload by hand."""
        if self._handles:
            model = self._random.choice(self._handles)
            self._ledger.unprotected.add(model.instance_reference)
            self._ledger.log(f"{name} unloads {model.instance_reference}")
            try:
                await model.unload()
            except lms.LMStudioError:
                self._ledger.reported += 1
                raise

    async def _list(self, name: str, depth: int) -> None:
        await self._client.list_loaded_models()

    def _scope(self, name: str, scope: Any, *, exclusive: bool = False) -> Any:
        return self._ledger.scope(name, scope, exclusive=exclusive)

    def _key(self) -> tuple[str, str]:
        namespace = self._random.choice(("llm", "llm", "embedding"))
        return namespace, self._random.choice(KEYS[namespace])

    def _new_instance(self) -> Any:
        namespace, key = self._key()
        name = self._random.choice((None, *NAMES))
        return getattr(self._client, namespace).load_new_instance(key, name)


class _TheirError(lms.LMStudioError):
    """What a user's block raises for reasons of its own."""
