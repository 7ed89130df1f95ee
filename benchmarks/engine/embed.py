"""Texts embedded per second, a list of them in one call: `embedded` or `bare`."""

import argparse
import asyncio
import json
import time

import lmstudio_async as lms
from benchmarks.engine.bare import SETTINGS, bare_server, post
from lmstudio_async.embedded import EmbeddedServer

_CONTEXT = 2048
_MEAN = 1  # llama.cpp's number for this pooling
# As the embedded server loads an embedding model: a text is one batch.
_SETTINGS = SETTINGS | {
    "n_ctx": _CONTEXT,
    "n_batch": _CONTEXT,
    "n_ubatch": _CONTEXT,
    "n_parallel": 8,
    "embedding": True,
    "pooling_type": _MEAN,
}


async def embedded(texts: list[str]) -> float:
    async with (
        EmbeddedServer(embedding_models={"embedder": "smollm2-135m-instruct"}) as server,
        lms.Client(server.api_host) as client,
        client.embedding.load_new_instance("embedder") as model,
    ):
        await model.embed(texts[0])
        start = time.perf_counter()
        await model.embed(texts)
        return time.perf_counter() - start


async def bare(texts: list[str]) -> float:
    with bare_server(_SETTINGS) as port:
        await post(port, "/embedding", {"content": texts[0]})
        start = time.perf_counter()
        await post(port, "/embedding", {"content": texts})
        return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("side", choices=["embedded", "bare"])
    parser.add_argument("--count", type=int, default=200)
    options = parser.parse_args()
    texts = [f"Text {number} tells of the wind." for number in range(options.count)]
    side = embedded if options.side == "embedded" else bare
    print(json.dumps({"texts_per_s": len(texts) / asyncio.run(side(texts))}))


if __name__ == "__main__":
    main()
