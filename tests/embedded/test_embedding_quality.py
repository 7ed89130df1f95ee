"""Embeddings of a real embedding model are what its authors' own code gives."""

import os
import subprocess
from pathlib import Path

import platformdirs
import pytest

from lmstudio_async.embedded import EmbeddedServer

from .minilm import minilm
from .raw import ANY_LOADED, connected
from .test_predict import dot

pytestmark = [pytest.mark.engine, pytest.mark.asyncio]


@pytest.fixture(scope="session")
def minilm_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of models with all-MiniLM-L6-v2, which is kept in the user's cache."""
    try:
        file = minilm(platformdirs.user_cache_path("lmstudio_async") / "tests")
    except subprocess.SubprocessError as error:
        pytest.skip(f"all-MiniLM-L6-v2 cannot be downloaded: {error}")
    folder = tmp_path_factory.mktemp("minilm")
    repo = folder / "sentence-transformers" / "all-MiniLM-L6-v2-GGUF"
    repo.mkdir(parents=True)
    os.symlink(file, repo / file.name)
    return folder


async def test_similarities_are_those_of_the_original(minilm_dir: Path) -> None:
    async with (
        EmbeddedServer(minilm_dir) as server,
        connected(server.api_host, "embedding") as socket,
        socket.loading("text-embedding-all-minilm-l6-v2"),
    ):

        async def embed(text: str) -> list[float]:
            answer = await socket.call(
                "embedString", {"modelSpecifier": ANY_LOADED, "inputString": text}
            )
            return list(answer["embedding"])

        eating = await embed("A man is eating food.")
        assert len(eating) == 384
        bread = await embed("A man is eating a piece of bread.")
        assert dot(eating, bread) == pytest.approx(0.7553, abs=0.002)
        assert dot(eating, await embed("A cheetah is running behind its prey.")) < 0.2
