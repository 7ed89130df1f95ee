"""A small LM Studio in memory that misbehaves on demand.

It runs in a thread with an event loop of its own, so that the client under test may run on any.
Every method of `ScriptedServer` is synchronous and may be called from any thread. Nothing in it
sleeps: waiting is for a condition that changes with each frame and with each change of state.
"""

import asyncio
import json
import threading
from collections import Counter
from collections.abc import Callable, Collection, Coroutine, Iterator, Mapping
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Literal, TypeAlias, TypeVar

import anyio.to_thread
from aiohttp import web

from tests.contract import ContractChecker
from tests.scripted_endpoints import fragment_packet, fragment_packets
from tests.scripted_models import Instance, Json, Kind, Refusal, failure, model_on_disk
from tests.scripted_socket import (
    CHANNELS,
    RPCS,
    Channel,
    ChannelHandler,
    Request,
    RpcHandler,
    Socket,
)

__all__ = ["ScriptedServer", "failure", "fragment_packet"]

T = TypeVar("T")
Sender: TypeAlias = Literal["client", "server"]

DEFAULT_MODELS: Mapping[str, Kind] = {"llm-a": "llm", "llm-b": "llm", "embed-a": "embedding"}


class ScriptedServer:
    """`with ScriptedServer() as server:` listens on `server.api_host` inside the block.

    models: keys of the models on disk, with their kinds.
    token: the only API token that may connect, None to let anyone in.
    check_frames: whether frames are held against the protocol's schemas, which takes time.

    Wherever an endpoint is named, "loadModel" means that of all namespaces, "llm.loadModel" that
    of one. "auth" and "keepAlive" count as endpoints for `silence` and `drop_on`, "greeting" for
    `silence`.

    These attributes may be set at any time:

    finish_load_despite_cancel: a load completes when it is cancelled. True or "success": its
        client is told of the success; "close": the channel just closes, yet the model is loaded.
    ignore_load_cancel: a cancelled load goes on until it is released, and succeeds.
    cancelled_load_is_error: a cancelled load ends with channelError instead of channelClose.
    finish_load_despite_drop: a load completes when its connection is lost.
    evict_just_in_time: getOrLoad unloads first what other getOrLoads loaded.
    reply: what predictions say, a word per fragment.
    endless_predictions: they say it over and over, until cancelled.
    ack_packets: packets on channels ask to be acknowledged.
    warning_kinds: communication warnings carry a `kind`, as older servers' do not.
    unknown_endpoints, unhandled_endpoints, reject_parameters: endpoints whose requests are
        answered with a communication warning only.
    greeting: what GET /lmstudio-greeting answers.
    """

    def __init__(
        self,
        models: Mapping[str, Kind] = DEFAULT_MODELS,
        *,
        token: str | None = None,
        check_frames: bool = True,
    ) -> None:
        self.models: dict[str, Json] = {key: model_on_disk(key, models[key]) for key in models}
        self.token = token
        self.finish_load_despite_cancel: bool | Literal["success", "close"] = False
        self.ignore_load_cancel = False
        self.cancelled_load_is_error = False
        self.finish_load_despite_drop = False
        self.evict_just_in_time = False
        self.reply = "Hello there, how are you?"
        self.endless_predictions = False
        self.ack_packets = False
        self.warning_kinds = True
        self.unknown_endpoints: set[str] = set()
        self.unhandled_endpoints: set[str] = set()
        self.reject_parameters: set[str] = set()
        self.greeting: Any = {"lmstudio": True}

        # Its lock guards everything below; it is notified of each change.
        self._changed = threading.Condition()
        self._contract = ContractChecker()
        self._check_frames = check_frames
        self._crashes: list[BaseException] = []
        self._frames: list[tuple[str, Sender, Json]] = []
        self._requests: list[tuple[str, Any]] = []
        self._cancels: list[str] = []
        self._acks: list[tuple[str, int, int]] = []
        self._credentials: list[tuple[str, str, str]] = []
        self._upgrades: list[str] = []
        self._greetings = 0
        self._sockets: list[Socket] = []
        self._running: Counter[str] = Counter()
        self._peaks: Counter[str] = Counter()
        self._fragments_sent = 0

        self._instances: dict[str, Instance] = {}
        self._reserved: set[str] = set()
        self._files: dict[str, bytes] = {}
        self._references = 0
        self._clock = 1_700_000_000_000

        self._holds_loads = False
        self._holds_unloads = False
        self._holds_uploads = False
        self._stalls_after: int | None = None
        self._failures: list[tuple[str, Any]] = []
        self._unload_refusals = 0
        self._drops: list[str] = []
        self._silent: set[str] = set()
        self._twice: set[str] = set()
        self._refusals: list[Literal["503", "cut"]] = []
        self._scripts: list[tuple[list[Json], str]] = []
        self._answers: dict[str, RpcHandler] = {}
        self._streams: dict[str, ChannelHandler] = {}

        self._thread = threading.Thread(target=self._run, name="scripted-server", daemon=True)
        self._started = threading.Event()
        self._alive = False
        self._loop: asyncio.AbstractEventLoop
        self._stop: asyncio.Event
        self._waiters: set[asyncio.Future[None]] = set()
        self._handlers: set[asyncio.Task[Any]] = set()
        self._runner: web.AppRunner
        self._site: web.TCPSite | None = None
        self.port = 0

    def __enter__(self) -> "ScriptedServer":
        self._thread.start()
        self._started.wait()
        if not self._alive:
            raise RuntimeError("the scripted server did not start") from self._crashes[0]
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exception: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()
        if exception is None:
            self._raise_crash()

    def _raise_crash(self) -> None:
        if self._crashes:
            raise AssertionError("a handler of the scripted server failed") from self._crashes[0]

    @property
    def api_host(self) -> str:
        """HOST:PORT."""
        return f"127.0.0.1:{self.port}"

    # What happened

    @property
    def frames(self) -> list[tuple[str, Sender, Json]]:
        """Namespace, sender and content of each frame, authentication too."""
        with self._changed:
            return list(self._frames)

    def requests(self, endpoint: str) -> list[Any]:
        """The parameters of the calls and channels of an endpoint, None where there was none."""
        with self._changed:
            return [parameter for name, parameter in self._requests if _names(endpoint, name)]

    def count(self, endpoint: str) -> int:
        """How many calls and channels of an endpoint were asked for."""
        return len(self.requests(endpoint))

    @property
    def cancels(self) -> list[str]:
        """The endpoints of the channels that were cancelled, in that order."""
        with self._changed:
            return list(self._cancels)

    @property
    def acks(self) -> list[tuple[str, int, int]]:
        """Namespace, channel and id of each acknowledgement."""
        with self._changed:
            return list(self._acks)

    @property
    def credentials(self) -> list[tuple[str, str, str]]:
        """Namespace, identifier and passkey of each authentication."""
        with self._changed:
            return list(self._credentials)

    @property
    def upgrades(self) -> list[str]:
        """The path of each attempt to open a WebSocket, refused ones too."""
        with self._changed:
            return list(self._upgrades)

    @property
    def greetings(self) -> int:
        """How often the server was greeted over HTTP."""
        with self._changed:
            return self._greetings

    @property
    def open_sockets(self) -> list[str]:
        """The namespace of each socket that is open now."""
        with self._changed:
            return [socket.namespace for socket in self._sockets]

    @property
    def loaded(self) -> dict[str, Json]:
        """What is loaded now: the info of each instance, by identifier."""
        with self._changed:
            return {name: dict(instance.info) for name, instance in self._instances.items()}

    @property
    def files(self) -> dict[str, bytes]:
        """The content of each uploaded file, by identifier."""
        with self._changed:
            return dict(self._files)

    def running(self, endpoint: str) -> int:
        """How many calls and channels of an endpoint the server works on now."""
        with self._changed:
            return sum(n for name, n in self._running.items() if _names(endpoint, name))

    def peak(self, endpoint: str) -> int:
        """The most that `running` of this name ever was."""
        with self._changed:
            return self._peaks[endpoint]

    @property
    def predictions_running(self) -> int:
        return self.running("predict") + self.running("completeRawText")

    @property
    def fragments_sent(self) -> int:
        with self._changed:
            return self._fragments_sent

    @property
    def contract_violations(self) -> list[str]:
        """What was wrong with frames of either side; always empty without the schemas."""
        with self._changed:
            return list(self._contract.violations)

    def wait_until(self, condition: Callable[[], object] | str, timeout: float = 10) -> None:
        """Block until the condition is true, or until an endpoint of that name was called."""
        predicate = (lambda: self.count(condition)) if isinstance(condition, str) else condition
        with self._changed:
            if not self._changed.wait_for(lambda: self._crashes or predicate(), timeout):
                frames = "\n".join(f"  {frame}"[:200] for frame in self._frames[-20:])
                raise TimeoutError(f"waited {timeout} s for {condition}; last frames:\n{frames}")
            self._raise_crash()

    async def until(self, condition: Callable[[], object] | str, timeout: float = 10) -> None:
        """`wait_until` without blocking the caller's event loop, be it asyncio's or trio's."""
        await anyio.to_thread.run_sync(self.wait_until, condition, timeout, abandon_on_cancel=True)

    # Holding back

    def hold_loads(self) -> None:
        """Loads report some progress and then wait for `release_loads`."""
        self._set(_holds_loads=True)

    def release_loads(self) -> None:
        self._set(_holds_loads=False)

    def hold_unloads(self) -> None:
        self._set(_holds_unloads=True)

    def release_unloads(self) -> None:
        self._set(_holds_unloads=False)

    def hold_uploads(self) -> None:
        """Uploads of files wait for `release_uploads`."""
        self._set(_holds_uploads=True)

    def release_uploads(self) -> None:
        self._set(_holds_uploads=False)

    def hold_predictions(self, after: int = 0) -> None:
        """Predictions stall when they have sent that many fragments."""
        self._set(_stalls_after=after)

    def release_predictions(self) -> None:
        self._set(_stalls_after=None)

    # Answers

    def script_prediction(self, *packets: Json, stop_reason: str = "eosFound") -> None:
        """The next prediction sends these packets in place of `reply`."""
        with self._changed:
            self._scripts.append((list(packets), stop_reason))

    def answer(self, endpoint: str, result: Any) -> None:
        """A call of this endpoint gets that result, or what `result(parameter)` returns.

        None stands for no result.
        """

        async def handler(request: Request) -> Any:
            return result(request.parameter) if callable(result) else result

        with self._changed:
            self._answers[endpoint] = handler

    def stream(self, endpoint: str, *packets: Json) -> None:
        """A channel of this endpoint sends these packets and closes."""

        async def handler(request: Request, channel: Channel) -> None:
            for packet in packets:
                await channel.send(packet)

        with self._changed:
            self._streams[endpoint] = handler

    # Misbehaviour

    def fail_next(self, endpoint: str, error: Any, times: int = 1) -> None:
        """The next requests of the endpoint get this error, whatever it is."""
        with self._changed:
            self._failures += [(endpoint, error)] * times

    def refuse_unload(self, times: int = 1) -> None:
        """The next unloads fail, with an error that has no code."""
        self._set(_unload_refusals=times)

    def silence(self, endpoint: str) -> None:
        """Requests of the endpoint are never answered."""
        with self._changed:
            self._silent.add(endpoint)

    def unsilence(self, endpoint: str) -> None:
        """Further requests of the endpoint are answered again."""
        with self._changed:
            self._silent.discard(endpoint)

    def reply_twice(self, endpoint: str) -> None:
        """Results, last packets and closes of the endpoint are sent twice."""
        with self._changed:
            self._twice.add(endpoint)

    def drop_on(self, endpoint: str, times: int = 1) -> None:
        """The connection is cut by the next request of the endpoint."""
        with self._changed:
            self._drops += [endpoint] * times

    def drop_connections(self, namespace: str | None = None) -> int:
        """Cut all connections, or those of one namespace, without goodbye. How many there were."""

        async def drop() -> int:
            sockets = self._sockets_of(namespace)
            for socket in sockets:
                socket.abort()
            return len(sockets)

        return self._on_loop(drop())

    def refuse_connections(self, n: int, how: Literal["503", "cut"] = "503") -> None:
        """The next attempts to open a WebSocket fail.

        After a "cut" aiohttp makes a second attempt by itself, which counts.
        """
        with self._changed:
            self._refusals += [how] * n

    def stop_listening(self) -> None:
        """Refuse new connections at the level of TCP; those that are open stay."""

        self._on_loop(self._stop_listening())

    def start_listening(self) -> None:
        """Listen again on the same port."""
        self._on_loop(self._listen())

    def forget_all(self) -> None:
        """Unload everything, as a restart does."""
        with self._changed:
            self._instances.clear()
        self._touch()

    def restart(self) -> None:
        """Unload everything and cut all connections."""
        self.forget_all()
        self.drop_connections()

    def evict(self, identifier: str) -> None:
        """Unload an instance as if its TTL had run out. KeyError if there is none."""
        with self._changed:
            del self._instances[identifier]
        self._touch()

    def load_behind_back(self, key: str, identifier: str | None = None) -> str:
        """Load a model as if another client had; returns its instance reference."""
        with self._changed:
            model = self.models[key]
            name = self.reserve_identifier(identifier, model)
            instance = self.add_instance(model, name, None, {"fields": []})
            self.release_identifier(name)
            return str(instance.info["instanceReference"])

    def send_garbage(
        self, namespace: str, data: str | bytes | Json, *, as_text: bool = False
    ) -> None:
        """Send a raw frame on the open sockets of a namespace.

        A dict is sent as JSON. Bytes go as a binary frame, or `as_text` as a text frame, which
        then need not be UTF-8.
        """
        raw = json.dumps(data) if isinstance(data, dict) else data

        async def send() -> None:
            for socket in self._sockets_of(namespace):
                await socket.send_raw(raw, as_text)

        self._on_loop(send())

    # For the sockets and endpoints of the server; all but the coroutine from any thread

    async def when(self, predicate: Callable[[], object]) -> None:
        """Wait in the server's event loop until the predicate is true."""
        while not predicate():
            waiter = self._loop.create_future()
            self._waiters.add(waiter)
            try:
                await waiter
            finally:
                self._waiters.discard(waiter)

    def record(self, socket: Socket, sender: Sender, frame: Json, *, checked: bool = True) -> None:
        with self._changed:
            self._frames.append((socket.namespace, sender, frame))
            if not (checked and self._check_frames):
                pass
            elif sender == "client":
                socket.checker.client_frame(frame)
            else:
                socket.checker.server_frame(frame)
        self._touch()

    def request_received(self, namespace: str, endpoint: str, parameter: Any) -> None:
        with self._changed:
            self._requests.append((f"{namespace}.{endpoint}", parameter))
        self._touch()

    def cancel_received(self, endpoint: str) -> None:
        with self._changed:
            self._cancels.append(endpoint)
        self._touch()

    def acknowledged(self, namespace: str, channel_id: int, ack_id: int) -> None:
        with self._changed:
            self._acks.append((namespace, channel_id, ack_id))
        self._touch()

    def fragment_sent(self) -> None:
        with self._changed:
            self._fragments_sent += 1
        self._touch()

    def socket_opened(self, socket: Socket) -> None:
        with self._changed:
            self._sockets.append(socket)
        self._touch()

    def socket_closed(self, socket: Socket) -> None:
        with self._changed:
            if socket in self._sockets:
                self._sockets.remove(socket)
        self._touch()

    def crashed(self, error: BaseException) -> None:
        with self._changed:
            self._crashes.append(error)
        self._touch()

    @contextmanager
    def running_request(self, endpoint: str, namespace: str) -> Iterator[None]:
        name = f"{namespace}.{endpoint}"
        with self._changed:
            self._running[name] += 1
            for peak in (name, endpoint):
                self._peaks[peak] = max(self._peaks[peak], self.running(peak))
        self._touch()
        try:
            yield
        finally:
            with self._changed:
                self._running[name] -= 1
            self._touch()

    def refuses_credentials(self, namespace: str, frame: Json) -> str | None:
        """The error for an authentication, None if it is accepted."""
        given = (frame["clientIdentifier"], frame["clientPasskey"])
        with self._changed:
            self._credentials.append((namespace, *given))
        if self.token is None:
            return None
        identifier, _, passkey = self.token.removeprefix("sk-lm-").partition(":")
        return None if given == (identifier, passkey) else "Invalid passkey for this client"

    def matches(self, names: Collection[str], endpoint: str, namespace: str) -> bool:
        return endpoint in names or f"{namespace}.{endpoint}" in names

    def is_silent(self, endpoint: str, namespace: str) -> bool:
        with self._changed:
            return self.matches(self._silent, endpoint, namespace)

    def replies_twice(self, endpoint: str, namespace: str) -> bool:
        with self._changed:
            return self.matches(self._twice, endpoint, namespace)

    def take_drop(self, endpoint: str, namespace: str) -> bool:
        with self._changed:
            for name in (endpoint, f"{namespace}.{endpoint}"):
                if name in self._drops:
                    self._drops.remove(name)
                    return True
        return False

    def take_failure(self, endpoint: str, namespace: str) -> None:
        """Raise the Refusal that `fail_next` asked for, if it did."""
        with self._changed:
            for index, (name, error) in enumerate(self._failures):
                if _names(name, f"{namespace}.{endpoint}"):
                    del self._failures[index]
                    raise Refusal(error)

    def take_unload_refusal(self) -> bool:
        with self._changed:
            self._unload_refusals -= 1
            return self._unload_refusals >= 0

    def knows(self, kind: str, endpoint: str, namespace: str) -> bool:
        if self.matches(self.unknown_endpoints, endpoint, namespace):
            return False
        try:
            if kind == "rpc":
                self.rpc_handler(endpoint, namespace)
            else:
                self.channel_handler(endpoint, namespace)
        except KeyError:
            return False
        return True

    def rpc_handler(self, endpoint: str, namespace: str) -> RpcHandler:
        with self._changed:
            scripted = self._answers
            for name in (f"{namespace}.{endpoint}", endpoint):
                if name in scripted:
                    return scripted[name]
        return RPCS[namespace][endpoint]

    def channel_handler(self, endpoint: str, namespace: str) -> ChannelHandler:
        with self._changed:
            scripted = self._streams
            for name in (f"{namespace}.{endpoint}", endpoint):
                if name in scripted:
                    return scripted[name]
        return CHANNELS[namespace][endpoint]

    @property
    def holds_loads(self) -> bool:
        return self._holds_loads

    @property
    def holds_unloads(self) -> bool:
        return self._holds_unloads

    @property
    def holds_uploads(self) -> bool:
        return self._holds_uploads

    def stalls(self, fragments: int) -> bool:
        """Whether a prediction that has sent that many fragments must wait."""
        after = self._stalls_after
        return after is not None and fragments >= after

    def next_prediction(self) -> tuple[list[Json], str]:
        with self._changed:
            return self._scripts.pop(0) if self._scripts else self._default_prediction()

    def _default_prediction(self) -> tuple[list[Json], str]:
        return fragment_packets(self.reply), "eosFound"

    def instances(self, namespace: str | None = None) -> list[Instance]:
        with self._changed:
            every = self._instances.values()
            return [each for each in every if namespace in (None, each.namespace)]

    def reserve_identifier(self, wanted: str | None, model: Json) -> str:
        """A name that no other instance has and none that is loading; Refusal if it is taken."""
        with self._changed:
            taken = self._reserved | set(self._instances)
            if wanted in taken:
                raise Refusal(failure(f'A model with the identifier "{wanted}" is loaded already.'))
            name, number = wanted or model["modelKey"], 1
            while name in taken:
                number += 1
                name = f"{model['modelKey']}:{number}"
            self._reserved.add(name)
            return str(name)

    def release_identifier(self, identifier: str) -> None:
        with self._changed:
            self._reserved.discard(identifier)

    def keep_file(self, content: bytes) -> str:
        with self._changed:
            identifier = f"file-{len(self._files) + 1}"
            self._files[identifier] = content
            return identifier

    def add_instance(
        self, model: Json, identifier: str, ttl_ms: int | None, config: Json
    ) -> Instance:
        key = f"{'llm' if model['type'] == 'llm' else 'embedding'}.load.contextLength"
        length = next((f["value"] for f in config["fields"] if f["key"] == key), 4096)
        with self._changed:
            self._references += 1
            self._clock += 1
            info = {
                **model,
                "identifier": identifier,
                "instanceReference": f"ref-{self._references}",
                "ttlMs": ttl_ms,
                "lastUsedTime": self._clock,
                "contextLength": length,
            }
            instance = self._instances[identifier] = Instance(info, config)
        self._touch()
        return instance

    def unload(self, identifier: str, namespace: str | None = None) -> bool:
        """False if there is no such instance, of that namespace if one is given."""
        with self._changed:
            instance = self._instances.get(identifier)
            if instance is None or namespace not in (None, instance.namespace):
                return False
            del self._instances[identifier]
        self._touch()
        return True

    # The thread

    def _set(self, **state: Any) -> None:
        with self._changed:
            self.__dict__.update(state)
        self._touch()

    def _touch(self) -> None:
        """Let everyone who waits look again."""
        with self._changed:
            self._changed.notify_all()
            if not self._alive:
                return
            if threading.current_thread() is self._thread:
                self._wake()
            else:
                self._loop.call_soon_threadsafe(self._wake)

    def _wake(self) -> None:
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)

    def _sockets_of(self, namespace: str | None) -> list[Socket]:
        with self._changed:
            return [each for each in self._sockets if namespace in (None, each.namespace)]

    def _on_loop(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(10)

    def _run(self) -> None:
        try:
            asyncio.run(self._main())
        except BaseException as error:  # noqa: BLE001 - raised by __enter__ or __exit__
            self._crashes.append(error)
        finally:
            self._started.set()

    async def _main(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        app = web.Application()
        app.router.add_get("/{path:.*}", self._handle)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=5)
        await self._runner.setup()
        try:
            await self._listen()
            with self._changed:
                self._alive = True
            self._started.set()
            await self._stop.wait()
        finally:
            with self._changed:
                self._alive = False
            await self._stop_listening()
            for socket in self._sockets_of(None):
                socket.abort()
            self._wake()
            await self._runner.cleanup()
            # aiohttp no longer knows the handlers of connections that were cut.
            if self._handlers:
                await asyncio.wait(self._handlers, timeout=5)
            await _some_turns()

    async def _listen(self) -> None:
        self._site = web.TCPSite(self._runner, "127.0.0.1", self.port, reuse_address=True)
        await self._site.start()
        self.port = self._runner.addresses[0][1]

    async def _stop_listening(self) -> None:
        site, self._site = self._site, None
        if site is None:
            return
        # Before Python 3.12, asyncio leaks a connection that is accepted as its server closes.
        assert isinstance(site._server, asyncio.Server)
        for listener in site._server.sockets:
            self._loop.remove_reader(listener.fileno())
        await _some_turns()
        await site.stop()

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        # Only the end of the path matters: a proxy may have put something before it.
        name = request.path.rpartition("/")[2]
        if name == "lmstudio-greeting":
            with self._changed:
                self._greetings += 1
            self._touch()
            if self.is_silent("greeting", "http"):
                await self._stop.wait()
            return web.json_response(self.greeting)
        ws = web.WebSocketResponse(max_msg_size=0, compress=False)
        if not ws.can_prepare(request).ok:
            return web.Response(status=404)
        with self._changed:
            self._upgrades.append(request.path)
            refusal = self._refusals.pop(0) if self._refusals else None
        self._touch()
        if refusal == "503":
            return web.Response(status=503)
        if refusal == "cut":
            assert request.transport is not None
            request.transport.abort()
            return web.Response()
        await ws.prepare(request)
        handler = asyncio.current_task()
        assert handler is not None
        self._handlers.add(handler)
        handler.add_done_callback(self._handlers.discard)
        try:
            await Socket(self, request, ws, name, self._contract.socket(name)).serve()
        except Exception as error:  # noqa: BLE001 - kept for the test, which fails with it
            self.crashed(error)
        return ws


def _names(wanted: str, name: str) -> bool:
    """Whether "loadModel" or "llm.loadModel" means the endpoint of that full name."""
    return wanted in (name, name.rpartition(".")[2])


async def _some_turns() -> None:
    """Let the event loop go through what it has scheduled for its next turns."""
    for _ in range(10):
        await asyncio.sleep(0)
