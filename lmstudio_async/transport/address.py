"""Where a server is: what users write, parsed."""

import re
from dataclasses import dataclass
from typing import Literal
from urllib.parse import urlsplit

from lmstudio_async.errors import LMStudioTypeError, LMStudioValueError

DEFAULT_PORT = 1234

_HOST_NAME = re.compile(r"[A-Za-z0-9._-]+\Z")
_IPV6 = re.compile(r"[0-9A-Fa-f:.%a-z]+\Z")


@dataclass(frozen=True)
class Address:
    """A server. `path` is the prefix that a proxy puts before the namespaces, "" for none."""

    host: str
    port: int
    secure: bool = False
    path: str = ""

    def url(self, namespace: str) -> str:
        """URL of the WebSocket of a namespace."""
        return f"{'wss' if self.secure else 'ws'}://{self._authority}{self.path}/{namespace}"

    @property
    def _authority(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"

    def __str__(self) -> str:
        if self.secure or self.path:
            return f"{'wss' if self.secure else 'ws'}://{self._authority}{self.path}"
        return self._authority


def parse_address(api_host: object) -> Address:
    """Parse `host`, `host:port`, or a ws, wss, http or https URL with an optional path prefix.

    Without a port, a bare host means LM Studio's 1234 and a URL its scheme's port. Raises
    LMStudioTypeError or LMStudioValueError.
    """
    if not isinstance(api_host, str):
        raise LMStudioTypeError(f"api_host must be a string, not {type(api_host).__name__}")
    if "@" in api_host or "sk-lm-" in api_host:
        # Not shown, since it may be secret.
        raise LMStudioValueError("api_host must not hold credentials; pass api_token instead")
    scheme: Literal["", "ws", "http", "wss", "https"] | str
    scheme, found, rest = api_host.partition("://")
    if not found:
        scheme, rest = "", api_host
    elif scheme.lower() not in ("ws", "wss", "http", "https"):
        raise _refusal(api_host, f"{scheme!r} is not a scheme it knows")
    secure = scheme.lower() in ("wss", "https")
    try:
        parts = urlsplit(f"//{rest}")
        port = parts.port
    except ValueError as error:
        raise _refusal(api_host, str(error)) from None
    host = parts.hostname or ""
    if not (_IPV6 if ":" in host else _HOST_NAME).match(host):
        raise _refusal(api_host, "it names no host")
    if parts.query or parts.fragment or (not scheme and parts.path not in ("", "/")):
        raise _refusal(api_host, "only a URL may have a path, and it may have no query")
    if port == 0 or (port is None and parts.netloc.endswith(":")):
        raise _refusal(api_host, "its port is missing")
    if port is None:
        port = (443 if secure else 80) if scheme else DEFAULT_PORT
    return Address(host, port, secure, parts.path.rstrip("/"))


def _refusal(api_host: str, reason: str) -> LMStudioValueError:
    return LMStudioValueError(
        f"api_host {api_host!r} cannot be used: {reason}; write it as localhost:1234 or "
        "wss://example.org/prefix"
    )
