"""The behaviour suite runs on three event loops; nothing may be left over after a test."""

from collections.abc import AsyncIterator, Iterator
from typing import Any

import anyio
import pytest
from hypothesis import HealthCheck, settings

import lmstudio_async as lms
from lmstudio_async.embedded import EmbeddedServer, starter_model
from tests.scripted_server import ScriptedServer

# Property tests try the same few examples each time, or many new ones: --hypothesis-profile=soak.
_UNHURRIED = [HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
settings.register_profile(
    "suite", derandomize=True, deadline=None, suppress_health_check=_UNHURRIED
)
settings.register_profile(
    "soak", max_examples=2000, deadline=None, print_blob=True, suppress_health_check=_UNHURRIED
)
settings.load_profile("suite")

STARTER = "smollm2-135m-instruct"

LOOPS = [
    pytest.param(("asyncio", {"debug": True}), id="asyncio"),
    pytest.param(("asyncio", {"debug": True, "use_uvloop": True}), id="uvloop"),
    pytest.param(("trio", {}), id="trio"),
]


@pytest.fixture(params=LOOPS)
def anyio_backend(request: pytest.FixtureRequest) -> Any:
    """The event loop; tests marked `anyio` run on each."""
    return request.param


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    """A scripted server. What was sent must have kept to the protocol, and be over."""
    with ScriptedServer() as server:
        yield server
        server.wait_until(lambda: not server.open_sockets)
        assert server.contract_violations == []


@pytest.fixture
async def client(server: ScriptedServer, anyio_backend: Any) -> AsyncIterator[lms.Client]:
    """A client of the scripted server."""
    before = len(anyio.get_running_tasks())
    async with lms.Client(server.api_host) as client:
        yield client
    assert len(anyio.get_running_tasks()) == before


@pytest.fixture(scope="session")
def engine() -> Iterator[EmbeddedServer]:
    """The embedded server with the starter model, under the names that the documentation uses."""
    starter_model()
    with EmbeddedServer(
        aliases={"qwen3-4b": STARTER},
        embedding_models={"nomic-embed-text-v1.5": STARTER},
    ) as server:
        yield server
