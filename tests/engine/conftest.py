"""Every frame between the client and the embedded server is held against the protocol."""

import json
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import anyio
import psutil
import pytest

import lmstudio_async as lms
from lmstudio_async.embedded import EmbeddedServer
from lmstudio_async.transport import WebSocket
from lmstudio_async.transport._asyncio import AsyncioBackend
from lmstudio_async.transport._trio import TrioBackend
from tests.contract import ContractChecker, SocketChecker


class CheckedWebSocket:
    def __init__(self, socket: WebSocket, checker: SocketChecker) -> None:
        self._socket = socket
        self._checker = checker

    async def send(self, frame: bytes) -> None:
        self._checker.client_frame(json.loads(frame))
        await self._socket.send(frame)

    async def receive(self) -> bytes:
        frame = await self._socket.receive()
        self._checker.server_frame(json.loads(frame))
        return frame

    async def receive_all(self, take: Callable[[bytes], bytes | None]) -> None:
        def checked(frame: bytes) -> bytes | None:
            self._checker.server_frame(json.loads(frame))
            answer = take(frame)
            if answer is not None:
                self._checker.client_frame(json.loads(answer))
            return answer

        await self._socket.receive_all(checked)

    async def aclose(self) -> None:
        await self._socket.aclose()


@pytest.fixture(autouse=True)
def contract(monkeypatch: pytest.MonkeyPatch) -> Iterator[ContractChecker]:
    checker = ContractChecker()
    for backend in (AsyncioBackend, TrioBackend):

        async def connect(self: Any, url: str, server: str, real: Any = backend.connect) -> Any:
            namespace = url.rpartition("/")[2]
            return CheckedWebSocket(await real(self, url, server), checker.socket(namespace))

        monkeypatch.setattr(backend, "connect", connect)
    yield checker
    assert checker.violations == []


@pytest.fixture
async def client(engine: EmbeddedServer, anyio_backend: Any) -> AsyncIterator[lms.Client]:
    """A client of the embedded server. After the test no model is loaded and no worker alive."""
    before = len(anyio.get_running_tasks())
    async with lms.Client(engine.api_host) as client:
        yield client
        assert await client.list_loaded_models() == []
    assert len(anyio.get_running_tasks()) == before
    assert engine.pids[1:] == []


def tree_bytes(engine: EmbeddedServer) -> int:
    """Resident memory of the server and its workers."""
    return sum(int(psutil.Process(pid).memory_info().rss) for pid in engine.pids)
