"""A chat in the terminal. Ctrl-D ends it."""

import argparse
import asyncio

import lmstudio_async as lms


async def answer(model: lms.LLM, chat: lms.Chat) -> None:
    """Print an answer as it comes, and keep it in the chat."""
    async with model.respond_stream(chat, on_message=chat.append) as stream:
        async for fragment in stream:
            print(fragment.content, end="", flush=True)
    print("\n")


async def main(api_host: str | None, model_key: str | None) -> None:
    chat = lms.Chat("You are a friendly assistant. Keep your answers short.")
    async with lms.Client(api_host) as client, client.llm.model(model_key) as model:
        print(f"Talking to {model.identifier}. Ctrl-D ends the chat.\n")
        while True:
            try:
                # In a thread, so that the connection stays alive while you think.
                text = await asyncio.to_thread(input, "> ")
            except EOFError:
                return
            chat.add_user_message(text)
            await answer(model, chat)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--api-host", help="the server, such as localhost:1234")
    parser.add_argument("--model", help="key of the model; any loaded one if left out")
    arguments = parser.parse_args()
    asyncio.run(main(arguments.api_host, arguments.model))
