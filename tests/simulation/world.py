"""A client in a simulated world: set up, run, checked."""

import asyncio
import logging
import math
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from unittest import mock

import anyio
import sniffio
import trio

import lmstudio_async as lms
from lmstudio_async import client as client_module
from lmstudio_async.transport import current_backend
from tests.contract import ContractChecker
from tests.simulation import clock
from tests.simulation.clock import LoopName, Timeline, VirtualTimeLoop
from tests.simulation.faults import Calm
from tests.simulation.invariants import check_client, check_idle, check_server, check_unload
from tests.simulation.log import Log
from tests.simulation.network import MemoryBackend, Network
from tests.simulation.program import CLOSE_BOUND, Ledger
from tests.simulation.server import Instance, Server

# Virtual seconds after which a program is taken to hang. Each of its operations has a bound of its
# own, which is far less.
LONGEST_RUN = 10_000.0

# Virtual seconds in which the server ends what it is at when the program is over.
_AFTERMATH = 120.0


class World:
    """A server, the network to it, and the records of a run.

    `contract` is what all frames are held against, which takes time.
    """

    def __init__(self, faults: Calm, contract: ContractChecker | None = None) -> None:
        self.faults = faults
        self.log = Log()
        self.ledgers: dict[str, Ledger] = {}
        self.timeline = Timeline()
        self.server = Server(self.timeline, faults, self.log, contract)
        self.network = Network(self.server, self.timeline, faults, self.log)
        self.server.on_unload = self._unloaded
        self.violations: list[str] = []
        self.logged_errors = 0

    @asynccontextmanager
    async def client(self) -> AsyncIterator[tuple[lms.Client, Ledger]]:
        """A client of this world and what is noted of it; checked when it is closed."""
        backend = MemoryBackend(current_backend(), self.network)
        client = lms.Client("simulated:1234")
        with mock.patch.object(client_module, "current_backend", return_value=backend):
            client.open()
        session = client._session
        assert session is not None
        identifier = client._authentication.client_identifier
        ledger = self.ledgers[identifier] = Ledger(identifier, self.log)
        try:
            yield client, ledger
            if not math.isfinite(ledger.closed_at):
                # Whatever was cancelled or cut off is cleaned up without the client being closed.
                await anyio.sleep(_AFTERMATH)
                self.violations += check_idle(session, ledger, self.server)
        finally:
            ledger.closes()
            with anyio.CancelScope(shield=True):
                await ledger.attempt("close", client.aclose, CLOSE_BOUND)
            self.violations += check_client(session)

    @property
    def reported(self) -> int:
        """Of how many instances somebody was told that they stayed."""
        return self.logged_errors + sum(ledger.reported for ledger in self.ledgers.values())

    def _unloaded(self, client: str, instance: Instance) -> None:
        self.violations += check_unload(self.server, self.ledgers[client], instance)


@dataclass
class Run:
    """What came of one run."""

    log: Log
    violations: list[str]
    injected: Counter[str]
    endings: Counter[str]
    calls: int


def live(
    world: World, program: Callable[[World], Awaitable[None]], loop: LoopName, seed: int = 0
) -> Run:
    """Run a program in a world, in virtual time, and check what is left of it."""
    with _listening(world):
        return clock.run(loop, lambda: _live(world, program), seed)


async def _live(world: World, program: Callable[[World], Awaitable[None]]) -> Run:
    faults = world.faults
    before = _timers()
    async with anyio.create_task_group() as group:
        _report_unhandled(world)
        tasks = len(anyio.get_running_tasks())
        group.start_soon(world.timeline.run)
        world.timeline.play(faults.script(world.server))
        with anyio.move_on_after(LONGEST_RUN) as bound:
            await program(world)
        if bound.cancelled_caught:
            world.violations.append("the program hangs")
        faults.end()
        await anyio.sleep(_AFTERMATH)
        world.violations += check_server(world)
        left = anyio.get_running_tasks()
        if len(left) > tasks + 1:
            world.violations.append(f"tasks left: {[task.name for task in left]}")
        group.cancel_scope.cancel()
    if _timers() > before:
        world.violations.append("timers left")
    endings: Counter[str] = Counter()
    for ledger in world.ledgers.values():
        world.violations += ledger.violations
        endings += ledger.endings
    return Run(world.log, world.violations, faults.injected, endings, world.server.calls)


def _timers() -> int:
    if sniffio.current_async_library() == "trio":
        return int(trio.lowlevel.current_statistics().seconds_to_next_deadline != math.inf)
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualTimeLoop)
    return len(loop.timers())


class _Reports(logging.Handler):
    """What the client logs as an error: unloads that failed with nobody there to catch it."""

    def __init__(self, world: World) -> None:
        super().__init__(logging.WARNING)
        self._world = world

    def emit(self, record: logging.LogRecord) -> None:
        message = record.getMessage()
        self._world.log(f"{record.levelname}: {message}")
        if "crashed" in message:
            self._world.violations.append(message)
        elif record.levelno >= logging.ERROR:
            self._world.logged_errors += 1


@contextmanager
def _listening(world: World) -> Iterator[None]:
    logger = logging.getLogger("lmstudio_async")
    handler = _Reports(world)
    propagate = logger.propagate
    logger.addHandler(handler)
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.propagate = propagate


def _report_unhandled(world: World) -> None:
    if sniffio.current_async_library() == "asyncio":
        asyncio.get_running_loop().set_exception_handler(
            lambda loop, context: world.violations.append(f"event loop: {context['message']}")
        )
