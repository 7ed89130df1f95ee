"""One loaded model: a process that runs llama.cpp's HTTP server until its standard input closes.

The first line of standard input is JSON: "path" of the model, "hostname" to listen on, "api_keys",
and "params", attributes of xllamacpp.CommonParams by path. The answers on standard output are one
line when the load begins and one with the address when the model is ready. Run by path, so that it
imports nothing of this package and little besides.
"""

import ctypes
import json
import os
import signal
import sys
from typing import Any

_PR_SET_PDEATHSIG = 1


def _die_with(parent: int) -> None:
    # The end of standard input tells of the server's death as well, but cannot be noticed during
    # a load, which holds the interpreter's lock.
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it died before
            os._exit(1)


def _set_params(params: Any, values: dict[str, Any]) -> None:
    for path, value in values.items():
        *parents, name = path.split(".")
        owner = params
        for parent in parents:
            owner = getattr(owner, parent)
        current = getattr(owner, name)
        if isinstance(value, str) and not isinstance(current, str):
            enumeration = type(current)
            value = next(
                member for member in enumeration if member.name.upper().endswith(f"_{value}")
            )
        setattr(owner, name, value)


def main() -> None:
    config = json.loads(sys.stdin.buffer.readline())
    _die_with(config["parent"])
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = config["path"]
    params.hostnames = [config["hostname"]]
    params.port = 0
    params.api_keys = config["api_keys"]
    params.verbosity = 2  # warnings and errors
    params.use_jinja = True
    params.cache_ram_mib = 0  # what a model takes is decided by its settings alone
    params.ui = False
    _set_params(params, config["params"])
    print("loading", flush=True)
    try:
        server = xllamacpp.Server(params)
    except RuntimeError as error:
        sys.exit(f"{error}")
    print(server.listening_address, flush=True)
    sys.stdin.buffer.read()
    # Not by way of the interpreter's shutdown: what runs is not worth waiting for.
    os._exit(0)


if __name__ == "__main__":
    main()
