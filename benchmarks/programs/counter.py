"""A reader that only counts bytes: how fast the replay server is."""

import json
import socket
import time

from benchmarks.programs import floor_types as wire
from benchmarks.programs.meter import arguments, prompt
from benchmarks.replay_frames import fragment, frame

UPGRADE = (
    "GET /llm HTTP/1.1\r\nHost: {}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
)


def masked(payload: bytes) -> bytes:
    """A client's frame. A mask of zeros changes nothing."""
    plain = frame(payload)
    header = plain[: len(plain) - len(payload)]
    return header[:1] + bytes((header[1] | 0x80,)) + header[2:] + bytes(4) + payload


def main() -> None:
    options = arguments()
    host, _, port = options.address.partition(":")
    words = sum(len(fragment(1, number)) for number in range(16)) / 16
    expected = int(words * options.count)
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall(UPGRADE.format(options.address).encode())
        connection.recv(4096)
        connection.sendall(masked(wire.AUTHENTICATION))
        connection.recv(4096)
        connection.sendall(masked(wire.predict(1, prompt(options))))
        connection.recv(4096)
        start = time.perf_counter()
        connection.sendall(masked(wire.tokenize(2, "go")))
        received = 0
        while received < expected:
            received += len(connection.recv(2**20))
        seconds = time.perf_counter() - start
    print(json.dumps({"frames_per_s": options.count / seconds, "wall_s": seconds}))


if __name__ == "__main__":
    main()
