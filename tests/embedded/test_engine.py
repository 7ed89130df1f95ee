"""The engine where there are no UNIX sockets, and when its connection breaks."""

from pathlib import Path

import aiohttp
import pytest

from lmstudio_async.embedded import engine
from lmstudio_async.embedded.engine import running_engine
from lmstudio_async.embedded.refusal import RequestError

pytestmark = [pytest.mark.engine, pytest.mark.asyncio]


async def test_over_tcp(
    starter_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only who knows the key of this engine may use it."""
    monkeypatch.setattr(engine, "_HAS_UNIX_SOCKETS", False)
    progress: list[float] = []
    params = {"n_ctx": 256, "n_parallel": 1}
    async with running_engine(
        starter_file, params, 98_362_432, tmp_path, progress.append
    ) as running:
        answer = await running.post("/tokenize", {"content": "Hello world"})
        assert answer == {"tokens": [19556, 905]}
        address = str(running._session._base_url)
        assert address.startswith("http://127.0.0.1:")
        async with (
            aiohttp.ClientSession(address) as stranger,
            stranger.post("/tokenize", json={"content": "Hello world"}) as response,
        ):
            assert response.status == 401
        with pytest.raises(RequestError, match="gave no stream"):
            [event async for event in running.stream("/tokenize", {"content": "x"})]
    assert progress
    with pytest.raises(RequestError, match=r"died \(exit status 0\)"):
        await running.post("/tokenize", {"content": "too late"})


async def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="could not load") as caught:
        async with running_engine(Path("/nonexistent.gguf"), {}, 1, tmp_path, lambda _: None):
            pass
    assert "nonexistent" in (caught.value.error.cause or "")
