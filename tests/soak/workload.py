"""What each task of a soak does: programs of scopes and calls, some of them cut short."""

import asyncio
import itertools
import random
import sys
import time
from typing import Any

import anyio

import lmstudio_async as lms
from tests.soak.journal import Journal
from tests.soak.server import EMBEDDER, LLMS

_PROMPTS = ("Say hello.", "Count to ten.", "Name three colours.", "Why is the sky blue?")
_OWN_INSTANCES = 3  # at once: each is a process with a context of its own
_PAUSE = 8.0  # seconds between two programs of a task, on average
_LONGEST_DEADLINE = 3.0  # seconds


class Workload:
    def __init__(self, client: lms.Client, journal: Journal) -> None:
        self._client = client
        self._journal = journal
        self._own_instances = asyncio.Semaphore(_OWN_INSTANCES)
        self._numbers = itertools.count()

    async def run(self, rng: random.Random, until: float) -> None:
        """Run programs, with pauses, until a moment of the monotonic clock."""
        while (left := until - time.monotonic()) > 0:
            await asyncio.sleep(min(rng.expovariate(1 / _PAUSE), left))
            try:
                with self._journal.program():
                    await self._program(rng)
            except Exception:  # noqa: BLE001 - the journal has it
                continue

    async def _program(self, rng: random.Random) -> None:
        deadline = rng.uniform(0, _LONGEST_DEADLINE)
        match rng.randrange(6):
            case 0:  # asyncio cancels once
                try:
                    async with asyncio.timeout(deadline) as timeout:
                        await self._use_models(rng)
                finally:
                    self._journal.faults["time-out"] += timeout.expired()
            case 1:  # anyio cancels every await from then on
                with anyio.move_on_after(deadline) as scope:
                    await self._use_models(rng)
                self._journal.faults["time-out"] += scope.cancelled_caught
            case _:
                await self._use_models(rng)

    async def _use_models(self, rng: random.Random, depth: int = 0) -> None:
        # Only on the outside an instance of its own, or those who hold one would wait for another.
        own = 1 if depth == 0 else 0
        kinds = (self._use_shared_llm, self._use_embedder, self._use_own_llm)
        [use] = rng.choices(kinds, weights=(6, 3, own))
        await use(rng, depth)

    async def _use_shared_llm(self, rng: random.Random, depth: int) -> None:
        await self._enter("model", self._client.llm.model(rng.choice(LLMS)), rng, depth)

    async def _use_embedder(self, rng: random.Random, depth: int) -> None:
        await self._enter("model", self._client.embedding.model(EMBEDDER), rng, depth)

    async def _use_own_llm(self, rng: random.Random, depth: int) -> None:
        async with self._own_instances:
            # A name of its own: without one, nobody could tell whose instance it is that a load
            # leaves behind whose connection was cut before the server had told its name.
            name = f"own-{next(self._numbers)}"
            config = {"contextLength": 512}
            scope = self._client.llm.load_new_instance(rng.choice(LLMS), name, config=config)
            await self._enter("load_new_instance", scope, rng, depth)

    async def _enter(self, name: str, scope: Any, rng: random.Random, depth: int) -> None:
        """What `async with scope` does, with its two ends told apart."""
        with self._journal.call(name):
            model = await scope.__aenter__()
        try:
            for _ in range(rng.randint(1, 3)):
                await self._use(model, rng)
            if depth < 2 and rng.random() < 0.3:
                await self._use_models(rng, depth + 1)
        finally:
            with self._journal.call("leave"):
                await scope.__aexit__(*sys.exc_info())

    async def _use(self, model: lms.LLM | lms.EmbeddingModel, rng: random.Random) -> None:
        prompt = rng.choice(_PROMPTS)
        if rng.random() < 0.3:
            with self._journal.call("tokenize"):
                await model.tokenize(prompt)
        elif isinstance(model, lms.EmbeddingModel):
            with self._journal.call("embed"):
                await model.embed([prompt, *_PROMPTS] if rng.random() < 0.3 else prompt)
        else:
            with self._journal.call("predict"):
                await self._predict(model, prompt, rng)

    async def _predict(self, model: lms.LLM, prompt: str, rng: random.Random) -> None:
        config = {"maxTokens": rng.randint(1, 12)}
        match rng.randrange(3):
            case 0:
                await model.respond(prompt, config=config)
            case 1:
                async with model.respond_stream(prompt, config=config) as stream:
                    async for _ in stream:
                        pass
            case 2:
                self._journal.faults["stream left early"] += 1
                left = rng.randrange(4)
                async for _ in model.respond_stream(prompt):
                    if not left:
                        break
                    left -= 1
