"""The server itself: HTTP, WebSockets, and what they lead to."""

import asyncio
import logging
import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NamedTuple

import anyio
from aiohttp import WSMsgType, web
from aiohttp.typedefs import Handler
from msgspec import Struct

from lmstudio_async.embedded.auth import (
    AuthenticationError,
    Authenticator,
    is_loopback,
    is_trusted_request,
    parse_token,
)
from lmstudio_async.embedded.connections import MAX_CLIENTS, SERVER, Connection, Connections
from lmstudio_async.embedded.instances import open_instances
from lmstudio_async.embedded.library import Library
from lmstudio_async.embedded.management import (
    EmbeddingEndpoints,
    files_namespace,
    system_namespace,
)
from lmstudio_async.embedded.paths import default_models_dir
from lmstudio_async.embedded.predict import LlmEndpoints
from lmstudio_async.embedded.session import Namespace, serve_session
from lmstudio_async.wire.messages import (
    DECODE_ERRORS,
    Authentication,
    AuthenticationResult,
    authentication_decoder,
    encode,
)

logger = logging.getLogger("lmstudio_async.embedded")

_AUTHENTICATION_TIMEOUT = 10.0  # seconds
_CLOSE_TIMEOUT = 1.0  # seconds to wait for a client's part in closing a socket
_MAX_FRAME = 16 * 2**20  # bytes
# A ping after so many seconds of silence, and half as many to answer it: dead clients are noticed
# within 30 seconds.
_HEARTBEAT = 20.0


class ServerConfig(Struct, kw_only=True):
    """What to serve, where, and to whom. Arguments as of `EmbeddedServer`."""

    models_dir: str | None = None
    host: str = "127.0.0.1"
    port: int = 0
    api_token: str | None = None
    aliases: dict[str, str] = {}
    embedding_models: dict[str, str] = {}

    def __repr__(self) -> str:
        return f"ServerConfig(host={self.host!r}, port={self.port!r})"  # without the token

    def check(self) -> None:
        """Raise ValueError for what must not be served."""
        if self.api_token is not None:
            parse_token(self.api_token)
        elif not is_loopback(self.host):
            raise ValueError(
                f"listening on {self.host!r}, which is not a loopback address, needs an API token"
            )


class RunningServer(NamedTuple):
    """`address` is where it listens, as "host:port"."""

    address: str
    library: Library


@asynccontextmanager
async def run_server(config: ServerConfig) -> AsyncIterator[RunningServer]:
    """Serve for the time of the block.

    Raises ValueError for a configuration that must not be served, OSError if the address is taken.
    """
    config.check()
    models_dir = Path(config.models_dir) if config.models_dir else default_models_dir()
    library = Library(models_dir, config.aliases, config.embedding_models)
    with _listen(config.host, config.port, has_token=config.api_token is not None) as listener:
        port = listener.getsockname()[1]
        host = f"[{config.host}]" if ":" in config.host else config.host
        async with _serving(config, library, listener):
            yield RunningServer(f"{host}:{port}", library)


def _listen(host: str, port: int, *, has_token: bool) -> socket.socket:
    family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    if not has_token and not is_loopback(str(address[0])):  # whatever the name promises
        raise ValueError(
            f"{host!r} is {address[0]}, which is no loopback address: needs an API token"
        )
    return socket.create_server(address, family=family)


@asynccontextmanager
async def _serving(
    config: ServerConfig, library: Library, listener: socket.socket
) -> AsyncIterator[None]:
    async with open_instances(library) as instances:
        namespaces = {
            "llm": LlmEndpoints("llm", library, instances).namespace(),
            "embedding": EmbeddingEndpoints("embedding", library, instances).namespace(),
            "system": system_namespace(library),
            "files": files_namespace(),
        }
        sockets: set[web.WebSocketResponse] = set()
        runner = web.AppRunner(
            _application(config, namespaces, sockets), shutdown_timeout=_CLOSE_TIMEOUT
        )
        await runner.setup()
        assert runner.server is not None
        connections = Connections(runner.server)
        accepting = await asyncio.get_running_loop().create_server(connections, sock=listener)
        try:
            yield
        finally:
            accepting.close()
            with anyio.CancelScope(shield=True):
                async with anyio.create_task_group() as closing:
                    for websocket in sockets:
                        closing.start_soon(_close, websocket)
                await runner.cleanup()
            connections.cut()


async def _close(websocket: web.WebSocketResponse) -> None:
    with anyio.move_on_after(_CLOSE_TIMEOUT):  # a client may take no data
        await websocket.close(code=1001, message=b"the server is shutting down")


def _application(
    config: ServerConfig, namespaces: Mapping[str, Namespace], sockets: set[web.WebSocketResponse]
) -> web.Application:
    authenticator = Authenticator(config.api_token)

    @web.middleware
    async def guard(request: web.Request, handler: Handler) -> web.StreamResponse:
        headers = request.headers
        if not all(map(_is_text, headers.values())):  # aiohttp fails to quote such in its refusals
            raise web.HTTPBadRequest(text="the headers are not UTF-8")
        hosts, origins = headers.getall("Host", []), headers.getall("Origin", [])
        if not is_trusted_request(config.host, hosts, origins):
            raise web.HTTPForbidden(text="requests of other sites are refused")
        return await handler(request)

    async def greet(_: web.Request) -> web.Response:
        return web.json_response({"lmstudio": True})

    async def connect(request: web.Request) -> web.WebSocketResponse:
        namespace = namespaces.get(request.match_info["namespace"])
        if namespace is None:
            raise web.HTTPNotFound
        websocket = web.WebSocketResponse(
            timeout=_CLOSE_TIMEOUT,
            heartbeat=_HEARTBEAT,
            compress=False,
            max_msg_size=_MAX_FRAME,
            decode_text=False,
        )
        await websocket.prepare(request)
        connection = request.protocol
        assert isinstance(connection, Connection)
        connection.cut_after(None)
        sockets.add(websocket)
        try:
            await _serve_socket(websocket, connection, namespace, authenticator)
        finally:
            sockets.discard(websocket)
            connection.cut_after(_CLOSE_TIMEOUT)
        return websocket

    async def finish_head(_: web.Request, response: web.StreamResponse) -> None:
        response.headers["Server"] = SERVER
        if not isinstance(response, web.WebSocketResponse):
            response.headers["Connection"] = "close"
            response.force_close()

    app = web.Application(middlewares=[guard])
    app.on_response_prepare.append(finish_head)
    app.router.add_get("/lmstudio-greeting", greet)
    app.router.add_get("/{namespace}", connect)
    return app


def _is_text(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


async def _serve_socket(
    websocket: web.WebSocketResponse,
    connection: Connection,
    namespace: Namespace,
    authenticator: Authenticator,
) -> None:
    try:
        with anyio.fail_after(_AUTHENTICATION_TIMEOUT):
            client = await _receive_authentication(websocket)
        if client is None:
            return
        with authenticator.admit(client):
            if not connection.admit():
                raise AuthenticationError(f"The server has all the {MAX_CLIENTS} clients it takes")
            await _answer(websocket, AuthenticationResult(success=True))
            await serve_session(websocket, connection, namespace)
    except (AuthenticationError, TimeoutError) as error:
        reason = str(error) or "The authentication took too long"
        logger.warning("refused a client: %s", reason)
        await _answer(websocket, AuthenticationResult(success=False, error=reason))
        await websocket.close()


async def _receive_authentication(websocket: web.WebSocketResponse) -> Authentication | None:
    """The first frame that is an authentication; None if the client leaves before."""
    ignored = False
    async for frame in websocket:
        if frame.type in (WSMsgType.TEXT, WSMsgType.BINARY):
            try:
                return authentication_decoder.decode(frame.data)
            except DECODE_ERRORS:
                if not ignored:
                    logger.warning("ignored what a client sent before its authentication")
                ignored = True
    return None


async def _answer(websocket: web.WebSocketResponse, result: AuthenticationResult) -> None:
    try:
        await websocket.send_frame(encode(result), WSMsgType.TEXT)
    except ConnectionResetError:
        logger.debug("a client went away during its authentication")
