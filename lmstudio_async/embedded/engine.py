"""Starts a worker process with one model, and talks to it."""

import asyncio
import os
import secrets
import sys
import tempfile
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, closing
from pathlib import Path
from typing import IO, Any

import aiohttp
import anyio
import msgspec
import psutil

from lmstudio_async.embedded.refusal import RequestError, specific_model_unloaded
from lmstudio_async.wire.api_token import TOKEN_VARIABLES

_WORKER = Path(__file__).with_name("worker.py")
_HAS_UNIX_SOCKETS = sys.platform != "win32"
_POLL_INTERVAL = 0.05  # seconds between two measurements of a load's progress
_EXIT_GRACE = 2.0  # seconds for a worker to end by itself
_SHARED_CONTEXT = (
    "Predictions that run at once share the context unless the model is loaded with a unified KV "
    "cache switched off"
)
_PROBE_PROMPT, _PROBE_ANSWER = "1, 2, 3,", "Z"
_GRAMMAR_ERROR = " llg error: "
_LOG_DELAY = 1.0  # seconds
_MAX_KNOWN_GRAMMARS = 64
_LOG_TAIL = 2000  # characters of a worker's log that go into an error


class _Log:
    """What a worker writes to its standard error: a file that is read while it is written."""

    def __init__(self, path: str) -> None:
        self._path = path
        self.file = open(path, "wb")  # noqa: SIM115
        self.close = self.file.close

    def size(self) -> int:
        return os.path.getsize(self._path)

    def read(self, position: int) -> str:
        with open(self._path, "rb") as file:
            file.seek(position)
            return file.read(_LOG_TAIL).decode(errors="replace")


class Engine:
    """A worker process that has loaded its model. Requests raise RequestError.

    `stopped` is for the owner to set before it ends the process: it is what the requests that are
    under way then will report.
    """

    def __init__(self, process: Process, session: aiohttp.ClientSession, log: _Log) -> None:
        self._process = process
        self._session = session
        self._log = log
        self._grammar_lock = anyio.Lock()
        self._valid_grammars: set[str] = set()
        self.stopped = False

    async def wait(self) -> None:
        """Wait until the process has ended, for whatever reason."""
        await self._process.wait()

    async def post(self, path: str, body: dict[str, Any]) -> Any:
        """The engine's answer to one request."""
        async with self._request(path, body) as response:
            return _decode(await response.read())

    async def stream(self, path: str, body: dict[str, Any]) -> AsyncGenerator[dict[str, Any], None]:
        """The events of an answer. The engine stops working on it when the iterator is closed."""
        async with self._request(path, body) as response:
            if response.content_type != "text/event-stream":
                _decode(await response.read())
                raise RequestError("The engine gave no stream")
            rest = b""
            async for chunk in response.content.iter_any():
                *events, rest = (rest + chunk).split(b"\n\n")
                for event in events:
                    if event.startswith(b"data: {"):
                        yield _decode(event[len(b"data: ") :])

    async def check_grammar(self, grammar: str) -> None:
        """Raise RequestError for a grammar in llguidance's dialect of Lark that is not valid.

        The engine would go on without it, but for a message in its log. So it is tried out, with a
        character before it which, at that place, nothing else than a grammar brings forth.
        """
        if grammar in self._valid_grammars:
            return
        start = f'\nstart: "{_PROBE_ANSWER}" begin\nbegin: '
        probe = {
            "prompt": _PROBE_PROMPT,
            "grammar": grammar.replace("\nstart: ", start, 1),
            "temperature": 0,
            "n_predict": 1,
        }
        async with self._grammar_lock:  # so that a message in the log is about this one
            position = self._log.size()
            answer = await self.post("/completion", probe)
            if not answer["content"].startswith(_PROBE_ANSWER):
                raise RequestError(
                    "The engine refused the grammar or JSON schema",
                    cause=await self._grammar_error(position),
                )
        if len(self._valid_grammars) >= _MAX_KNOWN_GRAMMARS:
            self._valid_grammars.clear()
        self._valid_grammars.add(grammar)

    async def _grammar_error(self, position: int) -> str | None:
        # A thread of its own writes the log, which may take a moment.
        with anyio.move_on_after(_LOG_DELAY):
            while True:
                _, found, message = self._log.read(position).partition(_GRAMMAR_ERROR)
                if found:
                    return message.partition("\n\n")[0].strip()
                await anyio.sleep(0.01)
        return None

    @asynccontextmanager
    async def _request(
        self, path: str, body: dict[str, Any]
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        if self._session.closed:  # for who has waited for a turn in vain
            raise await self._lost()
        try:
            async with self._session.post(path, data=msgspec.json.encode(body)) as response:
                yield response
        except (aiohttp.ClientError, ConnectionError) as error:
            raise await self._lost() from error

    async def _lost(self) -> RequestError:
        with anyio.move_on_after(_EXIT_GRACE):
            await self.wait()
        if self.stopped:
            return specific_model_unloaded("The model was unloaded while it was in use")
        if self._process.returncode is not None:
            return specific_model_unloaded(
                f"The engine process of this model died ({_exit_status(self._process)})"
            )
        return RequestError("The connection to the engine of this model broke")


@asynccontextmanager
async def running_engine(
    model: Path,
    params: dict[str, Any],
    size_bytes: int,
    workspace: Path,
    report: Callable[[float], None],
) -> AsyncIterator[Engine]:
    """A worker process that has loaded the model; it ends with the block.

    `report` is called with the progress of the load, from 0 to below 1. Raises RequestError if the
    load fails; cancelling it kills the process.
    """
    with (
        tempfile.TemporaryDirectory(dir=workspace, prefix="") as directory,
        closing(_Log(os.path.join(directory, "log"))) as log,
    ):
        if _HAS_UNIX_SOCKETS:
            hostname, api_key = os.path.join(directory, "s.sock"), ""
        else:  # anyone on this machine can reach a port, while the folder of a socket is private
            hostname, api_key = "127.0.0.1", secrets.token_urlsafe()
        async with AsyncExitStack() as stack:
            with anyio.CancelScope(shield=True):  # half a start would leave a process behind
                process = await _spawn(log.file)
            grace = 0.0
            try:
                address = await _load(
                    process,
                    {
                        "parent": os.getpid(),
                        "path": str(model),
                        "hostname": hostname,
                        "api_keys": [api_key] if api_key else [],
                        "params": params,
                    },
                    size_bytes,
                    report,
                    log,
                )
                # Closed after the process has ended: closing it waits for requests under way.
                session = _http_session(hostname, address, api_key)
                await stack.enter_async_context(session)
                grace = _EXIT_GRACE
                yield Engine(process, session, log)
            finally:
                with anyio.CancelScope(shield=True):
                    await _end(process, grace)


async def _spawn(log: IO[bytes]) -> Process:
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-P",  # beside the script lie modules that it must not find
        str(_WORKER),
        stdin=PIPE,
        stdout=PIPE,
        stderr=log,
        # How long the engine's threads spin while they wait for each other. With OpenMP's 300,000
        # turns a thread that is waited for gets no processor while another program wants one: a
        # token took 200 ms rather than 7. Without any an idle machine is three times as slow.
        env={"GOMP_SPINCOUNT": "1000", **_environment()},
        # Ctrl-C in the terminal is for the server, which ends its workers itself.
        process_group=0 if sys.platform != "win32" else None,
    )


def _environment() -> dict[str, str]:
    """The server's, less what a worker has no need to know."""
    return {name: value for name, value in os.environ.items() if name not in TOKEN_VARIABLES}


async def _load(
    process: Process,
    config: dict[str, Any],
    size_bytes: int,
    report: Callable[[float], None],
    log: _Log,
) -> str:
    """Have the worker load its model; the address on which it listens then."""
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(msgspec.json.encode(config) + b"\n")
    line = await process.stdout.readline()
    if line:
        baseline = _resident_bytes(process.pid)
        while True:
            try:
                async with asyncio.timeout(_POLL_INTERVAL):
                    line = await process.stdout.readline()
                break
            except TimeoutError:
                loaded = (_resident_bytes(process.pid) - baseline) / max(size_bytes, 1)
                report(min(max(loaded, 0.0), 0.99))
    if not line:
        await process.wait()
        raise RequestError(
            f"The engine could not load the model ({_exit_status(process)})",
            cause=log.read(max(log.size() - _LOG_TAIL, 0)).strip() or None,
        )
    return line.decode().strip()


def _http_session(hostname: str, address: str, api_key: str) -> aiohttp.ClientSession:
    headers = {"Content-Type": "application/json"}
    connector: aiohttp.BaseConnector
    # No connection is kept: the engine might be about to close it when the next request comes.
    if api_key:
        headers["Authorization"] = f"Bearer {api_key}"
        connector = aiohttp.TCPConnector(limit=0, force_close=True)
    else:
        address = "http://localhost"
        connector = aiohttp.UnixConnector(hostname, limit=0, force_close=True)
    # An answer takes as long as it takes.
    timeout = aiohttp.ClientTimeout(total=None)
    return aiohttp.ClientSession(address, connector=connector, headers=headers, timeout=timeout)


async def _end(process: Process, grace: float) -> None:
    assert process.stdin is not None
    process.stdin.close()
    with anyio.move_on_after(grace):
        await process.wait()
    if process.returncode is None:
        process.kill()
        await process.wait()


def _decode(answer: bytes) -> Any:
    decoded = msgspec.json.decode(answer)
    if isinstance(decoded, dict) and (error := decoded.get("error")):
        message = error["message"] if isinstance(error, dict) else error
        raise RequestError(
            f"The engine refused: {message}",
            suggestion=_SHARED_CONTEXT if "Context size" in message else None,
        )
    return decoded


def _resident_bytes(pid: int) -> int:
    try:
        return int(psutil.Process(pid).memory_info().rss)
    except psutil.Error:
        return 0  # it has just died; reading its output will tell


def _exit_status(process: Process) -> str:
    code = process.returncode
    if code is not None and code < 0:
        return f"killed by signal {-code}"
    return f"exit status {code}"
