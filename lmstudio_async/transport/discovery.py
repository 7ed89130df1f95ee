"""Finding a server on this machine.

Source: lmstudio-js, lms-client and lms-common-server: the port that LM Studio publishes in its
home folder, then its well-known ports; a server answers `GET /lmstudio-greeting`.
"""

import http.client
import io
import json
import os
from collections.abc import Mapping
from pathlib import Path

import anyio
from anyio import BrokenResourceError, EndOfStream

from lmstudio_async.errors import LMStudioWebsocketError
from lmstudio_async.transport.address import DEFAULT_PORT, Address

WELL_KNOWN_PORTS = (DEFAULT_PORT, 41343, 52993, 16141, 39414, 22931)

# A server on the same machine answers in milliseconds; one busy loading a model may take longer.
_GREETING_TIMEOUT = 2.0
_GREETING_LIMIT = 4096


async def discover(environ: Mapping[str, str] = os.environ) -> Address:
    """The address of the server on this machine. Raises LMStudioWebsocketError if there is none."""
    ports = list(WELL_KNOWN_PORTS)
    published = await anyio.to_thread.run_sync(published_port, environ)
    if published is not None:
        ports.insert(0, published)
    address = await first_that_greets([Address("127.0.0.1", port) for port in dict.fromkeys(ports)])
    if address is None:
        raise LMStudioWebsocketError(
            "no LM Studio server was found on this machine (asked 127.0.0.1 on ports "
            f"{', '.join(map(str, dict.fromkeys(ports)))}); start one with `lms server start` or "
            "`python -m lmstudio_async serve`, or say where it is with api_host"
        )
    return address


def published_port(environ: Mapping[str, str] = os.environ) -> int | None:
    """The port that a running LM Studio has written down, if it has. Reads files."""
    exact = environ.get("LMS_API_SERVER_INFO_PATH")
    try:
        path = Path(exact) if exact else _home() / ".internal" / "http-server.json"
        port = json.loads(path.read_text("utf-8"))["port"]
    # RuntimeError: the user has no home folder, or the JSON is nested too deeply.
    except (OSError, ValueError, KeyError, TypeError, RuntimeError):
        return None
    return port if type(port) is int and 0 < port < 65536 else None


def _home() -> Path:
    try:
        pointer = (Path.home() / ".lmstudio-home-pointer").read_text("utf-8").strip()
    except (OSError, ValueError):
        pointer = ""
    return Path(pointer) if pointer else Path.home() / ".lmstudio"


async def first_that_greets(addresses: list[Address]) -> Address | None:
    """Ask all at once; of those that answer as LM Studio, the first in the list wins."""
    answers: dict[Address, bool] = {}

    async with anyio.create_task_group() as group:

        async def ask(address: Address) -> None:
            answers[address] = await greets(address)
            for candidate in addresses:
                if answers.get(candidate) is not False:
                    if candidate in answers:
                        group.cancel_scope.cancel()
                    break

        for address in addresses:
            group.start_soon(ask, address)
    return next((address for address in addresses if answers.get(address)), None)


async def greets(address: Address) -> bool:
    """Whether an LM Studio server answers at a plain address."""
    with anyio.move_on_after(_GREETING_TIMEOUT):
        try:
            return _is_greeting(await _get(address, "/lmstudio-greeting"))
        except (OSError, EndOfStream, BrokenResourceError):
            return False
    return False


async def _get(address: Address, path: str) -> bytes:
    request = f"GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n"
    answer = b""
    async with await anyio.connect_tcp(address.host, address.port) as stream:
        await stream.send(request.encode("ascii"))
        # Who keeps the connection open all the same has said enough once it has greeted.
        while len(answer) < _GREETING_LIMIT and not _is_greeting(answer):
            try:
                answer += await stream.receive()
            except EndOfStream:
                break
    return answer


class _Answer:
    """What http.client wants of a socket, over bytes already received."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def makefile(self, _mode: str) -> io.BytesIO:
        return io.BytesIO(self._data)


def _is_greeting(answer: bytes) -> bool:
    response = http.client.HTTPResponse(_Answer(answer))  # type: ignore[arg-type]
    try:
        response.begin()
        greeting = json.loads(response.read())
    except (http.client.HTTPException, ValueError, RecursionError):
        return False
    return (
        response.status == 200 and isinstance(greeting, dict) and greeting.get("lmstudio") is True
    )
