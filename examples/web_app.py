"""A web application that streams answers, and stops generating when the browser goes away.

Run it with `uvicorn examples.web_app:app`, with the model's key in the environment variable MODEL
and, where the server is not on this machine, its address in API_HOST.
"""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TypedDict

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import StreamingResponse
from starlette.routing import Route

import lmstudio_async as lms


class State(TypedDict):
    model: lms.LLM


@asynccontextmanager
async def lifespan(app: Starlette) -> AsyncIterator[State]:
    """The model is in memory exactly as long as the application runs."""
    async with (
        lms.Client(os.environ.get("API_HOST")) as client,
        client.llm.model(os.environ["MODEL"]) as model,
    ):
        yield {"model": model}


async def ask(request: Request) -> StreamingResponse:
    model: lms.LLM = request.state.model
    question = request.query_params["q"]

    async def text() -> AsyncIterator[str]:
        # When the browser goes away, this generator is cancelled, and with it the prediction.
        async with model.respond_stream(question) as stream:
            async for fragment in stream:
                yield fragment.content

    return StreamingResponse(text(), media_type="text/plain")


app = Starlette(routes=[Route("/ask", ask)], lifespan=lifespan)
