"""What happened in a run, with the virtual time."""

import json
import re

import anyio

_INSTANCE = re.compile(r'"(?:identifier|instanceReference|modelKey)":"([^"]+)"')


class Log:
    """Put into words only when somebody wants to read it."""

    def __init__(self) -> None:
        self._events: list[tuple[float, str, bytes]] = []

    def __call__(self, text: str, frame: bytes = b"") -> None:
        self._events.append((anyio.current_time(), text, frame))

    @property
    def lines(self) -> list[str]:
        return [
            f"{time:9.3f}  {text}{' ' + _short(frame) if frame else ''}"
            for time, text, frame in self._events
        ]

    def __str__(self) -> str:
        return "\n".join(self.lines)


def _short(frame: bytes) -> str:
    """A frame in few words: its type, endpoint and id, and what it says of instances."""
    message = json.loads(frame)
    words = [str(message[key]) for key in ("type", "endpoint") if key in message]
    if isinstance(packet := message.get("message"), dict):
        words.append(packet["type"])
    words += [str(message[key]) for key in ("callId", "channelId") if key in message]
    words += _INSTANCE.findall(frame.decode())
    if "error" in message:
        words.append(str(message["error"]["title"]))
    return " ".join(words)
