"""The command line: `lmstudio-async`, or `python -m lmstudio_async`."""

import argparse
import asyncio
import logging
import os
import signal
import sys
from collections.abc import Sequence

from lmstudio_async.errors import LMStudioError

_TOKEN_VARIABLE = "LM_API_TOKEN"


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; the exit status."""
    arguments = _parser().parse_args(argv)
    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s")
    try:
        if arguments.command == "serve":
            asyncio.run(_serve(arguments))
        else:
            _fetch_starter_model(arguments)
    except KeyboardInterrupt:
        return 130 if arguments.command != "serve" else 0
    except (LMStudioError, OSError, ValueError, ImportError) as error:
        print(f"lmstudio-async: {error}", file=sys.stderr)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="lmstudio-async", description="LM Studio for asyncio")
    commands = parser.add_subparsers(dest="command", required=True)

    serve = commands.add_parser("serve", help="serve GGUF models over LM Studio's protocol")
    serve.add_argument("--host", default="127.0.0.1", help="address to listen on (%(default)s)")
    serve.add_argument("--port", type=int, default=1234, help="port, 0 for any (%(default)s)")
    serve.add_argument("--models-dir", help="folder of publisher/repo/file.gguf")
    serve.add_argument(
        "--api-token",
        default=os.environ.get(_TOKEN_VARIABLE),
        help=f"token that clients must present (better given as {_TOKEN_VARIABLE})",
    )
    serve.add_argument(
        "--alias",
        action="append",
        type=_pair,
        default=[],
        metavar="ALIAS=KEY",
        help="another name of a model",
    )
    serve.add_argument(
        "--embedding-model",
        action="append",
        type=_pair,
        default=[],
        metavar="NEW=KEY",
        help="serve a model as an embedding model, too",
    )

    fetch = commands.add_parser("fetch-starter-model", help="download a small model (98 MB)")
    fetch.add_argument("--models-dir", help="folder to put it in")
    return parser


def _pair(text: str) -> tuple[str, str]:
    left, separator, right = text.partition("=")
    if not (left and separator and right):
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form NAME=KEY")
    return left, right


async def _serve(arguments: argparse.Namespace) -> None:
    from lmstudio_async.embedded.server import ServerConfig, run_server

    stop = asyncio.Event()
    if sys.platform != "win32":  # there, Ctrl-C cancels this function
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
    config = ServerConfig(
        models_dir=arguments.models_dir,
        host=arguments.host,
        port=arguments.port,
        api_token=arguments.api_token or None,
        aliases=dict(arguments.alias),
        embedding_models=dict(arguments.embedding_model),
    )
    async with run_server(config) as server:
        print(f"Listening on {server.address}", flush=True)
        models = await server.library.models()
        for model in models:
            print(f"  {model.key}  ({model.domain}, {model.relative_path})", flush=True)
        if not models:
            print(f"  no models in {server.library.models_dir}", flush=True)
        await stop.wait()


def _fetch_starter_model(arguments: argparse.Namespace) -> None:
    from lmstudio_async.embedded import starter_model

    print(starter_model(arguments.models_dir))
