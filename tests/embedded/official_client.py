"""Drives the official Python client against a server; prints what it saw as JSON."""

import json
import sys
from typing import Any

import lmstudio

CITY = {
    "type": "object",
    "properties": {"city": {"type": "string", "maxLength": 12}},
    "required": ["city"],
    "additionalProperties": False,
}


def main(address: str, key: str, embedder: str) -> None:
    seen: dict[str, Any] = {}
    with lmstudio.Client(address) as client:
        seen["downloaded"] = [model.model_key for model in client.list_downloaded_models()]
        progress: list[float] = []
        model = client.llm.load_new_instance(
            key, config={"contextLength": 1024}, on_load_progress=progress.append
        )
        seen["progress"] = [progress[0], progress[-1]]
        seen["contextLength"] = model.get_context_length()
        seen["loaded"] = [one.identifier for one in client.llm.list_loaded()]
        seen["same"] = client.llm.model(key).identifier == model.identifier
        seen["tokens"] = model.tokenize("Hello world")

        question = "What is the capital of France?"
        options: Any = {"temperature": 0, "maxTokens": 12}
        seen["answer"] = model.respond(question, config=options).content
        stream = model.respond_stream(question, config=options)
        seen["fragments"] = [fragment.content for fragment in stream]
        seen["stopReason"] = stream.result().stats.stop_reason
        seen["promptTemplate"] = model.apply_prompt_template(question)

        structured = model.respond(
            "Where is the Louvre?",
            response_format=CITY,
            config={"temperature": 0, "maxTokens": 40},
        )
        seen["structured"] = structured.parsed
        raw = model.complete("One, two, three, four,", config={"temperature": 0, "maxTokens": 4})
        seen["completed"] = raw.content

        calls: list[list[int]] = []

        def add(a: int, b: int) -> int:
            """Add two numbers."""
            calls.append([a, b])
            return a + b

        # A model this small calls no tool unless it sees how.
        chat = lmstudio.Chat()
        for a, b in ((2, 3), (40, 9)):
            chat.add_user_message(f"What is {a} + {b}?")
            call = {"name": "add", "arguments": {"a": a, "b": b}}
            chat.add_assistant_response(json.dumps(call))
        chat.add_user_message("What is 17 + 25?")
        acted = model.act(
            chat, [add], max_prediction_rounds=2, config={"temperature": 0, "maxTokens": 60}
        )
        seen["calls"], seen["rounds"] = calls, acted.rounds

        endless = model.respond_stream("Tell me a very long story.", config={"temperature": 0})
        for _ in endless:
            endless.cancel()
        seen["cancelled"] = endless.result().stats.stop_reason

        embedding = client.embedding.load_new_instance(embedder)
        seen["dimensions"] = len(embedding.embed("Hello"))
        embedding.unload()

        seen["error"] = error_of(lambda: client.llm.load_new_instance("no-such-model"))
        model.unload()
        seen["unloadedError"] = error_of(lambda: model.tokenize("Hello"))
        seen["left"] = [one.identifier for one in client.llm.list_loaded()]
    print(json.dumps(seen))


def error_of(call: Any) -> str:
    try:
        call()
    except lmstudio.LMStudioServerError as error:
        return str(error)
    return "none"


if __name__ == "__main__":
    main(*sys.argv[1:])
