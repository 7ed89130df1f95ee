"""Who may use the server: tokens, guests, and protection from web pages."""

import hmac
import ipaddress
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from lmstudio_async.wire.api_token import split_token
from lmstudio_async.wire.messages import Authentication

_MAX_LENGTH = 256
_HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?::\d{1,5})?")
_ORIGIN = re.compile(rf"https?://{_HOST.pattern}")


class AuthenticationError(Exception):
    """The client may not use this server; the text is for the client."""


def parse_token(token: str) -> tuple[str, str]:
    """Client identifier and passkey of an API token. Raises ValueError, without the token."""
    parts = split_token(token)
    if parts is None:
        raise ValueError("an API token looks like sk-lm-<8 letters or digits>:<20 of them>")
    return parts


@dataclass
class _Guest:
    passkey: str
    sockets: int = 0


class Authenticator:
    """Admits clients: those with the token, or, where there is none, any guest.

    A guest's identifier belongs to the passkey it first came with, until its last socket closes.
    """

    def __init__(self, api_token: str | None = None) -> None:
        self._expected = parse_token(api_token) if api_token is not None else None
        self._guests: dict[str, _Guest] = {}

    @contextmanager
    def admit(self, client: Authentication) -> Iterator[None]:
        """The time during which a client's socket is open. Raises AuthenticationError."""
        name = client.client_identifier
        if client.auth_version != 1:
            raise AuthenticationError(f"Authentication version {client.auth_version} is not known")
        if len(name) > _MAX_LENGTH or len(client.client_passkey) > _MAX_LENGTH:
            raise AuthenticationError("The client identifier or passkey is too long")
        if self._expected is not None:
            identifier, passkey = self._expected
            # Both are compared, always, so that timing does not tell which of them is wrong.
            if not _same(name, identifier) & _same(client.client_passkey, passkey):
                raise AuthenticationError("This server requires a valid API token")
            yield
            return
        guest = self._guests.setdefault(name, _Guest(client.client_passkey))
        if not _same(guest.passkey, client.client_passkey):
            raise AuthenticationError("This client identifier is in use with another passkey")
        guest.sockets += 1
        try:
            yield
        finally:
            guest.sockets -= 1
            if not guest.sockets:
                del self._guests[name]


def _same(given: str, expected: str) -> bool:
    return hmac.compare_digest(given.encode(errors="replace"), expected.encode(errors="replace"))


def is_loopback(host: str) -> bool:
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def is_trusted_request(bound_host: str, hosts: Sequence[str], origins: Sequence[str]) -> bool:
    """Whether a request comes from someone else than a web page of another origin.

    Takes the values of its `Host` and `Origin` headers. A page can name this server's address under
    a host name of its own (DNS rebinding), or open a WebSocket from its own origin, which another
    port of this machine is, too. Who binds to other than loopback chooses the names by which the
    server is reached, and needs a token; there only the origin counts.
    """
    if len(hosts) != 1 or len(origins) > 1:
        return False
    match = _HOST.fullmatch(hosts[0])
    if match is None:
        return False
    host = match[1].strip("[]").lower()
    if is_loopback(bound_host) and not (is_loopback(host) or host == bound_host.lower()):
        return False
    if not origins:
        return True
    return (
        _ORIGIN.fullmatch(origins[0]) is not None
        and origins[0].partition("://")[2].lower() == hosts[0].lower()
    )
