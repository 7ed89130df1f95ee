"""Asyncio-first client for LM Studio: models in memory as scoped resources.

    import lmstudio_async as lms

    async with lms.Client() as client:
        async with client.llm.model("qwen3-4b") as model:
            print(await model.respond("Hello!"))
    # out of memory here, whatever happened in between

Works on asyncio, uvloop and trio. Start reading at `client`.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lmstudio_async._api import *  # noqa: F403
else:

    def __getattr__(name: str) -> object:
        # Importing the package is cheap this way; the first use of a name pays for all of them.
        if name.startswith("_") and name not in ("__all__", "__version__"):
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        api = import_module("lmstudio_async._api")
        if name != "__all__" and name not in api.__all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = globals()[name] = getattr(api, name)
        return value


def __dir__() -> list[str]:
    return sorted(import_module("lmstudio_async._api").__all__)
