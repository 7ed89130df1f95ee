"""Tokens per second of streams at once: `embedded` or `bare`."""

import argparse
import asyncio
import json
import time
from collections.abc import Awaitable, Callable

import lmstudio_async as lms
from benchmarks.engine.bare import SETTINGS, bare_server, stream
from lmstudio_async.embedded import EmbeddedServer

_MODEL = "smollm2-135m-instruct"
_PROMPTS = [
    f"{opening} Once upon a time, in a land far away, there lived"
    for opening in ("A tale.", "A fable.", "A story.", "A legend.")
]
# From a prompt to the number of tokens that were generated.
Generate = Callable[[str, int], Awaitable[int]]


async def embedded(options: argparse.Namespace) -> float:
    async with (
        EmbeddedServer() as server,
        lms.Client(server.api_host) as client,
        client.llm.load_new_instance(_MODEL) as model,
    ):

        async def generate(prompt: str, tokens: int) -> int:
            config = {"maxTokens": tokens, "temperature": 0}
            prediction = model.complete_stream(prompt, config=config)
            async for _ in prediction:
                pass
            return prediction.result().stats.predicted_tokens_count or 0

        return await _rate(generate, options)


async def bare(options: argparse.Namespace) -> float:
    with bare_server(SETTINGS) as port:

        async def generate(prompt: str, tokens: int) -> int:
            body = {"prompt": prompt, "n_predict": tokens, "temperature": 0}
            predicted = 0
            async for event in stream(port, "/completion", body):
                predicted = event["tokens_predicted"]
            return predicted

        return await _rate(generate, options)


async def _rate(generate: Generate, options: argparse.Namespace) -> float:
    await generate(_PROMPTS[0], 8)
    start = time.perf_counter()
    total = 0
    for _ in range(options.repeat):
        prompts = _PROMPTS[: options.streams]
        total += sum(await asyncio.gather(*(generate(one, options.tokens) for one in prompts)))
    return total / (time.perf_counter() - start)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("side", choices=["embedded", "bare"])
    parser.add_argument("--streams", type=int, default=1, help="at most 4")
    parser.add_argument("--tokens", type=int, default=128, help="of each stream")
    parser.add_argument("--repeat", type=int, default=3)
    options = parser.parse_args()
    side = embedded if options.side == "embedded" else bare
    print(json.dumps({"tokens_per_s": asyncio.run(side(options))}))


if __name__ == "__main__":
    main()
