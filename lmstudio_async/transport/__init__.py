"""What differs between event loops, behind one small interface.

    base        the interface: `Backend`, `WebSocket`, `Wakeup`, `BackgroundTasks`
    _asyncio    asyncio and uvloop, with aiohttp's WebSocket
    _trio       trio, with `websockets`' Sans-I/O protocol over a trio stream
    address     where a server is: what users write, parsed
    discovery   finding a server on this machine

Everything above this layer uses anyio and works on either event loop.
"""

import sys

from lmstudio_async.errors import LMStudioRuntimeError
from lmstudio_async.transport.base import Backend, BackgroundTasks, Wakeup, WebSocket

__all__ = ["Backend", "BackgroundTasks", "Wakeup", "WebSocket", "current_backend"]


def current_backend() -> Backend:
    """The backend of the running event loop.

    Raises LMStudioRuntimeError outside an event loop, or on trio without the `trio` extra.
    """
    trio = sys.modules.get("trio")
    if trio is not None and trio.lowlevel.in_trio_task():
        try:
            from lmstudio_async.transport._trio import TrioBackend
        except ImportError as error:
            raise LMStudioRuntimeError(
                "using lmstudio_async on trio needs the extra: pip install 'lmstudio_async[trio]'"
            ) from error
        return TrioBackend()
    from lmstudio_async.transport._asyncio import AsyncioBackend

    return AsyncioBackend()
