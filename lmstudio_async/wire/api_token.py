"""API tokens: the identifier and the passkey of a client in one string, and where users keep it."""

import re

# In this order.
TOKEN_VARIABLES = ("LM_API_TOKEN", "LMSTUDIO_API_TOKEN")

_TOKEN = re.compile(r"sk-lm-([A-Za-z0-9]{8}):([A-Za-z0-9]{20})")


def split_token(token: str) -> tuple[str, str] | None:
    """Client identifier and passkey, None for what is no token."""
    match = _TOKEN.fullmatch(token)
    return None if match is None else (match[1], match[2])
