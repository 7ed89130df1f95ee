"""`EmbeddedServer`: the server in a process of its own, as a context manager."""

import importlib.util
import os
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

import anyio
import anyio.to_thread
import msgspec
from msgspec import Struct

from lmstudio_async.errors import LMStudioClientError, LMStudioRuntimeError

_START_TIMEOUT = 60.0  # seconds
_STOP_TIMEOUT = 10.0  # seconds for a clean end; after that the process is killed


class Started(Struct, omit_defaults=True):
    """What the server's process reports: its address, or why it could not start."""

    address: str | None = None
    error: str | None = None


class EmbeddedServer:
    """A server that speaks LM Studio's protocol and runs GGUF models with llama.cpp.

    models_dir: the folder of models, laid out as `publisher/repo/file.gguf`; by default one in the
        user's cache, where `starter_model` puts its model.
    host, port: where to listen; port 0 takes a free one. A host that is not loopback needs a
        token.
    api_token: the token that clients must present: `sk-lm-`, 8 letters or digits, a colon, and
        20 more. Without one, every client on this machine is welcome.
    aliases: further names of models, as {alias: model key}.
    embedding_models: models to serve as embedding models with mean pooling though they were not
        made for it, as {new key: model key}.

    Use it with `async with` (on asyncio, uvloop and trio) or with `with`. The server runs in a
    process of its own, and every loaded model in another; all of them end with the block, and also
    if this process is killed. Raises LMStudioClientError if the server cannot start.
    """

    def __init__(
        self,
        models_dir: str | os.PathLike[str] | None = None,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        api_token: str | None = None,
        aliases: Mapping[str, str] | None = None,
        embedding_models: Mapping[str, str] | None = None,
    ) -> None:
        for module in ("xllamacpp", "gguf", "psutil", "platformdirs"):
            if importlib.util.find_spec(module) is None:
                raise ImportError(
                    f"the embedded server needs {module!r}: pip install 'lmstudio_async[embedded]'"
                )
        # The fields of server.ServerConfig, which is imported only where the server runs.
        self._config = {
            "models_dir": None if models_dir is None else str(Path(models_dir).absolute()),
            "host": host,
            "port": port,
            "api_token": api_token,
            "aliases": dict(aliases or {}),
            "embedding_models": dict(embedding_models or {}),
        }
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._address: str | None = None

    @property
    def api_host(self) -> str:
        """Where the server listens, as "host:port"."""
        if self._address is None:
            raise LMStudioRuntimeError("the embedded server is not running")
        return self._address

    @property
    def pids(self) -> list[int]:
        """The processes: the server's, then those of the loaded models. Empty when not running."""
        import psutil

        if self._process is None:
            return []
        try:
            children = psutil.Process(self._process.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            return []
        return [self._process.pid, *(child.pid for child in children)]

    def __enter__(self) -> Self:
        try:
            self._start()
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stop()

    async def __aenter__(self) -> Self:
        try:
            await anyio.to_thread.run_sync(self._start)
        except BaseException:
            with anyio.CancelScope(shield=True):
                await anyio.to_thread.run_sync(self._stop)
            raise
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        # Nothing is held between entry and exit that belongs to a task: the two may be different.
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(self._stop)

    def _start(self) -> None:
        with self._lock:
            if self._process is not None:
                raise LMStudioRuntimeError("this embedded server is running already")
            process = self._process = subprocess.Popen(
                [sys.executable, "-m", "lmstudio_async.embedded"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                # Ctrl-C in the terminal is for this process, which then ends the server.
                process_group=0 if sys.platform != "win32" else None,
            )
            assert process.stdin is not None
            assert process.stdout is not None
            watchdog = threading.Timer(_START_TIMEOUT, process.kill)
            watchdog.start()
            try:
                # On standard input rather than as arguments, which every user can see: the token.
                process.stdin.write(msgspec.json.encode(self._config) + b"\n")
                process.stdin.flush()
                line = process.stdout.readline()
            except BrokenPipeError:
                line = b""
            finally:
                watchdog.cancel()
            started = msgspec.json.decode(line, type=Started) if line else Started()
            if started.address is None:
                reason = started.error or "its process ended; see what it wrote to standard error"
                raise LMStudioClientError(f"the embedded server could not start: {reason}")
            self._address = started.address

    def _stop(self) -> None:
        with self._lock:
            process, self._process, self._address = self._process, None, None
            if process is None:
                return
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.close()
            try:
                process.wait(_STOP_TIMEOUT)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            process.stdout.close()
