"""An agent on trio with two tools."""

import argparse
import math
from datetime import UTC, datetime

import trio

import lmstudio_async as lms


def current_time() -> str:
    """The date and time now, in UTC."""
    return datetime.now(UTC).isoformat(timespec="seconds")


async def square_root(number: float) -> float:
    """The square root of a number that is not negative."""
    return math.sqrt(number)


async def run(api_host: str | None, model_key: str | None, task: str) -> lms.ActResult:
    async with lms.Client(api_host) as client, client.llm.model(model_key) as model:
        return await model.act(
            task,
            [current_time, square_root],
            max_prediction_rounds=4,
            on_message=print,
            config={"temperature": 0, "maxTokens": 200},
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("task", nargs="?", default="What is the square root of 1764?")
    parser.add_argument("--api-host", help="the server, such as localhost:1234")
    parser.add_argument("--model", help="key of the model; any loaded one if left out")
    arguments = parser.parse_args()
    result = trio.run(run, arguments.api_host, arguments.model, arguments.task)
    print(f"{result.rounds} rounds in {result.total_time_seconds:.1f} s")
