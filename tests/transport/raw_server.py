"""A server that does exactly what a test says, byte for byte, in a thread of its own."""

import base64
import hashlib
import socket
import threading
from collections.abc import Callable
from types import TracebackType

_TIMEOUT = 10

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0x0, 0x1, 0x2, 0x8, 0x9, 0xA


class Peer:
    """The server's end of one connection."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection

    def request(self) -> bytes:
        """The head of an HTTP request."""
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            data = self.connection.recv(1)
            if not data:
                raise ConnectionError("the client hung up within a request")
            head += data
        return head

    def upgrade(self) -> None:
        """Accept a WebSocket."""
        key = next(
            value.strip()
            for name, _, value in (line.partition(b":") for line in self.request().splitlines())
            if name.lower() == b"sec-websocket-key"
        )
        digest = hashlib.sha1(key + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest()
        self.send(
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Accept: " + base64.b64encode(digest) + b"\r\n\r\n"
        )

    def send(self, data: bytes) -> None:
        self.connection.sendall(data)

    def send_frame(self, opcode: int, data: bytes, *, fin: bool = True) -> None:
        self.send(frame_head(opcode, len(data), fin=fin) + data)

    def read_frame(self) -> tuple[int, bytes]:
        """Opcode and content of the next frame, which is masked, as a client's always are."""
        first, second = self._read(2)
        length = second & 0x7F
        if length >= 126:
            length = int.from_bytes(self._read(2 if length == 126 else 8))
        mask, data = self._read(4), self._read(length)
        key = (mask * (length // 4 + 1))[:length]
        content = int.from_bytes(data) ^ int.from_bytes(key)
        return first & 0x0F, content.to_bytes(length)

    def wait_for_end(self) -> None:
        """Wait until the client has closed the connection."""
        try:
            while self.connection.recv(65536):
                pass
        except ConnectionError:
            pass

    def cut(self) -> None:
        """Reset the connection without a word."""
        linger = b"\x01\x00\x00\x00\x00\x00\x00\x00"
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.connection.close()

    def _read(self, count: int) -> bytes:
        data = bytearray()
        while len(data) < count:
            part = self.connection.recv(count - len(data))
            if not part:
                raise ConnectionError("the client hung up within a frame")
            data += part
        return bytes(data)


def frame_head(opcode: int, length: int, *, fin: bool = True) -> bytes:
    """The start of a frame, before its content."""
    first = bytes([(0x80 if fin else 0) | opcode])
    if length < 126:
        return first + bytes([length])
    if length < 65536:
        return first + b"\x7e" + length.to_bytes(2)
    return first + b"\x7f" + length.to_bytes(8)


class RawServer:
    """`with RawServer(serve) as server:` runs `serve(peer)` for each connection, one by one.

    An exception in `serve` is raised on leaving the block.
    """

    def __init__(self, serve: Callable[[Peer], None], *, port: int = 0) -> None:
        self._serve = serve
        self._listener = socket.create_server(("127.0.0.1", port))
        self._stopping = False
        self._failures: list[Exception] = []
        self._thread = threading.Thread(target=self._run, name="raw-server", daemon=True)
        self.port: int = self._listener.getsockname()[1]
        self.connections = 0

    @property
    def url(self) -> str:
        return f"ws://127.0.0.1:{self.port}/llm"

    def __enter__(self) -> "RawServer":
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exception: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stopping = True
        with socket.create_connection(("127.0.0.1", self.port)):
            self._thread.join(_TIMEOUT)
        self._listener.close()
        assert not self._thread.is_alive()
        if exception is None and self._failures:
            raise AssertionError("the raw server failed") from self._failures[0]

    def _run(self) -> None:
        while True:
            connection, _ = self._listener.accept()
            with connection:
                if self._stopping:
                    return
                self.connections += 1
                connection.settimeout(_TIMEOUT)
                try:
                    self._serve(Peer(connection))
                except Exception as error:  # noqa: BLE001 - raised by __exit__
                    self._failures.append(error)


def free_ports(count: int) -> list[int]:
    """Ports on which nobody listens."""
    listeners = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [listener.getsockname()[1] for listener in listeners]
    for listener in listeners:
        listener.close()
    return ports
