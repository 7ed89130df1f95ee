"""A server of our own for development, tests and small services: no LM Studio needed.

It speaks the same protocol and runs real GGUF models with llama.cpp. Needs the extra `embedded`.
"""

from lmstudio_async.embedded.launcher import EmbeddedServer
from lmstudio_async.embedded.starter_model import starter_model

__all__ = ["EmbeddedServer", "starter_model"]
