"""llama.cpp's own HTTP server: prints its address, ends with its standard input.

The first argument is the path of the model, the second a JSON object of settings: attributes of
xllamacpp.CommonParams.
"""

import json
import os
import sys

import xllamacpp


def main() -> None:
    params = xllamacpp.CommonParams()
    params.model.path = sys.argv[1]
    params.hostnames = ["127.0.0.1"]
    params.port = 0
    params.verbosity = 0
    for name, value in json.loads(sys.argv[2]).items():
        setattr(params, name, type(getattr(params, name))(value))
    server = xllamacpp.Server(params)
    print(server.listening_address, flush=True)
    sys.stdin.read()
    os._exit(0)


if __name__ == "__main__":
    main()
