"""Load a real model inside a scope, talk to it, and watch the memory come and go."""

import argparse
import asyncio
import sys
from collections.abc import Iterable
from contextlib import AsyncExitStack

import psutil

import lmstudio_async as lms
from lmstudio_async.embedded import EmbeddedServer, starter_model
from lmstudio_async.transport.discovery import discover

PROMPT = "In one sentence: why is it good to free memory that is no longer needed?"


def show_memory(when: str, pids: Iterable[int], remark: str = "") -> None:
    sizes = []
    for pid in pids:
        try:
            sizes.append(psutil.Process(pid).memory_info().rss)
        except psutil.NoSuchProcess:
            continue
    noun = "process" if len(sizes) == 1 else "processes"
    print(f"{when:<8} {len(sizes)} {noun:<10} {sum(sizes) / 1e6:6.0f} MB   {remark}")


class ProgressBar:
    """A bar that fills on one line of a terminal."""

    width = 40

    def __call__(self, progress: float) -> None:
        filled = round(progress * self.width)
        bar = "█" * filled + "░" * (self.width - filled)
        print(f"\rloading  {bar} {progress:4.0%}", end="", flush=True)

    def end(self) -> None:
        print()


async def server_pids(client: lms.Client) -> list[int]:
    """The processes of the server behind a client, if they are on this machine."""
    server = psutil.Process((await client.system.info()).pid)
    return [server.pid, *(child.pid for child in server.children(recursive=True))]


async def demo(api_host: str | None, model_key: str | None) -> None:
    async with AsyncExitStack() as stack:
        if api_host is None:
            try:
                print(f"LM Studio is running at {await discover()}: pass --api-host to use it.")
            except lms.LMStudioError:
                print("No LM Studio is running here; the embedded server does as well.")
            print("Starter model:", await asyncio.to_thread(starter_model))
            api_host = (await stack.enter_async_context(EmbeddedServer())).api_host
            model_key = model_key or "smollm2-135m-instruct"
        client = await stack.enter_async_context(lms.Client(api_host))
        if model_key is None:
            model_key = (await client.llm.list_downloaded())[0].model_key
        print(f"Server: {api_host}, version {(await client.system.version()).version}\n")

        show_memory("before", await server_pids(client))
        bar = ProgressBar()
        async with client.llm.load_new_instance(model_key, on_load_progress=bar) as model:
            bar.end()
            remark = f"{model.identifier}, context of {model.info.context_length} tokens"
            show_memory("loaded", await server_pids(client), remark)

            print(f"\n> {PROMPT}")
            stream = model.respond_stream(PROMPT, config={"maxTokens": 80, "temperature": 0})
            async for fragment in stream:
                print(fragment.content, end="", flush=True)
            stats = stream.result().stats
            speed = stats.tokens_per_second or 0
            print(f"\n\n{stats.predicted_tokens_count} tokens at {speed:.0f} tokens/s\n")
        show_memory("after", await server_pids(client), "the scope has ended, the model is gone")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--api-host", help="use this LM Studio server, such as localhost:1234")
    parser.add_argument("--model", help="key of the model to load")
    arguments = parser.parse_args()
    try:
        asyncio.run(demo(arguments.api_host, arguments.model))
    except lms.LMStudioError as error:
        print(f"demo: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
