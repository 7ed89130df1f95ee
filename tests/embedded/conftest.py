"""An embedded server for all tests of this folder, and its models."""

import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import anyio
import pytest
import pytest_asyncio

from lmstudio_async.embedded import EmbeddedServer, starter_model

from .raw import EMBEDDER, STARTER, RawSocket, connected


@pytest.fixture(scope="session")
def starter_file() -> Path:
    return starter_model()


@pytest.fixture(scope="session")
def models_dir(starter_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the starter model, a file that is no model, and one no engine can load."""
    from gguf import GGUFWriter

    folder = tmp_path_factory.mktemp("models")
    repo = folder / "HuggingFaceTB" / "SmolLM2-135M-Instruct-GGUF"
    repo.mkdir(parents=True)
    os.symlink(starter_file, repo / starter_file.name)
    broken = folder / "someone" / "broken"
    broken.mkdir(parents=True)
    (broken / "garbage.gguf").write_bytes(b"GGUF, but not really")
    writer = GGUFWriter(broken / "alien-7B-Q4_K_M.gguf", "alien")
    writer.add_context_length(1000)
    writer.add_file_type(15)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return folder


@pytest.fixture(scope="session")
def embedded(models_dir: Path) -> Iterator[EmbeddedServer]:
    """A running server that all tests share."""
    with EmbeddedServer(
        models_dir, aliases={"nick": STARTER}, embedding_models={EMBEDDER: STARTER}
    ) as server:
        yield server


Connect = Callable[[str], Awaitable[RawSocket]]


@pytest_asyncio.fixture
async def connect(embedded: EmbeddedServer) -> AsyncIterator[Connect]:
    """Opens authenticated sockets to the shared server, which must be left without models."""
    async with AsyncExitStack() as sockets:

        async def connect(namespace: str) -> RawSocket:
            return await sockets.enter_async_context(connected(embedded.api_host, namespace))

        yield connect
        left = []
        for namespace in ("llm", "embedding"):
            socket = await connect(namespace)
            for identifier in await socket.loaded():
                left.append(identifier)
                await socket.unload(identifier)
        assert left == []
    with anyio.fail_after(5):  # what has expired is off the list before its process has ended
        while len(embedded.pids) > 1:  # noqa: ASYNC110
            await anyio.sleep(0.01)


@pytest_asyncio.fixture
async def llm(connect: Connect) -> RawSocket:
    return await connect("llm")
